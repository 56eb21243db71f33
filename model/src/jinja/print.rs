//! Values as text: `str`, `repr` and `json.dumps` of Python.

use std::fmt::Write;

use super::error::{Error, Result, fail};
use super::evaluate::{Absent, Renderer};
use super::limits::DATA_DEPTH;
use super::value::{Dict, Value, View};
use crate::control_tokens::{is_reserved, without_stand_in};

/// `repr` of a float: the shortest digits that give it back.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{value}");
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Whether `repr` leaves the character as it is. A stand-in is never escaped itself.
pub(super) fn is_printable(character: char) -> bool {
    match without_stand_in(character) {
        other if is_reserved(other) => true,
        ' '..='~' => true,
        '\0'..='\x7f' => false,
        // As the second character of a string, only what is not printable is escaped.
        other => format!("a{other}").escape_debug().count() == 2,
    }
}

fn push_escape(character: char, out: &mut String) {
    let code = u32::from(character);
    // Writing to a string cannot fail.
    let _ = match code {
        0..=0xff => write!(out, "\\x{code:02x}"),
        0x100..=0xffff => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
}

fn write_repr(text: &str, out: &mut String) {
    let holds = |quote: char| text.chars().any(|character| without_stand_in(character) == quote);
    let quote = if holds('\'') && !holds('"') { '"' } else { '\'' };
    out.push(quote);
    for character in text.chars() {
        match without_stand_in(character) {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if other == quote => {
                out.push('\\');
                out.push(character);
            }
            _ if is_printable(character) => out.push(character),
            other => push_escape(other, out),
        }
    }
    out.push(quote);
}

impl Renderer<'_> {
    /// `str(value)`, appended.
    pub(super) fn write_str(&self, value: &Value, out: &mut String) -> Result<()> {
        match value {
            Value::Undefined(reason) if self.absent == Absent::IsError => Err(reason.error()),
            Value::None if self.absent == Absent::IsError => {
                fail!("a value to print is null: write `or ''` behind it to print nothing instead")
            }
            Value::Undefined(_) => Ok(()),
            Value::Str(text) => {
                self.limits.allocate(text.len())?;
                out.push_str(text);
                Ok(())
            }
            other => self.write_repr(other, out, 0),
        }
    }

    /// `str(value)`.
    pub(super) fn str(&self, value: &Value) -> Result<String> {
        let mut text = String::new();
        self.write_str(value, &mut text)?;
        Ok(text)
    }

    /// `repr(value)`.
    pub(super) fn repr(&self, value: &Value) -> Result<String> {
        let mut text = String::new();
        self.write_repr(value, &mut text, 0)?;
        Ok(text)
    }

    /// `ascii(value)`.
    pub(super) fn ascii(&self, value: &Value) -> Result<String> {
        let mut text = String::new();
        for character in self.repr(value)?.chars() {
            match without_stand_in(character) {
                other if other.is_ascii() || is_reserved(other) => text.push(character),
                other => push_escape(other, &mut text),
            }
        }
        self.limits.allocate(text.len())?;
        Ok(text)
    }

    fn write_repr(&self, value: &Value, out: &mut String, depth: u32) -> Result<()> {
        self.limits.allocate(8)?;
        if depth > DATA_DEPTH {
            fail!("a value to print is nested too deeply, or contains itself");
        }
        let before = out.len();
        match value {
            Value::Undefined(_) => out.push_str("Undefined"),
            Value::None => out.push_str("None"),
            Value::Bool(true) => out.push_str("True"),
            Value::Bool(false) => out.push_str("False"),
            Value::Int(number) => out.push_str(&number.to_string()),
            Value::Float(number) => out.push_str(&float(*number)),
            Value::Str(text) => {
                self.limits.allocate(text.len())?;
                write_repr(text, out);
            }
            Value::List(sequence) => self.write_items(sequence.items(), ("[", "]"), out, depth)?,
            Value::Tuple(sequence) => {
                let end = if sequence.items().len() == 1 { ",)" } else { ")" };
                self.write_items(sequence.items(), ("(", end), out, depth)?;
            }
            Value::Dict(dict) => self.write_dict(dict.entries(), out, depth)?,
            Value::View(view, dict) => self.write_view(*view, dict, out, depth)?,
            Value::Range(range) => {
                let stop = i128::from(range.start) + i128::from(range.step) * range.length as i128;
                out.push_str(&format!("range({}, {stop}", range.start));
                out.push_str(&if range.step == 1 { ")".to_owned() } else { format!(", {})", range.step) });
            }
            Value::Namespace(index) => {
                let attributes = self.namespaces.borrow()[*index].clone();
                let entries: Vec<_> =
                    attributes.into_iter().map(|(name, value)| (Value::Str(name), value)).collect();
                out.push_str("<Namespace ");
                self.write_dict(&entries, out, depth)?;
                out.push('>');
            }
            Value::Macro(index) => match &self.macros.borrow()[*index].declared.name {
                Some(name) => out.push_str(&format!("<Macro '{name}'>")),
                None => out.push_str("<Macro anonymous>"),
            },
            Value::Loop(state) => {
                let (index, length) = ("index", "length");
                for (part, name) in [("<LoopContext ", index), ("/", length)] {
                    out.push_str(part);
                    let number = state.attribute(name, &self.limits)?.unwrap_or(Value::None);
                    self.write_repr(&number, out, depth + 1)?;
                }
                out.push('>');
            }
            other => fail!("a {} cannot be printed: Python prints its address", other.kind()),
        }
        self.limits.read(out.len() - before)
    }

    fn write_items(&self, items: &[Value], ends: (&str, &str), out: &mut String, depth: u32) -> Result<()> {
        out.push_str(ends.0);
        for (index, item) in items.iter().enumerate() {
            out.push_str(if index > 0 { ", " } else { "" });
            self.write_repr(item, out, depth + 1)?;
        }
        out.push_str(ends.1);
        Ok(())
    }

    fn write_dict(&self, entries: &[(Value, Value)], out: &mut String, depth: u32) -> Result<()> {
        out.push('{');
        for (index, (key, value)) in entries.iter().enumerate() {
            out.push_str(if index > 0 { ", " } else { "" });
            self.write_repr(key, out, depth + 1)?;
            out.push_str(": ");
            self.write_repr(value, out, depth + 1)?;
        }
        out.push('}');
        Ok(())
    }

    fn write_view(&self, view: View, dict: &Dict, out: &mut String, depth: u32) -> Result<()> {
        out.push_str(Value::View(view, Default::default()).kind());
        out.push_str("([");
        for (index, (key, value)) in dict.entries().iter().enumerate() {
            out.push_str(if index > 0 { ", " } else { "" });
            match view {
                View::Keys => self.write_repr(key, out, depth + 1)?,
                View::Values => self.write_repr(value, out, depth + 1)?,
                View::Items => self.write_items(&[key.clone(), value.clone()], ("(", ")"), out, depth)?,
            }
        }
        out.push_str("])");
        Ok(())
    }

    /// `json.dumps(value)`.
    pub(super) fn json(&self, value: &Value, style: &JsonStyle) -> Result<String> {
        let mut text = String::new();
        self.write_json(value, style, 0, &mut text)?;
        Ok(text)
    }

    fn write_json(&self, value: &Value, style: &JsonStyle, depth: u32, out: &mut String) -> Result<()> {
        self.limits.allocate(8)?;
        if depth > DATA_DEPTH {
            fail!("a value to write as JSON is nested too deeply");
        }
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Int(number) => out.push_str(&number.to_string()),
            Value::Float(number) => out.push_str(&json_float(*number)),
            Value::Str(text) => {
                self.limits.allocate(text.len())?;
                style.write_text(text, out);
            }
            Value::List(sequence) | Value::Tuple(sequence) => {
                out.push('[');
                for (index, item) in sequence.items().iter().enumerate() {
                    self.separate(style, index, depth, out)?;
                    self.write_json(item, style, depth + 1, out)?;
                }
                self.close(style, sequence.items().is_empty(), depth, out)?;
                out.push(']');
            }
            Value::Dict(dict) => {
                let mut entries: Vec<&(Value, Value)> = dict.entries().iter().collect();
                if style.sorted {
                    self.limits.allocate_times(entries.len(), 16)?;
                    self.sort(&mut entries, |entry| Ok(entry.0.clone()), false)?;
                }
                out.push('{');
                for (index, (key, value)) in entries.into_iter().enumerate() {
                    self.separate(style, index, depth, out)?;
                    let key = match key {
                        Value::Str(text) => text.to_string(),
                        Value::Bool(_) | Value::None | Value::Int(_) | Value::Float(_) => {
                            self.json(key, style)?
                        }
                        other => fail!("keys must be str, int, float, bool or None, not {}", other.kind()),
                    };
                    self.limits.allocate(key.len())?;
                    style.write_text(&key, out);
                    out.push_str(&style.colon);
                    self.write_json(value, style, depth + 1, out)?;
                }
                self.close(style, dict.entries().is_empty(), depth, out)?;
                out.push('}');
            }
            other => {
                return Err(Error::new(format!("Object of type {} is not JSON serializable", other.kind())));
            }
        }
        Ok(())
    }

    fn separate(&self, style: &JsonStyle, index: usize, depth: u32, out: &mut String) -> Result<()> {
        if index > 0 {
            self.limits.allocate(style.comma.len())?;
            out.push_str(&style.comma);
        }
        self.break_line(style, depth + 1, out)
    }

    fn close(&self, style: &JsonStyle, empty: bool, depth: u32, out: &mut String) -> Result<()> {
        if empty { Ok(()) } else { self.break_line(style, depth, out) }
    }

    fn break_line(&self, style: &JsonStyle, depth: u32, out: &mut String) -> Result<()> {
        if let Some(indent) = &style.indent {
            self.limits.allocate_times(depth as usize, indent.len())?;
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
        Ok(())
    }
}

/// The options of `json.dumps`.
pub(super) struct JsonStyle {
    pub ascii: bool,
    pub sorted: bool,
    pub indent: Option<String>,
    pub comma: String,
    pub colon: String,
}

impl JsonStyle {
    fn write_text(&self, text: &str, out: &mut String) {
        out.push('"');
        for character in text.chars() {
            match without_stand_in(character) {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\x08' => out.push_str("\\b"),
                '\x0c' => out.push_str("\\f"),
                '\0'..='\x1f' => out.push_str(&format!("\\u{:04x}", u32::from(character))),
                other if self.ascii && !other.is_ascii() && !is_reserved(other) => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => out.push(character),
            }
        }
        out.push('"');
    }
}

fn json_float(value: f64) -> String {
    match value {
        _ if value.is_nan() => "NaN".to_owned(),
        f64::INFINITY => "Infinity".to_owned(),
        f64::NEG_INFINITY => "-Infinity".to_owned(),
        value => float(value),
    }
}
