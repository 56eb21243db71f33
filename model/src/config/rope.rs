//! Rotary position embedding as `config.json` describes it, in the form of `transformers` 4
//! (`rope_theta` and `rope_scaling`) and of `transformers` 5 (`rope_parameters`).

use super::fields::Fields;
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
        let whole = |value: &serde_json::Value| value.as_f64() == Some(1.0);
        fields.only("partial_rotary_factor", "1.0", whole)?;
        let original = fields.positive("original_max_position_embeddings")?;
        let old = fields.object("rope_scaling")?.map(|object| ("rope_scaling.", object));
        let new = fields.object("rope_parameters")?.map(|object| ("rope_parameters.", object));
        let Some((prefix, object)) = old.or(new) else {
            return Ok(Self { theta, scaling: RopeScaling::None });
        };

        let mut fields = Fields::new(path, prefix, object);
        let theta = fields.positive("rope_theta")?.unwrap_or(theta);
        fields.only("partial_rotary_factor", "1.0", whole)?;
        let (new_name, old_name) = (fields.text("rope_type")?, fields.text("type")?);
        let scaling = match new_name.or(old_name).unwrap_or("default") {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: fields.required_positive("factor")? },
            "llama3" => {
                let inner = fields.positive("original_max_position_embeddings")?;
                let scaling = RopeScaling::Llama3 {
                    factor: fields.required_positive("factor")?,
                    low_freq_factor: fields.required_positive("low_freq_factor")?,
                    high_freq_factor: fields.required_positive("high_freq_factor")?,
                    original_max_position: original.or(inner).unwrap_or(max_positions as f64),
                };
                if let RopeScaling::Llama3 { low_freq_factor, high_freq_factor, .. } = scaling
                    && low_freq_factor >= high_freq_factor
                {
                    return Err(fields.error(format!(
                        "`{prefix}low_freq_factor` = {low_freq_factor} must be below \
                         `{prefix}high_freq_factor` = {high_freq_factor}"
                    )));
                }
                scaling
            }
            other => {
                return Err(fields.error(format!(
                    "`{prefix}rope_type` = {other:?} is not supported; supported: \"default\", \"linear\", \"llama3\""
                )));
            }
        };
        fields.refuse_unknown()?;
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
