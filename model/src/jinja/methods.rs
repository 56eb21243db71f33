//! Methods of strings, dicts, lists and the objects of the template.

use std::sync::Arc;

use super::arguments::{Arguments, flag, int, optional_int, size, text};
use super::error::{Result, fail};
use super::evaluate::Renderer;
use super::limits::ELEMENT;
use super::loops::elements;
use super::print::is_printable;
use super::text::*;
use super::value::{Value, View};

const STR: [&str; 47] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const DICT: [&str; 11] =
    ["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];
const LIST: [&str; 11] =
    ["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];

/// Whether Python has a method of that name for the value.
pub(super) fn is_method(value: &Value, name: &str) -> bool {
    match value {
        Value::Str(_) => STR.contains(&name),
        Value::Dict(_) => DICT.contains(&name),
        Value::List(_) => LIST.contains(&name),
        Value::Tuple(_) | Value::Range(_) => matches!(name, "count" | "index"),
        Value::Loop(_) => matches!(name, "cycle" | "changed"),
        Value::Cycler(_) => matches!(name, "next" | "reset"),
        Value::Function(function) => name == "fromkeys" && *function == super::globals::Function::Dict,
        _ => false,
    }
}

/// Whether a method of a dict leaves it as it is.
pub(super) fn is_reading(name: &str) -> bool {
    matches!(name, "get" | "items" | "keys" | "values" | "copy")
}

/// The part of a string that `start` and `end` of a method bound, and the characters before it.
fn part(whole: &str, start: Option<Value>, end: Option<Value>) -> Result<Option<(&str, usize)>> {
    let (start, end) = (optional_int(start)?, optional_int(end)?);
    if start.is_none() && end.is_none() {
        return Ok(Some((whole, 0)));
    }
    let length = whole.chars().count() as i128;
    let bound = |value: i128| if value < 0 { (value + length).max(0) } else { value };
    let (start, end) = (start.map_or(0, bound), end.map_or(length, bound).min(length));
    if start > length || start > end {
        return Ok(None);
    }
    let offset = |index: i128| whole.char_indices().nth(index as usize).map_or(whole.len(), |(at, _)| at);
    Ok(Some((&whole[offset(start)..offset(end)], start as usize)))
}

impl Renderer<'_> {
    #[inline(never)]
    pub(super) fn call_method(
        &self,
        receiver: &Value,
        name: &Arc<str>,
        arguments: Arguments,
    ) -> Result<Value> {
        match receiver {
            Value::Str(whole) => self.str_method(whole, name, arguments),
            Value::Dict(dict) => match &**name {
                "get" => {
                    let [key, default] = arguments.bind("get", ["key", "default"], 1)?;
                    let found = dict.get(&key.unwrap_or(Value::None), &self.limits)?.cloned();
                    Ok(found.or(default).unwrap_or(Value::None))
                }
                "copy" => arguments.none(name).map(|()| receiver.clone()),
                "items" => arguments.none(name).map(|()| Value::View(View::Items, dict.clone())),
                "keys" => arguments.none(name).map(|()| Value::View(View::Keys, dict.clone())),
                "values" => arguments.none(name).map(|()| Value::View(View::Values, dict.clone())),
                other => fail!("dict.{other} is not supported"),
            },
            Value::List(_) | Value::Tuple(_) | Value::Range(_) => self.list_method(receiver, name, arguments),
            Value::Loop(state) if &**name == "cycle" => {
                let items = &arguments.positional;
                match items.get(state.index0() % items.len().max(1)) {
                    Some(item) => Ok(item.clone()),
                    None => fail!("no items for cycling given"),
                }
            }
            Value::Loop(state) => {
                let value = Value::tuple(arguments.positional)?;
                let mut changed = self.changed.borrow_mut();
                self.limits.read(changed.len())?;
                let known = changed.iter_mut().find(|(id, _)| *id == state.id);
                if let Some((_, last)) = known {
                    let differs = !last.equals(&value, &self.limits)?;
                    *last = value;
                    return Ok(Value::Bool(differs));
                }
                self.limits.allocate(ELEMENT)?;
                changed.push((state.id, value));
                Ok(Value::Bool(true))
            }
            Value::Cycler(cycler) => {
                arguments.none(name)?;
                let position = cycler.position.get();
                if &**name == "reset" {
                    cycler.position.set(0);
                    return Ok(Value::None);
                }
                cycler.position.set((position + 1) % cycler.items.items.len());
                Ok(cycler.items.items[position].clone())
            }
            Value::Function(_) => {
                let [keys, value] = arguments.bind("fromkeys", ["iterable", "value"], 1)?;
                let mut dict = super::value::Dict::default();
                for key in elements(&keys.unwrap_or(Value::None), &self.limits)? {
                    dict.insert(key, value.clone().unwrap_or(Value::None), &self.limits)?;
                }
                Ok(Value::dict(dict))
            }
            other => fail!("'{}' object has no method '{name}'", other.kind()),
        }
    }

    fn list_method(&self, receiver: &Value, name: &str, arguments: Arguments) -> Result<Value> {
        if name == "copy" {
            return arguments.none(name).map(|()| receiver.clone());
        }
        let [wanted, start, end] = arguments.bind(name, ["value", "start", "stop"], 1)?;
        let wanted = wanted.unwrap_or(Value::None);
        let items = elements(receiver, &self.limits)?;
        let length = items.len() as i128;
        let bound = |value: i128| if value < 0 { (value + length).max(0) } else { value };
        let start = optional_int(start)?.map_or(0, bound);
        let end = optional_int(end)?.map_or(length, bound);
        let mut count = 0;
        for (index, item) in items.iter().enumerate() {
            if item.equals(&wanted, &self.limits)? {
                count += 1;
                if name == "index" && (start..end).contains(&(index as i128)) {
                    return Ok(Value::int(index));
                }
            }
        }
        match name {
            "count" => Ok(Value::int(count)),
            _ => fail!("{} is not in list", self.repr(&wanted)?),
        }
    }

    fn str_method(&self, whole: &Arc<str>, name: &str, arguments: Arguments) -> Result<Value> {
        self.limits.read(whole.len())?;
        let made = |text: String| {
            self.limits.allocate(text.len())?;
            Ok(Value::text(text))
        };
        let boolean = |value: bool| Ok(Value::Bool(value));
        let all = |holds: fn(char) -> bool| boolean(!whole.is_empty() && whole.chars().all(holds));
        match name {
            "format" => return self.str_format(whole, arguments),
            "format_map" => {
                let [mapping] = arguments.bind(name, ["mapping"], 1)?;
                let Some(Value::Dict(dict)) = mapping else { fail!("format_map takes a dict") };
                let mut named = Arguments::default();
                for (key, value) in dict.entries() {
                    named.named.push((text(key)?, value.clone()));
                }
                return self.str_format(whole, named);
            }
            "strip" | "lstrip" | "rstrip" => {
                let [characters] = arguments.bind(name, ["chars"], 0)?;
                return self.strip(whole, name, characters);
            }
            "split" | "rsplit" => return self.split(whole, name, arguments),
            "startswith" | "endswith" => {
                let [wanted, start, end] = arguments.bind(name, ["prefix", "start", "end"], 1)?;
                let Some((part, _)) = part(whole, start, end)? else { return boolean(false) };
                let options = match wanted {
                    Some(Value::Tuple(options)) => options.items.clone(),
                    other => vec![other.unwrap_or(Value::None)],
                };
                for option in &options {
                    let option = text(option)?;
                    if if name == "startswith" {
                        part.starts_with(&*option)
                    } else {
                        part.ends_with(&*option)
                    } {
                        return boolean(true);
                    }
                }
                return boolean(false);
            }
            "find" | "rfind" | "index" | "rindex" | "count" => {
                let [wanted, start, end] = arguments.bind(name, ["sub", "start", "end"], 1)?;
                let wanted = text(&wanted.unwrap_or(Value::None))?;
                return search(name, &wanted, part(whole, start, end)?);
            }
            "replace" => {
                let [old, new, count] = arguments.bind(name, ["old", "new", "count"], 2)?;
                let (old, new) = (text(&old.unwrap_or(Value::None))?, text(&new.unwrap_or(Value::None))?);
                return self.replace(whole, &old, &new, optional_int(count)?);
            }
            "join" => {
                let [items] = arguments.bind(name, ["iterable"], 1)?;
                let items = elements(&items.unwrap_or(Value::None), &self.limits)?;
                let items: Vec<Arc<str>> = items.iter().map(text).collect::<Result<_>>()?;
                return self.join(&items, whole);
            }
            "center" | "ljust" | "rjust" => {
                let [width, fill] = arguments.bind(name, ["width", "fillchar"], 1)?;
                let fill = fill.as_ref().map(text).transpose()?.unwrap_or(" ".into());
                let mut characters = fill.chars();
                let (Some(fill), None) = (characters.next(), characters.next()) else {
                    fail!("The fill character must be exactly one character long");
                };
                return self.pad(whole, size(&width.unwrap_or(Value::None))?, fill, name);
            }
            "zfill" => {
                let [width] = arguments.bind(name, ["width"], 1)?;
                let width = size(&width.unwrap_or(Value::None))?;
                let (sign, digits) = whole.split_at(usize::from(whole.starts_with(['+', '-'])));
                let padded = self.pad(digits, width.saturating_sub(sign.len()), '0', "rjust")?;
                return made(format!("{sign}{}", text(&padded)?));
            }
            "partition" | "rpartition" => {
                let [separator] = arguments.bind(name, ["sep"], 1)?;
                let separator = text(&separator.unwrap_or(Value::None))?;
                if separator.is_empty() {
                    fail!("empty separator");
                }
                let parts = match name {
                    "partition" => whole.split_once(&*separator).map(|(a, b)| [a, &separator, b]),
                    _ => whole.rsplit_once(&*separator).map(|(a, b)| [a, &separator, b]),
                };
                let none = if name == "partition" { [whole, "", ""] } else { ["", "", whole] };
                let parts = parts.unwrap_or(none);
                self.limits.allocate(whole.len() + 3 * ELEMENT)?;
                return Value::tuple(parts.into_iter().map(Value::text).collect());
            }
            "removeprefix" | "removesuffix" => {
                let [affix] = arguments.bind(name, ["affix"], 1)?;
                let affix = text(&affix.unwrap_or(Value::None))?;
                let rest = match name {
                    "removeprefix" => whole.strip_prefix(&*affix),
                    _ => whole.strip_suffix(&*affix),
                };
                return made(rest.unwrap_or(whole).to_owned());
            }
            "expandtabs" => {
                let [width] = arguments.bind(name, ["tabsize"], 0)?;
                return self.expand_tabs(whole, width.as_ref().map_or(Ok(8), size)?);
            }
            "splitlines" => {
                let [keep] = arguments.bind(name, ["keepends"], 0)?;
                return self.parts(lines(whole, flag(keep, false)));
            }
            "encode" | "translate" | "maketrans" => fail!("str.{name} is not supported"),
            _ => arguments.none(name)?,
        }
        match name {
            "capitalize" => made(capitalize(whole)),
            "casefold" => made(case_fold(whole)),
            "lower" => made(whole.to_lowercase()),
            "upper" => made(whole.to_uppercase()),
            "title" => made(title(whole)),
            "swapcase" => made(swap_case(whole)),
            "isalnum" => all(char::is_alphanumeric),
            "isalpha" => all(char::is_alphabetic),
            "isascii" => boolean(whole.is_ascii()),
            "isdecimal" | "isdigit" => {
                all(|c| if c.is_ascii() { c.is_ascii_digit() } else { c.is_numeric() })
            }
            "isnumeric" => all(char::is_numeric),
            "isspace" => all(is_space),
            "isidentifier" => boolean(is_identifier(whole)),
            "isprintable" => boolean(whole.chars().all(is_printable)),
            "islower" => boolean(has_case(whole, char::is_lowercase)),
            "isupper" => boolean(has_case(whole, char::is_uppercase)),
            "istitle" => boolean(is_title(whole)),
            other => fail!("str.{other} is not supported"),
        }
    }

    pub(super) fn strip(&self, whole: &str, side: &str, characters: Option<Value>) -> Result<Value> {
        let characters = match characters {
            None | Some(Value::None) => None,
            Some(characters) => Some(text(&characters)?),
        };
        if let Some(characters) = &characters {
            self.limits.read(whole.len().saturating_mul(characters.len().min(64)))?;
        }
        let removed = |c: char| characters.as_ref().map_or_else(|| is_space(c), |set| set.contains(c));
        let mut rest = whole;
        if side != "rstrip" {
            rest = rest.trim_start_matches(removed);
        }
        if side != "lstrip" {
            rest = rest.trim_end_matches(removed);
        }
        self.limits.allocate(rest.len())?;
        Ok(Value::text(rest))
    }

    fn split(&self, whole: &str, name: &str, arguments: Arguments) -> Result<Value> {
        let [separator, most] = arguments.bind(name, ["sep", "maxsplit"], 0)?;
        let most = most.map_or(Ok(-1), |most| int(&most))?;
        let most = usize::try_from(most).ok();
        // Cut before it is counted: no more pieces than the string has bytes.
        self.limits.read(whole.len())?;
        let separator = match separator {
            None | Some(Value::None) => {
                return self.parts(match name {
                    "split" => split_space(whole, most),
                    _ => split_space_right(whole, most),
                });
            }
            Some(separator) => text(&separator)?,
        };
        if separator.is_empty() {
            fail!("empty separator");
        }
        let count = most.map_or(usize::MAX, |most| most.saturating_add(1));
        self.parts(match name {
            "split" => whole.splitn(count, &*separator).collect(),
            _ => {
                let mut parts: Vec<&str> = whole.rsplitn(count, &*separator).collect();
                parts.reverse();
                parts
            }
        })
    }

    /// A list of strings.
    pub(super) fn parts(&self, parts: Vec<&str>) -> Result<Value> {
        self.limits.allocate_times(parts.len(), ELEMENT)?;
        self.limits.allocate(parts.iter().map(|part| part.len()).sum())?;
        Value::list(parts.into_iter().map(Value::text).collect())
    }

    pub(super) fn replace(&self, whole: &str, old: &str, new: &str, count: Option<i128>) -> Result<Value> {
        let most = count.and_then(|count| usize::try_from(count).ok()).unwrap_or(usize::MAX);
        self.limits.read(whole.len())?;
        let found = match old.is_empty() {
            true => whole.chars().count() + 1,
            false if new.len() > old.len() => whole.matches(old).count(),
            false => 0,
        };
        let grown = new.len().saturating_sub(old.len()).saturating_mul(found.min(most));
        self.limits.allocate(whole.len().saturating_add(grown))?;
        Ok(Value::text(whole.replacen(old, new, most)))
    }

    pub(super) fn join(&self, items: &[Arc<str>], separator: &str) -> Result<Value> {
        self.limits.allocate_times(items.len().saturating_sub(1), separator.len())?;
        self.limits.allocate(items.iter().map(|item| item.len()).sum())?;
        Ok(Value::text(items.join(separator)))
    }

    pub(super) fn pad(&self, whole: &str, width: usize, fill: char, side: &str) -> Result<Value> {
        let length = whole.chars().count();
        let missing = width.saturating_sub(length);
        self.limits.allocate(whole.len().saturating_add(missing.saturating_mul(fill.len_utf8())))?;
        let left = match side {
            "ljust" => 0,
            "rjust" => missing,
            // As Python does: the odd one goes left where the width is odd.
            _ => missing / 2 + (missing & width & 1),
        };
        let fill = |count: usize| fill.to_string().repeat(count);
        Ok(Value::text(format!("{}{whole}{}", fill(left), fill(missing - left))))
    }

    fn expand_tabs(&self, whole: &str, width: usize) -> Result<Value> {
        let mut result = String::new();
        let mut column = 0;
        for character in whole.chars() {
            let spaces = if character == '\t' && width > 0 { width - column % width } else { 0 };
            self.limits.allocate(spaces.max(1))?;
            match character {
                '\t' => result.push_str(&" ".repeat(spaces)),
                other => result.push(other),
            }
            column = match character {
                '\n' | '\r' => 0,
                '\t' => column + spaces,
                _ => column + 1,
            };
        }
        Ok(Value::text(result))
    }
}

fn search(name: &str, wanted: &str, part: Option<(&str, usize)>) -> Result<Value> {
    let Some((part, skipped)) = part else {
        return match name {
            "count" => Ok(Value::int(0)),
            "find" | "rfind" => Ok(Value::Int(-1)),
            _ => fail!("substring not found"),
        };
    };
    if name == "count" {
        return Ok(Value::int(match wanted {
            "" => part.chars().count() + 1,
            wanted => part.matches(wanted).count(),
        }));
    }
    let found = if name.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) };
    match found {
        Some(at) => Ok(Value::int(skipped + part[..at].chars().count())),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => fail!("substring not found"),
    }
}
