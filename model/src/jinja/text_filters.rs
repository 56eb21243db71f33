//! Filters of strings and numbers.

use super::arguments::{Arguments, flag, int, optional_int, size, text};
use super::error::{Result, fail};
use super::evaluate::Renderer;
use super::filters::Filter;
use super::hidden::{Searched, change_case, plain};
use super::loops::{Cursor, elements};
use super::print::JsonStyle;
use super::text::{capitalize, decimal, is_space, lines};
use super::value::{Number, Value, View};
use crate::control_tokens::without_stand_in;

pub(super) fn find(name: &str) -> Option<Filter> {
    Some(match name {
        "capitalize" => |renderer, value, arguments| case(renderer, value, arguments, capitalize),
        "center" => center,
        "e" | "escape" | "forceescape" => escape,
        "filesizeformat" | "pprint" | "urlize" | "wordwrap" | "xmlattr" => |_, _, _| {
            fail!("the filters filesizeformat, pprint, urlize, wordwrap and xmlattr are not supported")
        },
        "float" => float,
        "format" => format,
        "indent" => indent,
        "int" => to_int,
        "lower" => |renderer, value, arguments| case(renderer, value, arguments, str::to_lowercase),
        "replace" => replace,
        "round" => round,
        "safe" | "string" => |renderer, value, arguments| case(renderer, value, arguments, str::to_owned),
        "striptags" => striptags,
        "title" => |renderer, value, arguments| case(renderer, value, arguments, title),
        "tojson" => tojson,
        "trim" => trim,
        "truncate" => truncate,
        "upper" => |renderer, value, arguments| case(renderer, value, arguments, str::to_uppercase),
        "urlencode" => urlencode,
        "wordcount" => wordcount,
        _ => return None,
    })
}

pub(super) fn abs(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none("abs")?;
    match value.defined()?.number() {
        Some(Number::Int(number)) if number < 0 => renderer.negative(value),
        Some(Number::Int(number)) => Ok(Value::Int(number)),
        Some(Number::Float(number)) => Ok(Value::Float(number.abs())),
        None => fail!("bad operand type for abs(): '{}'", value.kind()),
    }
}

fn case(
    renderer: &Renderer<'_>,
    value: &Value,
    arguments: Arguments,
    change: fn(&str) -> String,
) -> Result<Value> {
    arguments.none("the filter")?;
    let text = change_case(&renderer.str(value)?, change);
    renderer.limits.allocate(text.len())?;
    Ok(Value::text(text))
}

/// As jinja2 has it: words begin after spaces, hyphens and opening brackets.
fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut in_word = false;
    for character in text.chars() {
        match in_word {
            true => result.extend(character.to_lowercase()),
            false => result.extend(character.to_uppercase()),
        }
        in_word = !(is_space(character) || matches!(character, '-' | '(' | '{' | '[' | '<'));
    }
    result
}

fn center(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [width] = arguments.bind("center", ["width"], 0)?;
    let width = width.as_ref().map_or(Ok(80), size)?;
    renderer.pad(&renderer.str(value)?, width, ' ', "center")
}

fn escape(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none("escape")?;
    let text = renderer.str(value)?;
    renderer.limits.allocate(text.len().saturating_mul(5))?;
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match without_stand_in(character) {
            '&' => escaped.push_str("&amp;"),
            '>' => escaped.push_str("&gt;"),
            '<' => escaped.push_str("&lt;"),
            '\'' => escaped.push_str("&#39;"),
            '"' => escaped.push_str("&#34;"),
            _ => escaped.push(character),
        }
    }
    Ok(Value::text(escaped))
}

/// The text to read a number from: with the digits of ASCII.
fn ascii_digits(text: &str) -> String {
    let digit = |character| decimal(character).and_then(|value| char::from_digit(value, 10));
    plain(text).chars().map(|character| digit(character).unwrap_or(character)).collect()
}

