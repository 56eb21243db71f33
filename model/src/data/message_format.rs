//! Messages of other forms than chat templates take: ShareGPT's, and contents whose parts are reasoning and calls.

use serde_json::{Map, Value, json};

use super::message::is_answer;
use super::notice::Notice;
use crate::error::{Reasoned, clip};

/// How the messages of a list are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageFormat {
    /// `role` and `content`; a message may be ShareGPT's all the same.
    OpenAi,
    /// `from` and `value`, or `role` and `content` with ShareGPT's roles.
    ShareGpt,
}

/// The role of an assistant's message that calls functions, in ShareGPT's form.
const FUNCTION_CALL: &str = "function_call";

/// Turns a message into the form that chat templates take. True when it gets tool calls that are a text in the row.
pub(super) fn translate(
    message: &mut Value,
    format: MessageFormat,
    notices: &mut Vec<Notice>,
) -> Reasoned<bool> {
    let Some(fields) = message.as_object_mut() else { return Ok(false) };
    let calls_before = fields.get("tool_calls").cloned();
    if fields.get("from").is_some_and(Value::is_string) && fields.contains_key("value") {
        from_share_gpt(fields)?;
    } else if let Some(role) = fields.get("role").and_then(Value::as_str) {
        let meant = match format {
            MessageFormat::ShareGpt => share_gpt_role(role),
            MessageFormat::OpenAi => usual_role(role),
        };
        if let Some(meant) = meant.filter(|meant| *meant != role || *meant == FUNCTION_CALL) {
            let notice = Notice::RoleRenamed { from: role.to_owned(), to: meant.to_owned() };
            if format == MessageFormat::OpenAi && !notices.contains(&notice) {
                notices.push(notice);
            }
            set_role(fields, meant)?;
        }
    }
    take_parts(message)?;
    Ok(message.get("tool_calls") != calls_before.as_ref())
}

/// `from` and `value` become `role` and `content`.
fn from_share_gpt(fields: &mut Map<String, Value>) -> Reasoned<()> {
    let (from, value) = (fields.remove("from"), fields.remove("value"));
    let from = from.as_ref().and_then(Value::as_str).unwrap_or_default();
    let role = share_gpt_role(from).ok_or_else(|| {
        format!(
            "is from `{}`, which is none of human, gpt, system, function_call, observation and tool",
            clip(from)
        )
    })?;
    fields.insert("content".to_owned(), value.unwrap_or(Value::Null));
    set_role(fields, role)
}

/// Sets the role; the content of [`FUNCTION_CALL`] becomes `tool_calls`.
fn set_role(fields: &mut Map<String, Value>, role: &str) -> Reasoned<()> {
    if role != FUNCTION_CALL {
        fields.insert("role".to_owned(), Value::String(role.to_owned()));
        return Ok(());
    }
    let calls = fields.remove("content").unwrap_or(Value::Null);
    fields.insert("role".to_owned(), json!("assistant"));
    fields.insert("tool_calls".to_owned(), Value::Array(read_calls(calls)?));
    Ok(())
}

/// What chat templates call a sender of ShareGPT's form; `function_call` for an answer that is calls.
fn share_gpt_role(sender: &str) -> Option<&'static str> {
    Some(match sender.to_ascii_lowercase().as_str() {
        "user" => "user",
        "bing" | "bard" => "assistant",
        "assistant" => "assistant",
        "system" => "system",
        FUNCTION_CALL | "function-call" | "tool_call" => FUNCTION_CALL,
        "observation" | "tool" | "function_response" | "function-response" | "tool_response" => "tool",
        _ => return usual_role(sender),
    })
}

/// What chat templates call a role that has another name in some data sets.
fn usual_role(role: &str) -> Option<&'static str> {
    match role.to_ascii_lowercase().as_str() {
        "human" | "prompter" => Some("user"),
        "gpt" | "bot" | "model" | "chatgpt" | "chatbot" | "ai" => Some("assistant"),
        "assistant" if role != "assistant" => Some("assistant"),
        "user" if role != "user" => Some("user"),
        "system" if role != "system" => Some("system"),
        _ => None,
    }
}

/// Calls as `tool_calls` has them, from one object with `name` and `arguments` or a list of such, or a text of JSON
/// that is one.
fn read_calls(calls: Value) -> Reasoned<Vec<Value>> {
    let wrong = || "calls a function by what is not JSON with a `name` and `arguments`".to_owned();
    let calls = match calls {
        Value::String(text) => serde_json::from_str(&text).map_err(|_| wrong())?,
        other => other,
    };
    let list = match calls {
        Value::Array(list) if !list.is_empty() => list,
        call @ Value::Object(_) => vec![call],
        _ => return Err(wrong()),
    };
    let call = |call: Value| match call {
        Value::Object(mut call) if call.get("name").is_some_and(Value::is_string) => {
            let name = call.remove("name");
            let arguments = call.remove("arguments").or_else(|| call.remove("parameters"));
            let arguments = arguments.unwrap_or_else(|| json!({}));
            Ok(json!({"type": "function", "function": {"name": name, "arguments": arguments}}))
        }
        Value::Object(call) if call.get("function").is_some_and(|call| call["name"].is_string()) => {
            Ok(Value::Object(call))
        }
        _ => Err(wrong()),
    };
    list.into_iter().map(call).collect()
}

/// Takes reasoning and calls out of a content that is a list of parts, and gives texts the name that templates
/// read. Parts of other types stay.
fn take_parts(message: &mut Value) -> Reasoned<()> {
    let is_own = |part: &Value| part["type"] == "text" && part["text"].is_string();
    let Some(parts) = message["content"].as_array() else { return Ok(()) };
    if parts.iter().all(is_own) {
        return Ok(());
    }
    let parts = parts.clone();
    let is_answer = is_answer(message);
    let (mut kept, mut reasoning, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for part in parts {
        match part["type"].as_str() {
            Some("text" | "input_text" | "output_text") => match text_of(&part, &["text", "value"]) {
                Some(text) => kept.push(json!({"type": "text", "text": text})),
                None => kept.push(part),
            },
            Some("reasoning" | "thinking") if is_answer => {
                let text = text_of(&part, &["value", "text", "reasoning", "thinking"]);
                reasoning.push(text.ok_or("has a part of reasoning without a text")?.to_owned());
            }
            Some("tool_call") if is_answer => calls.extend(read_calls(part["value"].clone())?),
            _ => kept.push(part),
        }
    }
    let Some(fields) = message.as_object_mut() else { return Ok(()) };
    if !reasoning.is_empty() && fields.get("reasoning_content").is_none_or(Value::is_null) {
        fields.insert("reasoning_content".to_owned(), Value::String(reasoning.join("\n")));
    }
    if !calls.is_empty() {
        match fields.get_mut("tool_calls").and_then(Value::as_array_mut) {
            Some(listed) => listed.extend(calls),
            None => drop(fields.insert("tool_calls".to_owned(), Value::Array(calls))),
        }
    }
    let content = match kept.as_slice() {
        [] => Value::Null,
        [part] if part["text"].is_string() => part["text"].clone(),
        _ => Value::Array(kept),
    };
    fields.insert("content".to_owned(), content);
    Ok(())
}

fn text_of<'a>(part: &'a Value, names: &[&str]) -> Option<&'a str> {
    names.iter().find_map(|name| part[*name].as_str())
}
