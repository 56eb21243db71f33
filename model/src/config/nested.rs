//! Configurations of models that see and hear as well: their language model is an object of its own inside.

use std::path::Path;

use serde_json::{Map, Value};

use super::family::{FAMILIES, Family};
use super::fields::{Fields, shortened};
use super::{can_be_language_model, not_supported};
use crate::error::{Error, Result};

/// The object that holds the language model.
const TEXT: &str = "text_config";

/// Classes of larger models whose head is that of a language model.
const LANGUAGE_MODELS: &str = "a language model (…ForConditionalGeneration or …ForCausalLM)";

/// Whether the head shares the embedding's weights.
const TIED: &str = "tie_word_embeddings";

/// Fields of the whole model that hold for its language model where it has none of its own.
const INHERITED: [&str; 9] = [
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    TIED,
    "dtype",
    "torch_dtype",
    "quantization_config",
    "transformers_version",
    "initializer_range",
];

/// Where the fields of a language model stood.
#[derive(Debug, Clone)]
pub(super) enum Nesting {
    /// In the file itself.
    None,
    /// Inside, in a model of this type.
    Inside {
        whole: String,
        /// The fields that stand beside it.
        inherited: Vec<&'static str>,
    },
}

impl Nesting {
    /// The fields, of a file's language model.
    pub fn fields<'a>(&self, path: &'a Path, json: &'a Map<String, Value>) -> Fields<'a> {
        match self {
            Self::None => Fields::new(path, "", json),
            Self::Inside { inherited, .. } => {
                Fields::new(path, format!("{TEXT}."), json).with_inherited(inherited.clone())
            }
        }
    }

    /// Says what becomes of the rest of the model.
    pub fn notice(&self, fields: &mut Fields<'_>) {
        if let Self::Inside { whole, .. } = self {
            fields.notice(format!(
                "`model_type` = {} also takes in more than text: its language model alone is read, trained and written",
                shortened(&Value::from(whole.as_str()))
            ));
        }
    }
}

/// The fields of the language model: the file's own, or those inside where the file describes a larger model around it.
///
/// # Errors
/// A `text_config` that is not an object.
pub(super) fn language_model(path: &Path, json: Map<String, Value>) -> Result<(Map<String, Value>, Nesting)> {
    let whole = json.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let inside = FAMILIES.iter().find(|family| family.inside == Some(whole));
    if inside.is_some() && json.get(TEXT).is_none_or(Value::is_null) {
        let reason =
            format!("`{TEXT}` is missing: `model_type` = \"{whole}\" has its language model's fields in it");
        return Err(Error::format(path, reason));
    }
    // A family's class does not read the field.
    if Family::find(whole).is_some() || json.get(TEXT).is_none_or(Value::is_null) {
        return Ok((json, Nesting::None));
    }
    let whole = whole.to_owned();
    let Some(text) = json.get(TEXT).and_then(Value::as_object) else {
        return Err(Error::format(path, format!("`{TEXT}` must be an object")));
    };
    Fields::new(path, "", &json).only("architectures", LANGUAGE_MODELS, |names| {
        let generates =
            |name: &Value| name.as_str().is_some_and(|name| name.ends_with("ForConditionalGeneration"));
        names
            .as_array()
            .is_some_and(|names| names.iter().all(|name| generates(name) || can_be_language_model(name)))
    })?;
    let mut text = text.clone();
    if !text.contains_key("model_type") && !whole.is_empty() {
        // Older files leave out what `transformers` knows.
        let family = inside.ok_or_else(|| Error::format(path, not_supported("", &whole)))?;
        text.insert("model_type".to_owned(), Value::from(family.model_type));
    }
    let mut inherited = Vec::new();
    for key in INHERITED {
        // Whether the head is tied is a matter of the whole model.
        if let Some(value) = json.get(key)
            && (key == TIED || text.get(key).is_none_or(Value::is_null))
        {
            text.insert(key.to_owned(), value.clone());
            inherited.push(key);
        }
    }
    let family = text.get("model_type").and_then(Value::as_str).and_then(Family::find);
    if let Some(family) = family {
        text.insert("architectures".to_owned(), Value::from(vec![family.class]));
    }
    Ok((text, Nesting::Inside { whole, inherited }))
}
