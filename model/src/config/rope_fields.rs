//! Reading rotary position embeddings, in the form of `transformers` 4 (`rope_theta` and `rope_scaling`) and of
//! `transformers` 5 (`rope_parameters`).

use serde_json::{Map, Value};

use super::family::{Family, RopeForm};
use super::fields::{Fields, shortened};
use super::layers::{FULL, SLIDING};
use super::rope::{QueryScaling, Rope, RopeScaling, Yarn};
use crate::error::Result;

/// The kinds that are read, for messages.
const KINDS: &str =
    "\"default\", \"linear\", \"dynamic\", \"yarn\", \"longrope\", \"llama3\", \"proportional\"";

/// The share of a head that is turned.
const PARTIAL: &str = "partial_rotary_factor";

/// That share, and what messages call its field.
struct Partial {
    factor: f64,
    name: String,
}

/// What the rotary embedding of a model depends on besides its own fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Elements of a head.
    pub head_dim: usize,
    /// Longest context the model was made for.
    pub max_positions: usize,
}

/// Rotary embeddings of a model.
pub(super) struct Ropes {
    /// That of layers which see all earlier tokens.
    pub full: Rope,
    /// That of layers with a window, where it is another.
    pub sliding: Option<Rope>,
}

/// Reads the fields of either form.
pub(super) fn read(fields: &mut Fields<'_>, family: &Family, sizes: Sizes) -> Result<Ropes> {
    match family.rope {
        RopeForm::Shared => read_shared(fields, family, sizes),
        RopeForm::ByLayerType { full_theta, sliding } => {
            read_by_layer_type(fields, family, sizes, full_theta, sliding)
        }
    }
}

/// One embedding for all layers. As in `transformers`, `rope_scaling` is preferred over `rope_parameters`, and what
/// they say over fields beside them.
fn read_shared(fields: &mut Fields<'_>, family: &Family, sizes: Sizes) -> Result<Ropes> {
    let theta = fields.positive("rope_theta")?.unwrap_or(family.rope_theta);
    // Marked as read whatever the kind of embedding.
    let outer = Outer {
        theta,
        partial_rotary_factor: fields.value("partial_rotary_factor").is_some(),
        original: fields.value("original_max_position_embeddings").is_some(),
    };
    let old = fields.object("rope_scaling")?.map(|object| ("rope_scaling", object));
    let new = fields.object("rope_parameters")?.map(|object| ("rope_parameters", object));
    let empty = Map::new();
    let (key, object) = old.or(new).unwrap_or(("rope_parameters", &empty));
    if let Some(kind) =
        [FULL, SLIDING].into_iter().find(|kind| object.get(*kind).is_some_and(Value::is_object))
    {
        return Err(fields.error(format!(
            "`{}.{kind}`: rotary positions that differ between layers are not supported for `model_type` = \"{}\"",
            fields.name(key),
            family.model_type
        )));
    }
    Ok(Ropes { full: read_one(fields, family, sizes, (key, object), &outer)?, sliding: None })
}

