//! The gate of the MLP on the CPU.

use rayon::prelude::*;

use crate::cpu::math::sigmoid;
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;

/// Elements of one task.
const CHUNK: usize = 16 * 1024;

pub fn forward(cpu: &CpuDevice, gate: &[f32], up: &[f32], activation: &mut [f32]) {
    cpu.run(|| {
        let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK));
        activation.par_chunks_mut(CHUNK).zip(inputs).for_each(|(activation, (gate, up))| {
            vectorize!(|| {
                for ((activation, &gate), &up) in activation.iter_mut().zip(gate).zip(up) {
                    *activation = gate * sigmoid(gate) * up;
                }
            });
        });
    });
}

pub fn backward(cpu: &CpuDevice, gate: &mut [f32], up: &mut [f32], activation: &mut [f32]) {
    cpu.run(|| {
        let inputs = gate.par_chunks_mut(CHUNK).zip(up.par_chunks_mut(CHUNK));
        activation.par_chunks_mut(CHUNK).zip(inputs).for_each(|(activation, (gate, up))| {
            vectorize!(|| {
                for ((activation, gate), up) in activation.iter_mut().zip(gate).zip(up) {
                    let d_activation = *activation;
                    let sigma = sigmoid(*gate);
                    let silu = *gate * sigma;
                    *activation = silu * *up;
                    // silu' = σ + gate σ (1 − σ) = σ + silu (1 − σ)
                    *gate = d_activation * *up * silu.mul_add(1.0 - sigma, sigma);
                    *up = d_activation * silu;
                }
            });
        });
    });
}
