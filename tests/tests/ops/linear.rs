//! The linear layer against its f64 oracle, in f32 and bf16.

use std::num::NonZeroUsize;

use cpift_engine::ops::linear::{Shape, backward_input, backward_weight, forward};
use cpift_engine::{Device, Real, bf16};
use cpift_kernels::emulator::Schedule;
use cpift_tests::devices::{emulated, gpus, on_each};
use cpift_tests::numeric::{assert_close, central_differences, dot, random, widen};
use cpift_tests::precision::{download, poisoned, random_in, tolerance, upload};
use cpift_tests::stand_in;
use cpift_tests::{in_f32_and_bf16, oracle};

in_f32_and_bf16!(
    forward_matches_the_oracle,
    gradients_match_central_differences,
    bits_do_not_depend_on_the_run_the_threads_or_the_schedule,
);

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
    fn new<T: Real>((rows, inputs, outputs): (usize, usize, usize), device: &Device) -> Self {
        Self {
            device: device.clone(),
            shape: Shape { rows, inputs, outputs },
            x: random_in::<T>(1, rows * inputs),
            weight: random_in::<T>(2, outputs * inputs),
            bias: random_in::<T>(3, outputs),
            d_y: random_in::<T>(4, rows * outputs),
        }
    }

    fn forward<T: Real>(&self, with_bias: bool) -> Vec<f32> {
        let buffer = |values: &[f32]| upload::<T>(&self.device, values);
        let (x, weight, bias) = (buffer(&self.x), buffer(&self.weight), buffer(&self.bias));
        let mut y = poisoned(&self.device, self.d_y.len());
        let bias = with_bias.then(|| bias.view());
        forward(&self.device, &self.shape, x.view(), weight.view(), bias, y.view_mut()).unwrap();
        download(&y)
    }

    fn backward_input<T: Real>(&self, start: &[f32], accumulate: bool) -> Vec<f32> {
        let buffer = |values: &[f32]| upload::<T>(&self.device, values);
        let (d_y, weight, mut d_x) = (buffer(&self.d_y), buffer(&self.weight), buffer(start));
        let d_x_view = d_x.view_mut();
        backward_input(&self.device, &self.shape, d_y.view(), weight.view(), d_x_view, accumulate).unwrap();
        download(&d_x)
    }

    fn backward_weight<T: Real>(&self, start: &[f32], bias_start: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (d_y, x) = (upload::<T>(&self.device, &self.d_y), upload::<T>(&self.device, &self.x));
        let (mut d_weight, mut d_bias) = (upload(&self.device, start), upload(&self.device, bias_start));
        let d_bias_view = Some(d_bias.view_mut());
        let d_weight_view = d_weight.view_mut();
        backward_weight(&self.device, &self.shape, d_y.view(), x.view(), d_weight_view, d_bias_view).unwrap();
        (download(&d_weight), download(&d_bias))
    }
}

fn add(a: &[f64], b: &[f32]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + f64::from(*b)).collect()
}

fn cpu(threads: usize) -> Device {
    Device::cpu(NonZeroUsize::new(threads)).unwrap()
}

fn forward_matches_the_oracle<T: Real>() {
    for shape in SHAPES {
        let case = Case::new::<T>(shape, &cpu(1));
        let (x, weight, bias) = (widen(&case.x), widen(&case.weight), widen(&case.bias));
        for with_bias in [false, true] {
            let bias = with_bias.then_some(&bias[..]);
            let expected = oracle::linear::forward(case.shape.inputs, &x, &weight, bias);
            for (_, y) in on_each(|device| Case::new::<T>(shape, device).forward::<T>(with_bias)) {
                assert_close(&format!("y of {shape:?}"), &y, &expected, tolerance::<T>(2e-6, 1.0));
            }
        }
    }
}

