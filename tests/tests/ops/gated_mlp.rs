//! The gate of the MLP against a f64 oracle, its in-place backward against central differences, in f32 and bf16.

use cpift_engine::ops::gated_mlp::{self, Activation};
use cpift_engine::{Device, Real};
use cpift_tests::devices::on_each;
use cpift_tests::in_f32_and_bf16;
use cpift_tests::numeric::{assert_close, central_differences, widen};
use cpift_tests::precision::{self, download, poisoned, random_in, rounded, upload};
use cpift_tests::stand_in;

in_f32_and_bf16!(
    forward_matches_the_oracle,
    backward_matches_central_differences_and_restores_the_activation
);

const FUNCTIONS: [Activation; 2] = [Activation::Silu, Activation::GeluTanh];

fn oracle(function: Activation, gate: f64, up: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    match function {
        Activation::Silu => gate * sigmoid(gate) * up,
        // 0.5 (1 + tanh(u)) is sigmoid(2u), which does not cancel below 0.
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (gate + 0.044715 * gate.powi(3));
            gate * sigmoid(2.0 * u) * up
        }
    }
}

#[test]
fn the_oracle_of_gelu_is_its_definition() {
    for step in -400..400 {
        let x = f64::from(step) * 0.02;
        let tanh = ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh();
        assert!((oracle(Activation::GeluTanh, x, 1.0) - 0.5 * x * (1.0 + tanh)).abs() < 1e-14);
    }
}

/// On a GPU the exponential is that of base 2, whose argument is rounded: 24 · 2^-24 of the result, and a
/// few roundings. The argument of GELU's is a cubic polynomial, rounded itself: up to 30 where results are above 1e-12,
/// and as often 2^-24 of them. In bf16 the result is rounded once.
fn tolerance<T: Real>(device: &Device, function: Activation) -> f64 {
    let sums = match (device, function) {
        (Device::Cpu(_), Activation::Silu) => 1e-6,
        (Device::Cpu(_), Activation::GeluTanh) | (_, Activation::Silu) => 4e-6,
        (_, Activation::GeluTanh) => 6e-6,
    };
    precision::tolerance::<T>(sums, 1.0)
}

/// Gates from -24 to 24, so that both flat ends of the sigmoid are met.
fn inputs<T: Real>(seed: u64, length: usize) -> (Vec<f32>, Vec<f32>) {
    let gate: Vec<f32> = random_in::<T>(seed, length).into_iter().map(|x| 24.0 * x * x * x).collect();
    (rounded::<T>(&gate), random_in::<T>(seed + 1, length))
}

fn forward_matches_the_oracle<T: Real>() {
    for (length, function) in
        [1, 17, 1000, 40_001].into_iter().flat_map(|length| FUNCTIONS.map(|f| (length, f)))
    {
        let (gate, up) = inputs::<T>(length as u64, length);
        let results = on_each(|device| {
            let (gate, up) = (upload::<T>(device, &gate), upload(device, &up));
            let mut activation = poisoned(device, length);
            gated_mlp::forward(device, function, gate.view(), up.view(), activation.view_mut()).unwrap();
            download(&activation)
        });
        for (device, activation) in results {
            for ((&actual, &gate), &up) in activation.iter().zip(&gate).zip(&up) {
                let expected = oracle(function, f64::from(gate), f64::from(up));
                let error = (f64::from(actual) - expected).abs();
                assert!(
                    error <= tolerance::<T>(&device, function) * expected.abs() + 1e-12,
                    "{function:?} of gate {gate}, up {up}: {actual}, not {expected}"
                );
            }
        }
    }
}

fn backward_matches_central_differences_and_restores_the_activation<T: Real>() {
    for (length, function) in [1, 17, 301].into_iter().flat_map(|length| FUNCTIONS.map(|f| (length, f))) {
        let (gate, up) = inputs::<T>(length as u64, length);
        let d_activation = random_in::<T>(77, length);
        let results = on_each(|device| {
            let (mut gate, mut up) = (upload::<T>(device, &gate), upload(device, &up));
            let mut activation = upload(device, &d_activation);
            gated_mlp::backward(device, function, gate.view_mut(), up.view_mut(), activation.view_mut())
                .unwrap();
            [download(&gate), download(&up), download(&activation)]
        });
        let (gate, up, d_activation) = (widen(&gate), widen(&up), widen(&d_activation));
        let value = |gate: &[f64], up: &[f64]| -> f64 {
            gate.iter()
                .zip(up)
                .zip(&d_activation)
                .map(|((&gate, &up), d)| oracle(function, gate, up) * d)
                .sum()
        };
        let expected_gate = central_differences(&gate, |gate| value(gate, &up));
        let expected_up = central_differences(&up, |up| value(&gate, up));
        let forward: Vec<f64> = gate.iter().zip(&up).map(|(&gate, &up)| oracle(function, gate, up)).collect();
        for (device, [d_gate, d_up, activation]) in results {
            assert_close("d_gate", &d_gate, &expected_gate, tolerance::<T>(&device, function));
            assert_close("d_up", &d_up, &expected_up, tolerance::<T>(&device, function));
            assert_close("activation", &activation, &forward, tolerance::<T>(&device, function));
        }
    }
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &[]);
}
