//! The form in which a template takes messages: names of the reasoning, contents in parts, arguments of tool calls.
//!
//! Data sets and templates do not agree on these. A row is passed on as it stands where the template can
//! write it, and in the form the template knows where it cannot.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::message::{calls_tools, is_answer, texts};
use super::messages::{Conversation, MESSAGE_FIELDS};
use super::notice::Notice;
use super::reasoning;
use crate::chat_template::ChatTemplate;
use crate::error::Reasoned;
use crate::jinja::{Beginning, Part, Rendered};

/// Names that transformers passes on as each other, the usual one first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];
/// Further names in data sets.
const OTHER_REASONING: [&str; 7] =
    ["reasoning_text", "thinking_content", "thought", "thoughts", "think", "chain_of_thought", "cot"];

/// A conversation in the form its template takes.
pub(super) struct Chat<'a> {
    pub template: &'a ChatTemplate,
    /// The messages, as the template gets them but for hidden control strings.
    pub messages: Vec<Value>,
    hidden: Vec<Value>,
    tools: Value,
    variables: Map<String, Value>,
    /// All messages, rendered.
    pub whole: Rendered,
    /// What rendering the whole told of its beginnings, in ascending order.
    beginnings: Vec<Beginning>,
}

/// All messages in one of the forms, rendered.
struct RenderedChat {
    hidden: Vec<Value>,
    rendered: Rendered,
    beginnings: Vec<Beginning>,
}

/// The rendered beginning of a conversation: so many bytes of the rendered whole, and what follows them.
pub(super) struct RenderedPrefix<'a> {
    whole: &'a str,
    shared: usize,
    rest: Cow<'a, str>,
}

impl RenderedPrefix<'_> {
    pub fn len(&self) -> usize {
        self.shared + self.rest.len()
    }

    pub fn text(&self) -> String {
        [&self.whole[..self.shared], &self.rest].concat()
    }

    /// Bytes with which `text` begins as this does, where text and rendered whole have `known` such bytes.
    pub fn same_bytes(&self, text: &str, known: usize) -> usize {
        if self.shared > known {
            return known;
        }
        self.shared + same_bytes(&text.as_bytes()[self.shared..], self.rest.as_bytes())
    }

    /// True when `text` begins with this, where text and rendered whole have `known` bytes in common.
    pub fn begins(&self, text: &str, known: usize) -> bool {
        self.same_bytes(text, known) == self.len()
    }
}

/// Bytes with which both begin.
pub(super) fn same_bytes(left: &[u8], right: &[u8]) -> usize {
    let shorter = left.len().min(right.len());
    if left[..shorter] == right[..shorter] {
        return shorter;
    }
    left.iter().zip(right).take_while(|(left, right)| left == right).count()
}

impl<'a> Chat<'a> {
    /// Finds the form and renders the whole. `notices` gets what was changed.
    pub fn new(
        template: &'a ChatTemplate,
        conversation: &Conversation,
        notices: &mut Vec<Notice>,
    ) -> Reasoned<Self> {
        let mut chat = Self {
            template,
            messages: conversation.messages.clone(),
            hidden: Vec::new(),
            tools: template.hide_strings(&conversation.tools)?,
            variables: template.hide_variables(&conversation.variables)?,
            whole: Rendered { text: String::new(), generation: Vec::new() },
            beginnings: Vec::new(),
        };
        let wanted = wanted(&conversation.learnt);
        for message in &mut chat.messages {
            name_reasoning(template, message, notices)?;
        }
        chat.write_calls(conversation.calls_are_texts, notices);
        let has_parts = chat.messages.iter().any(|message| message["content"].is_array());
        let plain = match has_parts {
            true => chat.take_parts_form(&wanted, notices)?,
            false => chat.render_as(&chat.messages, &wanted),
        };
        let has_arguments = chat.messages.iter().any(|message| arguments(message).next().is_some());
        let whole = if has_arguments { chat.take_arguments_form(plain, &wanted, notices)? } else { plain? };
        (chat.hidden, chat.whole, chat.beginnings) = (whole.hidden, whole.rendered, whole.beginnings);
        chat.notice_unread(conversation, notices);
        Ok(chat)
    }

