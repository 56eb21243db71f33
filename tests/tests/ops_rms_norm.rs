//! RMSNorm against a f64 oracle, its backward against central differences of the oracle.

use cpift_engine::Buffer;
use cpift_engine::ops::rms_norm::{self, ResidualOutputs, Saved, Shape};
use cpift_tests::devices::devices;
use cpift_tests::numeric::{assert_close, central_differences, dot, random, widen};

/// The last three: rows that a GPU kernel shares among a warp, among a block, and some registers of it.
const SHAPES: [Shape; 7] = [
    Shape { rows: 1, hidden: 1, epsilon: 1e-2 },
    Shape { rows: 7, hidden: 19, epsilon: 1e-5 },
    Shape { rows: 5, hidden: 48, epsilon: 1e-6 },
    Shape { rows: 133, hidden: 16, epsilon: 1e-5 },
    Shape { rows: 11, hidden: 301, epsilon: 1e-5 },
    Shape { rows: 2, hidden: 520, epsilon: 1e-5 },
    Shape { rows: 1, hidden: 4099, epsilon: 1e-6 },
];

/// (output, inverse_rms).
fn oracle(shape: &Shape, input: &[f64], weight: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut output = Vec::new();
    let mut inverse_rms = Vec::new();
    for row in input.chunks(shape.hidden) {
        let mean_square = dot(row, row) / shape.hidden as f64;
        let r = 1.0 / (mean_square + f64::from(shape.epsilon)).sqrt();
        output.extend(row.iter().zip(weight).map(|(x, weight)| x * r * weight));
        inverse_rms.push(r);
    }
    (output, inverse_rms)
}

#[test]
fn forward_matches_the_oracle() {
    for device in devices() {
        for (seed, shape) in (0..).zip(&SHAPES) {
            let elements = shape.rows * shape.hidden;
            let (residual, delta) = (random(seed, elements), random(seed + 100, elements));
            let weight = random(seed + 200, shape.hidden);
            let weight_buffer = Buffer::from_slice(&device, &weight).unwrap();
            let poisoned = |length: usize| Buffer::from_slice(&device, &vec![f32::NAN; length]).unwrap();
            let (mut sum, mut output) = (poisoned(elements), poisoned(elements));
            let mut inverse_rms = poisoned(shape.rows);
            rms_norm::forward_residual(
                &device,
                shape,
                Buffer::from_slice(&device, &residual).unwrap().view(),
                Buffer::from_slice(&device, &delta).unwrap().view(),
                weight_buffer.view(),
                ResidualOutputs {
                    sum: sum.view_mut(),
                    output: output.view_mut(),
                    inverse_rms: inverse_rms.view_mut(),
                },
            )
            .unwrap();
            let added: Vec<f32> =
                residual.iter().zip(&delta).map(|(residual, delta)| residual + delta).collect();
            assert_eq!(sum.to_vec().unwrap(), added);
            let (expected, expected_r) = oracle(shape, &widen(&added), &widen(&weight));
            assert_close("output", &output.to_vec().unwrap(), &expected, 1e-6);
            assert_close("inverse_rms", &inverse_rms.to_vec().unwrap(), &expected_r, 1e-6);

            let (mut plain, mut plain_r) = (poisoned(elements), poisoned(shape.rows));
            rms_norm::forward(
                &device,
                shape,
                sum.view(),
                weight_buffer.view(),
                plain.view_mut(),
                plain_r.view_mut(),
            )
            .unwrap();
            assert_eq!(
                plain.to_vec().unwrap(),
                output.to_vec().unwrap(),
                "with and without the residual add"
            );
            assert_eq!(plain_r.to_vec().unwrap(), inverse_rms.to_vec().unwrap());
        }
    }
}

#[test]
fn backward_matches_central_differences() {
    for (seed, shape) in (0..).zip(&SHAPES) {
        let elements = shape.rows * shape.hidden;
        let input = random(seed, elements);
        let weight = random(seed + 100, shape.hidden);
        let d_output = random(seed + 200, elements);
        let (before_input, before_weight) = (random(seed + 300, elements), random(seed + 400, shape.hidden));
        let (_, r) = oracle(shape, &widen(&input), &widen(&weight));
        let r: Vec<f32> = r.into_iter().map(|r| r as f32).collect();
        let (x, w, d) = (widen(&input), widen(&weight), widen(&d_output));
        let add = |before: &[f32], gradient: Vec<f64>| -> Vec<f64> {
            before.iter().zip(gradient).map(|(&before, gradient)| f64::from(before) + gradient).collect()
        };
        let by_input = central_differences(&x, |x| dot(&oracle(shape, x, &w).0, &d));
        let by_weight = central_differences(&w, |w| dot(&oracle(shape, &x, w).0, &d));
        let (expected_input, expected_weight) =
            (add(&before_input, by_input), add(&before_weight, by_weight));
        for device in devices() {
            let mut d_input = Buffer::from_slice(&device, &before_input).unwrap();
            let mut d_weight = Buffer::from_slice(&device, &before_weight).unwrap();
            rms_norm::backward(
                &device,
                shape,
                Saved {
                    input: Buffer::from_slice(&device, &input).unwrap().view(),
                    weight: Buffer::from_slice(&device, &weight).unwrap().view(),
                    inverse_rms: Buffer::from_slice(&device, &r).unwrap().view(),
                },
                Buffer::from_slice(&device, &d_output).unwrap().view(),
                d_input.view_mut(),
                d_weight.view_mut(),
            )
            .unwrap();
            assert_close("d_input", &d_input.to_vec().unwrap(), &expected_input, 2e-6);
            assert_close("d_weight", &d_weight.to_vec().unwrap(), &expected_weight, 2e-6);
        }
    }
}
