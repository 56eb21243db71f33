//! Reading the fields of `config.json` one by one, so that a field nobody read can be found.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Largest value of a size: far above any model, and small enough that products of two sizes fit 64 bits.
const LARGEST_SIZE: u64 = 1 << 30;

/// Fields that do not change what the model computes: names, versions, and defaults for generation
/// and for other tasks, which `transformers` writes into every configuration.
const HARMLESS: &[&str] = &[
    "add_cross_attention",
    "architectures",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "cross_attention_hidden_size",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "id2label",
    "is_decoder",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "max_sequence_length",
    "max_window_layers",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// The fields of one JSON object, and which of them have been read.
pub(super) struct Fields<'a> {
    path: &'a Path,
    /// What stands before a field's name in messages: empty, or `rope_scaling.`.
    prefix: &'static str,
    json: &'a Map<String, Value>,
    read: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub fn new(path: &'a Path, prefix: &'static str, json: &'a Map<String, Value>) -> Self {
        Self { path, prefix, json, read: Vec::new() }
    }

    /// The field's value; a field that is `null` counts as absent, as in `transformers`.
    pub fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.read.push(key);
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// The field's value as it stands, `null` included.
    pub fn json_value(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key)
    }

    /// A size: a whole number above zero.
    pub fn size(&mut self, key: &'static str) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let size = value.as_u64().filter(|size| (1..=LARGEST_SIZE).contains(size));
        match size.and_then(|size| usize::try_from(size).ok()) {
            Some(size) => Ok(Some(size)),
            None => Err(self.invalid(key, value, format!("a whole number from 1 to {LARGEST_SIZE}"))),
        }
    }

    /// A size without which there is no model.
    pub fn required_size(&mut self, key: &'static str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A finite number above zero.
    pub fn positive(&mut self, key: &'static str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match value.as_f64().filter(|number| number.is_finite() && *number > 0.0) {
            Some(number) => Ok(Some(number)),
            None => Err(self.invalid(key, value, "a number above 0")),
        }
    }

    /// A finite number above zero without which the result is not defined.
    pub fn required_positive(&mut self, key: &'static str) -> Result<f64> {
        self.positive(key)?.ok_or_else(|| self.missing(key))
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str, default: bool) -> Result<bool> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.invalid(key, value, "true or false"))
    }

    /// A string.
    pub fn text(&mut self, key: &'static str) -> Result<Option<&'a str>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.invalid(key, value, "a string"))
    }

    /// An object with fields of its own; an empty one counts as absent.
    pub fn object(&mut self, key: &'static str) -> Result<Option<&'a Map<String, Value>>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.invalid(key, value, "an object"))?;
        Ok(Some(object).filter(|object| !object.is_empty()))
    }

    /// One token id or a list of them.
    pub fn token_ids(&mut self, key: &'static str, vocabulary: usize) -> Result<Vec<u32>> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let ids = match value {
            Value::Array(ids) => ids.iter().collect(),
            single => vec![single],
        };
        let in_vocabulary = |id: &&Value| id.as_u64().filter(|&id| id < vocabulary as u64);
        match ids.iter().map(in_vocabulary).collect::<Option<Vec<_>>>() {
            Some(ids) => Ok(ids.into_iter().map(|id| id as u32).collect()),
            None => Err(self.invalid(key, value, format!("token ids below vocab_size = {vocabulary}"))),
        }
    }

    /// Fails unless the field is absent or `supported` says yes to its value; `what` says which values those are.
    pub fn only(
        &mut self,
        key: &'static str,
        what: &str,
        supported: impl FnOnce(&Value) -> bool,
    ) -> Result<()> {
        match self.value(key) {
            Some(value) if !supported(value) => {
                let value = shortened(value);
                Err(self
                    .error(format!("`{}{key}` = {value} is not supported; supported: {what}", self.prefix)))
            }
            _ => Ok(()),
        }
    }

    /// Fails when there is a field that was not read, is not known to be harmless, and says something:
    /// `null`, `false` and empty values switch nothing on.
    pub fn refuse_unknown(&self) -> Result<()> {
        let unknown = self.json.iter().find(|(key, value)| {
            let known =
                self.read.contains(&key.as_str()) || HARMLESS.contains(&key.as_str()) || key.starts_with('_');
            !known && !says_nothing(value)
        });
        match unknown {
            None => Ok(()),
            Some((key, value)) => Err(self.error(format!(
                "`{}{key}` = {} is unknown, so the model might compute something else than this version would; \
                 remove the field if it changes nothing",
                self.prefix,
                shortened(value)
            ))),
        }
    }

    /// The error for a field whose value has the wrong type or range.
    pub fn invalid(&self, key: &str, value: &Value, expected: impl std::fmt::Display) -> Error {
        self.error(format!("`{}{key}` = {} must be {expected}", self.prefix, shortened(value)))
    }

    pub fn missing(&self, key: &str) -> Error {
        self.error(format!("`{}{key}` is missing", self.prefix))
    }

    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::format(self.path, reason)
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// The value as JSON on one line, cut after 60 characters.
pub(super) fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}
