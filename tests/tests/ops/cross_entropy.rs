//! The fused LM head and cross-entropy against their f64 oracle, in f32 and bf16.

use std::num::NonZeroUsize;

use cpift_engine::ops::cross_entropy::{
    Gradients, IGNORE, Inputs, Shape, Workspace, forward, forward_backward,
};
use cpift_engine::{Device, Indices, Real, bf16};
use cpift_tests::devices::{devices, emulated, gpus};
use cpift_tests::numeric::{assert_close, central_differences, random, random_below, widen};
use cpift_tests::precision::{download, poisoned, random_in, tolerance, upload};
use cpift_tests::stand_in;
use cpift_tests::{in_f32_and_bf16, oracle};

in_f32_and_bf16!(
    losses_match_the_oracle,
    gradients_match_central_differences,
    ignored_rows_have_neither_loss_nor_gradient,
    nan_shows_in_the_loss,
    bits_do_not_depend_on_the_run_the_threads_the_schedule_or_the_workspace,
);

const SCALE: f32 = 0.037;

struct Case {
    device: Device,
    shape: Shape,
    hidden: Vec<f32>,
    head: Vec<f32>,
    targets: Vec<u32>,
    d_head_start: Vec<f32>,
}

#[derive(Debug, PartialEq)]
struct Results {
    losses: Vec<f32>,
    d_hidden: Vec<f32>,
    d_head: Vec<f32>,
}

impl Case {
    /// About a third of the rows has no target.
    fn new<T: Real>((rows, hidden, vocabulary): (usize, usize, usize), device: &Device) -> Self {
        let mut targets = random_below(3, rows, vocabulary as u32);
        for (target, dice) in targets.iter_mut().zip(random_below(4, rows, 3)) {
            if dice == 0 {
                *target = IGNORE;
            }
        }
        Self {
            device: device.clone(),
            shape: Shape { rows, hidden, vocabulary, softcap: None },
            hidden: random_in::<T>(1, rows * hidden).iter().map(|value| value * 4.0).collect(),
            head: random_in::<T>(2, vocabulary * hidden),
            targets,
            d_head_start: random(5, vocabulary * hidden),
        }
    }

    fn oracle_losses(&self, hidden: &[f64], head: &[f64]) -> Vec<f64> {
        let targets: Vec<_> =
            self.targets.iter().map(|&target| (target != IGNORE).then_some(target as usize)).collect();
        let softcap = self.shape.softcap.map(f64::from);
        oracle::cross_entropy::forward(self.shape.hidden, softcap, hidden, head, &targets)
    }

    fn losses<T: Real>(&self, workspace: &mut Workspace<T>) -> Vec<f32> {
        let (hidden, head) = (upload(&self.device, &self.hidden), upload(&self.device, &self.head));
        let targets = Indices::from_slice(&self.device, &self.targets).unwrap();
        let mut losses = poisoned(&self.device, self.shape.rows);
        let inputs = Inputs { hidden: hidden.view(), head: head.view(), targets: targets.view() };
        forward(&self.device, &self.shape, inputs, workspace, losses.view_mut()).unwrap();
        download(&losses)
    }

    fn run<T: Real>(&self, workspace: &mut Workspace<T>) -> Results {
        let (hidden, head) = (upload(&self.device, &self.hidden), upload(&self.device, &self.head));
        let targets = Indices::from_slice(&self.device, &self.targets).unwrap();
        let mut losses = poisoned(&self.device, self.shape.rows);
        let mut d_hidden = poisoned(&self.device, self.hidden.len());
        let mut d_head = upload(&self.device, &self.d_head_start);
        let inputs = Inputs { hidden: hidden.view(), head: head.view(), targets: targets.view() };
        let gradients = Gradients { d_hidden: d_hidden.view_mut(), d_head: d_head.view_mut() };
        forward_backward(&self.device, &self.shape, inputs, SCALE, workspace, losses.view_mut(), gradients)
            .unwrap();
        Results { losses: download(&losses), d_hidden: download(&d_hidden), d_head: download(&d_head) }
    }

    fn workspace<T: Real>(&self) -> Workspace<T> {
        Workspace::new(&self.device, &self.shape).unwrap()
    }

    /// For two rows at once.
    fn small_workspace<T: Real>(&self) -> Workspace<T> {
        Workspace::with_chunk_rows(&self.device, &self.shape, 2).unwrap()
    }
}

fn cpu(threads: usize) -> Device {
    Device::cpu(NonZeroUsize::new(threads)).unwrap()
}

fn losses_match_the_oracle<T: Real>() {
    let small = [(1, 1, 1), (1, 8, 300), (7, 33, 50)];
    // In one schedule: in which one does not show in the bits, says another test.
    let large = [(64, 16, 2048), (5, 24, 3001)];
    let small = devices().into_iter().flat_map(|device| small.map(|sizes| (device.clone(), sizes)));
    let once = [cpu(2)].into_iter().chain(gpus());
    let large = once.flat_map(|device| large.map(|sizes| (device.clone(), sizes)));
    for (device, sizes) in small.chain(large) {
        for softcap in [None, Some(3.0)] {
            check_losses::<T>(sizes, softcap, &device);
        }
    }
}

