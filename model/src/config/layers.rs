//! What differs between the layers of a model: the window that their queries see, and their rotary embedding.

use std::num::NonZeroUsize;

use serde_json::Value;

use super::MOST_HEAD_DIM;
use super::block::DeltaNet;
use super::family::{Family, Period, Windows};
use super::fields::Fields;
use crate::error::Result;

/// `layer_types` of layers that see all earlier tokens.
pub(super) const FULL: &str = "full_attention";
/// `layer_types` of layers with a window.
pub(super) const SLIDING: &str = "sliding_attention";

/// `layer_types` of layers with a gated DeltaNet in place of attention.
const LINEAR: &str = "linear_attention";

/// First layer with a window where the file does not say, in the Qwen families.
const DEFAULT_FIRST_LAYER: u64 = 28;
/// Width of a window where the file does not say.
const DEFAULT_WINDOW: usize = 4096;

/// Attention of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerAttention {
    /// Most tokens that a token sees, itself included; `None`: all before it.
    pub window: Option<NonZeroUsize>,
    /// Number of the rotary embedding among the model's; `None`: heads are not turned.
    pub rope: Option<usize>,
    /// What the layer has in place of attention, which then has neither window nor rotary embedding.
    pub delta_net: Option<DeltaNet>,
}

/// The window of every layer.
///
/// # Errors
/// Types of layers that are not supported, or windows that are not defined.
pub(super) fn read_windows(
    fields: &mut Fields<'_>,
    family: &Family,
    layers: usize,
) -> Result<Vec<Option<NonZeroUsize>>> {
    let windows = match family.windows {
        Windows::None => {
            read_types(fields, layers, &[FULL])?;
            vec![None; layers]
        }
        // Their types say which have a gated DeltaNet.
        Windows::DeltaNets { .. } => vec![None; layers],
        Windows::EveryLayer { default, by_types } => {
            let types = if by_types { read_types(fields, layers, &[FULL, SLIDING])? } else { None };
            let window = read_window(fields, default)?;
            match types {
                Some(is_sliding) => assign(fields, &is_sliding, window, "set `sliding_window`")?,
                None => vec![window; layers],
            }
        }
        Windows::Switched => {
            let types = read_types(fields, layers, &[FULL, SLIDING])?;
            let is_on = fields.flag("use_sliding_window", false)?;
            let window = if is_on { read_window(fields, Some(DEFAULT_WINDOW))? } else { None };
            let first = read_first_layer(fields)?;
            let has_window = match types {
                Some(is_sliding) => is_sliding,
                None => (0..layers as u64).map(|layer| window.is_some() && layer >= first).collect(),
            };
            assign(fields, &has_window, window, "set `use_sliding_window` and `sliding_window`")?
        }
        Windows::WithoutRope => {
            let types = read_types(fields, layers, &[FULL, SLIDING])?;
            let is_on = fields.flag("use_sliding_window", false)?;
            let window = read_window(fields, None)?;
            let has_window = match types {
                Some(is_sliding) => is_sliding,
                None => {
                    let turned = read_turned(fields, layers)?;
                    turned.iter().map(|&turned| is_on && window.is_some() && !turned).collect()
                }
            };
            assign(fields, &has_window, window, "set `sliding_window`")?
        }
        Windows::Pattern { period } => {
            let types = read_types(fields, layers, &[FULL, SLIDING])?;
            let window = read_window(fields, Some(DEFAULT_WINDOW))?;
            let period = read_period(fields, period)?;
            let has_window =
                types.unwrap_or_else(|| (1..=layers).map(|layer| !layer.is_multiple_of(period)).collect());
            // The classes of these families cannot do without, whatever their layers are.
            if window.is_none() {
                return Err(fields.error("`sliding_window` = null is not supported: give the window's width"));
            }
            assign(fields, &has_window, window, "set `sliding_window`")?
        }
    };
    Ok(windows)
}

