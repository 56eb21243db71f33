//! The gate of the MLP against an f64 oracle, its backward against the derivative written out in f64.

use crate::common::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::gated_mlp::*;
use cpift_kernels::simt::{Bf16, Real};

/// Less than a vector, less than a block, whole blocks, and what lies between.
const COUNTS: [usize; 5] = [1, 19, 1024, 2048, 4101];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Coefficients of a kernel, and what it computes of a gate: the value and its derivative.
type Function = ([f32; 2], fn(f64) -> (f64, f64));

fn silu(x: f64) -> (f64, f64) {
    let sigma = sigmoid(x);
    (x * sigma, sigma * (1.0 + x * (1.0 - sigma)))
}

/// 0.5 (1 + tanh(u)) is σ(2u), which does not cancel below 0.
fn gelu_tanh(x: f64) -> (f64, f64) {
    let root = (2.0 / std::f64::consts::PI).sqrt();
    let sigma = sigmoid(2.0 * root * (x + 0.044715 * x * x * x));
    (x * sigma, sigma + 2.0 * x * sigma * (1.0 - sigma) * root * (1.0 + 3.0 * 0.044715 * x * x))
}

/// From -24 to 24, so that both flat ends of the sigmoid are met.
fn gates<E: Real>(count: usize) -> Buffer<E> {
    let mut gates = random::<E>(3, count);
    for gate in gates.as_mut_slice() {
        let x = gate.to_f32();
        *gate = E::from_f32(24.0 * x * x * x);
    }
    gates
}

/// Within `tolerance` of each value itself: small ones matter as much.
fn assert_near<E: Real>(what: &str, actual: &[E], expected: impl Iterator<Item = f64>, tolerance: f64) {
    for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(actual.to_f32()) - expected).abs();
        // Written so that NaN fails. Below 1e-30 the exponential runs out of exponents.
        assert!(
            error <= tolerance * expected.abs() + 1e-30,
            "{what}[{index}]: not {expected}, off by {error}"
        );
    }
}

/// d_gate passes through 0, near x = -1.28 for silu, where its terms cancel: the tolerance is of the largest.
fn check<E: Real>(([linear, cubic], function): Function, tolerance: f64) {
    for count in COUNTS {
        for offset in [0, 1] {
            let length = count + offset;
            let (gate, up) = (gates::<E>(length), random::<E>(4, length));
            let d_activation = random::<E>(5, length);
            let (x, y) = (widen(&gate.as_slice()[offset..]), widen(&up.as_slice()[offset..]));
            let d = widen(&d_activation.as_slice()[offset..]);
            let activation = || x.iter().zip(&y).map(|(x, y)| function(*x).0 * y);
            let mut results = Vec::new();
            for schedule in SCHEDULES {
                let emulator = Emulator::new(schedule);
                let mut output = Buffer::<E>::poisoned(length);
                gated_mlp(
                    &emulator,
                    slice(&gate.as_slice()[offset..]),
                    slice(&up.as_slice()[offset..]),
                    slice_mut(&mut output.as_mut_slice()[offset..]),
                    count as u64,
                    linear,
                    cubic,
                )
                .unwrap();
                assert_near("activation", &output.as_slice()[offset..], activation(), tolerance);

                let [mut gate, mut up, mut output] =
                    [&gate, &up, &d_activation].map(|buffer| Buffer::from_slice(buffer.as_slice()));
                gated_mlp_backward(
                    &emulator,
                    slice_mut(&mut gate.as_mut_slice()[offset..]),
                    slice_mut(&mut up.as_mut_slice()[offset..]),
                    slice_mut(&mut output.as_mut_slice()[offset..]),
                    count as u64,
                    linear,
                    cubic,
                )
                .unwrap();
                let d_gate: Vec<f64> = (0..count).map(|i| d[i] * y[i] * function(x[i]).1).collect();
                let d_up = (0..count).map(|i| d[i] * function(x[i]).0);
                assert_close("d_gate", &gate.as_slice()[offset..], &d_gate, tolerance);
                assert_near("d_up", &up.as_slice()[offset..], d_up, tolerance);
                assert_near("activation", &output.as_slice()[offset..], activation(), tolerance);
                results.push([gate, up, output].map(|buffer| to_bits(buffer.as_slice())));
            }
            assert!(results.iter().all(|result| *result == results[0]));
        }
    }
}
#[test]
fn matches_the_oracle() {
    // The exponential's argument is rounded: 24 · 2^-24 of the result, and a few roundings.
    check::<f32>((SILU, silu), 3e-6);
    // The result's rounding is up to 2^-8 of it.
    check::<Bf16>((SILU, silu), 4e-3);
}

#[test]
fn gelu_matches_the_oracle() {
    // Where results count, above 1e-30, the exponential's argument is up to 100, and so is its rounding.
    check::<f32>((GELU_TANH, gelu_tanh), 1.2e-5);
    check::<Bf16>((GELU_TANH, gelu_tanh), 4e-3);
}

/// Nothing of a cubic term is left where there is none, and no infinity where it overflows.
#[test]
fn gates_whose_squares_overflow() {
    let (emulator, up) = (Emulator::new(SCHEDULES[0]), Buffer::from_slice(&[1.0f32; 4]));
    let gate = Buffer::from_slice(&[1e20f32, -1e20, f32::INFINITY, 3e38]);
    for [linear, cubic] in [SILU, GELU_TANH] {
        let mut output = Buffer::<f32>::poisoned(4);
        gated_mlp(&emulator, gate.read(), up.read(), output.write(), 4, linear, cubic).unwrap();
        assert_eq!(output.as_slice(), [1e20, -0.0, f32::INFINITY, 3e38]);
    }
}
