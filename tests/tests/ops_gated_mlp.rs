//! The gate of the MLP against a f64 oracle, its in-place backward against central differences.

use cpift_engine::ops::gated_mlp;
use cpift_engine::{Buffer, Device};
use cpift_tests::devices::devices;
use cpift_tests::numeric::{assert_close, central_differences, random, widen};

fn oracle(gate: f64, up: f64) -> f64 {
    gate / (1.0 + (-gate).exp()) * up
}

/// On a GPU the exponential is that of base 2, whose argument is rounded: 24 · 2^-24 of the result, and a
/// few roundings.
fn tolerance(device: &Device) -> f64 {
    if let Device::Cpu(_) = device { 1e-6 } else { 4e-6 }
}

/// Gates from -24 to 24, so that both flat ends of the sigmoid are met.
fn inputs(seed: u64, length: usize) -> (Vec<f32>, Vec<f32>) {
    let gate = random(seed, length).into_iter().map(|x| 24.0 * x * x * x).collect();
    (gate, random(seed + 1, length))
}

#[test]
fn forward_matches_the_oracle() {
    for device in devices() {
        for length in [1, 17, 1000, 40_001] {
            let (gate, up) = inputs(length as u64, length);
            let mut activation = Buffer::from_slice(&device, &vec![f32::NAN; length]).unwrap();
            let gate_buffer = Buffer::from_slice(&device, &gate).unwrap();
            let up_buffer = Buffer::from_slice(&device, &up).unwrap();
            gated_mlp::forward(&device, gate_buffer.view(), up_buffer.view(), activation.view_mut()).unwrap();
            for ((&actual, &gate), &up) in activation.to_vec().unwrap().iter().zip(&gate).zip(&up) {
                let expected = oracle(f64::from(gate), f64::from(up));
                let error = (f64::from(actual) - expected).abs();
                assert!(
                    error <= tolerance(&device) * expected.abs() + 1e-12,
                    "gate {gate}, up {up}: {actual}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn backward_matches_central_differences_and_restores_the_activation() {
    for device in devices() {
        for length in [1, 17, 301] {
            let (gate, up) = inputs(length as u64, length);
            let d_activation = random(77, length);
            let mut gate_buffer = Buffer::from_slice(&device, &gate).unwrap();
            let mut up_buffer = Buffer::from_slice(&device, &up).unwrap();
            let mut activation = Buffer::from_slice(&device, &d_activation).unwrap();
            gated_mlp::backward(&device, gate_buffer.view_mut(), up_buffer.view_mut(), activation.view_mut())
                .unwrap();
            let (gate, up, d_activation) = (widen(&gate), widen(&up), widen(&d_activation));
            let value = |gate: &[f64], up: &[f64]| -> f64 {
                gate.iter().zip(up).zip(&d_activation).map(|((&gate, &up), d)| oracle(gate, up) * d).sum()
            };
            let d_gate = central_differences(&gate, |gate| value(gate, &up));
            let d_up = central_differences(&up, |up| value(&gate, up));
            let forward: Vec<f64> = gate.iter().zip(&up).map(|(&gate, &up)| oracle(gate, up)).collect();
            assert_close("d_gate", &gate_buffer.to_vec().unwrap(), &d_gate, tolerance(&device));
            assert_close("d_up", &up_buffer.to_vec().unwrap(), &d_up, tolerance(&device));
            assert_close("activation", &activation.to_vec().unwrap(), &forward, tolerance(&device));
        }
    }
}