/// The gated DeltaNets of the layers that have one.
pub(super) fn read_delta_nets(
    fields: &mut Fields<'_>,
    family: &Family,
    layers: usize,
) -> Result<Vec<Option<DeltaNet>>> {
    let Windows::DeltaNets { period, sizes } = family.windows else { return Ok(vec![None; layers]) };
    let types = read_types(fields, layers, &[FULL, LINEAR])?;
    let period = read_period(fields, period)?;
    let is_linear =
        types.unwrap_or_else(|| (1..=layers).map(|layer| !layer.is_multiple_of(period)).collect());
    let sizes = DeltaNet {
        key_heads: fields.size("linear_num_key_heads")?.unwrap_or(sizes.key_heads),
        value_heads: fields.size("linear_num_value_heads")?.unwrap_or(sizes.value_heads),
        key_dim: fields.size("linear_key_head_dim")?.unwrap_or(sizes.key_dim),
        value_dim: fields.size("linear_value_head_dim")?.unwrap_or(sizes.value_dim),
        taps: fields.size("linear_conv_kernel_dim")?.unwrap_or(sizes.taps),
    };
    if sizes.key_dim.max(sizes.value_dim) > MOST_HEAD_DIM {
        return Err(fields.error(format!(
            "`linear_key_head_dim` = {} and `linear_value_head_dim` = {} must be at most {MOST_HEAD_DIM}",
            sizes.key_dim, sizes.value_dim
        )));
    }
    if !sizes.value_heads.is_multiple_of(sizes.key_heads) {
        return Err(fields.error(format!(
            "`linear_num_value_heads` = {} must be a multiple of `linear_num_key_heads` = {}",
            sizes.value_heads, sizes.key_heads
        )));
    }
    Ok(is_linear.into_iter().map(|is_linear| is_linear.then_some(sizes)).collect())
}

/// Every how many layers a pattern ends.
fn read_period(fields: &mut Fields<'_>, period: Period) -> Result<usize> {
    match period {
        Period::Every(period) => Ok(period),
        Period::Field(key, default) => Ok(fields.size(key)?.unwrap_or(default)),
    }
}

/// Which layers turn their heads by their position.
pub(super) fn read_rotary(fields: &mut Fields<'_>, family: &Family, layers: usize) -> Result<Vec<bool>> {
    if family.windows == Windows::WithoutRope {
        return read_turned(fields, layers);
    }
    Ok(vec![true; layers])
}

/// `sliding_window`: `null` is no window, a missing field is the default one.
fn read_window(fields: &mut Fields<'_>, default: Option<usize>) -> Result<Option<NonZeroUsize>> {
    let is_missing = fields.json_value("sliding_window").is_none();
    let window = match fields.size("sliding_window")? {
        None if is_missing => default,
        given => given,
    };
    Ok(window.and_then(NonZeroUsize::new))
}

fn assign(
    fields: &Fields<'_>,
    has_window: &[bool],
    window: Option<NonZeroUsize>,
    remedy: &str,
) -> Result<Vec<Option<NonZeroUsize>>> {
    if window.is_none() && has_window.contains(&true) {
        let reason = format!("`layer_types` has \"{SLIDING}\", but there is no window: {remedy}");
        return Err(fields.error(reason));
    }
    Ok(has_window.iter().map(|&has_window| window.filter(|_| has_window)).collect())
}

fn read_first_layer(fields: &mut Fields<'_>) -> Result<u64> {
    match fields.value("max_window_layers") {
        None => Ok(DEFAULT_FIRST_LAYER),
        Some(value) if value.as_i64().is_some_and(|first| first < 0) => Ok(0),
        Some(value) => {
            value.as_u64().ok_or_else(|| fields.invalid("max_window_layers", value, "a number of layers"))
        }
    }
}

/// `no_rope_layers` of SmolLM3: 1 where heads are turned, 0 where not; else every so many layers they are not.
fn read_turned(fields: &mut Fields<'_>, layers: usize) -> Result<Vec<bool>> {
    let period = fields.size("no_rope_layer_interval")?.unwrap_or(4);
    let Some(value) = fields.value("no_rope_layers") else {
        return Ok((1..=layers).map(|layer| !layer.is_multiple_of(period)).collect());
    };
    let given = value.as_array().filter(|given| given.len() >= layers);
    let given = given.and_then(|given| given.iter().take(layers).map(is_turned).collect::<Option<_>>());
    given.ok_or_else(|| {
        fields.invalid(
            "no_rope_layers",
            value,
            format!("a list of 1 and 0, one for each of the {layers} layers"),
        )
    })
}

fn is_turned(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        number => number.as_i64().map(|number| number != 0),
    }
}

/// Which layers have a window by `layer_types`, where it is given.
fn read_types(fields: &mut Fields<'_>, layers: usize, known: &[&str]) -> Result<Option<Vec<bool>>> {
    let Some(value) = fields.value("layer_types") else { return Ok(None) };
    let is_full = |kind: &Value| kind == FULL || kind == "attention";
    let is_known = |kind: &Value| is_full(kind) || known.iter().any(|known| kind == known);
    let types = value.as_array().filter(|types| types.iter().all(is_known)).ok_or_else(|| {
        let known: Vec<String> = known.iter().map(|known| format!("\"{known}\"")).collect();
        fields.invalid("layer_types", value, format!("a list of {}", known.join(", ")))
    })?;
    if types.len() != layers {
        return Err(fields.error(format!(
            "`layer_types` has {} entries, and `num_hidden_layers` = {layers}",
            types.len()
        )));
    }
    Ok(Some(types.iter().map(|kind| !is_full(kind)).collect()))
}
