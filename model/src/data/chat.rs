//! Chat templates: messages to text, as the model's folder says.
//!
//! Templates are Jinja as transformers renders them: see [`crate::jinja`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Reasoned, Result};
use crate::jinja::Template;
use crate::tokenizer::control::{ControlTokens, refuse_reserved};
use crate::tokenizer::read_json;

/// The chat template of a model folder: its path and source.
///
/// `chat_template.jinja` comes before `chat_template` in `tokenizer_config.json`, which is a string or a
/// list of named templates, of which `default` is taken; `chat_template.json` is the last place.
///
/// # Errors
/// When one of the files cannot be read or parsed, or the list has no `default`.
pub(crate) fn find_template(folder: &Path) -> Result<Option<(PathBuf, String)>> {
    let path = folder.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(source) => return Ok(Some((path, source))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(Error::file(&path, "read")(error)),
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
    path: PathBuf,
    template: Template,
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
        let template = Template::parse(source).map_err(|error| {
            Error::format(path, format!("the chat template is not valid: {}", one_line(&error.to_string())))
        })?;
        Ok(Self { path: path.to_owned(), template, names: names.clone(), controls: controls.clone() })
    }

    /// Renders messages whose strings are [hidden](hide_strings); control tokens the template wrote come
    /// out as aliases.
    pub(crate) fn render(
        &self,
        messages: &[Value],
        tools: &Value,
        add_generation_prompt: bool,
    ) -> Reasoned<String> {
        let names = self.names.iter().map(|(name, token)| (name.clone(), token.as_str().into()));
        let mut context: Map<String, Value> = names.collect();
        context.insert("messages".to_owned(), messages.into());
        context.insert("tools".to_owned(), tools.clone());
        context.insert("documents".to_owned(), Value::Null);
        context.insert("add_generation_prompt".to_owned(), add_generation_prompt.into());
        let rendered = self.template.render(&context).map_err(|error| {
            let line = error.line.map(|line| format!(", template line {line}")).unwrap_or_default();
            let reason = one_line(&error.message);
            format!("the chat template refuses the messages: {reason} ({}{line})", self.path.display())
        })?;
        Ok(self.controls.to_aliases(&rendered.text))
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

fn one_line(message: &str) -> String {
    message.replace(['\n', '\r'], " ")
}
