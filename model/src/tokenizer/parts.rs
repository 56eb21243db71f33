//! What the parts of a `tokenizer.json` say.

use std::collections::BTreeMap;

use serde_json::Value;

/// True when a part of the file, or a part within it, has this type.
pub(super) fn has_type(part: &Value, name: &str) -> bool {
    match part {
        Value::Object(fields) => {
            fields.get("type").is_some_and(|kind| kind == name)
                || fields.values().any(|inner| has_type(inner, name))
        }
        Value::Array(parts) => parts.iter().any(|inner| has_type(inner, name)),
        _ => false,
    }
}

/// True when a text's beginning is tokenized otherwise than the same characters within a text: a space is
/// put before it, or taken away.
pub(super) fn treats_beginnings(part: &Value) -> bool {
    match part {
        Value::Array(parts) => parts.iter().any(treats_beginnings),
        Value::Object(fields) => {
            let here = match fields.get("type").and_then(Value::as_str) {
                Some("Prepend") => true,
                Some("Metaspace") => fields.get("prepend_scheme").is_none_or(|scheme| scheme != "never"),
                Some("ByteLevel") => fields.get("add_prefix_space").is_none_or(|adds| *adds == true),
                Some("Strip") => fields.get("strip_left").is_none_or(|strips| *strips == true),
                Some("Replace") => {
                    let pattern = fields.get("pattern").and_then(|pattern| pattern["Regex"].as_str());
                    pattern.is_some_and(|pattern| pattern.contains('^') || pattern.contains(r"\A"))
                }
                _ => false,
            };
            here || fields.values().any(treats_beginnings)
        }
        _ => false,
    }
}

/// Ids of the added tokens by string.
pub(super) fn added_ids(json: &Value) -> BTreeMap<String, u32> {
    let entry = |token: &Value| {
        let id = token["id"].as_u64().and_then(|id| u32::try_from(id).ok())?;
        Some((token["content"].as_str()?.to_owned(), id))
    };
    json["added_tokens"].as_array().into_iter().flatten().filter_map(entry).collect()
}

/// The id of an entry of a vocabulary.
pub(super) fn vocabulary_id(vocabulary: &Value, text: &str) -> Option<u32> {
    let id = match vocabulary {
        Value::Object(ids) => ids.get(text)?.as_u64()?,
        Value::Array(pieces) => pieces.iter().position(|piece| piece[0] == text)? as u64,
        _ => return None,
    };
    u32::try_from(id).ok()
}

/// The entry of a vocabulary that has an id.
pub(super) fn vocabulary_text(vocabulary: &Value, id: u32) -> Option<String> {
    match vocabulary {
        Value::Object(ids) => ids.iter().find(|(_, value)| **value == id).map(|(text, _)| text.clone()),
        Value::Array(pieces) => pieces.get(id as usize)?[0].as_str().map(str::to_owned),
        _ => None,
    }
}
