//! Methods of strings. Those that compare or search see through stand-ins (see [`super::hidden`]).

use std::sync::Arc;

use super::arguments::{Arguments, flag, int, optional_int, size, text};
use super::error::{Result, fail};
use super::evaluate::Renderer;
use super::hidden::{Searched, change_case, plain, strip_prefix, strip_suffix};
use super::limits::ELEMENT;
use super::loops::elements;
use super::print::is_printable;
use super::text::*;
use super::value::Value;
use crate::control_tokens::without_stand_in;

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
/// Whether Python's strings have a method of that name.
pub(super) fn is_known(name: &str) -> bool {
    STR.contains(&name)
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
    pub(super) fn str_method(&self, whole: &Arc<str>, name: &str, arguments: Arguments) -> Result<Value> {
        self.limits.read(whole.len())?;
        match name {
            "format" => self.str_format(whole, arguments),
            "format_map" => {
                let [mapping] = arguments.bind(name, ["mapping"], 1)?;
                let Some(Value::Dict(dict)) = mapping else { fail!("format_map takes a dict") };
                let mut named = Arguments::default();
                for (key, value) in dict.entries() {
                    named.named.push((text(key)?, value.clone()));
                }
                self.str_format(whole, named)
            }
            "startswith" | "endswith" => begins_or_ends(whole, name, arguments),
            "find" | "rfind" | "index" | "rindex" | "count" => search(whole, name, arguments),
            "strip" | "lstrip" | "rstrip" => {
                let [characters] = arguments.bind(name, ["chars"], 0)?;
                self.strip(whole, name, characters)
            }
            "removeprefix" | "removesuffix" => {
                let [affix] = arguments.bind(name, ["affix"], 1)?;
                let affix = text(&affix.unwrap_or(Value::None))?;
                let strip = if name == "removeprefix" { strip_prefix } else { strip_suffix };
                self.made(strip(whole, &affix).unwrap_or(whole).to_owned())
            }
            "split" | "rsplit" => self.split(whole, name, arguments),
            "splitlines" => {
                let [keep] = arguments.bind(name, ["keepends"], 0)?;
                self.parts(lines(whole, flag(keep, false)))
            }
            "partition" | "rpartition" => self.partition(whole, name, arguments),
            "replace" => {
                let [old, new, count] = arguments.bind(name, ["old", "new", "count"], 2)?;
                let (old, new) = (text(&old.unwrap_or(Value::None))?, text(&new.unwrap_or(Value::None))?);
                self.replace(whole, &old, &new, optional_int(count)?)
            }
            "join" => {
                let [items] = arguments.bind(name, ["iterable"], 1)?;
                let items = elements(&items.unwrap_or(Value::None), &self.limits)?;
                let items: Vec<Arc<str>> = items.iter().map(text).collect::<Result<_>>()?;
                self.join(&items, whole)
            }
            "center" | "ljust" | "rjust" | "zfill" | "expandtabs" => self.fill_up(whole, name, arguments),
            "encode" | "translate" | "maketrans" => fail!("str.{name} is not supported"),
            _ => {
                arguments.none(name)?;
                match predicate(name) {
                    Some(holds) => Ok(Value::Bool(holds(&plain(whole)))),
                    None => self.case_method(whole, name),
                }
            }
        }
    }

    fn made(&self, text: String) -> Result<Value> {
        self.limits.allocate(text.len())?;
        Ok(Value::text(text))
    }

    fn case_method(&self, whole: &str, name: &str) -> Result<Value> {
        let change: fn(&str) -> String = match name {
            "capitalize" => capitalize,
            "casefold" => case_fold,
            "lower" => str::to_lowercase,
            "upper" => str::to_uppercase,
            "title" => title,
            "swapcase" => swap_case,
            other => fail!("str.{other} is not supported"),
        };
        self.made(change_case(whole, change))
    }

    fn fill_up(&self, whole: &str, name: &str, arguments: Arguments) -> Result<Value> {
        match name {
            "expandtabs" => {
                let [width] = arguments.bind(name, ["tabsize"], 0)?;
                self.expand_tabs(whole, width.as_ref().map_or(Ok(8), size)?)
            }
            "zfill" => {
                let [width] = arguments.bind(name, ["width"], 1)?;
                let width = size(&width.unwrap_or(Value::None))?;
                let sign = whole.chars().next().filter(|&sign| matches!(without_stand_in(sign), '+' | '-'));
                let (sign, digits) = whole.split_at(sign.map_or(0, char::len_utf8));
                let padded = self.pad(digits, width.saturating_sub(sign.chars().count()), '0', "rjust")?;
                self.made(format!("{sign}{}", text(&padded)?))
            }
            side => {
                let [width, fill] = arguments.bind(name, ["width", "fillchar"], 1)?;
                let fill = fill.as_ref().map(text).transpose()?.unwrap_or(" ".into());
                let mut characters = fill.chars();
                let (Some(fill), None) = (characters.next(), characters.next()) else {
                    fail!("The fill character must be exactly one character long");
                };
                self.pad(whole, size(&width.unwrap_or(Value::None))?, fill, side)
            }
        }
    }

    fn partition(&self, whole: &str, name: &str, arguments: Arguments) -> Result<Value> {
        let [separator] = arguments.bind(name, ["sep"], 1)?;
        let separator = text(&separator.unwrap_or(Value::None))?;
        if separator.is_empty() {
            fail!("empty separator");
        }
        let searched = Searched::new(whole);
        let (found, none) = match name {
            "partition" => (searched.find(&separator), [whole, "", ""]),
            _ => (searched.rfind(&separator), ["", "", whole]),
        };
        let parts = found.map_or(none, |at| [&whole[..at.start], &separator, &whole[at.end..]]);
        self.limits.allocate(whole.len() + 3 * ELEMENT)?;
        Value::tuple(parts.into_iter().map(Value::text).collect())
    }

    pub(super) fn strip(&self, whole: &str, side: &str, characters: Option<Value>) -> Result<Value> {
        let characters = match characters {
            None | Some(Value::None) => None,
            Some(characters) => Some(text(&characters)?),
        };
        if let Some(characters) = &characters {
            self.limits.read(whole.len().saturating_mul(characters.len().min(64)))?;
        }
        let characters = characters.as_deref().map(plain);
        let removed = |c: char| {
            characters.as_ref().map_or_else(|| is_space(c), |set| set.contains(without_stand_in(c)))
        };
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
        let most = most.unwrap_or(usize::MAX);
        let (searched, separator) = (Searched::new(whole), plain(&separator));
        let mut parts = Vec::new();
        if name == "split" {
            let mut position = 0;
            for found in searched.matches(&separator).take(most) {
                parts.push(&whole[position..found.start]);
                position = found.end;
            }
            parts.push(&whole[position..]);
        } else {
            let mut end = whole.len();
            for found in searched.rmatches(&separator).take(most) {
                parts.push(&whole[found.end..end]);
                end = found.start;
            }
            parts.push(&whole[..end]);
            parts.reverse();
        }
        self.parts(parts)
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
        let (searched, old) = (Searched::new(whole), plain(old));
        let found = match old.is_empty() {
            true => whole.chars().count() + 1,
            false if new.len() > old.len() => searched.count(&old),
            false => 0,
        };
        let grown = new.len().saturating_sub(old.len()).saturating_mul(found.min(most));
        self.limits.allocate(whole.len().saturating_add(grown))?;
        let mut replaced = String::with_capacity(whole.len());
        let mut position = 0;
        for found in searched.matches(&old).take(most) {
            replaced.push_str(&whole[position..found.start]);
            replaced.push_str(new);
            position = found.end;
        }
        replaced.push_str(&whole[position..]);
        Ok(Value::text(replaced))
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
            let spaces =
                if without_stand_in(character) == '\t' && width > 0 { width - column % width } else { 0 };
            self.limits.allocate(spaces.max(1))?;
            match without_stand_in(character) {
                '\t' => result.push_str(&" ".repeat(spaces)),
                _ => result.push(character),
            }
            column = match without_stand_in(character) {
                '\n' | '\r' => 0,
                '\t' => column + spaces,
                _ => column + 1,
            };
        }
        Ok(Value::text(result))
    }
}