/// A number as Python's `float` reads it.
fn parse_float(text: &str) -> Option<f64> {
    let text = ascii_digits(text.trim_matches(is_space));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "+-._".contains(c));
    let split = text.starts_with('_') || text.ends_with('_') || text.contains("__");
    if !digits(&text) || split {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn float(_: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [default] = arguments.bind("float", ["default"], 0)?;
    let number = match value.defined()? {
        Value::Str(text) => parse_float(text),
        other => other.number().map(Number::float),
    };
    Ok(number.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
}

fn to_int(_: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [default, base] = arguments.bind("int", ["default", "base"], 0)?;
    let base = base.map_or(Ok(10), |base| int(&base))?;
    let truncated = |number: f64| (number.is_finite()).then_some(number as i128);
    let number = match value.defined()? {
        Value::Str(text) => parse_int(text, base)?.or_else(|| parse_float(text).and_then(truncated)),
        other => match other.number() {
            Some(Number::Int(number)) => Some(number),
            Some(Number::Float(number)) => truncated(number),
            None => None,
        },
    };
    Ok(number.map_or_else(|| default.unwrap_or(Value::Int(0)), Value::Int))
}

/// A number as Python's `int` reads it.
fn parse_int(text: &str, base: i128) -> Result<Option<i128>> {
    let text = ascii_digits(text.trim_matches(is_space));
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (mut base, mut digits) = (base, lower.as_str());
    for (prefix, of) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let (Some(rest), true) = (digits.strip_prefix(prefix), base == of || base == 0) {
            (base, digits) = (of, rest.strip_prefix('_').unwrap_or(rest));
        }
    }
    let base = if base == 0 { 10 } else { base };
    let Some(base) = u32::try_from(base).ok().filter(|base| (2..=36).contains(base)) else { return Ok(None) };
    let split = digits.starts_with('_') || digits.ends_with('_') || digits.contains("__");
    let digits = digits.replace('_', "");
    if digits.is_empty() || split || !digits.chars().all(|c| c.is_digit(base)) {
        return Ok(None);
    }
    match i128::from_str_radix(&digits, base) {
        Ok(number) => Ok(Some(if negative { -number } else { number })),
        Err(_) => fail!("a number is too large"),
    }
}

fn round(_: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [precision, method] = arguments.bind("round", ["precision", "method"], 0)?;
    let precision = optional_int(precision)?.unwrap_or(0);
    let method = method.as_ref().map(text).transpose()?;
    let Some(number) = value.defined()?.number() else {
        fail!("type {} doesn't define __round__ method", value.kind())
    };
    let scaled = |function: fn(f64) -> f64| {
        let scale = 10.0_f64.powi(precision.clamp(-400, 400) as i32);
        Value::Float(function(number.float() * scale) / scale)
    };
    match (method.as_deref(), number) {
        (None | Some("common"), Number::Int(number)) if precision >= 0 => Ok(Value::Int(number)),
        (None | Some("common"), Number::Int(number)) => {
            let Some(scale) = u32::try_from(-precision).ok().and_then(|power| 10_i128.checked_pow(power))
            else {
                return Ok(Value::Int(0));
            };
            let rest = number.rem_euclid(scale);
            let floor = number - rest;
            let up = rest * 2 > scale || (rest * 2 == scale && (floor / scale) % 2 != 0);
            Ok(Value::Int(if up { floor + scale } else { floor }))
        }
        (None | Some("common"), Number::Float(number)) => Ok(Value::Float(round_float(number, precision))),
        (Some("ceil"), _) => Ok(scaled(f64::ceil)),
        (Some("floor"), _) => Ok(scaled(f64::floor)),
        _ => fail!("method must be common, ceil or floor"),
    }
}

/// To the nearest decimal, by the exact value of the number; a tie goes to the even digit.
fn round_float(number: f64, precision: i128) -> f64 {
    if !number.is_finite() || precision > 300 {
        return number;
    }
    if precision < 0 {
        let scale = 10.0_f64.powi(precision.max(-400) as i32).recip();
        return if scale.is_infinite() { 0.0 } else { (number / scale).round_ties_even() * scale };
    }
    // Formatting rounds the exact value, and ties to even.
    format!("{number:.*}", precision as usize).parse().unwrap_or(number)
}

fn format(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let template = renderer.str(value)?;
    if arguments.named.is_empty() {
        return renderer.percent_format(&template, &Value::tuple(arguments.positional)?);
    }
    if !arguments.positional.is_empty() {
        fail!("can't handle positional and keyword arguments at the same time");
    }
    let mut dict = super::value::Dict::default();
    for (name, value) in arguments.named {
        dict.insert(Value::Str(name), value, &renderer.limits)?;
    }
    renderer.percent_format(&template, &Value::dict(dict))
}

fn indent(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [width, first, blank] = arguments.bind("indent", ["width", "first", "blank"], 0)?;
    let (first, blank) = (flag(first, false), flag(blank, false));
    let indentation = match width {
        Some(Value::Str(text)) => text.to_string(),
        width => {
            let width = width.as_ref().map_or(Ok(4), size)?;
            renderer.limits.allocate(width)?;
            " ".repeat(width)
        }
    };
    let whole = text(value)?;
    renderer.limits.allocate(whole.len() + 1)?;
    let whole = format!("{whole}\n");
    let lines = lines(&whole, false);
    renderer.limits.allocate_times(lines.len() + 1, indentation.len().saturating_add(1))?;
    let mut result = String::new();
    for (index, line) in lines.into_iter().enumerate() {
        if index > 0 {
            result.push('\n');
        }
        if (index == 0 && first) || (index > 0 && (blank || !line.is_empty())) {
            result.push_str(&indentation);
        }
        result.push_str(line);
    }
    Ok(Value::text(result))
}

fn replace(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [old, new, count] = arguments.bind("replace", ["old", "new", "count"], 2)?;
    let old = renderer.str(&old.unwrap_or(Value::None))?;
    let new = renderer.str(&new.unwrap_or(Value::None))?;
    renderer.replace(&renderer.str(value)?, &old, &new, optional_int(count)?)
}

fn trim(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [characters] = arguments.bind("trim", ["chars"], 0)?;
    renderer.strip(&renderer.str(value)?, "strip", characters)
}

fn striptags(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none("striptags")?;
    let text = renderer.str(value)?;
    let searched = Searched::new(&text);
    let plain = searched.plain();
    let mut kept = String::new();
    let mut position = 0;
    while let Some(start) = plain[position..].find('<').map(|start| position + start) {
        let (skipped, end) = if plain[start..].starts_with("<!--") { (4, "-->") } else { (0, ">") };
        let Some(length) = plain[start + skipped..].find(end) else { break };
        kept.push_str(&text[searched.original(position)..searched.original(start)]);
        position = start + skipped + length + end.len();
    }
    kept.push_str(&text[searched.original(position)..]);
    let text = kept;
    let text = super::text::split_space(&text, None).join(" ");
    let unescaped =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    Ok(Value::text(unescaped.iter().fold(text, |text, (entity, plain)| text.replace(entity, plain))))
}

fn truncate(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let [length, kill, end, leeway] =
        arguments.bind("truncate", ["length", "killwords", "end", "leeway"], 0)?;
    let length = length.as_ref().map_or(Ok(255), size)?;
    let end = end.as_ref().map(text).transpose()?.unwrap_or("...".into());
    let leeway = optional_int(leeway)?.unwrap_or(5).max(0) as usize;
    let end_length = end.chars().count();
    if length < end_length {
        fail!("expected length >= {end_length}, got {length}");
    }
    let is_short = |length_of: usize| length_of <= length.saturating_add(leeway);
    if !matches!(value, Value::Str(_)) && Cursor::length(value).is_some_and(is_short) {
        return Ok(value.clone());
    }
    let whole = text(value)?;
    if is_short(whole.chars().count()) {
        return Ok(Value::Str(whole));
    }
    renderer.limits.allocate(whole.len() + end.len())?;
    let cut: String = whole.chars().take(length - end_length).collect();
    let word_end = || Searched::new(&cut).rfind(" ").map(|space| space.start);
    let kept = if flag(kill, false) { &cut } else { &cut[..word_end().unwrap_or(cut.len())] };
    Ok(Value::text(format!("{kept}{end}")))
}

fn quote(renderer: &Renderer<'_>, value: &Value, is_query: bool) -> Result<String> {
    let text = renderer.str(value)?;
    renderer.limits.allocate(text.len().saturating_mul(3))?;
    let mut quoted = String::new();
    for byte in plain(&text).bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => quoted.push(byte.into()),
            b'/' if !is_query => quoted.push('/'),
            b' ' if is_query => quoted.push('+'),
            other => quoted.push_str(&format!("%{other:02X}")),
        }
    }
    Ok(quoted)
}

