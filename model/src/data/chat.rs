//! Chat templates: messages to text, as the model's folder says.
//!
//! Templates are Jinja as transformers renders them: Python's string methods, `tojson`, `raise_exception`,
//! `strftime_now`, loop controls. `strftime_now` always gives [`FIXED_DATE`]: with today's date the same
//! recipe would give other weights tomorrow.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde, Value as Jinja};
use minijinja::{Environment, Error as JinjaError, ErrorKind, context};
use serde_json::Value;

use crate::error::{Error, Reasoned, Result};
use crate::tokenizer::control::{ControlTokens, refuse_reserved};
use crate::tokenizer::read_json;

/// The date that templates see: year, month, day. It is a Friday.
pub const FIXED_DATE: (u32, u32, u32) = (2024, 7, 26);

/// The chat template of a model folder: its path and source.
///
/// `chat_template.jinja` comes before `chat_template` in `tokenizer_config.json`, which is a string or a
/// list of named templates, of which `default` is taken; `chat_template.json` is the last place.
///
/// # Errors
/// When one of the files cannot be read or parsed, or the list has no `default`.
pub(crate) fn find_template(folder: &Path) -> Result<Option<(PathBuf, String)>> {
    let path = folder.join("chat_template.jinja");
    if path.exists() {
        let source = crate::files::read_input_text(&path)?;
        return Ok(Some((path, source)));
    }
    for file in ["tokenizer_config.json", "chat_template.json"] {
        let path = folder.join(file);
        let template = read_json(&path)?.map(|json| json["chat_template"].clone());
        match template {
            Some(Value::String(source)) => return Ok(Some((path, source))),
            Some(Value::Array(named)) => {
                let default = named.iter().find(|entry| entry["name"] == "default");
                return match default.and_then(|entry| entry["template"].as_str()) {
                    Some(source) => Ok(Some((path, source.to_owned()))),
                    None => {
                        Err(Error::format(&path, "`chat_template` is a list without one named `default`"))
                    }
                };
            }
            _ => {}
        }
    }
    Ok(None)
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    names: BTreeMap<String, String>,
    controls: ControlTokens,
}

impl ChatTemplate {
    /// Compiles `source`; `names` are the special tokens a template may write (`bos_token`, …).
    ///
    /// # Errors
    /// When the source is not a valid template.
    pub(crate) fn new(
        path: &Path,
        source: &str,
        names: &BTreeMap<String, String>,
        controls: &ControlTokens,
    ) -> Result<Self> {
        let mut environment = Environment::new();
        let invalid =
            |error: JinjaError| Error::format(path, format!("the chat template is not valid: {error}"));
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(invalid)?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", to_json);
        environment.add_template_owned("chat", without_generation_tags(source)).map_err(invalid)?;
        Ok(Self { environment, names: names.clone(), controls: controls.clone() })
    }

    /// Renders messages whose strings are [hidden](hide_strings); control tokens the template wrote come
    /// out as aliases.
    pub(crate) fn render(
        &self,
        messages: &[Value],
        tools: &Value,
        add_generation_prompt: bool,
    ) -> Reasoned<String> {
        let template = self.environment.get_template("chat").map_err(|error| describe(&error))?;
        let context = context! {
            messages => Serde(messages),
            tools => Serde(tools),
            documents => (),
            add_generation_prompt,
            ..Jinja::from(Serde(&self.names))
        };
        let rendered = template.render(context).map_err(|error| describe(&error))?;
        Ok(self.controls.to_aliases(&rendered))
    }

    /// Hides control strings in every string of `value` (see [`crate::tokenizer::control`]).
    ///
    /// Fails on reserved characters.
    pub(crate) fn hide_strings(&self, value: &Value) -> Reasoned<Value> {
        Ok(match value {
            Value::String(text) => {
                refuse_reserved(text)?;
                Value::String(self.controls.hide(text).into_owned())
            }
            Value::Array(values) => {
                Value::Array(values.iter().map(|value| self.hide_strings(value)).collect::<Reasoned<_>>()?)
            }
            Value::Object(fields) => {
                let mut hidden = serde_json::Map::new();
                for (key, value) in fields {
                    refuse_reserved(key)?;
                    hidden.insert(self.controls.hide(key).into_owned(), self.hide_strings(value)?);
                }
                Value::Object(hidden)
            }
            other => other.clone(),
        })
    }
}