#[test]
fn losses_of_several_chunks_match_the_oracle() {
    check_losses::<f32>((300, 8, 70_001), None, &cpu(2));
}

fn check_losses<T: Real>(sizes: (usize, usize, usize), softcap: Option<f32>, device: &Device) {
    let mut case = Case::new::<T>(sizes, device);
    case.shape.softcap = softcap;
    let expected = case.oracle_losses(&widen(&case.hidden), &widen(&case.head));
    let forward = case.losses::<T>(&mut case.workspace());
    let both = case.run::<T>(&mut case.small_workspace()).losses;
    for (row, &expected) in expected.iter().enumerate() {
        for actual in [forward[row], both[row]] {
            let error = (f64::from(actual) - expected).abs();
            assert!(
                error <= 2e-6 * expected.abs() + 1e-6,
                "{sizes:?} cap {softcap:?} row {row}: {actual}, expected {expected}"
            );
        }
    }
}

fn gradients_match_central_differences<T: Real>() {
    let sizes = [(1, 1, 2), (1, 8, 30), (7, 5, 50), (12, 3, 17)];
    for (sizes, softcap) in sizes.into_iter().flat_map(|sizes| [None, Some(3.0)].map(|cap| (sizes, cap))) {
        let mut case = Case::new::<T>(sizes, &cpu(2));
        case.shape.softcap = softcap;
        let (hidden, head) = (widen(&case.hidden), widen(&case.head));
        let loss = |hidden: &[f64], head: &[f64]| {
            f64::from(SCALE) * case.oracle_losses(hidden, head).iter().sum::<f64>()
        };
        let d_hidden = central_differences(&hidden, |hidden| loss(hidden, &head));
        let d_head = central_differences(&head, |head| loss(&hidden, head));
        let d_head: Vec<f64> =
            d_head.iter().zip(&case.d_head_start).map(|(d, s)| d + f64::from(*s)).collect();
        // d_logits and d_hidden are rounded, logits are not.
        let roundings = 2.0;
        for device in devices() {
            let mut case = Case::new::<T>(sizes, &device);
            case.shape.softcap = softcap;
            for mut workspace in [case.workspace(), case.small_workspace()] {
                let results = case.run::<T>(&mut workspace);
                let (d_hidden_allowed, d_head_allowed) =
                    (tolerance::<T>(5e-6, roundings), tolerance::<T>(1e-6, roundings));
                assert_close(
                    &format!("d_hidden of {sizes:?} cap {softcap:?}"),
                    &results.d_hidden,
                    &d_hidden,
                    d_hidden_allowed,
                );
                assert_close(
                    &format!("d_head of {sizes:?} cap {softcap:?}"),
                    &results.d_head,
                    &d_head,
                    d_head_allowed,
                );
            }
        }
    }
}

/// Logits of up to 20, rounded to bf16, would move losses by hundredths: the products leave them in f32.
#[test]
fn losses_in_bf16_are_those_of_unrounded_logits() {
    let [device, ..] = emulated();
    let mut case = Case::new::<bf16>((24, 64, 512), &device);
    case.targets = random_below(3, 24, 512);
    let (hidden, head) = (widen(&case.hidden), widen(&case.head));
    let expected = case.oracle_losses(&hidden, &head);
    let logits = oracle::linear::forward(64, &hidden, &head, None);
    let of_rounded = |(row, &target): (usize, &u32)| {
        let rounded: Vec<f64> =
            logits[row * 512..][..512].iter().map(|&x| bf16::from_f64(x).to_f64()).collect();
        rounded.iter().map(|logit| logit.exp()).sum::<f64>().ln() - rounded[target as usize]
    };
    let rounded: Vec<f64> = case.targets.iter().enumerate().map(of_rounded).collect();
    let largest_error = |losses: &[f64]| {
        losses.iter().zip(&expected).map(|(loss, expected)| (loss - expected).abs()).fold(0.0, f64::max)
    };
    let actual = widen(&case.losses::<bf16>(&mut case.workspace()));
    let (error, rounding) = (largest_error(&actual), largest_error(&rounded));
    assert!(
        rounding > 0.005 && error < 2e-5,
        "off by {error:e}; rounded logits would be off by {rounding:e}"
    );
}

