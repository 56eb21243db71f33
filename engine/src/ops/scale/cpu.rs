//! Multiplying by a number on the CPU.

use rayon::prelude::*;

use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::number::{Number, on_cpu};

on_cpu! {
    /// Types that are scaled.
    fn forward = forward(cpu: &CpuDevice, factor: f32, x: &[Self], y: &mut [Self]);
    fn forward_in_place = forward_in_place(cpu: &CpuDevice, factor: f32, x: &mut [Self]);
    fn add = add(cpu: &CpuDevice, residual: &[Self], factor: f32, delta: &[Self], sum: &mut [Self]);
}

/// Elements of one task.
const CHUNK: usize = 1 << 16;

pub fn forward<T: Number>(cpu: &CpuDevice, factor: f32, x: &[T], y: &mut [T]) {
    cpu.run(|| {
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
            vectorize!(|| y.iter_mut().zip(x).for_each(|(y, x)| *y = T::from_f32(factor * x.to_f32())));
        });
    });
}

pub fn forward_in_place<T: Number>(cpu: &CpuDevice, factor: f32, x: &mut [T]) {
    cpu.run(|| {
        x.par_chunks_mut(CHUNK).for_each(|x| {
            vectorize!(|| x.iter_mut().for_each(|x| *x = T::from_f32(x.to_f32() * factor)));
        });
    });
}

pub fn add<T: Number>(cpu: &CpuDevice, residual: &[T], factor: f32, delta: &[T], sum: &mut [T]) {
    cpu.run(|| {
        let inputs = residual.par_chunks(CHUNK).zip(delta.par_chunks(CHUNK));
        sum.par_chunks_mut(CHUNK).zip(inputs).for_each(|(sum, (residual, delta))| {
            vectorize!(|| {
                for ((sum, residual), delta) in sum.iter_mut().zip(residual).zip(delta) {
                    *sum = T::from_f32(factor.mul_add(delta.to_f32(), residual.to_f32()));
                }
            });
        });
    });
}
