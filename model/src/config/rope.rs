//! Rotary position embedding: the angles by which heads are turned, as `transformers` computes them.

use std::f64::consts::TAU;

/// Rotary position embedding of some or all layers.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies θ^(−2i/d), d being `frequency_dim`.
    pub theta: f64,
    /// Elements of a head that are turned, the first ones: even, at most the head's.
    pub rotary_dim: usize,
    /// What the frequencies' exponents are divided by: `rotary_dim`, or one less where that is an odd share of a head,
    /// rounded up.
    pub frequency_dim: usize,
    /// What is done to the frequencies for contexts longer than those first trained on.
    pub scaling: RopeScaling,
    /// Queries at far positions are multiplied by more than 1.
    pub query_scaling: Option<QueryScaling>,
}

/// Scaling of the rotary frequencies.
#[derive(Debug, Clone, PartialEq)]
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
    /// YaRN (arXiv 2309.00071): as Llama 3, with a ramp over the number of the pair.
    Yarn {
        /// The divisor of low frequencies.
        factor: f64,
        /// First and last pair of the ramp from kept to divided frequencies.
        ramp: [f64; 2],
        /// Factor of cosines and sines.
        amplitude: f64,
    },
    /// LongRoPE (arXiv 2402.13753): a divisor for every pair, one for texts within the first training's context and one
    /// for longer texts.
    LongRope {
        /// The divisors of texts within the first context.
        short: Vec<f64>,
        /// Those of longer texts.
        long: Vec<f64>,
        /// Context length of the first training.
        original: usize,
        /// Factor of cosines and sines.
        amplitude: f64,
    },
    /// Only the first pairs are turned, with the frequencies that they have among all of the head's; those are
    /// divided by `factor`.
    Proportional {
        /// Pairs that are turned.
        pairs: usize,
        /// The divisor.
        factor: f64,
    },
}

/// How long a text is, for embeddings whose angles depend on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Context {
    /// Within the context of the model's first training.
    First,
    /// Longer.
    Extended,
}

/// Queries are multiplied by 1 + beta · ln(1 + ⌊position / period⌋), as in Llama 4 and Ministral 3.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryScaling {
    /// Weight of the logarithm.
    pub beta: f64,
    /// Positions up to the next larger factor.
    pub period: f64,
}

impl QueryScaling {
    /// Factor of the query at `position`.
    pub fn at(&self, position: usize) -> f64 {
        1.0 + self.beta * (position as f64 / self.period).floor().ln_1p()
    }
}

impl Rope {
    /// Inverse frequencies, one per turned pair (`rotary_dim / 2`): position `p` of a text of this length turns pair
    /// `i` by the angle `p · frequencies[i]`.
    pub fn frequencies(&self, context: Context) -> Vec<f64> {
        let frequency = |i: usize| {
            let plain = self.theta.powf(-((2 * i) as f64) / self.frequency_dim as f64);
            self.scaling.apply(i, plain, context)
        };
        (0..self.rotary_dim / 2).map(frequency).collect()
    }

    /// Factor of cosines and sines.
    pub fn amplitude(&self) -> f64 {
        match self.scaling {
            RopeScaling::Yarn { amplitude, .. } | RopeScaling::LongRope { amplitude, .. } => amplitude,
            _ => 1.0,
        }
    }
}

impl RopeScaling {
    /// Most tokens of a text whose angles are those of the first context, where longer texts have others.
    pub fn first_context(&self) -> Option<usize> {
        match self {
            Self::LongRope { original, .. } => Some(*original),
            _ => None,
        }
    }

    /// The frequency of pair `i`, which is `frequency` without scaling.
    fn apply(&self, i: usize, frequency: f64, context: Context) -> f64 {
        // A part `kept` of the frequency as it is, and the rest divided.
        let divided = |kept: f64, factor: f64| kept * frequency + (1.0 - kept) * frequency / factor;
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                let turns = original_max_position * frequency / TAU;
                let kept = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                divided(kept, *factor)
            }
            Self::Yarn { factor, ramp: [first, last], .. } => {
                divided(1.0 - ((i as f64 - first) / (last - first)).clamp(0.0, 1.0), *factor)
            }
            Self::LongRope { short, long, .. } => match context {
                Context::First => frequency / short[i],
                Context::Extended => frequency / long[i],
            },
            Self::Proportional { pairs, factor } => {
                if i < *pairs {
                    frequency / factor
                } else {
                    0.0
                }
            }
        }
    }

    /// YaRN's ramp and factor of cosines and sines from its parameters.
    pub(super) fn yarn(parameters: &Yarn, theta: f64, frequency_dim: usize) -> Self {
        let dim = frequency_dim as f64;
        // The pair that makes so many turns within the first training's context.
        let pair = |turns: f64| dim * (parameters.original / (turns * TAU)).ln() / (2.0 * theta.ln());
        let (mut first, mut last) = (pair(parameters.beta_fast), pair(parameters.beta_slow));
        if parameters.truncate {
            (first, last) = (first.floor(), last.ceil());
        }
        let (first, mut last) = (first.max(0.0), last.min(dim - 1.0));
        if first == last {
            // As in `transformers`: no division by zero.
            last += 0.001;
        }
        let scale = |weight: f64| {
            let factor = parameters.factor;
            if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
        };
        let amplitude = parameters.attention_factor.unwrap_or_else(|| match parameters.mscale {
            Some([mscale, all]) => scale(mscale) / scale(all),
            None => scale(1.0),
        });
        Self::Yarn { factor: parameters.factor, ramp: [first, last], amplitude }
    }

    /// LongRoPE's factor of cosines and sines for a context of `original` tokens that was extended by `factor`.
    pub(super) fn long_rope_amplitude(factor: f64, original: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() }
    }
}

/// YaRN's parameters, by their names in `config.json`.
pub(super) struct Yarn {
    pub factor: f64,
    pub original: f64,
    pub beta_fast: f64,
    pub beta_slow: f64,
    pub truncate: bool,
    pub attention_factor: Option<f64>,
    /// `mscale` and `mscale_all_dim`, where both are given and not 0.
    pub mscale: Option<[f64; 2]>,
}
