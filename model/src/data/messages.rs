//! Rows with `messages`: what a conversation may look like.

use serde_json::{Map, Value};

use super::rows::Example;
use crate::error::Reasoned;

/// The messages up to the last answer; what follows it would teach nothing.
pub(super) fn read(mut row: Map<String, Value>) -> Reasoned<Example> {
    let Some(Value::Array(mut messages)) = row.remove("messages") else {
        return Err("`messages` is not a list".into());
    };
    for (index, message) in messages.iter().enumerate() {
        check_message(message).map_err(|reason| format!("message {} {reason}", index + 1))?;
    }
    let last = messages.iter().rposition(is_answer).ok_or("has no message of the role `assistant`")?;
    messages.truncate(last + 1);
    let tools = row.remove("tools").unwrap_or(Value::Null);
    if !tools.is_null() && !tools.is_array() {
        return Err("`tools` is not a list".into());
    }
    Ok(Example::Messages { messages, tools })
}

pub(super) fn is_answer(message: &Value) -> bool {
    message["role"] == "assistant"
}

fn check_message(message: &Value) -> Reasoned<()> {
    if !message.is_object() {
        return Err("is not an object with `role` and `content`".into());
    }
    if message["role"].as_str().is_none_or(str::is_empty) {
        return Err("has no `role`".into());
    }
    let calls_tools = message["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty());
    match &message["content"] {
        Value::String(text) if is_answer(message) && text.trim().is_empty() && !calls_tools => {
            Err("is an empty answer".into())
        }
        Value::String(_) => Ok(()),
        Value::Null if calls_tools => Ok(()),
        Value::Null => Err("has no `content`".into()),
        _ => Err("has a `content` that is not a string".into()),
    }
}
