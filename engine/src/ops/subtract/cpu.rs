use rayon::prelude::*;

use crate::cpu::simd::vectorize;

const CHUNK: usize = 1 << 16;

pub(super) fn subtract(target: &mut [f32], other: &[f32]) {
    target.par_chunks_mut(CHUNK).zip(other.par_chunks(CHUNK)).for_each(|(target, other)| {
        vectorize!(|| target.iter_mut().zip(other).for_each(|(target, other)| *target -= other));
    });
}
