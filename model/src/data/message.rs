//! One message of a conversation.

use serde_json::Value;

/// True for a message of the assistant.
pub(super) fn is_answer(message: &Value) -> bool {
    message["role"] == "assistant"
}

/// True for a message that stands before the first turn.
pub(super) fn is_system(message: &Value) -> bool {
    message["role"] == "system" || message["role"] == "developer"
}

/// True when the message calls tools.
pub(super) fn calls_tools(message: &Value) -> bool {
    message["tool_calls"].as_array().is_some_and(|calls| !calls.is_empty())
}

/// The texts of a message's content: one, or those of its parts.
pub(super) fn texts(message: &Value) -> impl Iterator<Item = &str> {
    let content = &message["content"];
    let parts = content.as_array().map(Vec::as_slice).unwrap_or_default();
    content.as_str().into_iter().chain(parts.iter().filter_map(|part| part["text"].as_str()))
}