fn gradients_match_central_differences<T: Real>() {
    for shape in SHAPES.into_iter().filter(|(rows, inputs, outputs)| rows * inputs * outputs < 5_000) {
        let case = Case::new::<T>(shape, &cpu(1));
        let (x, weight, bias) = (widen(&case.x), widen(&case.weight), widen(&case.bias));
        let d_y = widen(&case.d_y);
        let inputs = case.shape.inputs;
        let loss =
            |x: &[f64], w: &[f64], b: &[f64]| dot(&oracle::linear::forward(inputs, x, w, Some(b)), &d_y);
        let d_x = central_differences(&x, |x| loss(x, &weight, &bias));
        let d_weight = central_differences(&weight, |weight| loss(&x, weight, &bias));
        let d_bias = central_differences(&bias, |bias| loss(&x, &weight, bias));

        let (poison, start) = (vec![f32::NAN; x.len()], random_in::<T>(5, x.len()));
        let (weight_start, bias_start) = (random(6, weight.len()), random(7, bias.len()));
        let results = on_each(|device| {
            let case = Case::new::<T>(shape, device);
            let inputs = [case.backward_input::<T>(&poison, false), case.backward_input::<T>(&start, true)];
            (inputs, case.backward_weight::<T>(&weight_start, &bias_start))
        });
        for (_, ([overwritten, added], (actual, actual_bias))) in results {
            assert_close("d_x", &overwritten, &d_x, tolerance::<T>(2e-6, 1.0));
            assert_close("d_x added", &added, &add(&d_x, &start), tolerance::<T>(2e-6, 1.0));
            // Gradients of parameters are f32.
            assert_close("d_weight", &actual, &add(&d_weight, &weight_start), 2e-6);
            assert_close("d_bias", &actual_bias, &add(&d_bias, &bias_start), 2e-6);
        }
    }
}

fn bits_do_not_depend_on_the_run_the_threads_or_the_schedule<T: Real>() {
    for shape in SHAPES {
        let on = |device: &Device| all::<T>(&Case::new::<T>(shape, device));
        let expected = on(&cpu(1));
        for threads in [1, 2, 3] {
            assert_eq!(on(&cpu(threads)), expected, "{shape:?} with {threads} threads");
        }
        let [forward, others @ ..] = emulated().map(|device| on(&device));
        assert!(others.iter().all(|other| *other == forward), "{shape:?} by schedule");
    }
}

fn all<T: Real>(case: &Case) -> [Vec<f32>; 4] {
    let (d_weight, d_bias) =
        case.backward_weight::<T>(&random(6, case.weight.len()), &random(7, case.bias.len()));
    let start = random_in::<T>(5, case.x.len());
    [case.forward::<T>(true), case.backward_input::<T>(&start, true), d_weight, d_bias]
}

/// In bf16 against the CPU in f32, on the same values.
fn agrees_with_the_cpu(device: &Device, shape: (usize, usize, usize)) {
    let (case, exact) = (Case::new::<bf16>(shape, device), Case::new::<bf16>(shape, &cpu(2)));
    let what = |what: &str| format!("{what} of {shape:?} on {}", device.name());
    let expected = widen(&exact.forward::<f32>(true));
    assert_close(&what("y"), &case.forward::<bf16>(true), &expected, tolerance::<bf16>(1e-5, 1.0));
    let nothing = vec![f32::NAN; case.x.len()];
    let expected = widen(&exact.backward_input::<f32>(&nothing, false));
    let d_x = case.backward_input::<bf16>(&nothing, false);
    assert_close(&what("d_x"), &d_x, &expected, tolerance::<bf16>(1e-5, 1.0));
    let (weight, bias) = (random(6, case.weight.len()), random(7, case.bias.len()));
    let (expected, expected_bias) = exact.backward_weight::<f32>(&weight, &bias);
    let (d_weight, d_bias) = case.backward_weight::<bf16>(&weight, &bias);
    assert_close(&what("d_weight"), &d_weight, &widen(&expected), 1e-5);
    assert_close(&what("d_bias"), &d_bias, &widen(&expected_bias), 1e-5);
}

/// Sizes for which the kernels of compute capability 9.0 are chosen on the emulator in all three directions, and
/// sizes for which they, or the large tiles of other kernels, are on a GPU.
#[test]
fn large_tiles_agree_with_the_cpu() {
    let hopper = Device::emulated_like(Schedule::Shuffled(17), (9, 0));
    assert_eq!(Device::from_name("emulated:9.0", None).unwrap().name(), hopper.name());
    for shape in [(130, 136, 264), (256, 8, 512)] {
        agrees_with_the_cpu(&hopper, shape);
    }
    for device in gpus().iter().filter(|device| !device.name().starts_with("emulated")) {
        for shape in [(1416, 1400, 1480), (4096, 512, 2048)] {
            agrees_with_the_cpu(device, shape);
        }
    }
}

#[test]
fn wrong_lengths_are_errors() {
    let case = Case::new::<f32>((3, 17, 5), &cpu(1));
    let (x, weight) = (upload::<f32>(&case.device, &case.x), upload(&case.device, &case.weight));
    let mut y = upload(&case.device, &case.d_y[1..]);
    let error = forward(&case.device, &case.shape, x.view(), weight.view(), None, y.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "linear forward: `y` has 14 elements, expected 15");
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &["forward", "gradients", "wrong_lengths"]);
}
