//! What a model folder says about special tokens, beside `tokenizer.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// Special tokens as `tokenizer_config.json`, `special_tokens_map.json`, `generation_config.json` and
/// `config.json` name them.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpecialNames {
    /// `bos_token`, `eos_token`, … and their strings; chat templates use them.
    pub named: BTreeMap<String, String>,
    /// Strings of further special tokens.
    pub additional: Vec<String>,
    /// Whether BOS precedes text: what `add_bos_token` says; `None` leaves it to the post-processor.
    pub add_bos: Option<bool>,
    /// `eos_token_id` of `generation_config.json` and `config.json`.
    pub eos_ids: Vec<u32>,
    /// `bos_token_id` of the same.
    pub bos_id: Option<u32>,
}

const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token", "mask_token"];

impl SpecialNames {
    /// Reads those of the four files that exist.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut names = Self::default();
        for file in ["tokenizer_config.json", "special_tokens_map.json"] {
            if let Some(json) = read_json(&folder.join(file))? {
                names.read_tokenizer_file(&json);
            }
        }
        for file in ["generation_config.json", "config.json"] {
            let path = folder.join(file);
            if let Some(json) = read_json(&path)? {
                names.read_ids(&path, &json)?;
            }
        }
        Ok(names)
    }

    fn read_tokenizer_file(&mut self, json: &Value) {
        for name in NAMES {
            if let Some(text) = token_text(&json[name]) {
                self.named.entry(name.to_owned()).or_insert(text);
            }
        }
        for list in ["additional_special_tokens", "extra_special_tokens"] {
            match &json[list] {
                Value::Array(tokens) => self.additional.extend(tokens.iter().filter_map(token_text)),
                Value::Object(tokens) => self.additional.extend(tokens.values().filter_map(token_text)),
                _ => {}
            }
        }
        // Either key replaces the whole post-processor in transformers, with BOS off unless asked for.
        if json.get("add_bos_token").is_some() || json.get("add_eos_token").is_some() {
            self.add_bos.get_or_insert(json["add_bos_token"].as_bool().unwrap_or(false));
        }
    }

    fn read_ids(&mut self, path: &Path, json: &Value) -> Result<()> {
        for id in ids(path, "eos_token_id", &json["eos_token_id"])? {
            if !self.eos_ids.contains(&id) {
                self.eos_ids.push(id);
            }
        }
        if self.bos_id.is_none() {
            self.bos_id = ids(path, "bos_token_id", &json["bos_token_id"])?.first().copied();
        }
        Ok(())
    }
}

/// A token is a string, or an object that holds it as `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn ids(path: &Path, key: &str, value: &Value) -> Result<Vec<u32>> {
    let one = |value: &Value| {
        value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            Error::format(path, format!("`{key}` is {value}: it must be a token id or a list of them"))
        })
    };
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(values) => values.iter().map(one).collect(),
        value => Ok(vec![one(value)?]),
    }
}

/// The parsed file, or `None` where there is none.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = crate::files::read_input(path, crate::files::MOST_TEXT_BYTES)?;
    match serde_json::from_slice(&bytes) {
        Ok(json) => Ok(Some(json)),
        Err(error) => Err(Error::format(path, format!("is not JSON: {error}"))),
    }
}
