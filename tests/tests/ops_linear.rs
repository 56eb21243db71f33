//! The linear layer against its f64 oracle.

use std::num::NonZeroUsize;

use cpift_engine::ops::linear::{Shape, backward_input, backward_weight, forward};
use cpift_engine::{Buffer, Device};
use cpift_tests::devices::{devices, emulated};
use cpift_tests::numeric::{assert_close, central_differences, dot, random, widen};
use cpift_tests::oracle;

/// Rows, inputs, outputs: single tokens, sizes that are multiples of nothing, and of tiles.
const SHAPES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (1, 40, 33), (3, 17, 5), (65, 70, 129), (64, 64, 64), (130, 300, 9), (2, 9, 1100)];

struct Case {
    device: Device,
    shape: Shape,
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    d_y: Vec<f32>,
}

impl Case {
    fn new((rows, inputs, outputs): (usize, usize, usize), device: &Device) -> Self {
        Self {
            device: device.clone(),
            shape: Shape { rows, inputs, outputs },
            x: random(1, rows * inputs),
            weight: random(2, outputs * inputs),
            bias: random(3, outputs),
            d_y: random(4, rows * outputs),
        }
    }

    fn buffer(&self, values: &[f32]) -> Buffer<f32> {
        Buffer::from_slice(&self.device, values).unwrap()
    }

    fn forward(&self, with_bias: bool) -> Vec<f32> {
        let (x, weight, bias) = (self.buffer(&self.x), self.buffer(&self.weight), self.buffer(&self.bias));
        let mut y = self.buffer(&vec![f32::NAN; self.d_y.len()]);
        let bias = with_bias.then(|| bias.view());
        forward(&self.device, &self.shape, x.view(), weight.view(), bias, y.view_mut()).unwrap();
        y.to_vec().unwrap()
    }

    fn backward_input(&self, start: &[f32], accumulate: bool) -> Vec<f32> {
        let (d_y, weight, mut d_x) = (self.buffer(&self.d_y), self.buffer(&self.weight), self.buffer(start));
        let d_x_view = d_x.view_mut();
        backward_input(&self.device, &self.shape, d_y.view(), weight.view(), d_x_view, accumulate).unwrap();
        d_x.to_vec().unwrap()
    }

    fn backward_weight(&self, start: &[f32], bias_start: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (d_y, x) = (self.buffer(&self.d_y), self.buffer(&self.x));
        let (mut d_weight, mut d_bias) = (self.buffer(start), self.buffer(bias_start));
        let d_bias_view = Some(d_bias.view_mut());
        let d_weight_view = d_weight.view_mut();
        backward_weight(&self.device, &self.shape, d_y.view(), x.view(), d_weight_view, d_bias_view).unwrap();
        (d_weight.to_vec().unwrap(), d_bias.to_vec().unwrap())
    }
}

fn add(a: &[f64], b: &[f32]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + f64::from(*b)).collect()
}

fn cpu(threads: usize) -> Device {
    Device::cpu(NonZeroUsize::new(threads)).unwrap()
}

#[test]
fn forward_matches_the_oracle() {
    for (device, shape) in devices().iter().flat_map(|device| SHAPES.map(|shape| (device, shape))) {
        let case = Case::new(shape, device);
        let (x, weight, bias) = (widen(&case.x), widen(&case.weight), widen(&case.bias));
        for with_bias in [false, true] {
            let bias = with_bias.then_some(&bias[..]);
            let expected = oracle::linear::forward(case.shape.inputs, &x, &weight, bias);
            assert_close(&format!("y of {shape:?}"), &case.forward(with_bias), &expected, 2e-6);
        }
    }
}

#[test]
fn gradients_match_central_differences() {
    for shape in SHAPES.into_iter().filter(|(rows, inputs, outputs)| rows * inputs * outputs < 5_000) {
        let case = Case::new(shape, &cpu(1));
        let (x, weight, bias) = (widen(&case.x), widen(&case.weight), widen(&case.bias));
        let d_y = widen(&case.d_y);
        let inputs = case.shape.inputs;
        let loss =
            |x: &[f64], w: &[f64], b: &[f64]| dot(&oracle::linear::forward(inputs, x, w, Some(b)), &d_y);
        let d_x = central_differences(&x, |x| loss(x, &weight, &bias));
        let d_weight = central_differences(&weight, |weight| loss(&x, weight, &bias));
        let d_bias = central_differences(&bias, |bias| loss(&x, &weight, bias));

        for device in devices() {
            let case = Case::new(shape, &device);
            let start = random(5, x.len());
            let poisoned = vec![f32::NAN; x.len()];
            assert_close("d_x", &case.backward_input(&poisoned, false), &d_x, 2e-6);
            assert_close("d_x added", &case.backward_input(&start, true), &add(&d_x, &start), 2e-6);

            let (start, bias_start) = (random(6, weight.len()), random(7, bias.len()));
            let (actual, actual_bias) = case.backward_weight(&start, &bias_start);
            assert_close("d_weight", &actual, &add(&d_weight, &start), 2e-6);
            assert_close("d_bias", &actual_bias, &add(&d_bias, &bias_start), 2e-6);
        }
    }
}

#[test]
fn bits_do_not_depend_on_the_run_the_threads_or_the_schedule() {
    for shape in SHAPES {
        let expected = all(&Case::new(shape, &cpu(1)));
        for threads in [1, 2, 3] {
            assert_eq!(all(&Case::new(shape, &cpu(threads))), expected, "{shape:?} with {threads} threads");
        }
        let [forward, others @ ..] = emulated().map(|device| all(&Case::new(shape, &device)));
        assert!(others.iter().all(|other| *other == forward), "{shape:?} by schedule");
    }
}

fn all(case: &Case) -> [Vec<f32>; 4] {
    let (d_weight, d_bias) = case.backward_weight(&random(6, case.weight.len()), &random(7, case.bias.len()));
    [case.forward(true), case.backward_input(&random(5, case.x.len()), true), d_weight, d_bias]
}

#[test]
fn wrong_lengths_are_errors() {
    let case = Case::new((3, 17, 5), &cpu(1));
    let (x, weight) = (case.buffer(&case.x), case.buffer(&case.weight));
    let mut y = case.buffer(&case.d_y[1..]);
    let error = forward(&case.device, &case.shape, x.view(), weight.view(), None, y.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "linear forward: `y` has 14 elements, expected 15");
}
