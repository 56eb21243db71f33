//! What differs between the layers of a model: how they mix tokens.

use std::num::NonZeroUsize;

use serde_json::Value;

use super::MOST_HEADS_WIDTH;
use super::block::DeltaNet;
use super::family::{Family, LayerPattern, Period};
use super::fields::Fields;
use crate::error::Result;

/// `layer_types` of layers that see all earlier tokens.
pub(super) const FULL: &str = "full_attention";
/// `layer_types` of layers with a window.
pub(super) const SLIDING: &str = "sliding_attention";

/// `layer_types` of layers with a gated DeltaNet in place of attention.
const LINEAR: &str = "linear_attention";

/// Largest width of a head of a gated DeltaNet, whose states grow with the product of two of them.
const MOST_STATE_DIM: usize = 1024;
/// Largest kernel of the convolution in front of a gated DeltaNet.
const MOST_TAPS: usize = 1024;

/// First layer with a window where the file does not say, in the Qwen families.
const DEFAULT_FIRST_LAYER: u64 = 28;
/// Width of a window where the file does not say.
const DEFAULT_WINDOW: usize = 4096;

/// How one layer mixes tokens: by attention, or by a gated DeltaNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerAttention {
    /// Most tokens that a token sees, itself included; `None`: all before it.
    pub window: Option<NonZeroUsize>,
    /// Number of the rotary embedding among the model's; `None`: heads are not turned.
    pub rope: Option<usize>,
    /// What the layer has in place of attention, which then has neither window nor rotary embedding.
    pub delta_net: Option<DeltaNet>,
}

impl LayerAttention {
    /// The first field in which two layers differ, with both values.
    pub(super) fn mismatch(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let facts = |layer: &Self| {
            let size = |size: fn(&DeltaNet) -> usize| layer.delta_net.as_ref().map_or(0, size).to_string();
            let kind = if layer.delta_net.is_some() { LINEAR } else { FULL };
            [
                ("layer_types", kind.to_owned()),
                ("linear_num_key_heads", size(|sizes| sizes.key_heads)),
                ("linear_num_value_heads", size(|sizes| sizes.value_heads)),
                ("linear_key_head_dim", size(|sizes| sizes.key_dim)),
                ("linear_value_head_dim", size(|sizes| sizes.value_dim)),
                ("linear_conv_kernel_dim", size(|sizes| sizes.taps)),
                ("sliding_window", layer.window.map_or("none".to_owned(), |window| window.to_string())),
                ("rotary embedding", layer.rope.map_or("none".to_owned(), |rope| rope.to_string())),
            ]
        };
        first_difference(facts(self), facts(other))
    }
}

