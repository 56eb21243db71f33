//! How the next token is chosen from the logits.

use std::collections::BinaryHeap;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sampling {
    /// The most likely; the lowest id where several are.
    Greedy,
    /// At random.
    Random(RandomSampling),
}

/// Draws from softmax(logits / temperature), of which `top_k` and then `top_p` keep the most likely tokens, in
/// transformers' order and with its ties.
///
/// Every prompt has its own stream of random numbers, keyed by the seed: what it gets does not depend on the prompts
/// beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomSampling {
    /// Above 0; 1 samples from the model's own distribution.
    pub temperature: f32,
    /// Keeps so many of the most likely tokens, at least 1, and those that are as likely as the last of them.
    pub top_k: Option<usize>,
    /// Keeps the fewest most likely tokens whose probabilities sum up to this, above 0 to 1; of equally likely ones
    /// those of higher ids.
    pub top_p: Option<f64>,
    /// Key of the random numbers.
    pub seed: u64,
    /// Stream of the first prompt's random numbers; those behind it have the streams that follow.
    pub stream: u64,
}

impl RandomSampling {
    /// What is wrong with the values: a setting's name and the reason.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        let Self { temperature, top_k, top_p, .. } = *self;
        if !(temperature > 0.0 && temperature.is_finite()) {
            return Some(("temperature", format!("{temperature} is not a number above 0")));
        }
        if top_k == Some(0) {
            return Some(("top_k", "0 keeps no token".to_owned()));
        }
        let top_p = top_p.filter(|top_p| !(*top_p > 0.0 && *top_p <= 1.0))?;
        Some(("top_p", format!("{top_p} is not a number above 0 and up to 1")))
    }

    /// The token at which the cumulative probability passes `uniform` (in 0..1).
    pub(super) fn choose(&self, logits: &[f32], largest: f32, uniform: f64) -> u32 {
        let weights = self.weights(logits, largest);
        let mut left = uniform * weights.iter().sum::<f64>();
        for (token, weight) in weights.iter().enumerate() {
            left -= weight;
            if left < 0.0 {
                return token as u32;
            }
        }
        // Rounding left a rest: the last token that has any probability.
        weights.iter().rposition(|&weight| weight > 0.0).unwrap_or(0) as u32
    }

    /// Every token's probability times a common factor; 0 for those that are not kept.
    fn weights(&self, logits: &[f32], largest: f32) -> Vec<f64> {
        let temperature = f64::from(self.temperature);
        let weight = |&logit: &f32| (f64::from(logit - largest) / temperature).exp();
        let mut weights: Vec<f64> = logits.iter().map(weight).collect();
        if let Some(count) = self.top_k.filter(|&count| count < logits.len()) {
            keep_count(logits, &mut weights, count);
        }
        if let Some(mass) = self.top_p.filter(|&mass| mass < 1.0) {
            keep_mass(logits, &mut weights, mass);
        }
        weights
    }
}

/// Keeps the `count` largest, at least 1, and those that are equal to the last of them.
fn keep_count(logits: &[f32], weights: &mut [f64], count: usize) {
    let mut order = logits.to_vec();
    let (_, &mut last, _) = order.select_nth_unstable_by(count - 1, |one, other| other.total_cmp(one));
    for (weight, &logit) in weights.iter_mut().zip(logits) {
        if logit < last {
            *weight = 0.0;
        }
    }
}

/// Keeps the fewest of the largest whose share of the sum is at least `mass`.
fn keep_mass(logits: &[f32], weights: &mut [f64], mass: f64) {
    let goal = mass * weights.iter().sum::<f64>();
    // A heap gives the few largest without sorting a whole vocabulary.
    let kept = (0..weights.len()).filter(|&token| weights[token] > 0.0);
    let mut largest: BinaryHeap<(i32, usize)> = kept.map(|token| (ordered(logits[token]), token)).collect();
    let mut sum = 0.0;
    while let Some((_, token)) = largest.pop() {
        sum += weights[token];
        if sum >= goal {
            break;
        }
    }
    for (_, token) in largest {
        weights[token] = 0.0;
    }
}

