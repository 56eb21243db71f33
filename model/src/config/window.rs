//! Sliding windows: layers whose queries see only the last so many tokens.

use serde_json::Value;

use super::Architecture;
use super::fields::Fields;
use crate::error::Result;

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// First layer with a window where the file does not say, in the Qwen families.
const DEFAULT_FIRST_LAYER: u64 = 28;
/// Width of the window where the file does not say, in the Qwen families.
const DEFAULT_WINDOW: usize = 4096;

/// The window of the layers that have one, in tokens; `None` when every layer sees all tokens before it.
///
/// # Errors
/// Kinds of layers that are not supported, or windows that are not defined.
pub(super) fn read(
    fields: &mut Fields<'_>,
    architecture: Architecture,
    layers: usize,
) -> Result<Option<usize>> {
    let kinds = read_kinds(fields, architecture, layers)?;
    if architecture == Architecture::Llama {
        return Ok(None);
    }
    let is_on = fields.flag("use_sliding_window", false)?;
    // `null` is no window; a missing field is the default one.
    let is_missing = fields.json_value("sliding_window").is_none();
    let given = if is_on { fields.size("sliding_window")? } else { None };
    let window = if is_on && is_missing { Some(DEFAULT_WINDOW) } else { given };
    let first = match fields.value("max_window_layers") {
        None => DEFAULT_FIRST_LAYER,
        Some(value) if value.as_i64().is_some_and(|first| first < 0) => 0,
        Some(value) => {
            value.as_u64().ok_or_else(|| fields.invalid("max_window_layers", value, "a number of layers"))?
        }
    };
    let uses_window = match kinds {
        Some(any_sliding) => any_sliding,
        None => window.is_some() && first < layers as u64,
    };
    match window {
        None if uses_window => Err(fields.error(format!(
            "`layer_types` has \"{SLIDING}\", but there is no window: set `use_sliding_window` and `sliding_window`"
        ))),
        window => Ok(window.filter(|_| uses_window)),
    }
}

/// Whether `layer_types`, where it is given, has a layer with a window.
fn read_kinds(fields: &mut Fields<'_>, architecture: Architecture, layers: usize) -> Result<Option<bool>> {
    let Some(value) = fields.value("layer_types") else { return Ok(None) };
    let has_windows = architecture != Architecture::Llama;
    let is_full = |kind: &Value| kind == FULL || kind == "attention";
    let is_known = |kind: &Value| is_full(kind) || (has_windows && kind == SLIDING);
    let kinds = value.as_array().filter(|kinds| kinds.iter().all(is_known)).ok_or_else(|| {
        let sliding = if has_windows { format!(", \"{SLIDING}\"") } else { String::new() };
        fields.invalid("layer_types", value, format!("a list of \"{FULL}\"{sliding}"))
    })?;
    if kinds.len() != layers {
        return Err(fields.error(format!(
            "`layer_types` has {} entries, and `num_hidden_layers` = {layers}",
            kinds.len()
        )));
    }
    Ok(Some(!kinds.iter().all(is_full)))
}
