//! The fields that change what a model computes and of which not every value is supported.
//!
//! The table holds what `transformers` 5 reads for every family, a family's entry what its class reads besides. A field
//! that is in neither and not read elsewhere is one that they do not read: it changes nothing, and is ignored.

use serde_json::{Map, Value};

use super::family::{Family, Only};
use super::fields::{Fields, shortened};
use crate::error::Result;

const EVERY_FAMILY: &[Only] = &[
    Only { key: "is_causal", value: "true", allows: |value| *value == Value::Bool(true) },
    Only { key: "is_encoder_decoder", value: "false", allows: |value| *value == Value::Bool(false) },
    Only { key: "per_layer_config", value: "the same for every layer", allows: is_empty },
    Only {
        key: "transformers_weights",
        value: "weights in model.safetensors or its shards",
        allows: is_empty,
    },
];

/// Fails on every field with a value that would change the result in a way that is not computed here.
pub(super) fn require(fields: &mut Fields<'_>, family: &Family) -> Result<()> {
    for only in EVERY_FAMILY.iter().chain(family.only) {
        fields.only(only.key, only.value, only.allows)?;
    }
    require_unquantized(fields)?;
    for &key in family.dropouts {
        if let Some(share) = fields.not_negative(key)?.filter(|&share| share > 0.0) {
            fields.notice(format!("`{}` = {share}: training here drops nothing", fields.name(key)));
        }
    }
    Ok(())
}

/// Quantized weights are another format: what to download instead.
fn require_unquantized(fields: &mut Fields<'_>) -> Result<()> {
    let Some(value) = fields.known_value("quantization_config").filter(|value| !is_empty(value)) else {
        return Ok(());
    };
    let method = value.get("quant_method").and_then(Value::as_str);
    let method = method.map_or_else(|| shortened(value), |method| format!("\"{method}\""));
    let name = fields.name("quantization_config");
    Err(fields.error(format!(
        "`{name}` = {method} is not supported: the weights are quantized; give the folder of the model in \
         bfloat16, float16 or float32, from which this one was made (its card on the hub names it as the base model)"
    )))
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value == ""
}
