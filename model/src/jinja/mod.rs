//! Jinja templates with Python's meaning, for chat templates.
//!
//! What a model learns has to be the very text that transformers makes of its messages, and templates come
//! from strangers' model folders. A template engine has to give both here: values print, compare and format
//! as Python's do (`True`, `None`, lists and dicts, `%` of strings), and nothing that a template says may
//! overflow the stack, panic, or take memory or time without limit, be it by `~`, `*`, `replace`, `join`,
//! `indent` or `tojson`. This one is jinja2 3.1 as transformers 5.24 sets it up
//! (`ImmutableSandboxedEnvironment` with `trim_blocks`, `lstrip_blocks`, loop controls, `generation`, its
//! `tojson`, `raise_exception` and `strftime_now`), with limits on time, memory and depth. Strings of
//! messages come with their control strings hidden, which templates do not notice: see [`hidden`].
//!
//! Where it differs from jinja2, on purpose:
//! - `strftime_now` gives a fixed date: with today's date the same recipe would give other weights tomorrow.
//! - `random`, `lipsum` and what Python prints with an address (generators, functions) are errors: the same
//!   data must give the same text.
//! - `include`, `import`, `from`, `extends`, `block`, `autoescape`, recursive loops (so `loop.depth` is
//!   always 1), `str.encode`, `str.translate`, characters named by `\N{…}` and the filters
//!   `filesizeformat`, `pprint`, `urlize`, `wordwrap` and `xmlattr` are errors.
//! - Reserved characters, in the source or made by escapes or `%c`, are errors: they could pass for control
//!   tokens.
//! - `safe`, `escape` and `striptags` give plain strings: autoescape is off, and there is no `Markup`.
//! - Equal strings are the same for `sameas`.
//! - A slice of a number is an error even where jinja2, working constants out beforehand, makes it undefined.
//! - A namespace that contains itself cannot be printed.
//! - Integers have at most 127 bits; larger ones are an error. Strings hold no lone surrogates.
//! - Generators are worked off when they are made; an error in them still comes where it is met, but that
//!   `items` is applied to no mapping is one at once.
//! - Limits: see [`limits`]. Python's own are of the same order (200 parentheses, 100 indentations), but
//!   long running and memory it does not limit.
//! - The classes of characters other than ASCII (`isalpha`, `isnumeric`, `casefold`) are those of Rust's
//!   standard library, which differ from Python's for a few scripts; Greek letters with a subscript iota
//!   have no form of their own at the beginning of a title's word.
//! - A format string (`content % x`, `content.format(x)`) that is hidden data is read as it is hidden: a
//!   `%` or `{` that begins a control token is then plain text.

mod arguments;
mod attributes;
mod beginnings;
mod error;
mod evaluate;
mod execute;
mod expression;
mod filters;
mod format;
mod globals;
mod hidden;
mod lexer;
mod limits;
mod loops;
mod methods;
mod operators;
mod parser;
mod predicates;
mod print;
mod sequence;
mod str_methods;
mod text;
mod text_filters;
mod tree;
mod value;

#[cfg(test)]
mod tests;

use crate::error::Reasoned;
use std::cell::Cell;
use std::ops::Range;

pub(crate) use beginnings::{ADD_GENERATION_PROMPT, Beginning, Part};
use beginnings::{Beginnings, MESSAGES};
pub(crate) use error::Error;
use error::{Result, fail};
use evaluate::{Absent, Output, Renderer, Scope};
use limits::{DATA_DEPTH, Limits};
use tree::Tree;
use value::{Dict, Value};

/// A parsed template.
pub(crate) struct Template(Tree);

