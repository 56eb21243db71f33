//! The soft cap on the CPU.

use rayon::prelude::*;

use crate::cpu::math::softcap;
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;

/// Elements of one task.
const CHUNK: usize = 16 * 1024;

pub fn in_place(cpu: &CpuDevice, cap: f32, logits: &mut [f32]) {
    cpu.run(|| {
        logits.par_chunks_mut(CHUNK).for_each(|logits| {
            vectorize!(|| logits.iter_mut().for_each(|logit| *logit = softcap(*logit, cap)));
        });
    });
}
