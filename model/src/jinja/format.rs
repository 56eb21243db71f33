//! Formats of text: `%`, `str.format` and the format specifications that they share.

use std::sync::Arc;

use super::arguments::{Arguments, size};
use super::error::{Result, fail};
use super::evaluate::Renderer;
use super::print::float;
use super::value::{Number, Value};
use crate::control_tokens::is_reserved;

/// How a value is written: `[[fill]align][sign][#][0][width][grouping][.precision][type]`.
#[derive(Clone, Copy, Default)]
struct Specification {
    fill: Option<char>,
    align: Option<char>,
    sign: Option<char>,
    alternate: bool,
    width: usize,
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
}

impl Renderer<'_> {
    /// `format % values`.
    #[inline(never)]
    pub(super) fn percent_format(&self, format: &str, values: &Value) -> Result<Value> {
        self.limits.allocate(format.len())?;
        let mut arguments = match values {
            Value::Tuple(sequence) => sequence.items().to_vec(),
            other => vec![other.clone()],
        }
        .into_iter();
        let mut text = String::new();
        let mut named = false;
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            text.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let mut key = None;
            if let Some(after) = rest.strip_prefix('(') {
                let Some(end) = after.find(')') else { fail!("incomplete format key") };
                let Value::Dict(dict) = values else { fail!("format requires a mapping") };
                let Some(value) = dict.get_str(&after[..end]) else { fail!("'{}' is no key", &after[..end]) };
                key = Some(value.clone());
                named = true;
                rest = &after[end + 1..];
            }
            let flags = rest.len() - rest.trim_start_matches(['-', '+', ' ', '#', '0']).len();
            let (flags, after) = rest.split_at(flags);
            rest = after;
            let mut next = || match key.take().or_else(|| arguments.next()) {
                Some(value) => Ok(value),
                None => fail!("not enough arguments for format string"),
            };
            let mut left = flags.contains('-');
            let mut width = 0;
            if let Some(after) = rest.strip_prefix('*') {
                let given = super::arguments::int(&next()?)?;
                left |= given < 0;
                width = usize::try_from(given.unsigned_abs()).unwrap_or(usize::MAX);
                rest = after;
            } else {
                number(&mut rest, &mut width)?;
            }
            let mut precision = None;
            if let Some(after) = rest.strip_prefix('.') {
                rest = after;
                let mut value = 0;
                if let Some(after) = rest.strip_prefix('*') {
                    value = size(&next()?)?;
                    rest = after;
                } else {
                    number(&mut rest, &mut value)?;
                }
                precision = Some(value);
            }
            rest = rest.trim_start_matches(['h', 'l', 'L']);
            let Some(kind) = rest.chars().next() else { fail!("incomplete format") };
            rest = &rest[kind.len_utf8()..];
            if kind == '%' {
                if !flags.is_empty() || width > 0 || precision.is_some() {
                    fail!("`%%` takes no width and no flags");
                }
                text.push('%');
                continue;
            }
            let value = next()?;
            let zero = flags.contains('0') && !left;
            let style = Specification {
                fill: None,
                align: Some(if left { '<' } else { '>' }),
                sign: ['+', ' '].into_iter().find(|&sign| flags.contains(sign)),
                alternate: flags.contains('#'),
                width,
                grouping: None,
                precision,
                kind: Some(kind),
            };
            text.push_str(&self.percent_value(&value, kind, zero, style)?);
        }
        text.push_str(rest);
        // What has items other than a tuple's or a string's may leave them unused.
        let is_mapping =
            matches!(values, Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_));
        if arguments.next().is_some() && !named && !is_mapping {
            fail!("not all arguments converted during string formatting");
        }
        Ok(Value::text(text))
    }

    fn percent_value(&self, value: &Value, kind: char, zero: bool, style: Specification) -> Result<String> {
        let numeric = |style: Specification| match zero {
            true => Specification { fill: Some('0'), align: Some('='), ..style },
            false => style,
        };
        match kind {
            's' | 'r' | 'a' => {
                let text = match kind {
                    's' => self.str(value)?,
                    'r' => self.repr(value)?,
                    _ => self.ascii(value)?,
                };
                self.pad_text(&text, style)
            }
            'c' => {
                let text = match value {
                    Value::Str(text) if text.chars().count() == 1 => text.to_string(),
                    Value::Int(code) => character(*code)?.to_string(),
                    _ => fail!("%c requires int or char"),
                };
                self.pad_text(&text, style)
            }
            'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
                let value = match value.defined()?.number() {
                    Some(Number::Int(number)) => number,
                    Some(Number::Float(number)) if matches!(kind, 'd' | 'i' | 'u') && number.is_finite() => {
                        number as i128
                    }
                    _ => fail!("%{kind} format: a real number is required, not {}", value.kind()),
                };
                let digits = style.precision.unwrap_or(0);
                let kind = if matches!(kind, 'i' | 'u') { 'd' } else { kind };
                let style = Specification { kind: Some(kind), precision: None, ..numeric(style) };
                self.write_int(value, digits, style)
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => match value.defined()?.number() {
                Some(number) => self.write_float(number.float(), numeric(style)),
                None => fail!("must be real number, not {}", value.kind()),
            },
            other => fail!("unsupported format character '{other}'"),
        }
    }

    /// `format.format(…)`.
    #[inline(never)]
    pub(super) fn str_format(&self, format: &str, arguments: Arguments) -> Result<Value> {
        self.limits.allocate(format.len())?;
        let mut automatic = Some(0);
        self.format_fields(format, &arguments, &mut automatic, 2).map(Value::text)
    }

    fn format_fields(
        &self,
        format: &str,
        arguments: &Arguments,
        automatic: &mut Option<usize>,
        depth: u32,
    ) -> Result<String> {
        if depth == 0 {
            fail!("Max string recursion exceeded");
        }
        let mut text = String::new();
        let mut rest = format;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let brace = &rest[at..at + 1];
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix(brace) {
                text.push_str(brace);
                rest = after;
                continue;
            }
            if brace == "}" {
                fail!("Single '}}' encountered in format string");
            }
            let mut open = 1;
            let end = rest.find(|c| {
                open += i32::from(c == '{') - i32::from(c == '}');
                open == 0
            });
            let Some(end) = end else { fail!("expected '}}' before end of string") };
            let field = &rest[..end];
            rest = &rest[end + 1..];
            let at = field.find([':', '!']).unwrap_or(field.len());
            let mut value = self.field(&field[..at], arguments, automatic)?;
            let mut specification = &field[at..];
            if let Some(conversion) = specification.strip_prefix('!') {
                let kind = conversion.chars().next();
                value = Value::text(match kind {
                    Some('s') => self.str(&value)?,
                    Some('r') => self.repr(&value)?,
                    Some('a') => self.ascii(&value)?,
                    _ => fail!("Unknown conversion specifier '{conversion}'"),
                });
                specification = &conversion[1..];
            }
            let specification = match specification.strip_prefix(':') {
                Some(specification) if specification.contains('{') => {
                    self.format_fields(specification, arguments, automatic, depth - 1)?
                }
                Some(specification) => specification.to_owned(),
                None if specification.is_empty() => String::new(),
                None => fail!("expected ':' after conversion specifier"),
            };
            let written = self.format_value(&value, &specification)?;
            self.limits.allocate(written.len())?;
            text.push_str(&written);
        }
        text.push_str(rest);
        Ok(text)
    }

    /// The value of `name.attribute[item]`.
    fn field(&self, field: &str, arguments: &Arguments, automatic: &mut Option<usize>) -> Result<Value> {
        let end = field.find(['.', '[']).unwrap_or(field.len());
        let (name, mut rest) = field.split_at(end);
        let position = match (name, name.parse::<usize>()) {
            ("", _) if !rest.is_empty() => fail!("a field of a format string has no name before `{rest}`"),
            ("", _) => match automatic {
                Some(next) => {
                    *next += 1;
                    Some(*next - 1)
                }
                None => fail!("cannot switch from manual field specification to automatic field numbering"),
            },
            (_, Ok(position)) => {
                if automatic.is_some_and(|next| next > 0) {
                    fail!("cannot switch from automatic field numbering to manual field specification");
                }
                *automatic = None;
                Some(position)
            }
            _ => None,
        };
        let found = match position {
            Some(position) => arguments.positional.get(position),
            None => arguments.named.iter().find(|(known, _)| **known == *name).map(|(_, value)| value),
        };
        let Some(mut value) = found.cloned() else {
            fail!("no argument for the field '{name}' of a format string")
        };
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let attribute: Arc<str> = after[..end].into();
                value = self.attribute(&value, &attribute)?;
                rest = &after[end..];
            } else if let Some((key, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                let key = match key.parse::<u64>() {
                    Ok(index) => Value::Int(i128::from(index)),
                    Err(_) => Value::text(key),
                };
                value = self.item(&value, &key)?.defined()?.clone();
                rest = after;
            } else {
                fail!("'{field}' is no field of a format string");
            }
        }
        Ok(value)
    }

    /// `format(value, specification)`.
    fn format_value(&self, value: &Value, specification: &str) -> Result<String> {
        if specification.is_empty() {
            return self.str(value);
        }
        let style = specification_of(specification)?;
        match value.defined()? {
            Value::Str(text) => {
                if !matches!(style.kind, None | Some('s')) || style.align == Some('=') {
                    fail!("Unknown format code in '{specification}' for object of type 'str'");
                }
                self.pad_text(text, style)
            }
            Value::Bool(_) if style.kind.is_none() && style.width == 0 => self.str(value),
            Value::Int(_) | Value::Bool(_) => {
                let Some(Number::Int(number)) = value.number() else { return self.str(value) };
                match style.kind {
                    None | Some('d' | 'n' | 'x' | 'X' | 'o' | 'b') => self.write_int(number, 0, style),
                    Some('c') => self.pad_text(&character(number)?.to_string(), style),
                    Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | '%') => self.write_float(number as f64, style),
                    Some(other) => fail!("Unknown format code '{other}' for object of type 'int'"),
                }
            }
            Value::Float(number) => match style.kind {
                None | Some('e' | 'E' | 'f' | 'F' | 'g' | 'G' | 'n' | '%') => {
                    self.write_float(*number, style)
                }
                Some(other) => fail!("Unknown format code '{other}' for object of type 'float'"),
            },
            other => fail!("unsupported format string passed to {}.__format__", other.kind()),
        }
    }

    /// A string cut to the precision and filled to the width.
    fn pad_text(&self, text: &str, style: Specification) -> Result<String> {
        let cut = style.precision.and_then(|precision| text.char_indices().nth(precision));
        let text = cut.map_or(text, |(end, _)| &text[..end]);
        self.fill("", text, Specification { align: style.align.or(Some('<')), ..style })
    }

    fn fill(&self, sign: &str, body: &str, style: Specification) -> Result<String> {
        let fill = style.fill.unwrap_or(' ');
        let missing = style.width.saturating_sub(sign.len() + body.chars().count());
        self.limits.allocate(missing.saturating_mul(fill.len_utf8()).saturating_add(body.len()))?;
        let fill = |count: usize| fill.to_string().repeat(count);
        Ok(match style.align {
            Some('<') => format!("{sign}{body}{}", fill(missing)),
            Some('^') => format!("{}{sign}{body}{}", fill(missing / 2), fill(missing - missing / 2)),
            Some('=') => format!("{sign}{}{body}", fill(missing)),
            _ => format!("{}{sign}{body}", fill(missing)),
        })
    }

    /// A whole number of at least `least` digits.
    fn write_int(&self, number: i128, least: usize, style: Specification) -> Result<String> {
        let size = number.unsigned_abs();
        let (prefix, mut digits) = match style.kind {
            Some('x') => ("0x", format!("{size:x}")),
            Some('X') => ("0X", format!("{size:X}")),
            Some('o') => ("0o", format!("{size:o}")),
            Some('b') => ("0b", format!("{size:b}")),
            _ => ("", size.to_string()),
        };
        if style.precision.is_some() {
            fail!("Precision not allowed in integer format specifier");
        }
        self.limits.allocate(least)?;
        digits = format!("{}{digits}", "0".repeat(least.saturating_sub(digits.len())));
        let sign = sign_of(number < 0, style.sign).to_owned() + if style.alternate { prefix } else { "" };
        let group = if prefix.is_empty() { 3 } else { 4 };
        self.fill(&sign, &grouped(&digits, style, group, sign.len()), style)
    }

    fn write_float(&self, number: f64, style: Specification) -> Result<String> {
        let size = number.abs();
        let sign = sign_of(number.is_sign_negative() && !number.is_nan(), style.sign);
        let precision = style.precision.unwrap_or(6);
        // A number of that many digits is nothing but zeros at its end.
        if precision > 100_000 {
            fail!("precision too big");
        }
        self.limits.allocate(precision + 400)?;
        let upper = style.kind.is_some_and(char::is_uppercase);
        let mut body = match style.kind.map(|kind| kind.to_ascii_lowercase()) {
            _ if !size.is_finite() => float(size),
            Some('f') => format!("{size:.precision$}"),
            Some('%') => format!("{:.precision$}%", size * 100.0),
            Some('e') => exponential(size, precision),
            Some(_) => general(size, precision.max(1), precision.max(1), style.alternate),
            None if style.precision.is_some() => {
                // As `%g`, but with a digit after the point, which the precision counts too.
                let text = general(size, precision.max(1), precision.max(1) - 1, false);
                if text.contains(['.', 'e']) { text } else { format!("{text}.0") }
            }
            None => float(size),
        };
        if upper {
            body = body.to_uppercase();
        }
        self.fill(sign, &grouped(&body, style, 3, sign.len()), style)
    }
}

