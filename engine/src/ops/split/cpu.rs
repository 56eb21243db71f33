use half::bf16;
use rayon::prelude::*;

use crate::cpu::simd::vectorize;
use crate::float::{join_slice, split_slice};

/// Elements of one task.
const CHUNK: usize = 1 << 16;

pub fn split(weights: &[f32], first: usize, rounded: &mut [bf16], lower: &mut [u16]) {
    let planes = rounded.par_chunks_mut(CHUNK).zip(lower.par_chunks_mut(CHUNK));
    let chunks = planes.zip(weights.par_chunks(CHUNK)).enumerate();
    chunks.for_each(|(chunk, ((rounded, lower), weights))| {
        vectorize!(|| split_slice(weights, first + chunk * CHUNK, rounded, lower));
    });
}

pub fn join(rounded: &[bf16], lower: &[u16], first: usize, weights: &mut [f32]) {
    let planes = rounded.par_chunks(CHUNK).zip(lower.par_chunks(CHUNK));
    let chunks = weights.par_chunks_mut(CHUNK).zip(planes).enumerate();
    chunks.for_each(|(chunk, (weights, (rounded, lower)))| {
        vectorize!(|| join_slice(rounded, lower, first + chunk * CHUNK, weights));
    });
}