/// Over several chunks: the gradient against a difference along one random direction.
#[test]
fn gradients_of_several_chunks_match_directional_differences() {
    let mut case = Case::new::<f32>((300, 8, 70_001), &cpu(2));
    case.d_head_start.fill(0.0);
    let (hidden, head) = (widen(&case.hidden), widen(&case.head));
    let results = case.run::<f32>(&mut case.workspace());
    let directions = [widen(&random(8, hidden.len())), widen(&random(9, head.len()))];
    let moved = |values: &[f64], direction: &[f64], step: f64| -> Vec<f64> {
        values.iter().zip(direction).map(|(value, d)| value + step * d).collect()
    };
    let slopes = [
        central_differences(&[0.0], |step| {
            case.oracle_losses(&moved(&hidden, &directions[0], step[0]), &head).iter().sum()
        }),
        central_differences(&[0.0], |step| {
            case.oracle_losses(&hidden, &moved(&head, &directions[1], step[0])).iter().sum()
        }),
    ];
    for (gradient, (direction, slope)) in
        [results.d_hidden, results.d_head].iter().zip(directions.iter().zip(slopes))
    {
        let along: f64 = gradient.iter().zip(direction).map(|(g, d)| f64::from(*g) * d).sum();
        let expected = slope[0] * f64::from(SCALE);
        assert!((along / expected - 1.0).abs() < 1e-5, "{along}, expected {expected}");
    }
}

fn ignored_rows_have_neither_loss_nor_gradient<T: Real>() {
    for device in devices() {
        let mut case = Case::new::<T>((9, 12, 40), &device);
        case.targets[..8].fill(IGNORE);
        case.targets[8] = 39;
        // What an ignored row holds does not matter, not even NaN.
        case.hidden[..12].fill(f32::NAN);
        let results = case.run::<T>(&mut case.workspace());
        assert!(results.losses[..8].iter().all(|&loss| loss == 0.0) && results.losses[8] > 0.0);
        assert!(results.d_hidden[..96].iter().all(|&value| value == 0.0));
        assert!(results.d_hidden[96..].iter().all(|&value| value != 0.0 && value.is_finite()));

        case.targets.fill(IGNORE);
        let results = case.run::<T>(&mut case.workspace());
        assert_eq!(results.d_head, case.d_head_start);
        assert!(results.losses.iter().chain(&results.d_hidden).all(|&value| value == 0.0));
    }
}

fn bits_do_not_depend_on_the_run_the_threads_the_schedule_or_the_workspace<T: Real>() {
    let sizes = (70, 33, 1001);
    let alone = Case::new::<T>(sizes, &cpu(1));
    let expected = alone.run::<T>(&mut alone.workspace());
    for threads in [1, 2, 3] {
        check_bits::<T>(&Case::new::<T>(sizes, &cpu(threads)), &expected);
    }
    let sizes = (40, 9, 501);
    let [device, others @ ..] = emulated();
    let case = Case::new::<T>(sizes, &device);
    let expected = case.run::<T>(&mut case.workspace());
    for device in others {
        check_bits::<T>(&Case::new::<T>(sizes, &device), &expected);
    }
}

fn check_bits<T: Real>(case: &Case, expected: &Results) {
    let larger = Shape { rows: 200, ..case.shape };
    let mut workspace = Workspace::new(&case.device, &larger).unwrap();
    assert_eq!(case.run::<T>(&mut workspace), *expected, "on {}", case.device.describe());
    assert_eq!(case.run::<T>(&mut workspace), *expected, "on {}, used again", case.device.describe());
}

fn nan_shows_in_the_loss<T: Real>() {
    for device in devices() {
        let mut case = Case::new::<T>((3, 20, 100), &device);
        case.targets = vec![5, 6, 7];
        case.head[50 * 20 + 3] = f32::NAN;
        assert!(case.losses::<T>(&mut case.workspace()).iter().all(|loss| loss.is_nan()));
    }
}

#[test]
fn bad_input_is_an_error() {
    let mut case = Case::new::<f32>((3, 4, 10), &cpu(1));
    case.targets = vec![1, 10, IGNORE];
    let (hidden, head) = (upload::<f32>(&case.device, &case.hidden), upload(&case.device, &case.head));
    let targets = Indices::from_slice(&case.device, &case.targets).unwrap();
    let mut losses = upload(&case.device, &[0.0; 3]);
    let inputs = Inputs { hidden: hidden.view(), head: head.view(), targets: targets.view() };
    let mut workspace = case.workspace();
    let error = forward(&case.device, &case.shape, inputs, &mut workspace, losses.view_mut()).unwrap_err();
    assert_eq!(error.to_string(), "cross_entropy forward: row 1: target 10 is outside the vocabulary of 10");

    let smaller = Shape { rows: 2, ..case.shape };
    let mut workspace = Workspace::new(&case.device, &smaller).unwrap();
    let error = forward(&case.device, &case.shape, inputs, &mut workspace, losses.view_mut()).unwrap_err();
    assert!(error.to_string().contains("is too small"), "{error}");

    let negative = Shape { softcap: Some(-30.0), ..case.shape };
    let error = forward(&case.device, &negative, inputs, &mut workspace, losses.view_mut()).unwrap_err();
    assert!(error.to_string().contains("a soft cap of -30 is not"), "{error}");
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &["_match_central", "losses_match", "ignored", "nan"]);
}