    /// Notices keys of messages and variables that the template does not read.
    fn notice_unread(&self, conversation: &Conversation, notices: &mut Vec<Notice>) {
        let mut unread: Vec<&String> = Vec::new();
        for key in conversation.messages.iter().filter_map(Value::as_object).flat_map(Map::keys) {
            let is_known = MESSAGE_FIELDS.contains(&key.as_str())
                || REASONING.contains(&key.as_str())
                || OTHER_REASONING.contains(&key.as_str());
            if !is_known && !unread.contains(&key) && !self.template.mentions(key) {
                unread.push(key);
            }
        }
        // A template may write messages as they are, without naming their keys.
        if !unread.is_empty() && self.ignores_keys(&unread) {
            notices.extend(unread.into_iter().map(|key| Notice::UnreadField(format!("messages.{key}"))));
        }
        let variables = conversation.variables.keys().filter(|key| !self.template.mentions(key));
        notices.extend(variables.map(|key| Notice::UnreadField(format!("chat_template_kwargs.{key}"))));
    }

    /// True when the template writes the same without these keys of the messages.
    fn ignores_keys(&self, keys: &[&String]) -> bool {
        let mut changed = self.messages.clone();
        for fields in changed.iter_mut().filter_map(Value::as_object_mut) {
            fields.retain(|key, _| !keys.contains(&key));
        }
        self.render_as(&changed, &[]).is_ok_and(|whole| whole.rendered.text == self.whole.text)
    }

