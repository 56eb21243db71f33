//! Random inputs, comparisons and central differences for tests of operations.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// `length` values spread evenly over -1..1.
pub fn random(seed: u64, length: usize) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..length).map(|_| rng.random_range(-1.0f32..1.0)).collect()
}

/// `length` integers below `bound`.
pub fn random_below(seed: u64, length: usize, bound: u32) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..length).map(|_| rng.random_range(0..bound)).collect()
}

/// The values in double precision, for oracles.
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Fails unless every element is within `tolerance` times the largest expected magnitude.
#[track_caller]
pub fn assert_close(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |largest, value| largest.max(value.abs()));
    for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(actual) - expected).abs() / scale;
        // Written so that NaN fails.
        assert!(
            error <= tolerance,
            "{what}[{index}] is {actual}, expected {expected}: off by {error:e} of the largest, {scale:e}"
        );
    }
}

/// |actual − expected| / |expected|, of whole vectors.
pub fn relative_distance(actual: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(actual.len(), expected.len(), "lengths differ");
    let difference: Vec<f64> = actual.iter().zip(expected).map(|(&a, &e)| f64::from(a) - e).collect();
    (dot(&difference, &difference) / dot(expected, expected)).sqrt()
}

/// The gradient of `function` at `point` by central differences.
pub fn central_differences(point: &[f64], mut function: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut moved = point.to_vec();
    (0..point.len())
        .map(|index| {
            moved[index] = point[index] + STEP;
            let above = function(&moved);
            moved[index] = point[index] - STEP;
            let below = function(&moved);
            moved[index] = point[index];
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// Σ a · b: turns the output of an oracle into a number whose gradient is the backward's of `b`.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