/// The character of a code. A reserved one could pass for a control token.
fn character(code: i128) -> Result<char> {
    match u32::try_from(code).ok().and_then(char::from_u32) {
        Some(character) if is_reserved(character) => {
            fail!("%c makes the private-use character U+{code:X}, which is reserved here")
        }
        Some(character) => Ok(character),
        None => fail!("%c arg not in range(0x110000)"),
    }
}

fn sign_of(negative: bool, sign: Option<char>) -> &'static str {
    match (negative, sign) {
        (true, _) => "-",
        (_, Some('+')) => "+",
        (_, Some(' ')) => " ",
        _ => "",
    }
}

/// `%e`: two digits of exponent at least.
fn exponential(size: f64, precision: usize) -> String {
    let text = format!("{size:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// `%g`: `precision` digits without the zeros at the end, with an exponent from `limit` on.
fn general(size: f64, precision: usize, limit: usize, keep_zeros: bool) -> String {
    let text = exponential(size, precision - 1);
    let exponent = text.split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok()).unwrap_or(0);
    let shortened = |digits: &str| match keep_zeros || !digits.contains('.') {
        true => digits.to_owned(),
        false => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
    };
    if exponent < -4 || exponent >= limit as i32 {
        let (digits, rest) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{rest}", shortened(digits));
    }
    let decimals = (precision as i32 - 1 - exponent).max(0) as usize;
    shortened(&format!("{size:.decimals$}"))
}

/// Digits with their thousands apart, filled with zeros up to the width where zeros fill it.
fn grouped(text: &str, style: Specification, group: usize, sign: usize) -> String {
    let Some(separator) = style.grouping else { return text.to_owned() };
    let whole = text.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(whole);
    let mut result: Vec<char> = Vec::new();
    let zeros = style.fill == Some('0') && style.align == Some('=');
    let mut digits = digits.chars().rev();
    let mut count = 0;
    loop {
        let filled = zeros && result.len() + rest.len() + sign < style.width.min(1 << 20);
        let Some(digit) = digits.next().or(filled.then_some('0')) else { break };
        if count > 0 && count % group == 0 {
            result.push(separator);
        }
        result.push(digit);
        count += 1;
    }
    result.iter().rev().collect::<String>() + rest
}

fn specification_of(text: &str) -> Result<Specification> {
    let mut style = Specification::default();
    let mut rest = text;
    let characters: Vec<char> = text.chars().take(2).collect();
    let is_align = |c: &char| matches!(c, '<' | '>' | '^' | '=');
    if characters.get(1).is_some_and(is_align) {
        (style.fill, style.align) = (Some(characters[0]), Some(characters[1]));
        rest = &rest[characters[0].len_utf8() + 1..];
    } else if characters.first().is_some_and(is_align) {
        style.align = Some(characters[0]);
        rest = &rest[1..];
    }
    let mut take = |wanted: &[char]| {
        let found = rest.chars().next().filter(|c| wanted.contains(c));
        rest = &rest[found.map_or(0, char::len_utf8)..];
        found
    };
    style.sign = take(&['+', '-', ' ']);
    style.alternate = take(&['#']).is_some();
    if take(&['0']).is_some() && style.fill.is_none() {
        style.fill = Some('0');
        style.align = style.align.or(Some('='));
    }
    number(&mut rest, &mut style.width)?;
    if let Some(separator) = rest.chars().next().filter(|c| matches!(c, ',' | '_')) {
        style.grouping = Some(separator);
        rest = &rest[1..];
    }
    if let Some(after) = rest.strip_prefix('.') {
        rest = after;
        let mut precision = 0;
        if !number(&mut rest, &mut precision)? {
            fail!("Format specifier missing precision");
        }
        style.precision = Some(precision);
    }
    style.kind = rest.chars().next();
    if rest.chars().count() > 1 {
        fail!("Invalid format specifier '{text}'");
    }
    Ok(style)
}

/// Takes a number from the beginning of `rest`, if there is one.
fn number(rest: &mut &str, value: &mut usize) -> Result<bool> {
    let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    if length == 0 {
        return Ok(false);
    }
    match rest[..length].parse() {
        Ok(number) => *value = number,
        Err(_) => fail!("Too many decimal digits in format string"),
    }
    *rest = &rest[length..];
    Ok(true)
}
