//! The gate of the MLP on the CPU.

use rayon::prelude::*;

use super::Activation;
use crate::cpu::math::{gelu_tanh, gelu_tanh_with_derivative, sigmoid, silu};
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::number::{Number, on_cpu};

on_cpu! {
    /// Types that activations of an MLP are in.
    fn forward = forward(
        cpu: &CpuDevice,
        function: Activation,
        gate: &[Self],
        up: &[Self],
        activation: &mut [Self],
    );
    fn backward = backward(
        cpu: &CpuDevice,
        function: Activation,
        gate: &mut [Self],
        up: &mut [Self],
        activation: &mut [Self],
    );
}

/// Elements of one task.
const CHUNK: usize = 16 * 1024;

pub fn forward<T: Number>(cpu: &CpuDevice, function: Activation, gate: &[T], up: &[T], activation: &mut [T]) {
    match function {
        Activation::Silu => apply(cpu, silu, gate, up, activation),
        Activation::GeluTanh => apply(cpu, gelu_tanh, gate, up, activation),
    }
}

fn apply<T: Number>(
    cpu: &CpuDevice,
    function: impl Fn(f32) -> f32 + Copy + Sync,
    gate: &[T],
    up: &[T],
    activation: &mut [T],
) {
    cpu.run(|| {
        let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK));
        activation.par_chunks_mut(CHUNK).zip(inputs).for_each(|(activation, (gate, up))| {
            vectorize!(|| {
                for ((activation, gate), up) in activation.iter_mut().zip(gate).zip(up) {
                    *activation = T::from_f32(function(gate.to_f32()) * up.to_f32());
                }
            });
        });
    });
}

pub fn backward<T: Number>(
    cpu: &CpuDevice,
    function: Activation,
    gate: &mut [T],
    up: &mut [T],
    activation: &mut [T],
) {
    match function {
        Activation::Silu => differentiate(cpu, silu_with_derivative, gate, up, activation),
        Activation::GeluTanh => differentiate(cpu, gelu_tanh_with_derivative, gate, up, activation),
    }
}

#[inline(always)]
fn silu_with_derivative(x: f32) -> (f32, f32) {
    let sigma = sigmoid(x);
    let silu = x * sigma;
    // silu' = σ + x σ (1 − σ) = σ + silu (1 − σ)
    (silu, silu.mul_add(1.0 - sigma, sigma))
}

fn differentiate<T: Number>(
    cpu: &CpuDevice,
    function: impl Fn(f32) -> (f32, f32) + Copy + Sync,
    gate: &mut [T],
    up: &mut [T],
    activation: &mut [T],
) {
    cpu.run(|| {
        let inputs = gate.par_chunks_mut(CHUNK).zip(up.par_chunks_mut(CHUNK));
        activation.par_chunks_mut(CHUNK).zip(inputs).for_each(|(activation, (gate, up))| {
            vectorize!(|| {
                for ((activation, gate), up) in activation.iter_mut().zip(gate).zip(up) {
                    let (d_activation, linear) = (activation.to_f32(), up.to_f32());
                    let (value, derivative) = function(gate.to_f32());
                    *activation = T::from_f32(value * linear);
                    *gate = T::from_f32(d_activation * linear * derivative);
                    *up = T::from_f32(d_activation * value);
                }
            });
        });
    });
}
