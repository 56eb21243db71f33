//! RMSNorm against a f64 oracle, its backward against central differences of the oracle, in f32 and bf16.

use cpift_engine::Real;
use cpift_engine::ops::rms_norm::{self, BackwardInputs, ResidualOutputs, Shape};
use cpift_tests::devices::on_each;
use cpift_tests::in_f32_and_bf16;
use cpift_tests::numeric::{assert_close, central_differences, dot, random, widen};
use cpift_tests::precision::{download, poisoned, random_in, rounded, tolerance, upload};
use cpift_tests::stand_in;

in_f32_and_bf16!(forward_matches_the_oracle, backward_matches_central_differences);

/// The last three without an offset: rows that a GPU kernel shares among a warp, among a block, and some registers of it.
const SHAPES: [Shape; 10] = [
    Shape { rows: 1, hidden: 1, epsilon: 1e-2, weight_offset: 0.0 },
    Shape { rows: 7, hidden: 19, epsilon: 1e-5, weight_offset: 0.0 },
    Shape { rows: 5, hidden: 48, epsilon: 1e-6, weight_offset: 0.0 },
    Shape { rows: 133, hidden: 16, epsilon: 1e-5, weight_offset: 0.0 },
    Shape { rows: 11, hidden: 301, epsilon: 1e-5, weight_offset: 0.0 },
    Shape { rows: 2, hidden: 520, epsilon: 1e-5, weight_offset: 0.0 },
    Shape { rows: 1, hidden: 4099, epsilon: 1e-6, weight_offset: 0.0 },
    Shape { rows: 7, hidden: 19, epsilon: 1e-6, weight_offset: 1.0 },
    Shape { rows: 3, hidden: 136, epsilon: 1e-6, weight_offset: 1.0 },
    Shape { rows: 2, hidden: 520, epsilon: 1e-5, weight_offset: -0.5 },
];

/// (output, inverse_rms).
fn oracle(shape: &Shape, input: &[f64], weight: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut output = Vec::new();
    let mut inverse_rms = Vec::new();
    let offset = f64::from(shape.weight_offset);
    for row in input.chunks(shape.hidden) {
        let mean_square = dot(row, row) / shape.hidden as f64;
        let r = 1.0 / (mean_square + f64::from(shape.epsilon)).sqrt();
        output.extend(row.iter().zip(weight).map(|(x, weight)| x * r * (offset + weight)));
        inverse_rms.push(r);
    }
    (output, inverse_rms)
}

fn forward_matches_the_oracle<T: Real>() {
    for (seed, shape) in (0..).zip(&SHAPES) {
        let elements = shape.rows * shape.hidden;
        let (residual, delta) = (random_in::<T>(seed, elements), random_in::<T>(seed + 100, elements));
        let weight = random_in::<T>(seed + 200, shape.hidden);
        let results = on_each(|device| {
            let (residual, delta) = (upload::<T>(device, &residual), upload(device, &delta));
            let weight = upload(device, &weight);
            let (mut sum, mut output) = (poisoned(device, elements), poisoned(device, elements));
            let mut inverse_rms = poisoned(device, shape.rows);
            let outputs = ResidualOutputs {
                sum: sum.view_mut(),
                output: output.view_mut(),
                inverse_rms: inverse_rms.view_mut(),
            };
            rms_norm::forward_residual(device, shape, residual.view(), delta.view(), weight.view(), outputs)
                .unwrap();
            let (mut plain, mut plain_r) = (poisoned(device, elements), poisoned(device, shape.rows));
            let (plain_view, r_view) = (plain.view_mut(), plain_r.view_mut());
            rms_norm::forward(device, shape, sum.view(), weight.view(), plain_view, r_view).unwrap();
            let with_residual = [download(&output), download(&inverse_rms)];
            assert_eq!(with_residual, [download(&plain), download(&plain_r)], "with and without residual");
            (download(&sum), with_residual)
        });
        let added: Vec<f32> = residual.iter().zip(&delta).map(|(residual, delta)| residual + delta).collect();
        let added = rounded::<T>(&added);
        let (expected, expected_r) = oracle(shape, &widen(&added), &widen(&weight));
        for (_, (sum, [output, inverse_rms])) in results {
            assert_eq!(sum, added);
            assert_close("output", &output, &expected, tolerance::<T>(1e-6, 1.0));
            assert_close("inverse_rms", &inverse_rms, &expected_r, 1e-6);
        }
    }
}

fn backward_matches_central_differences<T: Real>() {
    for (seed, shape) in (0..).zip(&SHAPES) {
        let elements = shape.rows * shape.hidden;
        let input = random_in::<T>(seed, elements);
        let weight = random_in::<T>(seed + 100, shape.hidden);
        let d_output = random_in::<T>(seed + 200, elements);
        let before_input = random_in::<T>(seed + 300, elements);
        let before_weight = random(seed + 400, shape.hidden);
        let (_, r) = oracle(shape, &widen(&input), &widen(&weight));
        let r: Vec<f32> = r.into_iter().map(|r| r as f32).collect();
        let results = on_each(|device| {
            let mut d_input = upload::<T>(device, &before_input);
            let mut d_weight = upload(device, &before_weight);
            let (input, weight, r) = (upload(device, &input), upload(device, &weight), upload(device, &r));
            let saved = BackwardInputs { input: input.view(), weight: weight.view(), inverse_rms: r.view() };
            let d_output = upload(device, &d_output);
            let gradients = (d_input.view_mut(), d_weight.view_mut());
            rms_norm::backward(device, shape, saved, d_output.view(), gradients.0, gradients.1).unwrap();
            [download(&d_input), download(&d_weight)]
        });
        let (x, w, d) = (widen(&input), widen(&weight), widen(&d_output));
        let add = |before: &[f32], gradient: Vec<f64>| -> Vec<f64> {
            before.iter().zip(gradient).map(|(&before, gradient)| f64::from(before) + gradient).collect()
        };
        let by_input = central_differences(&x, |x| dot(&oracle(shape, x, &w).0, &d));
        let by_weight = central_differences(&w, |w| dot(&oracle(shape, &x, w).0, &d));
        let (expected_input, expected_weight) =
            (add(&before_input, by_input), add(&before_weight, by_weight));
        for (_, [d_input, d_weight]) in results {
            assert_close("d_input", &d_input, &expected_input, tolerance::<T>(2e-6, 1.0));
            // The weight's gradient is f32.
            assert_close("d_weight", &d_weight, &expected_weight, 2e-6);
        }
    }
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &[]);
}