fn begins_or_ends(whole: &str, name: &str, arguments: Arguments) -> Result<Value> {
    let [wanted, start, end] = arguments.bind(name, ["prefix", "start", "end"], 1)?;
    let Some((part, _)) = part(whole, start, end)? else { return Ok(Value::Bool(false)) };
    let options = match wanted {
        Some(Value::Tuple(options)) => options.items().to_vec(),
        other => vec![other.unwrap_or(Value::None)],
    };
    let strip = if name == "startswith" { strip_prefix } else { strip_suffix };
    for option in &options {
        if strip(part, &text(option)?).is_some() {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn search(whole: &str, name: &str, arguments: Arguments) -> Result<Value> {
    let [wanted, start, end] = arguments.bind(name, ["sub", "start", "end"], 1)?;
    let wanted = text(&wanted.unwrap_or(Value::None))?;
    let Some((part, skipped)) = part(whole, start, end)? else {
        return match name {
            "count" => Ok(Value::int(0)),
            "find" | "rfind" => Ok(Value::Int(-1)),
            _ => fail!("substring not found"),
        };
    };
    let searched = Searched::new(part);
    if name == "count" {
        return Ok(Value::int(searched.count(&wanted)));
    }
    let found = if name.starts_with('r') { searched.rfind(&wanted) } else { searched.find(&wanted) };
    match found {
        Some(at) => Ok(Value::int(skipped + part[..at.start].chars().count())),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => fail!("substring not found"),
    }
}

/// What a method without arguments says of a string.
fn predicate(name: &str) -> Option<fn(&str) -> bool> {
    fn all(text: &str, holds: fn(char) -> bool) -> bool {
        !text.is_empty() && text.chars().all(holds)
    }
    Some(match name {
        "isalnum" => |text| all(text, char::is_alphanumeric),
        "isalpha" => |text| all(text, char::is_alphabetic),
        "isascii" => str::is_ascii,
        "isdecimal" => |text| all(text, is_decimal),
        "isdigit" => |text| all(text, is_digit),
        "isnumeric" => |text| all(text, char::is_numeric),
        "isspace" => |text| all(text, is_space),
        "isidentifier" => is_identifier,
        "isprintable" => |text| text.chars().all(is_printable),
        "islower" => |text| has_case(text, char::is_lowercase),
        "isupper" => |text| has_case(text, char::is_uppercase),
        "istitle" => is_title,
        _ => return None,
    })
}