    /// The first messages, with the beginning of an answer.
    pub fn prompt(&self, count: usize) -> Reasoned<RenderedPrefix<'_>> {
        self.start(Part { count, add_generation_prompt: true })
    }

    /// The first messages.
    pub fn beginning(&self, count: usize) -> Reasoned<RenderedPrefix<'_>> {
        self.start(Part { count, add_generation_prompt: false })
    }

    fn start(&self, part: Part) -> Reasoned<RenderedPrefix<'_>> {
        let whole = self.whole.text.as_str();
        if let Ok(found) = self.beginnings.binary_search_by_key(&part, |beginning| beginning.part) {
            let Beginning { shared, rest, .. } = &self.beginnings[found];
            return Ok(RenderedPrefix { whole, shared: *shared, rest: rest.into() });
        }
        let messages = &self.hidden[..part.count];
        let prompt = part.add_generation_prompt;
        let rendered = self.template.render(messages, &self.tools, &self.variables, prompt)?;
        Ok(RenderedPrefix { whole, shared: 0, rest: rendered.text.into() })
    }

    /// True when the template writes the same whatever the content of a message is.
    pub fn ignores_message(&self, index: usize) -> bool {
        let mut changed = self.hidden.clone();
        match &mut changed[index]["content"] {
            Value::String(text) => text.push('.'),
            Value::Array(parts) => parts.push(serde_json::json!({"type": "text", "text": "."})),
            _ => return false,
        }
        let rendered = self.template.render(&changed, &self.tools, &self.variables, false);
        rendered.is_ok_and(|rendered| rendered.text == self.whole.text)
    }

    /// True when the template writes the same without the tools.
    pub fn ignores_tools(&self) -> bool {
        let rendered = self.template.render(&self.hidden, &Value::Null, &self.variables, false);
        rendered.is_ok_and(|rendered| rendered.text == self.whole.text)
    }

    fn hide(&self, messages: &[Value]) -> Reasoned<Vec<Value>> {
        messages.iter().map(|message| hide_message(self.template, message)).collect()
    }

    fn render_as(&self, messages: &[Value], wanted: &[Part]) -> Reasoned<RenderedChat> {
        let hidden = self.hide(messages)?;
        let (tools, variables) = (&self.tools, &self.variables);
        let (rendered, beginnings) =
            self.template.render_with_beginnings(&hidden, tools, variables, false, wanted)?;
        Ok(RenderedChat { hidden, rendered, beginnings })
    }

    /// Answers that are nothing but tool calls become the calls' JSON where the template does not write calls, and
    /// these are texts in the row (`are_texts`) or the template refuses such answers.
    fn write_calls(&mut self, are_texts: bool, notices: &mut Vec<Notice>) {
        let is_bare = |message: &Value| calls_tools(message) && message["content"].is_null();
        if self.template.mentions("tool_calls") || !self.messages.iter().any(is_bare) {
            return;
        }
        // A template may write messages as they are, without naming their keys.
        let is_written = |whole: RenderedChat| {
            let mut names = self.messages.iter().filter(|message| is_bare(message)).flat_map(call_names);
            !are_texts || names.all(|name| whole.rendered.text.contains(name))
        };
        if self.render_as(&self.messages, &[]).is_ok_and(is_written) {
            return;
        }
        for message in self.messages.iter_mut().filter(|message| is_bare(message)) {
            let text = calls_text(message);
            if let Some(fields) = message.as_object_mut() {
                fields.remove("tool_calls");
                fields.insert("content".to_owned(), Value::String(text));
            }
        }
        notices.push(Notice::CallsAsText);
    }

    /// Contents in parts go to the template as they are; where it cannot take them, or writes the list
    /// itself instead of the texts, they are joined.
    fn take_parts_form(
        &mut self,
        wanted: &[Part],
        notices: &mut Vec<Notice>,
    ) -> Reasoned<Reasoned<RenderedChat>> {
        let mut joined = self.messages.clone();
        let mut several = false;
        for message in joined.iter_mut().filter(|message| message["content"].is_array()) {
            let parts: Vec<&str> = texts(message).collect();
            several |= parts.len() > 1;
            message["content"] = Value::String(parts.join("\n"));
        }
        let as_parts = self.render_as(&self.messages, wanted);
        let as_text = self.render_as(&joined, wanted);
        let takes_parts = match (&as_parts, &as_text) {
            (Ok(parts), Ok(text)) => self.writes_texts(&parts.rendered.text, &text.rendered.text),
            (Ok(_), Err(_)) => true,
            (Err(_), _) => false,
        };
        if takes_parts {
            return Ok(as_parts);
        }
        if several {
            notices.push(Notice::JoinedParts);
        }
        self.messages = joined;
        Ok(as_text)
    }

    fn writes_texts(&self, as_parts: &str, as_text: &str) -> bool {
        let lists = |text: &str| {
            ["'type': 'text'", "\"type\": \"text\""]
                .iter()
                .map(|mark| text.matches(mark).count())
                .sum::<usize>()
        };
        let all = self.messages.iter().filter(|message| message["content"].is_array()).flat_map(texts);
        lists(as_parts) <= lists(as_text)
            && all.map(str::trim).all(|text| as_parts.contains(text) || !as_text.contains(text))
    }

    /// Arguments of tool calls are objects or strings of JSON: a template that writes the one as JSON would
    /// write the other with quotation marks around it, and one that joins strings cannot take an object.
    fn take_arguments_form(
        &mut self,
        plain: Reasoned<RenderedChat>,
        wanted: &[Part],
        notices: &mut Vec<Notice>,
    ) -> Reasoned<RenderedChat> {
        let all: Vec<&Value> = self.messages.iter().flat_map(arguments).collect();
        let quoted = |text: &str| {
            all.iter().filter_map(|value| value.as_str()).any(|json| {
                serde_json::from_str::<Map<String, Value>>(json).is_ok()
                    && text.contains(&Value::String(json.to_owned()).to_string())
            })
        };
        let printed = |text: &str| {
            let keys = all.iter().filter_map(|value| value.as_object()?.keys().next());
            keys.into_iter().any(|key| text.contains(&format!("{{'{key}': ")))
        };
        let text = plain.as_ref().map(|plain| plain.rendered.text.as_str());
        if text.is_ok_and(|text| !quoted(text) && !printed(text)) {
            return plain;
        }
        let wants_objects = match text {
            Ok(text) => quoted(text),
            Err(_) => all.iter().any(|value| value.is_string()),
        };
        let mut changed = self.messages.clone();
        for message in &mut changed {
            for value in arguments_mut(message) {
                if wants_objects {
                    let object = value.as_str().and_then(|json| serde_json::from_str::<Map<_, _>>(json).ok());
                    *value = object.map_or_else(|| value.take(), Value::Object);
                } else if value.is_object() {
                    *value = Value::String(python_json(value));
                }
            }
        }
        match self.render_as(&changed, wanted) {
            Ok(whole) => {
                let notice = if wants_objects { Notice::ArgumentsAsObjects } else { Notice::ArgumentsAsText };
                notices.push(notice);
                self.messages = changed;
                Ok(whole)
            }
            Err(_) => plain,
        }
    }
}

/// The beginnings by which turns are found: with a generation prompt before every answer that is learnt, and
/// without one behind every such answer but the last.
fn wanted(learnt: &[bool]) -> Vec<Part> {
    let answers = (0..learnt.len()).filter(|&index| learnt[index]);
    let parts = answers.flat_map(|index| {
        let before = Part { count: index, add_generation_prompt: true };
        let behind = Part { count: index + 1, add_generation_prompt: false };
        [Some(before), Some(behind).filter(|behind| behind.count < learnt.len())]
    });
    parts.flatten().collect()
}

