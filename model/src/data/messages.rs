//! Conversations: what a list of messages may look like.

use serde_json::{Map, Value};

use super::message::{calls_tools, is_answer, texts};
use super::message_format::{self, MessageFormat};
use super::notice::Notice;
use crate::error::Reasoned;

/// A conversation up to the last answer that is to be learnt.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conversation {
    /// The messages, without the keys whose value is null, as transformers passes them on.
    pub messages: Vec<Value>,
    /// Which of them are answers to be learnt.
    pub learnt: Vec<bool>,
    /// A list, or null.
    pub tools: Value,
    /// Further variables for the template: the row's `chat_template_kwargs`.
    pub variables: Map<String, Value>,
    /// Name of the template that the row asks for.
    pub template: Option<String>,
    /// True when tool calls are texts in the row, which are learnt also where the template does not write calls.
    pub calls_are_texts: bool,
}

/// The fields of a conversation.
#[derive(Debug, Default)]
pub(super) struct MessageFields {
    pub messages: String,
    pub system: Option<String>,
    pub tools: Option<String>,
    /// True when the recipe names them.
    pub named: bool,
}

/// What a row gives the template beside messages.
#[derive(Debug, Default)]
pub(super) struct Extras {
    tools: Value,
    variables: Map<String, Value>,
    template: Option<String>,
}

/// Names in `chat_template_kwargs` that are not variables of a template.
const NOT_VARIABLES: [&str; 7] = [
    "messages",
    "conversation",
    "tools",
    "add_generation_prompt",
    "continue_final_message",
    "tokenize",
    "return_assistant_tokens_mask",
];

/// Fields of a message that say whether it is learnt.
const LEARNT_FLAGS: [&str; 4] = ["weight", "train", "loss", "loss_weight"];

/// Fields of a message that mean something by themselves; others only mean what a template makes of them.
pub(super) const MESSAGE_FIELDS: [&str; 9] =
    ["role", "content", "tool_calls", "tool_call_id", "name", "weight", "train", "loss", "loss_weight"];

/// Reads the fields of a row. `notices` gets what of it teaches nothing.
pub(super) fn read(
    row: Map<String, Value>,
    fields: &MessageFields,
    notices: &mut Vec<Notice>,
) -> Reasoned<Conversation> {
    let (messages, extras, calls_are_texts) = read_fields(row, fields, notices)?;
    let conversation = Conversation::new(messages, 0, extras, notices)?;
    Ok(Conversation { calls_are_texts, ..conversation })
}

/// Reads the fields of a row whose next answer is to be generated.
pub(super) fn read_unanswered(
    row: Map<String, Value>,
    fields: &MessageFields,
    notices: &mut Vec<Notice>,
) -> Reasoned<Conversation> {
    let (messages, extras, calls_are_texts) = read_fields(row, fields, notices)?;
    let conversation = Conversation::unanswered(messages, extras)?;
    Ok(Conversation { calls_are_texts, ..conversation })
}

/// The messages of a row, what it gives the template beside them, and whether calls in them are texts.
fn read_fields(
    mut row: Map<String, Value>,
    fields: &MessageFields,
    notices: &mut Vec<Notice>,
) -> Reasoned<(Vec<Value>, Extras, bool)> {
    let format = if fields.messages == "messages" { MessageFormat::OpenAi } else { MessageFormat::ShareGpt };
    let (mut messages, calls_are_texts) = read_messages(&mut row, &fields.messages, format, notices)?;
    let system = fields.system.as_deref().and_then(|field| Some((field, row.remove(field)?)));
    match system {
        None | Some((_, Value::Null)) => {}
        Some((_, Value::String(text))) if text.is_empty() => {}
        Some((field, Value::String(_))) if messages.iter().any(|message| message["role"] == "system") => {
            return Err(format!("has a `{field}` beside a message of the role `system`: remove one of them"));
        }
        Some((_, Value::String(text))) => {
            messages.insert(0, serde_json::json!({"role": "system", "content": text}));
        }
        Some((field, _)) => return Err(format!("`{field}` is not a string")),
    }
    let extras = Extras::take(&mut row, fields.tools.as_deref(), notices)?;
    Ok((messages, extras, calls_are_texts))
}

/// Reads `prompt` and `completion`, of which the first is context.
pub(super) fn read_prompt_and_completion(
    mut row: Map<String, Value>,
    notices: &mut Vec<Notice>,
) -> Reasoned<Conversation> {
    let (mut messages, calls_of_prompt) = read_messages(&mut row, "prompt", MessageFormat::OpenAi, notices)?;
    let context = messages.len();
    let (completion, calls) = read_messages(&mut row, "completion", MessageFormat::OpenAi, notices)?;
    messages.extend(completion);
    if !messages[context..].iter().any(is_answer) {
        return Err("has no message of the role `assistant` in `completion`".into());
    }
    if messages[context..].iter().any(|message| !is_answer(message)) {
        notices.push(Notice::CompletionContext);
    }
    let extras = Extras::take(&mut row, Some("tools"), notices)?;
    let conversation = Conversation::new(messages, context, extras, notices)?;
    Ok(Conversation { calls_are_texts: calls_of_prompt || calls, ..conversation })
}

