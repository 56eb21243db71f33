//! Multiplying by a number on the CPU.

use rayon::prelude::*;

use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;

/// Elements of one task.
const CHUNK: usize = 1 << 16;

pub fn forward(cpu: &CpuDevice, factor: f32, x: &[f32], y: &mut [f32]) {
    cpu.run(|| {
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            vectorize!(|| y.iter_mut().zip(x).for_each(|(y, x)| *y = factor * x));
        });
    });
}

pub fn forward_in_place(cpu: &CpuDevice, factor: f32, x: &mut [f32]) {
    cpu.run(|| {
        x.par_chunks_mut(CHUNK).for_each(|x| vectorize!(|| x.iter_mut().for_each(|x| *x *= factor)));
    });
}

pub fn add(cpu: &CpuDevice, residual: &[f32], factor: f32, delta: &[f32], sum: &mut [f32]) {
    cpu.run(|| {
        let inputs = residual.par_chunks(CHUNK).zip(delta.par_chunks(CHUNK));
        sum.par_chunks_mut(CHUNK).zip(inputs).for_each(|(sum, (residual, delta))| {
            vectorize!(|| {
                for ((sum, residual), delta) in sum.iter_mut().zip(residual).zip(delta) {
                    *sum = factor.mul_add(*delta, *residual);
                }
            });
        });
    });
}