fn urlencode(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none("urlencode")?;
    let pairs = match value {
        Value::Dict(dict) => Value::View(View::Items, dict.clone()),
        Value::Str(_) => return quote(renderer, value, false).map(Value::text),
        other if Cursor::new(other).is_err() => return quote(renderer, value, false).map(Value::text),
        other => other.clone(),
    };
    let mut parts = Vec::new();
    for pair in elements(&pairs, &renderer.limits)? {
        let [key, value] = &elements(&pair, &renderer.limits)?[..] else {
            fail!("urlencode takes pairs of a key and a value");
        };
        parts.push(format!("{}={}", quote(renderer, key, true)?, quote(renderer, value, true)?));
    }
    Ok(Value::text(parts.join("&")))
}

fn wordcount(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    arguments.none("wordcount")?;
    let text = renderer.str(value)?;
    let text = plain(&text);
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    Ok(Value::int(words.count()))
}

fn tojson(renderer: &Renderer<'_>, value: &Value, arguments: Arguments) -> Result<Value> {
    let parameters = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sorted] = arguments.bind("tojson", parameters, 0)?;
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.to_string()),
        Some(width) => {
            let width = size(&width)?;
            renderer.limits.allocate(width)?;
            Some(" ".repeat(width))
        }
    };
    let (comma, colon) = match separators {
        None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(given) => match &elements(&given, &renderer.limits)?[..] {
            [comma, colon] => (text(comma)?.to_string(), text(colon)?.to_string()),
            _ => fail!("separators must be two strings"),
        },
    };
    let style = JsonStyle { ascii: flag(ascii, false), sorted: flag(sorted, false), indent, comma, colon };
    renderer.json(value, &style).map(Value::text)
}