/// One line: the template's own complaint if it made one, else the engine's.
fn describe(error: &JinjaError) -> String {
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let line = error.line().map(|line| format!(" (template line {line})")).unwrap_or_default();
    format!("the chat template refuses the messages: {}{line}", reason.replace('\n', " "))
}

fn raise_exception(message: String) -> std::result::Result<String, JinjaError> {
    Err(JinjaError::new(ErrorKind::InvalidOperation, message))
}

/// `{% generation %}` marks the assistant's part for transformers' masks and writes nothing; here it
/// becomes a condition that always holds.
fn without_generation_tags(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start + 2..start + length];
        let name = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let replacement = match name {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        result.push_str(&rest[..start + 2]);
        match replacement {
            Some(replacement) => result.push_str(&tag.replace(name, replacement)),
            None => result.push_str(tag),
        }
        result.push_str("%}");
        rest = &rest[start + length + 2..];
    }
    result.push_str(rest);
    result
}

/// `strftime` of [`FIXED_DATE`] at midnight; directives it does not know are left as they stand.
fn strftime_now(format: &str) -> String {
    let (year, month, day) = FIXED_DATE;
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let mut directive = characters.next().unwrap_or('%');
        let unpadded = directive == '-';
        if unpadded {
            directive = characters.next().unwrap_or('-');
        }
        let number = |value: u32| if unpadded { value.to_string() } else { format!("{value:02}") };
        match directive {
            'Y' => text.push_str(&year.to_string()),
            'y' => text.push_str(&number(year % 100)),
            'm' => text.push_str(&number(month)),
            'd' => text.push_str(&number(day)),
            'e' => text.push_str(&format!("{day:2}")),
            'B' => text.push_str("July"),
            'b' | 'h' => text.push_str("Jul"),
            'A' => text.push_str("Friday"),
            'a' => text.push_str("Fri"),
            'j' => text.push_str("208"),
            'H' | 'M' | 'S' => text.push_str(&number(0)),
            'I' => text.push_str("12"),
            'p' => text.push_str("AM"),
            'F' => text.push_str(&format!("{year}-{month:02}-{day:02}")),
            'T' => text.push_str("00:00:00"),
            '%' => text.push('%'),
            other => {
                text.push('%');
                text.push(other);
            }
        }
    }
    text
}

/// JSON as Python's `json.dumps` writes it, without escaping other than ASCII: `{"a": 1, "b": [2, 3]}`.
fn to_json(value: &Jinja, options: Kwargs) -> std::result::Result<Jinja, JinjaError> {
    let invalid = |error: serde_json::Error| JinjaError::new(ErrorKind::BadSerialization, error.to_string());
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let value = serde_json::to_value(value).map_err(invalid)?;
    let mut text = String::new();
    write_json(&value, indent, 0, &mut text).map_err(invalid)?;
    Ok(Jinja::from_safe_string(text))
}

fn write_json(
    value: &Value,
    indent: Option<usize>,
    depth: usize,
    text: &mut String,
) -> std::result::Result<(), serde_json::Error> {
    let new_line = |text: &mut String, depth: usize| {
        if let Some(indent) = indent {
            text.push('\n');
            text.push_str(&" ".repeat(indent * depth));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    match value {
        Value::Array(values) if !values.is_empty() => {
            text.push('[');
            for (index, value) in values.iter().enumerate() {
                text.push_str(if index > 0 { separator } else { "" });
                new_line(text, depth + 1);
                write_json(value, indent, depth + 1, text)?;
            }
            new_line(text, depth);
            text.push(']');
        }
        Value::Object(fields) if !fields.is_empty() => {
            text.push('{');
            for (index, (key, value)) in fields.iter().enumerate() {
                text.push_str(if index > 0 { separator } else { "" });
                new_line(text, depth + 1);
                text.push_str(&serde_json::to_string(key)?);
                text.push_str(": ");
                write_json(value, indent, depth + 1, text)?;
            }
            new_line(text, depth);
            text.push('}');
        }
        scalar => text.push_str(&serde_json::to_string(scalar)?),
    }
    Ok(())
}