/// The messages of a field, and whether calls in them are texts.
fn read_messages(
    row: &mut Map<String, Value>,
    field: &str,
    format: MessageFormat,
    notices: &mut Vec<Notice>,
) -> Reasoned<(Vec<Value>, bool)> {
    let list = json_list(row.remove(field), field, notices)?;
    let mut messages = list.ok_or_else(|| format!("`{field}` is not a list"))?;
    let mut calls_are_texts = false;
    for (index, message) in messages.iter_mut().enumerate() {
        let numbered = |reason: String| format!("message {} {reason}", index + 1);
        calls_are_texts |= message_format::translate(message, format, notices).map_err(numbered)?;
    }
    Ok((messages, calls_are_texts))
}

/// A list, or a string that holds one as JSON; none for null, nothing and an empty string.
pub(super) fn json_list(
    value: Option<Value>,
    field: &str,
    notices: &mut Vec<Notice>,
) -> Reasoned<Option<Vec<Value>>> {
    match value.unwrap_or(Value::Null) {
        Value::Null => Ok(None),
        Value::Array(list) => Ok(Some(list)),
        Value::String(text) if text.trim().is_empty() => Ok(None),
        Value::String(text) => {
            let list = serde_json::from_str(&text).map_err(|_| format!("`{field}` is not a list"))?;
            let notice = Notice::ListAsText(field.to_owned());
            if !notices.contains(&notice) {
                notices.push(notice);
            }
            Ok(Some(list))
        }
        _ => Err(format!("`{field}` is not a list")),
    }
}

impl Conversation {
    /// The conversation of these messages, of which the first `context` are not learnt.
    pub(super) fn new(
        mut messages: Vec<Value>,
        context: usize,
        extras: Extras,
        notices: &mut Vec<Notice>,
    ) -> Reasoned<Self> {
        for (index, message) in messages.iter().enumerate() {
            check_message(message).map_err(|reason| format!("message {} {reason}", index + 1))?;
        }
        let last_answer =
            messages.iter().rposition(is_answer).ok_or("has no message of the role `assistant`")?;
        if last_answer + 1 < messages.len() {
            notices.push(Notice::AfterLastAnswer);
        }
        let mut learnt = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let counts = counts(message).map_err(|reason| format!("message {} {reason}", index + 1))?;
            learnt.push(is_answer(message) && counts && index >= context);
        }
        let last = learnt.iter().rposition(|&learnt| learnt);
        let last =
            last.ok_or("has only answers of the weight 0: there is nothing to learn, remove the row")?;
        messages.truncate(last + 1);
        learnt.truncate(last + 1);
        if messages.windows(2).any(|pair| pair.iter().all(is_answer)) {
            notices.push(Notice::ConsecutiveAnswers);
        }
        remove_nulls(&mut messages);
        let Extras { tools, variables, template } = extras;
        Ok(Self { messages, learnt, tools, variables, template, calls_are_texts: false })
    }

    /// The conversation of these messages, whose next answer is to be generated: nothing of it is learnt.
    pub(super) fn unanswered(mut messages: Vec<Value>, extras: Extras) -> Reasoned<Self> {
        for (index, message) in messages.iter().enumerate() {
            check_message(message).map_err(|reason| format!("message {} {reason}", index + 1))?;
        }
        remove_nulls(&mut messages);
        let Extras { tools, variables, template } = extras;
        let learnt = vec![false; messages.len()];
        Ok(Self { messages, learnt, tools, variables, template, calls_are_texts: false })
    }

    /// The same without the answers at its end, which are to be generated.
    pub(super) fn without_last_answers(mut self) -> Self {
        let end = self.messages.iter().rposition(|message| !is_answer(message)).map_or(0, |last| last + 1);
        self.messages.truncate(end);
        self.learnt = vec![false; end];
        self
    }

    /// The same, of which only the last answer is learnt.
    pub(super) fn with_last_answer_only(mut self) -> Self {
        let last = self.learnt.len() - 1;
        self.learnt[..last].fill(false);
        self
    }

    /// The conversation up to the last of these answers, which are learnt in it.
    pub(super) fn up_to(&self, answers: &[usize]) -> Self {
        let end = answers.last().map_or(0, |last| last + 1);
        Self {
            messages: self.messages[..end].to_vec(),
            learnt: (0..end).map(|index| answers.contains(&index)).collect(),
            tools: self.tools.clone(),
            variables: self.variables.clone(),
            template: self.template.clone(),
            calls_are_texts: self.calls_are_texts,
        }
    }
}

