//! The fields that change what a model computes and of which not every value is supported.
//!
//! The table holds what the families' classes in `transformers` 5 read, and what its loading reads for all of
//! them. A field that is in neither this table nor read elsewhere is one that they do not read: it changes
//! nothing, and is ignored.

use serde_json::{Map, Value};

use super::Architecture::{self, Llama, Qwen2, Qwen3};
use super::fields::Fields;
use crate::error::Result;

/// A field, who reads it, and the values that are supported beside its absence.
struct Supported {
    key: &'static str,
    read_by: &'static [Architecture],
    /// The values, in words.
    values: &'static str,
    allows: fn(&Value) -> bool,
}

const ALL: &[Architecture] = &[Llama, Qwen2, Qwen3];

const SUPPORTED: &[Supported] = &[
    Supported { key: "hidden_act", read_by: ALL, values: "\"silu\"", allows: is_silu },
    Supported { key: "attention_dropout", read_by: ALL, values: "0.0", allows: is_zero },
    Supported { key: "mlp_bias", read_by: &[Llama], values: "false", allows: is_false },
    Supported { key: "is_causal", read_by: ALL, values: "true", allows: is_true },
    Supported { key: "is_encoder_decoder", read_by: ALL, values: "false", allows: is_false },
    Supported {
        key: "quantization_config",
        read_by: ALL,
        values: "weights in f32, f16 or bf16; save the model without quantization",
        allows: is_empty,
    },
    Supported { key: "per_layer_config", read_by: ALL, values: "the same for every layer", allows: is_empty },
    Supported {
        key: "transformers_weights",
        read_by: ALL,
        values: "weights in model.safetensors or its shards",
        allows: is_empty,
    },
];

/// Fails on every field with a value that would change the result in a way that is not computed here.
pub(super) fn require(fields: &mut Fields<'_>, architecture: Architecture) -> Result<()> {
    for field in SUPPORTED.iter().filter(|field| field.read_by.contains(&architecture)) {
        fields.only(field.key, field.values, field.allows)?;
    }
    Ok(())
}

fn is_silu(value: &Value) -> bool {
    value == "silu" || value == "swish"
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_false(value: &Value) -> bool {
    *value == Value::Bool(false)
}

fn is_true(value: &Value) -> bool {
    *value == Value::Bool(true)
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value == ""
}
