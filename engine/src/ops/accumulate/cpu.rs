use cpift_kernels::stochastic::{random_bits, round_to_bf16};
use half::bf16;
use rayon::prelude::*;

use crate::cpu::simd::vectorize;
use crate::float::Float;

/// Elements of one task.
const CHUNK: usize = 1 << 16;

pub fn accumulate(target: &mut [bf16], x: &[f32], first: usize, seed: u32) {
    let chunks = target.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate();
    chunks.for_each(|(chunk, (target, x))| {
        let first = first + chunk * CHUNK;
        vectorize!(|| {
            for (lane, (target, x)) in target.iter_mut().zip(x).enumerate() {
                let sum = Float::to_f32(*target) + x;
                *target = bf16::from_bits(round_to_bf16(sum, random_bits(first + lane, seed)).0);
            }
        });
    });
}