impl Extras {
    /// Takes the tools and the variables of a row.
    pub fn take(
        row: &mut Map<String, Value>,
        tools: Option<&str>,
        notices: &mut Vec<Notice>,
    ) -> Reasoned<Self> {
        let tools = match tools.and_then(|field| Some((field, row.remove(field)?))) {
            Some((field, tools)) => read_tools(tools, field, notices)?,
            None => Value::Null,
        };
        let (variables, template) = read_variables(row.remove("chat_template_kwargs"))?;
        Ok(Self { tools, variables, template })
    }
}

/// Removes the keys whose value is null.
fn remove_nulls(messages: &mut [Value]) {
    for fields in messages.iter_mut().filter_map(Value::as_object_mut) {
        fields.retain(|_, value| !value.is_null());
    }
}

fn check_message(message: &Value) -> Reasoned<()> {
    let Some(fields) = message.as_object() else {
        return Err("is not an object with `role` and `content`".into());
    };
    if message["role"].as_str().is_none_or(str::is_empty) {
        return Err("has no `role`".into());
    }
    if fields.get("function_call").is_some_and(|call| !call.is_null()) {
        return Err("has a `function_call`: write it as one of `tool_calls`".into());
    }
    check_calls(&message["tool_calls"])?;
    match &message["content"] {
        Value::String(text) if is_answer(message) && text.trim().is_empty() && !calls_tools(message) => {
            Err("is an empty answer".into())
        }
        Value::String(_) => Ok(()),
        Value::Array(parts) => check_parts(message, parts),
        Value::Null if calls_tools(message) => Ok(()),
        Value::Null => Err("has no `content`".into()),
        _ => Err("has a `content` that is not a string".into()),
    }
}

fn check_calls(calls: &Value) -> Reasoned<()> {
    match calls {
        Value::Null => Ok(()),
        Value::Array(calls) if calls.iter().all(Value::is_object) => Ok(()),
        _ => Err("has `tool_calls` that are not a list of objects".into()),
    }
}

fn check_parts(message: &Value, parts: &[Value]) -> Reasoned<()> {
    for part in parts {
        match (part["type"].as_str(), &part["text"]) {
            (Some("text"), Value::String(_)) => {}
            (Some("text"), _) => {
                return Err("has a `content` that is not a string: a part of it has no `text`".into());
            }
            (Some(other), _) => {
                let other: String = other.chars().take(40).collect();
                return Err(format!(
                    "has a `content` with a part of the type `{}`: only `text` can be learnt from",
                    other.escape_debug()
                ));
            }
            (None, _) => {
                return Err("has a `content` that is not a string, nor a list of parts with a `type`".into());
            }
        }
    }
    let empty = texts(message).all(|text| text.trim().is_empty());
    if empty && is_answer(message) && !calls_tools(message) {
        return Err("is an empty answer".into());
    }
    Ok(())
}

/// False for a message that one of [`LEARNT_FLAGS`] keeps from being learnt.
fn counts(message: &Value) -> Reasoned<bool> {
    for name in LEARNT_FLAGS {
        if !flag(name, &message[name])?.unwrap_or(true) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A field that is true or false, or the same as 1 or 0; `None` for null.
pub(super) fn flag(name: &str, value: &Value) -> Reasoned<Option<bool>> {
    match (value, value.as_f64()) {
        (Value::Null, _) => Ok(None),
        (Value::Bool(flag), _) => Ok(Some(*flag)),
        (_, Some(0.0)) => Ok(Some(false)),
        (_, Some(1.0)) => Ok(Some(true)),
        _ => Err(format!("has a `{name}` that is neither 0 nor 1, false nor true")),
    }
}

/// Tools: a list of objects, or null.
fn read_tools(tools: Value, field: &str, notices: &mut Vec<Notice>) -> Reasoned<Value> {
    let Some(list) = json_list(Some(tools), field, notices)? else { return Ok(Value::Null) };
    match list.iter().all(Value::is_object) {
        true => Ok(Value::Array(list)),
        false => Err(format!("`{field}` is a list with an entry that is not an object")),
    }
}

/// The variables, and the template's name: `chat_template` is the one name with a meaning of its own.
fn read_variables(value: Option<Value>) -> Reasoned<(Map<String, Value>, Option<String>)> {
    let mut variables = match value {
        None | Some(Value::Null) => return Ok((Map::new(), None)),
        Some(Value::Object(variables)) => variables,
        Some(_) => return Err("`chat_template_kwargs` is not an object".into()),
    };
    if let Some(name) = NOT_VARIABLES.iter().find(|name| variables.contains_key(**name)) {
        return Err(format!("`chat_template_kwargs` sets `{name}`, which is not a variable: remove it"));
    }
    let template = match variables.remove("chat_template") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) => Some(name),
        Some(_) => return Err("`chat_template_kwargs` has a `chat_template` that is not a name".into()),
    };
    Ok((variables, template))
}
