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

/// d_gate = d·up·σ (1 + x (1 − σ)) passes through 0 near x = -1.28, where its terms cancel: the tolerance is
/// of the largest.
fn check<E: Real>(tolerance: f64) {
    for count in COUNTS {
        for offset in [0, 1] {
            let length = count + offset;
            let (gate, up) = (gates::<E>(length), random::<E>(4, length));
            let d_activation = random::<E>(5, length);
            let (x, y) = (widen(&gate.as_slice()[offset..]), widen(&up.as_slice()[offset..]));
            let d = widen(&d_activation.as_slice()[offset..]);
            let activation = || x.iter().zip(&y).map(|(x, y)| x * sigmoid(*x) * y);
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
                )
                .unwrap();
                let d_gate: Vec<f64> = (0..count)
                    .map(|i| {
                        let sigma = sigmoid(x[i]);
                        d[i] * y[i] * sigma * (1.0 + x[i] * (1.0 - sigma))
                    })
                    .collect();
                let d_up = (0..count).map(|i| d[i] * x[i] * sigmoid(x[i]));
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
    check::<f32>(3e-6);
    // The result's rounding is up to 2^-8 of it.
    check::<Bf16>(4e-3);
}