/// The first of some facts in which two differ, with both values.
pub(super) fn first_difference<const N: usize>(
    ours: [(&'static str, String); N],
    theirs: [(&'static str, String); N],
) -> Option<(&'static str, String, String)> {
    let mut pairs = ours.into_iter().zip(theirs);
    let ((name, ours), (_, theirs)) = pairs.find(|(ours, theirs)| ours != theirs)?;
    Some((name, ours, theirs))
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
    let windows = match family.pattern {
        LayerPattern::None => {
            read_types(fields, layers, &[FULL])?;
            vec![None; layers]
        }
        // Their types say which have a gated DeltaNet.
        LayerPattern::DeltaNets { .. } => vec![None; layers],
        LayerPattern::EveryLayer { default, by_types } => {
            let types = if by_types { read_types(fields, layers, &[FULL, SLIDING])? } else { None };
            let window = read_window(fields, default)?;
            match types {
                Some(is_sliding) => assign(fields, &is_sliding, window, "set `sliding_window`")?,
                None => vec![window; layers],
            }
        }
        LayerPattern::Switched => {
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
        LayerPattern::WithoutRope => {
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
        LayerPattern::Periodic { period } => {
            let types = read_types(fields, layers, &[FULL, SLIDING])?;
            let window = read_window(fields, Some(DEFAULT_WINDOW))?;
            let has_window = match types {
                Some(is_sliding) => is_sliding,
                None => by_period(fields, period, layers)?,
            };
            // The classes of these families cannot do without, whatever their layers are.
            if window.is_none() {
                let name = fields.name("sliding_window");
                return Err(
                    fields.error(format!("`{name}` = null is not supported: give the window's width"))
                );
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
    let LayerPattern::DeltaNets { period, sizes } = family.pattern else { return Ok(vec![None; layers]) };
    let types = read_types(fields, layers, &[FULL, LINEAR])?;
    let is_linear = match types {
        Some(is_linear) => is_linear,
        None => by_period(fields, period, layers)?,
    };
    let sizes = DeltaNet {
        key_heads: fields.size("linear_num_key_heads")?.unwrap_or(sizes.key_heads),
        value_heads: fields.size("linear_num_value_heads")?.unwrap_or(sizes.value_heads),
        key_dim: fields.size("linear_key_head_dim")?.unwrap_or(sizes.key_dim),
        value_dim: fields.size("linear_value_head_dim")?.unwrap_or(sizes.value_dim),
        taps: fields.size("linear_conv_kernel_dim")?.unwrap_or(sizes.taps),
    };
    if is_linear.contains(&true) {
        check_delta_net(fields, &sizes)?;
    }
    Ok(is_linear.into_iter().map(|is_linear| is_linear.then_some(sizes)).collect())
}

fn check_delta_net(fields: &Fields<'_>, sizes: &DeltaNet) -> Result<()> {
    let prefix = fields.prefix();
    for (key, size, most) in [
        ("linear_key_head_dim", sizes.key_dim, MOST_STATE_DIM),
        ("linear_value_head_dim", sizes.value_dim, MOST_STATE_DIM),
        ("linear_conv_kernel_dim", sizes.taps, MOST_TAPS),
        ("linear_num_value_heads", sizes.value_heads, MOST_HEADS_WIDTH / MOST_STATE_DIM),
    ] {
        if size > most {
            return Err(fields.error(format!("`{prefix}{key}` = {size} must be at most {most}")));
        }
    }
    if !sizes.value_heads.is_multiple_of(sizes.key_heads) {
        return Err(fields.error(format!(
            "`{prefix}linear_num_value_heads` = {} must be a multiple of `{prefix}linear_num_key_heads` = {}",
            sizes.value_heads, sizes.key_heads
        )));
    }
    Ok(())
}

/// All layers but every so many-th.
fn by_period(fields: &mut Fields<'_>, period: Period, layers: usize) -> Result<Vec<bool>> {
    let period = match period {
        Period::Every(period) => period,
        Period::Field(key, default) => fields.size(key)?.unwrap_or(default),
    };
    Ok((1..=layers).map(|layer| !layer.is_multiple_of(period)).collect())
}

/// Which layers turn their heads by their position.
pub(super) fn read_rotary(fields: &mut Fields<'_>, family: &Family, layers: usize) -> Result<Vec<bool>> {
    if family.pattern == LayerPattern::WithoutRope {
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
        let prefix = fields.prefix();
        let reason = format!("`{prefix}layer_types` has \"{SLIDING}\", but there is no window: {remedy}");
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

/// Which layers are not of full attention by `layer_types`, where it is given.
fn read_types(fields: &mut Fields<'_>, layers: usize, known: &[&str]) -> Result<Option<Vec<bool>>> {
    let Some(value) = fields.value("layer_types") else { return Ok(None) };
    let is_full = |kind: &Value| kind == FULL || kind == "attention";
    let is_known = |kind: &Value| is_full(kind) || known.iter().any(|known| kind == known);
    let types = value.as_array().filter(|types| types.iter().all(is_known)).ok_or_else(|| {
        let known: Vec<String> = known.iter().map(|known| format!("\"{known}\"")).collect();
        fields.invalid("layer_types", value, format!("a list of {}", known.join(", ")))
    })?;
    if types.len() != layers {
        let prefix = fields.prefix();
        return Err(fields.error(format!(
            "`{prefix}layer_types` has {} entries, and `{prefix}num_hidden_layers` = {layers}",
            types.len()
        )));
    }
    Ok(Some(types.iter().map(|kind| !is_full(kind)).collect()))
}
