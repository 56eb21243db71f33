use half::bf16;
use rayon::prelude::*;

use crate::cpu::simd::vectorize;
use crate::float::dither_slice;

/// Elements of one task.
const CHUNK: usize = 1 << 16;

pub fn to_bf16(source: &[f32], target: &mut [bf16]) {
    let chunks = target.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK)).enumerate();
    chunks.for_each(|(chunk, (target, source))| vectorize!(|| dither_slice(source, chunk * CHUNK, target)));
}
