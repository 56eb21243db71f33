//! Products with a number, whose every result is a rounding from the exact one, and the soft cap of logits.

use cpift_engine::Real;
use cpift_engine::ops::{scale, softcap};
use cpift_tests::devices::{devices, on_each};
use cpift_tests::in_f32_and_bf16;
use cpift_tests::numeric::{assert_close, central_differences, dot, random, widen};
use cpift_tests::precision::{download, poisoned, random_in, tolerance, upload};
use cpift_tests::stand_in;

in_f32_and_bf16!(products_match_the_oracle_and_gradients_central_differences);

const FACTOR: f32 = 0.2375;

fn products_match_the_oracle_and_gradients_central_differences<T: Real>() {
    for length in [1, 17, 1000, 70_001] {
        let (residual, x) = (random_in::<T>(1, length), random_in::<T>(2, length));
        let results = on_each(|device| {
            let (residual, mut x) = (upload::<T>(device, &residual), upload(device, &x));
            let (mut y, mut sum) = (poisoned(device, length), poisoned(device, length));
            scale::forward(device, FACTOR, x.view(), y.view_mut()).unwrap();
            scale::add(device, residual.view(), FACTOR, x.view(), sum.view_mut()).unwrap();
            scale::forward_in_place(device, FACTOR, x.view_mut()).unwrap();
            assert_eq!(download(&x), download(&y), "in place and not");
            [download(&y), download(&sum)]
        });
        let factor = f64::from(FACTOR);
        let oracle = |residual: &[f64], x: &[f64]| -> Vec<f64> {
            residual.iter().zip(x).map(|(residual, x)| residual + factor * x).collect()
        };
        let (zeros, residual, x) = (vec![0.0; length], widen(&residual), widen(&x));
        for (_, [y, sum]) in &results {
            assert_close("y", y, &oracle(&zeros, &x), tolerance::<T>(1e-7, 1.0));
            assert_close("sum", sum, &oracle(&residual, &x), tolerance::<T>(1e-7, 1.0));
        }
        // The gradient of delta, for d_sum: the product again.
        if length < 100 {
            let d_sum = x;
            let d_delta = central_differences(&zeros, |delta| dot(&oracle(&residual, delta), &d_sum));
            for (_, [y, _]) in &results {
                assert_close("d_delta", y, &d_delta, tolerance::<T>(1e-7, 1.0));
            }
        }
    }
}

#[test]
fn logits_are_capped() {
    for device in devices() {
        for length in [1, 17, 40_001] {
            let logits: Vec<f32> = random(1, length).into_iter().map(|x| 200.0 * x.powi(5)).collect();
            let mut capped = upload::<f32>(&device, &logits);
            softcap::in_place(&device, 30.0, capped.view_mut()).unwrap();
            for (x, y) in widen(&logits).into_iter().zip(download(&capped)) {
                let expected = 30.0 * (x / 30.0).tanh();
                assert!((f64::from(y) - expected).abs() <= 6e-7 * expected.abs(), "{x}: {y}, not {expected}");
            }
        }
        let error = softcap::in_place(&device, 0.0, upload::<f32>(&device, &[1.0]).view_mut()).unwrap_err();
        assert!(error.to_string().contains("a soft cap of 0 is not"), "{error}");
    }
}

#[test]
fn lengths_that_differ_are_errors() {
    for device in devices() {
        let (x, mut y) = (upload::<f32>(&device, &[1.0; 3]), upload::<f32>(&device, &[1.0; 2]));
        assert!(scale::forward(&device, FACTOR, x.view(), y.view_mut()).is_err());
        assert!(scale::add(&device, x.view(), FACTOR, x.view(), y.view_mut()).is_err());
    }
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &[]);
}