/// What a template makes of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// The whole text.
    pub text: String,
    /// Bytes of the text that stand in `{% generation %}`, ascending and apart. As in transformers, those of a `generation` in a
    /// macro are counted from where the macro's text begins.
    pub generation: Vec<Range<usize>>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// When the source is not a valid template, with its line.
    pub(crate) fn parse(source: &str) -> std::result::Result<Self, Error> {
        parser::parse(source).map(Self)
    }

    /// Parses a template of a recipe. A line break at its end is kept, unlike jinja2 does.
    ///
    /// Fails when it is not a valid template.
    pub fn parse_of_recipe(source: &str) -> Reasoned<Self> {
        let kept = if source.ends_with('\n') { "\n" } else { "" };
        Self::parse(&format!("{source}{kept}")).map_err(|error| {
            format!("is not a valid template: {}", error.to_string().replace(['\n', '\r'], " "))
        })
    }

    /// Renders the template with `messages` and the variables of `context`, of which the last of a name counts.
    /// The beginnings of the conversation that are `wanted` are made by the way, as far as that is possible.
    ///
    /// # Errors
    /// When the template refuses the context, fails on it, or exceeds a limit, with its line.
    pub(crate) fn render(
        &self,
        context: &[(&str, &serde_json::Value)],
        messages: Option<&[serde_json::Value]>,
        wanted: &[Part],
    ) -> std::result::Result<(Rendered, Vec<Beginning>), Error> {
        self.render_with(context, messages, wanted, Absent::IsUndefined)
    }

    /// Renders the template with the fields as its variables. Unlike in chat templates, a variable that is not there,
    /// and printing what is undefined or none, are errors: text that a person learns should not lack parts.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub(crate) fn render_fields(
        &self,
        fields: &serde_json::Map<String, serde_json::Value>,
    ) -> std::result::Result<String, Error> {
        let context: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value)).collect();
        Ok(self.render_with(&context, None, &[], Absent::IsError)?.0.text)
    }

    fn render_with(
        &self,
        context: &[(&str, &serde_json::Value)],
        messages: Option<&[serde_json::Value]>,
        wanted: &[Part],
        absent: Absent,
    ) -> std::result::Result<(Rendered, Vec<Beginning>), Error> {
        // Names that the template does not read are not converted.
        let read = |name: &str| self.0.names.iter().position(|known| **known == *name);
        let used: Vec<_> = context.iter().filter_map(|(name, value)| Some((read(name)?, *value))).collect();
        let messages = read(MESSAGES).zip(messages);
        let mut size = 0_usize;
        for (_, value) in &used {
            size = size.saturating_add(measure(value, 0)?);
        }
        for message in messages.iter().flat_map(|(_, messages)| *messages) {
            size = size.saturating_add(measure(message, 1)?);
        }
        let count = messages.map_or(0, |(_, messages)| messages.len());
        let renderer = Renderer {
            tree: &self.0,
            absent,
            limits: Limits::new(size),
            namespaces: Default::default(),
            macros: Default::default(),
            changed: Default::default(),
            loops: Cell::new(0),
            rendered: Cell::new(0),
            generation: Default::default(),
            beginnings: Beginnings::new(&self.0, count, wanted),
        };
        let scope = Scope::new(None);
        for (name, value) in used {
            scope.set(name, convert(value, &renderer.limits)?);
        }
        if let Some((name, messages)) = messages {
            let items = messages.iter().map(|message| convert(message, &renderer.limits));
            let items = items.collect::<Result<_>>()?;
            scope.set(name, Value::messages(items, renderer.beginnings.seen.clone())?);
        }
        let mut out = Output { is_outermost: true, ..Output::default() };
        renderer.execute_outermost(&self.0.body, None, &scope, &mut out)?;
        let boundary = |at: usize| out.text.floor_char_boundary(at);
        let generation = renderer.generation.into_inner().into_iter();
        let generation = generation.map(|range| boundary(range.start)..boundary(range.end)).collect();
        let rendered = Rendered { generation: ascending(generation), text: out.text };
        Ok((rendered, renderer.beginnings.into_made()))
    }
}

/// The ranges in ascending order, those that overlap as one.
fn ascending(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut ascending: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match ascending.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => ascending.push(range),
        }
    }
    ascending
}

/// Bytes of a value's strings, with some for every element.
fn measure(value: &serde_json::Value, depth: u32) -> Result<usize> {
    if depth == DATA_DEPTH {
        fail!("the messages are nested more than {DATA_DEPTH} levels deep");
    }
    let mut size = 8;
    match value {
        serde_json::Value::String(text) => size += text.len(),
        serde_json::Value::Array(items) => {
            for item in items {
                size += measure(item, depth + 1)?;
            }
        }
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                size += key.len() + measure(value, depth + 1)?;
            }
        }
        _ => {}
    }
    Ok(size)
}

fn convert(value: &serde_json::Value, limits: &Limits) -> Result<Value> {
    Ok(match value {
        serde_json::Value::Null => Value::None,
        serde_json::Value::Bool(value) => Value::Bool(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::Int(number.into()),
            (_, Some(number)) => Value::Int(number.into()),
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::text(text.as_str()),
        serde_json::Value::Array(items) => {
            Value::list(items.iter().map(|item| convert(item, limits)).collect::<Result<_>>()?)?
        }
        serde_json::Value::Object(fields) => {
            let mut dict = Dict::default();
            for (key, value) in fields {
                dict.insert(Value::text(key.as_str()), convert(value, limits)?, limits)?;
            }
            Value::dict(dict)
        }
    })
}
