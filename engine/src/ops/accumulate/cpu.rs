use half::bf16;
use rayon::prelude::*;

use crate::cpu::simd::vectorize;
use crate::float::Float;

/// Elements of one task.
const CHUNK: usize = 1 << 16;

pub fn accumulate(target: &mut [bf16], x: &[f32]) {
    target.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(target, x)| {
        vectorize!(|| {
            for (target, x) in target.iter_mut().zip(x) {
                *target = <bf16 as Float>::from_f32(Float::to_f32(*target) + x);
            }
        });
    });
}
