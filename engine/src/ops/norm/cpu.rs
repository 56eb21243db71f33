//! CPU: one f64 partial sum per fixed chunk, added in order.

use rayon::prelude::*;

use crate::cpu::simd::vectorize;
use crate::float::Float;
use crate::mask::WORD_BITS;

/// Elements per partial sum. Part of the result's bits: never a function of the thread count.
const CHUNK: usize = 1 << 15;
/// Independent sums inside a chunk, so that additions overlap.
const LANES: usize = 16;

pub(super) fn squared_norm<T: Float>(gradient: &[T], frozen: Option<&[u64]>) -> f64 {
    let partial_sums: Vec<f64> = match frozen {
        None => gradient.par_chunks(CHUNK).map(|chunk| vectorize!(|| sum_of_squares(chunk))).collect(),
        Some(words) => gradient
            .par_chunks(CHUNK)
            .zip(words.par_chunks(CHUNK / WORD_BITS))
            .map(|(chunk, words)| vectorize!(|| sum_of_unfrozen_squares(chunk, words)))
            .collect(),
    };
    partial_sums.iter().sum()
}

#[inline(always)]
fn sum_of_squares<T: Float>(chunk: &[T]) -> f64 {
    let mut sums = [0.0; LANES];
    let (groups, rest) = chunk.as_chunks::<LANES>();
    for group in groups {
        add_squares(&mut sums, group);
    }
    sums.iter().sum::<f64>() + rest.iter().map(|value| value.to_f64() * value.to_f64()).sum::<f64>()
}

#[inline(always)]
fn sum_of_unfrozen_squares<T: Float>(chunk: &[T], words: &[u64]) -> f64 {
    let mut sums = [0.0; LANES];
    for (block, &word) in chunk.chunks(WORD_BITS).zip(words) {
        let mut values = [T::default(); WORD_BITS];
        values[..block.len()].copy_from_slice(block);
        if word != 0 {
            // Selecting, not multiplying: a frozen NaN must not count.
            for (lane, value) in values.iter_mut().enumerate() {
                *value = if word >> lane & 1 == 1 { T::default() } else { *value };
            }
        }
        for group in values.as_chunks::<LANES>().0 {
            add_squares(&mut sums, group);
        }
    }
    sums.iter().sum()
}

#[inline(always)]
fn add_squares<T: Float>(sums: &mut [f64; LANES], values: &[T; LANES]) {
    for (sum, &value) in sums.iter_mut().zip(values) {
        *sum += value.to_f64() * value.to_f64();
    }
}
