//! Chat templates: messages to text, as the model's folder says.
//!
//! Templates are Jinja as transformers renders them: see [`crate::jinja`].

mod folder;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::control_tokens::{ControlTokens, refuse_reserved};
use crate::error::{Error, Reasoned, Result};
use crate::jinja::{ADD_GENERATION_PROMPT, Beginning, Part, Rendered, Template};

pub(crate) use folder::{ChatTemplates, TEMPLATE_FOLDER, TemplateSources, additional_files};

/// A compiled chat template.
pub(crate) struct ChatTemplate {
    path: PathBuf,
    source: String,
    template: Template,
    /// Special tokens by the names under which a template writes them.
    names: Map<String, Value>,
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
        Ok(Self {
            path: path.to_owned(),
            source: source.to_owned(),
            template,
            names: names.iter().map(|(name, token)| (name.clone(), token.as_str().into())).collect(),
            controls: controls.clone(),
        })
    }

    /// Renders messages whose strings are [hidden](hide_strings); control tokens the template wrote come
    /// out as aliases. `variables` are further names that the template may read.
    pub(crate) fn render(
        &self,
        messages: &[Value],
        tools: &Value,
        variables: &Map<String, Value>,
        add_generation_prompt: bool,
    ) -> Reasoned<Rendered> {
        Ok(self.render_with_beginnings(messages, tools, variables, add_generation_prompt, &[])?.0)
    }

    /// [`Self::render`], and what the template makes of beginnings of the messages, as far as it tells that by
    /// the way: those of `wanted`, ascending.
    pub(crate) fn render_with_beginnings(
        &self,
        messages: &[Value],
        tools: &Value,
        variables: &Map<String, Value>,
        add_generation_prompt: bool,
        wanted: &[Part],
    ) -> Reasoned<(Rendered, Vec<Beginning>)> {
        let flag = Value::Bool(add_generation_prompt);
        let mut context = vec![("documents", &Value::Null)];
        context.extend(self.names.iter().chain(variables).map(|(name, value)| (name.as_str(), value)));
        context.extend([("tools", tools), (ADD_GENERATION_PROMPT, &flag)]);
        let rendered = self.template.render(&context, Some(messages), wanted).map_err(|error| {
            let line = error.line.map(|line| format!(", template line {line}")).unwrap_or_default();
            let reason = one_line(&self.controls.unhidden(&error.message));
            format!("the chat template refuses the messages: {reason} ({}{line})", self.path.display())
        })?;
        Ok(self.with_aliases(rendered.0, rendered.1))
    }

    /// Control tokens that the template wrote as aliases.
    fn with_aliases(&self, whole: Rendered, beginnings: Vec<Beginning>) -> (Rendered, Vec<Beginning>) {
        let joints: Vec<usize> =
            beginnings.iter().map(|beginning| self.joint(&whole.text, beginning.shared)).collect();
        let behind = |byte: usize| whole.text.ceil_char_boundary(byte + 1);
        let ends = whole.generation.iter().flat_map(|part| [part.start, part.end]);
        let mut positions: Vec<usize> =
            joints.iter().flat_map(|&joint| [joint, behind(joint)]).chain(ends).collect();
        positions.sort_unstable();
        let (text, moved) = self.controls.to_aliases_with_positions(&whole.text, &positions);
        let moved = |byte: usize| moved[positions.partition_point(|&position| position < byte)];

        let with_aliases = |(Beginning { part, shared, rest }, joint): (Beginning, usize)| {
            // A joint inside a token is at the token's end, as what is behind the joint is.
            let joint = if moved(behind(joint)) > moved(joint) { joint } else { 0 };
            let rest = self.controls.to_aliases(&[&whole.text[joint..shared], &rest].concat());
            Beginning { part, shared: if joint == 0 { 0 } else { moved(joint) }, rest }
        };
        let beginnings = beginnings.into_iter().zip(joints).map(with_aliases).collect();
        let generation = whole.generation.iter().map(|part| moved(part.start)..moved(part.end)).collect();
        (Rendered { text, generation }, beginnings)
    }

    /// A byte of the text just behind white space, so far before `end` that what is written there does not
    /// decide which tokens are before the joint.
    fn joint(&self, text: &str, end: usize) -> usize {
        let near = text.floor_char_boundary(end.saturating_sub(self.controls.longest() + 4));
        text[..near].rfind(|character: char| character.is_ascii_whitespace()).map_or(0, |at| at + 1)
    }

    /// True when the template's source holds the word, not as a part of a longer one.
    pub(crate) fn mentions(&self, word: &str) -> bool {
        let is_part = |character: char| character.is_alphanumeric() || character == '_';
        self.source.match_indices(word).any(|(start, _)| {
            !self.source[..start].ends_with(is_part)
                && !self.source[start + word.len()..].starts_with(is_part)
        })
    }

    /// True when the template's source holds this text.
    pub(crate) fn writes(&self, text: &str) -> bool {
        self.source.contains(text)
    }

    /// The text with its control strings as aliases: for text that this program writes in the template's place.
    pub(crate) fn with_controls(&self, text: &str) -> String {
        self.controls.to_aliases(text)
    }

    /// True when this string is a control token.
    pub(crate) fn is_control(&self, text: &str) -> bool {
        self.controls.iter().any(|token| token.text == text)
    }

    /// Hides control strings in the variables of a row, but for those that name special tokens (`eos_token`, …):
    /// there the string stands for the token.
    ///
    /// Fails on reserved characters.
    pub(crate) fn hide_variables(&self, variables: &Map<String, Value>) -> Reasoned<Map<String, Value>> {
        let mut hidden = Map::new();
        for (name, value) in variables {
            refuse_reserved(name)?;
            let value = match value {
                Value::String(token) if name.ends_with("_token") => {
                    refuse_reserved(token)?;
                    value.clone()
                }
                _ => self.hide_strings(value)?,
            };
            hidden.insert(name.clone(), value);
        }
        Ok(hidden)
    }

    /// Hides control strings in every string of `value` (see [`crate::control_tokens`]).
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
