//! Rotary position embedding as `config.json` describes it, in the form of `transformers` 4
//! (`rope_theta` and `rope_scaling`) and of `transformers` 5 (`rope_parameters`).

use serde_json::Value;

use super::fields::{Fields, shortened};
use crate::error::Result;

/// Rotary position embedding: base and scaling of the frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base of the frequencies θ^(−2i/head_dim).
    pub theta: f64,
    /// What is done to the frequencies for contexts longer than those first trained on.
    pub scaling: RopeScaling,
}

/// Scaling of the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// Every frequency is divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3: low frequencies are divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// The divisor of low frequencies.
        factor: f64,
        /// Wavelengths above `original_max_position / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// Context length of the first training.
        original_max_position: f64,
    },
}

impl Rope {
    /// Inverse frequencies, one per pair of head dimensions (`head_dim / 2`): position `p` turns
    /// pair `i` by the angle `p · frequencies[i]`.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f64> {
        let plain = |i: usize| self.theta.powf(-((2 * i) as f64) / head_dim as f64);
        (0..head_dim / 2).map(|i| self.scaling.apply(plain(i))).collect()
    }

    /// Base of the frequencies where the configuration names none.
    const DEFAULT_THETA: f64 = 10_000.0;

    /// Reads the fields of either form. As in `transformers`, `rope_scaling` is preferred over
    /// `rope_parameters`, and what they say over fields beside them.
    pub(super) fn read(
        fields: &mut Fields<'_>,
        path: &std::path::Path,
        max_positions: usize,
    ) -> Result<Self> {
        let theta = fields.positive("rope_theta")?.unwrap_or(Self::DEFAULT_THETA);
        let rotated = fields.value("partial_rotary_factor");
        let original = fields.value("original_max_position_embeddings");
        let old = fields.object("rope_scaling")?.map(|object| ("rope_scaling.", object));
        let new = fields.object("rope_parameters")?.map(|object| ("rope_parameters.", object));
        let Some((prefix, object)) = old.or(new) else {
            return Ok(Self { theta, scaling: RopeScaling::None });
        };

        let outer = fields;
        let mut fields = Fields::new(path, prefix, object);
        let nested = ["full_attention", "sliding_attention"];
        if let Some(kind) = nested.into_iter().find(|kind| object.get(*kind).is_some_and(Value::is_object)) {
            return Err(fields.error(format!(
                "`{prefix}{kind}`: rotary positions that differ between layers are not supported"
            )));
        }
        let theta = fields.positive("rope_theta")?.unwrap_or(theta);
        let (new_name, old_name) = (fields.text("rope_type")?, fields.text("type")?);
        let name = new_name.or(old_name).unwrap_or("default");
        // The default kind reads nothing but its base: neither a factor nor a part of the head.
        if name != "default" {
            let whole = |value: &Value| value.as_f64() == Some(1.0);
            fields.only("partial_rotary_factor", "1.0", whole)?;
            if let Some(value) = rotated.filter(|value| !whole(value)) {
                return Err(outer.invalid("partial_rotary_factor", value, "1.0: others are not supported"));
            }
        }
        let scaling = match name {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: fields.required_positive("factor")? },
            "llama3" => {
                let inner = fields.positive("original_max_position_embeddings")?;
                // A field beside the object goes first, as in `transformers`.
                let original = match original {
                    Some(_) => outer.positive("original_max_position_embeddings")?,
                    None => inner,
                };
                let low_freq_factor = fields.required_positive("low_freq_factor")?;
                let high_freq_factor = fields.required_positive("high_freq_factor")?;
                if low_freq_factor >= high_freq_factor {
                    return Err(fields.error(format!(
                        "`{prefix}low_freq_factor` = {low_freq_factor} must be below \
                         `{prefix}high_freq_factor` = {high_freq_factor}"
                    )));
                }
                RopeScaling::Llama3 {
                    factor: fields.required_positive("factor")?,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position: original.unwrap_or(max_positions as f64),
                }
            }
            other => {
                let other = shortened(&Value::from(other));
                return Err(fields.error(format!(
                    "`{prefix}rope_type` = {other} is not supported; supported: \"default\", \"linear\", \"llama3\""
                )));
            }
        };
        fields.notice_misspelt();
        outer.take_notices(fields);
        Ok(Self { theta, scaling })
    }
}

impl RopeScaling {
    fn apply(&self, frequency: f64) -> f64 {
        match *self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                let turns = original_max_position * frequency / std::f64::consts::TAU;
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                kept * frequency + (1.0 - kept) * frequency / factor
            }
        }
    }
}
