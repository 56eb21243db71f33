//! Flat parameters for tests: ragged layouts, random values and masks, and slow oracles in f64 of
//! what the engine does to them.

use cpift_engine::ops::adamw::{Hyper, ImportanceKind};
use cpift_engine::{Layout, Mask};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// A layout of one-dimensional tensors `t0`, `t1`, … with these lengths.
pub fn layout(lengths: &[usize]) -> Layout {
    let tensors = lengths.iter().enumerate().map(|(index, &length)| (format!("t{index}"), vec![length]));
    Layout::new(tensors).expect("lengths of a test are small")
}

/// Values of either sign spread over many magnitudes, zeros in the padding.
pub fn spread_values(layout: &Layout, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut values = vec![0.0; layout.len()];
    for segment in layout.segments() {
        for value in &mut values[segment.range()] {
            let magnitude = rng.random_range(-12.0_f32..3.0).exp2();
            *value = if rng.random_bool(0.5) { magnitude } else { -magnitude };
        }
    }
    values
}

/// A mask of about `share` of the parameters, with whole words of ones and of zeros among the rest,
/// and no padding.
pub fn random_mask(layout: &Layout, seed: u64, share: f64) -> Mask {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut mask = Mask::zeros(layout.len());
    for segment in layout.segments() {
        for start in segment.range().step_by(64) {
            let whole_word = rng.random_bool(0.25).then(|| rng.random_bool(0.5));
            for index in start..segment.range().end.min(start + 64) {
                mask.set(index, whole_word.unwrap_or_else(|| rng.random_bool(share)));
            }
        }
    }
    mask
}

/// Indices of the `k` largest keys among the parameters of eligible segments, ties to the lower
/// index, ascending: by comparing indices.
pub fn brute_force_top_k<K: PartialOrd>(
    layout: &Layout,
    k: usize,
    eligible: impl Fn(usize) -> bool,
    key: impl Fn(usize) -> K,
) -> Vec<usize> {
    let segments = layout.segments().iter().enumerate().filter(|(segment, _)| eligible(*segment));
    let mut indices: Vec<usize> = segments.flat_map(|(_, segment)| segment.range()).collect();
    let first = |&left: &usize, &right: &usize| {
        key(right).partial_cmp(&key(left)).expect("keys of a test are numbers").then(left.cmp(&right))
    };
    if k < indices.len() {
        indices.select_nth_unstable_by(k, first);
    }
    indices.truncate(k);
    indices.sort_unstable();
    indices
}

/// One parameter under AdamW, in f64.
#[derive(Debug, Clone, Copy, Default)]
pub struct AdamWOracle {
    /// The weight.
    pub weight: f64,
    /// First moment.
    pub moment1: f64,
    /// Second moment.
    pub moment2: f64,
    /// Accumulated importance.
    pub importance: f64,
}

impl AdamWOracle {
    /// Step `step`, counted from 1, with the gradient already scaled.
    pub fn step(&mut self, gradient: f64, hyper: &Hyper, step: i32, importance: ImportanceKind) {
        let Hyper { learning_rate, beta1, beta2, epsilon, weight_decay } = *hyper;
        let before = self.weight;
        self.moment1 = beta1 * self.moment1 + (1.0 - beta1) * gradient;
        self.moment2 = beta2 * self.moment2 + (1.0 - beta2) * gradient * gradient;
        let first = self.moment1 / (1.0 - beta1.powi(step));
        let second = self.moment2 / (1.0 - beta2.powi(step));
        self.weight -= learning_rate * weight_decay * self.weight;
        self.weight -= learning_rate * first / (second.sqrt() + epsilon);
        self.importance += match importance {
            ImportanceKind::None => 0.0,
            ImportanceKind::Net => self.weight - before,
            ImportanceKind::Path => (self.weight - before).abs(),
            ImportanceKind::Fisher => gradient * gradient,
        };
    }
}

/// Angle and interpolation of two vectors in f64, the angle from the difference of the unit vectors.
pub fn slerp_oracle(own: &[f64], other: &[f64], weight: f64) -> (f64, Vec<f64>) {
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let (own_norm, other_norm) = (norm(own), norm(other));
    let pairs = || own.iter().zip(other);
    let linear = || pairs().map(|(a, b)| (1.0 - weight) * a + weight * b).collect();
    if own_norm == 0.0 || other_norm == 0.0 {
        return (0.0, linear());
    }
    let apart: Vec<f64> = pairs().map(|(a, b)| a / own_norm - b / other_norm).collect();
    let together: Vec<f64> = pairs().map(|(a, b)| a / own_norm + b / other_norm).collect();
    let angle = 2.0 * norm(&apart).atan2(norm(&together));
    if !(1e-6..=std::f64::consts::PI - 1e-3).contains(&angle) {
        return (angle, linear());
    }
    let (left, right) = (((1.0 - weight) * angle).sin(), (weight * angle).sin());
    (angle, pairs().map(|(a, b)| (left * a + right * b) / angle.sin()).collect())
}
