//! What decides which text becomes which ids, in a form that two files can be compared by.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::special::SpecialNames;

/// The meaning of a `tokenizer.json` in its folder, before control tokens are renamed.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TokenizerSignature {
    vocabulary: blake3::Hash,
    merges: blake3::Hash,
    model: Value,
    normalizer: Value,
    pre_tokenizer: Value,
    /// Added tokens by string: id and how they match.
    added: BTreeMap<String, Value>,
    /// Whether special tokens in a text are ordinary text.
    split_special_tokens: bool,
    /// The `pad_token`, unless it begins or ends sequences too: no text is made of it.
    padding: Option<String>,
}

impl TokenizerSignature {
    pub fn new(json: &Value, names: &SpecialNames) -> Self {
        let mut model = json["model"].as_object().cloned().unwrap_or_default();
        let vocabulary = hash_vocabulary(&model.remove("vocab").unwrap_or_default());
        let merges = model.remove("merges").unwrap_or_default();
        if !model.contains_key("type") && merges.is_array() {
            model.insert("type".into(), json!("BPE"));
        }
        // Left out they mean the same.
        model.retain(|_, value| !matches!(value, Value::Null | Value::Bool(false)) && *value != "");
        let added = json["added_tokens"].as_array().into_iter().flatten().map(|token| {
            let mut token = token.clone();
            if let Some(fields) = token.as_object_mut() {
                // Decides only what is left out when ids become text.
                fields.shift_remove("special");
            }
            (token["content"].as_str().unwrap_or_default().to_owned(), token)
        });
        Self {
            vocabulary,
            merges: hash_merges(&merges),
            model: Value::Object(model),
            normalizer: plain(&json["normalizer"]),
            pre_tokenizer: plain(&json["pre_tokenizer"]),
            added: added.collect(),
            split_special_tokens: names.split_special_tokens,
            padding: names.named.get("pad_token").filter(|text| !names.delimits(text)).cloned(),
        }
    }

    /// What a text's ids would differ by.
    pub fn difference(&self, other: &Self) -> Option<String> {
        let parts = [
            ("vocabulary differs", self.vocabulary == other.vocabulary),
            ("merges differ", self.merges == other.merges),
            ("model settings differ", self.model == other.model),
            ("normalizer differs", self.normalizer == other.normalizer),
            ("pre-tokenizer differs", self.pre_tokenizer == other.pre_tokenizer),
            ("`split_special_tokens` differs", self.split_special_tokens == other.split_special_tokens),
        ];
        if let Some((part, _)) = parts.iter().find(|(_, equal)| !equal) {
            return Some(format!("its {part}"));
        }
        let is_padding =
            |text: &String| [&self.padding, &other.padding].iter().any(|pad| pad.as_ref() == Some(text));
        let mut texts = self.added.keys().chain(other.added.keys()).filter(|text| !is_padding(text));
        let text = texts.find(|text| self.added.get(*text) != other.added.get(*text))?;
        let text_shown = text.escape_debug();
        Some(match (self.added.get(text), other.added.get(text)) {
            (Some(_), Some(_)) => format!("its added token `{text_shown}` differs"),
            (Some(_), None) => format!("it has not the added token `{text_shown}`"),
            _ => format!("it has an added token `{text_shown}` more"),
        })
    }
}

/// A part of the file without what has no effect on ids, and with defaults filled in.
pub(super) fn plain(part: &Value) -> Value {
    match part {
        Value::Array(parts) => Value::Array(parts.iter().map(plain).collect()),
        Value::Object(fields) => {
            let mut kept: Map<String, Value> = fields
                .iter()
                .filter(|(name, value)| {
                    !matches!(name.as_str(), "trim_offsets" | "str_rep") && !value.is_null()
                })
                .map(|(name, value)| (name.clone(), plain(value)))
                .collect();
            match fields.get("type").and_then(Value::as_str) {
                Some("ByteLevel") => {
                    for name in ["add_prefix_space", "use_regex"] {
                        kept.entry(name).or_insert(json!(true));
                    }
                }
                Some("Metaspace") => {
                    let scheme = if fields.get("add_prefix_space") == Some(&json!(false)) {
                        "never"
                    } else {
                        "always"
                    };
                    kept.shift_remove("add_prefix_space");
                    kept.entry("prepend_scheme").or_insert(json!(scheme));
                    kept.entry("split").or_insert(json!(true));
                }
                _ => {}
            }
            Value::Object(kept)
        }
        other => other.clone(),
    }
}

fn hash_vocabulary(vocabulary: &Value) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    match vocabulary {
        Value::Object(ids) => {
            let mut entries: Vec<(&String, u64)> =
                ids.iter().map(|(text, id)| (text, id.as_u64().unwrap_or(u64::MAX))).collect();
            entries.sort_unstable();
            for (text, id) in entries {
                hash_text(&mut hasher, text);
                hasher.update(&id.to_le_bytes());
            }
        }
        other => hash_text(&mut hasher, &other.to_string()),
    }
    hasher.finalize()
}

/// Merges are `"a b"` or `["a", "b"]`.
fn hash_merges(merges: &Value) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    for merge in merges.as_array().into_iter().flatten() {
        let pair = merge.as_str().and_then(|pair| pair.split_once(' '));
        let (left, right) =
            pair.or_else(|| Some((merge[0].as_str()?, merge[1].as_str()?))).unwrap_or_default();
        hash_text(&mut hasher, left);
        hash_text(&mut hasher, right);
    }
    hasher.finalize()
}

fn hash_text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}
