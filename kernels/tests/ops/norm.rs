//! The gradient's norm against f64, and the factor that clips.

use crate::common::{Buffer, SCHEDULES, bits, random, slice, slice_mut};
use cpift_kernels::emulator::{Emulator, Schedule};
use cpift_kernels::norm::*;
use cpift_kernels::simt::{Bf16, Real};

/// Σ g² over both kernels.
fn squared_norm(schedule: Schedule, gradient: &Buffer<f32>, frozen: Option<&[u32]>) -> f64 {
    let emulator = Emulator::new(schedule);
    let count = gradient.as_slice().len() as u64;
    let mut partials = Buffer::<f64>::poisoned(partial_count(count) as usize);
    let result = match frozen {
        None => norm_squared_partials(&emulator, gradient.read(), partials.write(), count),
        Some(words) => {
            norm_squared_partials_frozen(&emulator, gradient.read(), slice(words), partials.write(), count)
        }
    };
    result.expect("runs");
    add_up(&emulator, &partials)
}

/// The same of a gradient in bf16.
fn squared_norm_bf16(schedule: Schedule, gradient: &Buffer<Bf16>, frozen: Option<&[u32]>) -> f64 {
    let emulator = Emulator::new(schedule);
    let count = gradient.as_slice().len() as u64;
    let mut partials = Buffer::<f64>::poisoned(partial_count(count) as usize);
    let (gradient, target) = (gradient.read(), partials.write());
    let result = match frozen {
        None => norm_squared_partials_bf16(&emulator, gradient, target, count),
        Some(words) => norm_squared_partials_frozen_bf16(&emulator, gradient, slice(words), target, count),
    };
    result.expect("runs");
    add_up(&emulator, &partials)
}

fn add_up(emulator: &Emulator, partials: &Buffer<f64>) -> f64 {
    let mut sum = [f64::NAN];
    let count = partials.as_slice().len() as u32;
    norm_sum_partials(emulator, partials.read(), slice_mut(&mut sum), count).expect("runs");
    sum[0]
}

#[test]
fn squared_norms_are_those_of_f64_and_leave_the_frozen_out() {
    // Nothing; one; less than a block; blocks that go round several times, with ragged ends.
    for count in [0, 1, 1023, 16_384, 70_003_usize] {
        let words: Vec<u32> = (0..count.div_ceil(32) as u64).map(|word| bits(2, word) as u32).collect();
        let mut gradient = random::<f32>(1, count);
        for frozen in [None, Some(&words[..])] {
            let is_frozen =
                |index: usize| frozen.is_some_and(|words| words[index / 32] >> (index % 32) & 1 == 1);
            for index in (0..count).filter(|&index| is_frozen(index)) {
                gradient.as_mut_slice()[index] = f32::NAN;
            }
            let values = gradient.as_slice().iter().enumerate().filter(|&(index, _)| !is_frozen(index));
            let expected: f64 = values.map(|(_, &value)| f64::from(value).powi(2)).sum();
            let results = SCHEDULES.map(|schedule| squared_norm(schedule, &gradient, frozen));
            assert!(results.iter().all(|result| result.to_bits() == results[0].to_bits()));
            // 7·10^4 additions in f64.
            assert!((results[0] - expected).abs() <= 1e-12 * expected, "{count}: {} {expected}", results[0]);
            // In bf16 the same as of the values that are stored.
            let rounded: Vec<Bf16> = gradient.as_slice().iter().copied().map(Bf16::from_f32).collect();
            let widened: Vec<f32> = rounded.iter().map(|value| value.to_f32()).collect();
            let (rounded, widened) = (Buffer::from_slice(&rounded), Buffer::from_slice(&widened));
            for schedule in SCHEDULES {
                let expected = squared_norm(schedule, &widened, frozen);
                assert_eq!(squared_norm_bf16(schedule, &rounded, frozen).to_bits(), expected.to_bits());
            }
        }
    }
}

#[test]
fn nothing_overflows_and_what_is_not_finite_shows() {
    let mut gradient = Buffer::from_slice(&vec![f32::MAX; 5000]);
    assert!(squared_norm(Schedule::Forward, &gradient, None).is_finite());
    gradient.as_mut_slice()[4999] = f32::NEG_INFINITY;
    assert_eq!(squared_norm(Schedule::Forward, &gradient, None), f64::INFINITY);
    gradient.as_mut_slice()[17] = f32::NAN;
    assert!(squared_norm(Schedule::Forward, &gradient, None).is_nan());
}

#[test]
fn partial_sums_are_added_up() {
    // Beyond one for each thread of the block.
    let partials: Vec<f64> = (0..1500).map(|index| bits(3, index) as f64 / 2f64.powi(64)).collect();
    let expected: f64 = partials.iter().sum();
    let results = SCHEDULES.map(|schedule| {
        let mut sum = [f64::NAN];
        norm_sum_partials(&Emulator::new(schedule), slice(&partials), slice_mut(&mut sum), 1500)
            .expect("runs");
        sum[0]
    });
    assert!(results.iter().all(|result| result.to_bits() == results[0].to_bits()));
    assert!((results[0] - expected).abs() < 1e-12 * expected, "{} {expected}", results[0]);
}

#[test]
fn partial_sums_do_not_depend_on_the_device() {
    assert_eq!(partial_count(0), 1);
    assert_eq!(partial_count(16_384), 1);
    assert_eq!(partial_count(16_385), 2);
    assert_eq!(partial_count(1 << 40), 2048);
}

#[test]
fn clipping_is_that_of_pytorch_and_passes_on_what_is_not_finite() {
    let scale = |squared: f64, maximum, unscale| {
        let mut scale = [-1.0];
        let emulator = Emulator::new(Schedule::Forward);
        norm_clip_scale(&emulator, slice(&[squared]), slice_mut(&mut scale), maximum, unscale).expect("runs");
        scale[0]
    };
    assert_eq!(scale(0.25, 1.0, 1.0), 1.0);
    assert_eq!(scale(16.0, 1.0, 1.0), (1.0 / (4.0 + 1e-6)) as f32);
    // Half the gradient has norm 2, and is to have 1.
    assert_eq!(scale(16.0, 1.0, 0.5), (0.5 / (2.0 + 1e-6)) as f32);
    assert_eq!(scale(0.0, 1.0, 0.125), 0.125);
    assert_eq!(scale(1e300, f64::INFINITY, 0.125), 0.125);
    for squared in [f64::NAN, f64::INFINITY] {
        assert!(scale(squared, 1.0, 1.0).is_nan());
        assert!(scale(squared, f64::INFINITY, 1.0).is_nan());
    }
    let refused = norm_clip_scale(
        &Emulator::new(Schedule::Forward),
        slice(&[1.0]),
        slice_mut(&mut [0.0]),
        f64::NAN,
        1.0,
    );
    let message = refused.expect_err("a maximum that is no number").to_string();
    assert!(
        message.contains("requires maximum > 0.0; its numbers are maximum = NaN, unscale = 1"),
        "{message}"
    );
}
