//! The fields of one row.

use serde_json::{Map, Value};

use crate::error::{Reasoned, clip};

/// The text of a field.
pub(super) fn text_field<'a>(row: &'a Map<String, Value>, field: &str) -> Reasoned<&'a str> {
    match row.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(values)) if values.first().is_some_and(Value::is_object) => Err(format!(
            "`{field}` is a list of messages: `prompt` and `completion` have to be such lists both, or neither"
        )),
        Some(Value::Number(_) | Value::Bool(_)) => Err(format!(
            "`{field}` is not a string: task.prompt and task.answer, templates of the row's fields, make texts of \
             other values"
        )),
        _ => Err(format!("`{field}` is not a string")),
    }
}

/// The text of a field that is learnt.
pub(super) fn answer_field<'a>(row: &'a Map<String, Value>, field: &str) -> Reasoned<&'a str> {
    let text = text_field(row, field)?;
    if text.trim().is_empty() {
        Err(format!("`{field}` is empty: there is no answer to learn"))
    } else {
        Ok(text)
    }
}

/// The fields of a row, as messages name them.
pub(super) fn found(row: &Map<String, Value>) -> String {
    let found: Vec<String> = row.keys().take(8).map(|key| format!("`{}`", clip(key))).collect();
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}