/// One embedding for each type of layer.
fn read_by_layer_type(
    fields: &mut Fields<'_>,
    family: &Family,
    sizes: Sizes,
    full_theta: f64,
    (older_field, sliding_theta): (Option<&'static str>, f64),
) -> Result<Ropes> {
    let full_theta = fields.positive("rope_theta")?.unwrap_or(full_theta);
    let older = older_field.map(|key| fields.positive(key)).transpose()?.flatten();
    let sliding_theta = older.unwrap_or(sliding_theta);
    let empty = Map::new();
    let by_type = fields.object("rope_parameters")?.unwrap_or(&empty);
    let of_type = |kind: &str| by_type.get(kind).and_then(Value::as_object).cloned().unwrap_or_default();
    if !by_type.is_empty() && !by_type.contains_key(FULL) && !by_type.contains_key(SLIDING) {
        fields.notice(format!(
            "`{}` has neither `{FULL}` nor `{SLIDING}`: as in transformers, nothing of it is read",
            fields.name("rope_parameters")
        ));
    }
    let (mut full_object, sliding_object) = (of_type(FULL), of_type(SLIDING));
    // The older form's scaling is that of the layers which see everything, and its kind is `rope_type` alone.
    full_object.entry("rope_type").or_insert_with(|| Value::from("default"));
    let mut full_key = "rope_parameters.full_attention";
    if let Some(scaling) = fields.object("rope_scaling")? {
        full_key = "rope_scaling";
        full_object.extend(scaling.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
    let outer = |theta| Outer { theta, partial_rotary_factor: false, original: false };
    let full = read_one(fields, family, sizes, (full_key, &full_object), &outer(full_theta))?;
    let sliding = ("rope_parameters.sliding_attention", &sliding_object);
    let sliding = read_one(fields, family, sizes, sliding, &outer(sliding_theta))?;
    if full.scaling.first_context() != sliding.scaling.first_context() {
        return Err(fields.error(format!(
            "`{}`: longrope in one type of layers only, or from other lengths of text on, is not supported",
            fields.name("rope_parameters")
        )));
    }
    Ok(Ropes { full, sliding: Some(sliding) })
}

/// What stands beside an object of rotary parameters.
struct Outer {
    theta: f64,
    /// Whether these fields stand there.
    partial_rotary_factor: bool,
    original: bool,
}

/// Reads one object of rotary parameters.
fn read_one(
    outer_fields: &mut Fields<'_>,
    family: &Family,
    sizes: Sizes,
    (key, object): (&'static str, &Map<String, Value>),
    outer: &Outer,
) -> Result<Rope> {
    let mut fields = outer_fields.inside(key, object);
    let theta = fields.positive("rope_theta")?.unwrap_or(outer.theta);
    let (new_name, old_name) = (fields.text("rope_type")?, fields.text("type")?);
    let name = family.rope_kind(new_name.or(old_name).unwrap_or("default"));
    let partial = match fields.positive(PARTIAL)? {
        Some(inner) => Partial { factor: inner, name: fields.name(PARTIAL) },
        None => {
            let beside = if outer.partial_rotary_factor { outer_fields.positive(PARTIAL)? } else { None };
            let factor = beside.or(family.partial_rotary).unwrap_or(1.0);
            Partial { factor, name: outer_fields.name(PARTIAL) }
        }
    };
    let frequency_dim = frequency_dim(outer_fields, family, sizes, name, &partial)?;
    let rotary_dim = frequency_dim.next_multiple_of(2);
    let original = |fields: &mut Fields<'_>, outer_fields: &mut Fields<'_>| -> Result<f64> {
        let inner = fields.positive("original_max_position_embeddings")?;
        // A field beside the object goes first, as in `transformers`.
        let beside = match outer.original {
            true => outer_fields.positive("original_max_position_embeddings")?,
            false => family.original_max_positions.map(|positions| positions as f64),
        };
        Ok(beside.or(inner).unwrap_or(sizes.max_positions as f64))
    };
    let scaling = match name {
        // Within the context the model was made for, the dynamic kind's frequencies are the plain ones.
        "default" | "dynamic" => {
            if name == "dynamic" {
                fields.required_positive("factor")?;
            }
            RopeScaling::None
        }
        "linear" => RopeScaling::Linear { factor: fields.required_positive("factor")? },
        "llama3" => {
            let original_max_position = original(&mut fields, outer_fields)?;
            let low_freq_factor = fields.required_positive("low_freq_factor")?;
            let high_freq_factor = fields.required_positive("high_freq_factor")?;
            if low_freq_factor >= high_freq_factor {
                return Err(fields.error(format!(
                    "`{}` = {low_freq_factor} must be below `{}` = {high_freq_factor}",
                    fields.name("low_freq_factor"),
                    fields.name("high_freq_factor")
                )));
            }
            let factor = fields.required_positive("factor")?;
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position }
        }
        "yarn" => {
            let original = original(&mut fields, outer_fields)?;
            let yarn = read_yarn(&mut fields, original, sizes.max_positions)?;
            RopeScaling::yarn(&yarn, theta, frequency_dim)
        }
        "longrope" => {
            let original = original(&mut fields, outer_fields)?;
            let short = fields.required_positives("short_factor", rotary_dim / 2)?;
            let long = fields.required_positives("long_factor", rotary_dim / 2)?;
            let factor = fields.positive("factor")?.unwrap_or(sizes.max_positions as f64 / original);
            let amplitude = fields.positive("attention_factor")?;
            let amplitude = amplitude.unwrap_or_else(|| RopeScaling::long_rope_amplitude(factor, original));
            RopeScaling::LongRope { short, long, original: original as usize, amplitude }
        }
        "proportional" => {
            let factor = fields.positive("factor")?.unwrap_or(1.0);
            // As `transformers` rounds: the product, then half of it.
            let pairs = ((partial.factor * sizes.head_dim as f64) / 2.0).floor() as usize;
            RopeScaling::Proportional { pairs: pairs.min(sizes.head_dim / 2), factor }
        }
        other => {
            let (name, other) = (fields.name("rope_type"), shortened(&Value::from(other)));
            return Err(fields.error(format!("`{name}` = {other} is not supported; supported: {KINDS}")));
        }
    };
    let query_scaling = if family.scales_queries {
        let beta = fields.not_negative("llama_4_scaling_beta")?;
        let beta = beta.ok_or_else(|| fields.missing("llama_4_scaling_beta"))?;
        Some(QueryScaling { beta, period: original(&mut fields, outer_fields)? })
    } else {
        None
    };
    fields.notice_misspelt();
    outer_fields.take_notices(fields);
    Ok(Rope { theta, rotary_dim, frequency_dim, scaling, query_scaling })
}

/// Elements of a head that are turned by an embedding of the kind `name`, before they are rounded up to whole pairs.
fn frequency_dim(
    fields: &Fields<'_>,
    family: &Family,
    sizes: Sizes,
    name: &str,
    partial: &Partial,
) -> Result<usize> {
    let Partial { factor, name: partial_name } = partial;
    let dim = match name {
        // Turns all of the head, some of it by an angle of 0.
        "proportional" => sizes.head_dim,
        // The default kind reads nothing but its base, unless the family says otherwise.
        "default" if family.partial_rotary.is_none() => sizes.head_dim,
        _ => (sizes.head_dim as f64 * factor) as usize,
    };
    // A share of almost 1 turns the whole head too.
    let whole_head = family.partial_rotary.is_some() || dim.next_multiple_of(2) == sizes.head_dim;
    if family.partial_rotary.is_some() && dim == 0 {
        return Err(fields.error(format!(
            "`{}` = {} leaves no elements to turn at `{partial_name}` = {factor}",
            fields.name("head_dim"),
            sizes.head_dim
        )));
    }
    if !whole_head || dim == 0 || dim > sizes.head_dim {
        return Err(fields.error(format!(
            "`{partial_name}` = {factor} is not supported for `model_type` = \"{}\" with heads of {} \
             elements; supported: {}",
            family.model_type,
            sizes.head_dim,
            if family.partial_rotary.is_some() { "above 0, up to 1.0" } else { "1.0" }
        )));
    }
    Ok(dim)
}

fn read_yarn(fields: &mut Fields<'_>, original: f64, max_positions: usize) -> Result<Yarn> {
    let factor = fields.positive("factor")?.unwrap_or(max_positions as f64 / original);
    // 0 counts as absent, as in `transformers`.
    let mut or_default = |key: &'static str, default: f64| -> Result<f64> {
        Ok(fields.not_negative(key)?.filter(|&value| value != 0.0).unwrap_or(default))
    };
    let (beta_fast, beta_slow) = (or_default("beta_fast", 32.0)?, or_default("beta_slow", 1.0)?);
    let (mscale, all) = (or_default("mscale", 0.0)?, or_default("mscale_all_dim", 0.0)?);
    Ok(Yarn {
        factor,
        original,
        beta_fast,
        beta_slow,
        truncate: fields.flag("truncate", true)?,
        attention_factor: fields.positive("attention_factor")?,
        mscale: (mscale != 0.0 && all != 0.0).then_some([mscale, all]),
    })
}