/// An integer that compares as the number does.
fn ordered(number: f32) -> i32 {
    // Adding 0 makes one zero of the two.
    let bits = (number + 0.0).to_bits().cast_signed();
    bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
}

/// Index of the largest logit, the first where several are; `None` where one is not a number.
pub(super) fn largest(logits: &[f32]) -> Option<usize> {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if logit.is_nan() {
            return None;
        }
        if *logit > logits[best] {
            best = index;
        }
    }
    logits[best].is_finite().then_some(best)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn sampling(temperature: f32, top_k: Option<usize>, top_p: Option<f64>) -> RandomSampling {
        RandomSampling { temperature, top_k, top_p, seed: 0, stream: 0 }
    }

    /// The tokens that have any probability.
    fn kept(logits: &[f32], sampling: &RandomSampling) -> Vec<usize> {
        let weights = sampling.weights(logits, logits[largest(logits).unwrap()]);
        (0..logits.len()).filter(|&token| weights[token] > 0.0).collect()
    }

    #[test]
    fn the_first_of_the_largest_wins_and_nan_is_seen() {
        assert_eq!(largest(&[0.5, 2.0, -1.0, 2.0]), Some(1));
        assert_eq!(largest(&[0.5, f32::NAN]), None);
        assert_eq!(largest(&[f32::NEG_INFINITY, f32::NEG_INFINITY]), None);
    }

    #[test]
    fn samples_follow_the_softmax() {
        // Probabilities 1/6, 2/6, 3/6 at temperature 1.
        let logits = [1f32.ln(), 2f32.ln(), 3f32.ln()];
        let draw = |uniform| sampling(1.0, None, None).choose(&logits, logits[2], uniform);
        assert_eq!([0.0, 0.16, 0.17, 0.49, 0.51, 0.999_999].map(draw), [0, 0, 1, 1, 2, 2]);
        // Low temperatures sharpen: squares 1, 4, 9 of 14.
        assert_eq!(sampling(0.5, None, None).choose(&logits, logits[2], 4.9 / 14.0), 1);
        assert_eq!(sampling(0.5, None, None).choose(&logits, logits[2], 5.1 / 14.0), 2);
        // Without the least likely, 2/5 and 3/5.
        let draw = |uniform| sampling(1.0, Some(2), None).choose(&logits, logits[2], uniform);
        assert_eq!([0.0, 0.39, 0.41, 0.999_999].map(draw), [1, 1, 2, 2]);
    }

    #[test]
    fn top_k_keeps_those_that_are_as_likely_as_the_last() {
        let logits = [1.0, 3.0, 2.0, 2.0, -0.0, 0.0, 2.0];
        let kept = |count| kept(&logits, &sampling(1.0, Some(count), None));
        assert_eq!(kept(1), [1]);
        assert_eq!(kept(2), [1, 2, 3, 6]);
        assert_eq!(kept(4), [1, 2, 3, 6]);
        assert_eq!(kept(5), [0, 1, 2, 3, 6]);
        assert_eq!(kept(6), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(kept(100), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn top_p_keeps_the_fewest_that_reach_the_mass() {
        // Probabilities 1/8, 1/2, 1/8, 1/4, all exact.
        let logits = [1.0, 4.0, 1.0, 2.0f32].map(f32::ln);
        let kept = |mass| kept(&logits, &sampling(1.0, None, Some(mass)));
        assert_eq!(kept(1e-9), [1]);
        assert_eq!(kept(0.49), [1]);
        assert_eq!(kept(0.51), [1, 3]);
        assert_eq!(kept(0.74), [1, 3]);
        // Of equally likely ones the higher id stays, as in transformers, whose sort is ascending.
        assert_eq!(kept(0.8), [1, 2, 3]);
        assert_eq!(kept(0.9), [0, 1, 2, 3]);
        assert_eq!(kept(1.0), [0, 1, 2, 3]);
    }

    #[test]
    fn temperature_comes_before_top_k_and_that_before_top_p() {
        // At temperature 1/2 the squares 1, 4, 9, 16 of 30; 9 and 16 of 25 once two are kept.
        let logits = [1.0, 2.0, 3.0, 4.0f32].map(f32::ln);
        assert_eq!(kept(&logits, &sampling(1.0, None, Some(0.45))), [2, 3]);
        assert_eq!(kept(&logits, &sampling(0.5, None, Some(0.45))), [3]);
        assert_eq!(kept(&logits, &sampling(0.5, None, Some(0.6))), [2, 3]);
        assert_eq!(kept(&logits, &sampling(0.5, Some(2), Some(0.6))), [3]);
    }

    /// What transformers' warpers keep, step by step as they compute it, in f64.
    fn oracle(logits: &[f32], temperature: f64, top_k: usize, top_p: f64) -> Vec<usize> {
        let scores: Vec<f64> = logits.iter().map(|&logit| f64::from(logit) / temperature).collect();
        let mut descending = scores.clone();
        descending.sort_by(|one, other| other.total_cmp(one));
        let last = descending[top_k - 1];
        let mut ascending: Vec<usize> = (0..scores.len()).collect();
        ascending.sort_by(|&one, &other| scores[one].total_cmp(&scores[other]));
        let weight =
            |token: usize| if scores[token] < last { 0.0 } else { (scores[token] - descending[0]).exp() };
        let total: f64 = ascending.iter().map(|&token| weight(token)).sum();
        let mut cumulative = 0.0;
        let mut kept: Vec<usize> = Vec::new();
        for (rank, &token) in ascending.iter().enumerate() {
            cumulative += weight(token) / total;
            if weight(token) > 0.0 && (cumulative > 1.0 - top_p || rank + 1 == ascending.len()) {
                kept.push(token);
            }
        }
        kept.sort_unstable();
        kept
    }

    #[test]
    fn the_kept_sets_are_those_of_the_oracle() {
        let mut random = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..500 {
            // Quarters, so that many are equal.
            let logits: Vec<f32> = (0..40).map(|_| (random.random_range(-20..20) as f32) / 4.0).collect();
            let (top_k, top_p) = (random.random_range(1..=40), random.random_range(1..1000) as f64 / 1000.0);
            let temperature = [0.5, 1.0, 2.0][random.random_range(0..3)];
            assert_eq!(
                kept(&logits, &sampling(temperature, Some(top_k), Some(top_p))),
                oracle(&logits, f64::from(temperature), top_k, top_p),
                "{logits:?} {temperature} {top_k} {top_p}"
            );
        }
    }

    /// The sets that transformers 5.24 keeps of these logits, many of which are equal.
    #[test]
    fn the_kept_sets_are_those_of_transformers() {
        let logits = [1.5, -0.25, 3.0, 0.75, 3.0, 1.5, -2.0, 2.25, 1.5, 0.0];
        for (temperature, top_k, top_p, expected) in [
            (1.0, 4, 0.9, &[2, 4, 5, 7, 8][..]),
            (1.0, 4, 0.999, &[0, 2, 4, 5, 7, 8]),
            (0.5, 10, 0.8, &[2, 4]),
            (2.0, 10, 0.8, &[0, 2, 4, 5, 7, 8]),
            (2.0, 7, 0.55, &[2, 4, 7]),
            (1.0, 1, 0.3, &[4]),
        ] {
            let sampling = sampling(temperature, Some(top_k), Some(top_p));
            assert_eq!(kept(&logits, &sampling), expected, "{sampling:?}");
        }
    }

    #[test]
    fn what_is_impossible_has_its_reason() {
        for (top_k, top_p) in [(Some(0), None), (None, Some(0.0)), (None, Some(1.5)), (None, Some(f64::NAN))]
        {
            assert!(sampling(1.0, top_k, top_p).fault().is_some());
        }
        assert!(sampling(0.0, None, None).fault().is_some());
        assert!(sampling(1.0, Some(1), Some(1.0)).fault().is_none());
    }
}