/// The arguments of a message's tool calls.
fn arguments(message: &Value) -> impl Iterator<Item = &Value> {
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let arguments = calls.iter().flat_map(|call| [&call["function"]["arguments"], &call["arguments"]]);
    arguments.filter(|arguments| arguments.is_string() || arguments.is_object())
}

fn arguments_mut(message: &mut Value) -> impl Iterator<Item = &mut Value> {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    calls.into_iter().flatten().filter_map(|call| {
        let holder = if call.get("function").is_some() { call.get_mut("function")? } else { call };
        holder.get_mut("arguments")
    })
}

/// The names of the functions that a message calls.
pub(super) fn call_names(message: &Value) -> impl Iterator<Item = &str> {
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    calls.iter().filter_map(|call| call["function"]["name"].as_str().or_else(|| call["name"].as_str()))
}

/// A message's calls as JSON: an object with `name` and `arguments`, or a list of several.
fn calls_text(message: &Value) -> String {
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |call: &Value| {
        let call = call.get("function").unwrap_or(call);
        let mut fields = Map::new();
        for key in ["name", "arguments"] {
            let value = call[key].clone();
            let object = value.as_str().filter(|_| key == "arguments");
            let object = object.and_then(|json| serde_json::from_str::<Map<String, Value>>(json).ok());
            fields.insert(key.to_owned(), object.map_or(value, Value::Object));
        }
        python_json(&Value::Object(fields))
    };
    match calls {
        [call] => text(call),
        calls => format!("[{}]", calls.iter().map(text).collect::<Vec<_>>().join(", ")),
    }
}

/// JSON with the spaces that Python writes.
fn python_json(value: &Value) -> String {
    match value {
        Value::Array(values) => {
            format!("[{}]", values.iter().map(python_json).collect::<Vec<_>>().join(", "))
        }
        Value::Object(fields) => {
            let field = |(key, value): (&String, &Value)| {
                format!("{}: {}", Value::String(key.clone()), python_json(value))
            };
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

/// Gives a message's reasoning the names that templates read: transformers' two, and the one this template
/// names if it is another.
fn name_reasoning(template: &ChatTemplate, message: &mut Value, notices: &mut Vec<Notice>) -> Reasoned<()> {
    let known = REASONING.iter().find(|name| !message[**name].is_null());
    let other = || {
        let unread = |name: &&&str| message[**name].is_string() && !template.mentions(name);
        OTHER_REASONING.iter().find(unread).filter(|_| is_answer(message))
    };
    let Some(&name) = known.or_else(other) else { return Ok(()) };
    let reasoning = message[name].clone();
    if reasoning.is_array() || reasoning.is_object() {
        return Err(format!("has a message with a `{name}` that is not a string"));
    }
    let differs = |other: &&str| !message[*other].is_null() && message[*other] != reasoning;
    if REASONING.into_iter().any(|other| differs(&other)) {
        notices.push(Notice::ReasoningNotLearnt);
    }
    let read = REASONING.into_iter().find(|name| template.mentions(name));
    if let Some(fields) = message.as_object_mut() {
        if !fields.contains_key("thinking") {
            fields.insert("thinking".to_owned(), reasoning.clone());
        }
        if read == Some("reasoning") && !fields.contains_key("reasoning") {
            fields.insert("reasoning".to_owned(), reasoning.clone());
        }
        fields.insert("reasoning_content".to_owned(), reasoning);
    }
    if let Some(read) = read.filter(|_| !template.mentions(name)) {
        notices.push(Notice::ReasoningRenamed { from: name.to_owned(), to: read.to_owned() });
    }
    Ok(())
}

/// Hides control strings, but for the tags around the reasoning at the beginning of an answer: where these
/// are control tokens, they are what the model is to write there.
fn hide_message(template: &ChatTemplate, message: &Value) -> Reasoned<Value> {
    let mut hidden = template.hide_strings(message)?;
    let content = message["content"].as_str().filter(|_| is_answer(message));
    let Some(inline) = content.and_then(reasoning::inline) else { return Ok(hidden) };
    let tags = inline.tags;
    if inline.opened && template.is_control(tags.open) && template.is_control(tags.close) {
        let part = |text: &str| template.hide_strings(&Value::String(text.to_owned()));
        let (reasoning, rest) = (part(inline.reasoning)?, part(inline.rest)?);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let whole = [tags.open, &text(&reasoning), tags.close, &text(&rest)].concat();
        hidden["content"] = Value::String(whole);
    }
    Ok(hidden)
}
