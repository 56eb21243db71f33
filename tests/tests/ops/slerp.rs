//! SLERP, transplant and subtract against f64 oracles.

use std::f64::consts::PI;
use std::sync::LazyLock;

use cpift_engine::ops::slerp::{Fallback, Options, SegmentReport, slerp};
use cpift_engine::ops::subtract::subtract;
use cpift_engine::ops::transplant::{gather, scatter, transplant};
use cpift_engine::{Buffer, Device, Layout, Mask};
use cpift_tests::devices::devices;
use cpift_tests::flat::{layout, random_mask, slerp_oracle, spread_values};
use cpift_tests::numeric::widen;
use cpift_tests::stand_in;
use proptest::prelude::*;

static DEVICES: LazyLock<Vec<Device>> = LazyLock::new(devices);

fn run(
    device: &Device,
    layout: &Layout,
    (backbone, other, base): (&[f32], &[f32], Option<&[f32]>),
    skip: Option<&Mask>,
    weight: f64,
) -> (Vec<f32>, Vec<SegmentReport>) {
    let mut target = Buffer::from_slice(device, backbone).unwrap();
    let other = Buffer::from_slice(device, other).unwrap();
    let base = base.map(|base| Buffer::from_slice(device, base).unwrap());
    let options = Options { weight, base: base.as_ref().map(|base| base.view()), skip, ..Options::default() };
    let reports = slerp(device, layout, target.view_mut(), other.view(), &options).unwrap();
    (target.to_vec().unwrap(), reports)
}

/// The CPU and, in turns, one of the others: a case on the emulator takes milliseconds.
fn two_devices(seed: u64) -> [&'static Device; 2] {
    let others = DEVICES.len() as u64 - 1;
    [&DEVICES[0], &DEVICES[1 + (seed % others) as usize]]
}

proptest! {
    #[test]
    fn matches_the_oracle(
        lengths in proptest::collection::vec(0..500_usize, 1..5),
        seed in any::<u64>(),
        weight in 0.0..=1.0_f64,
        delta in any::<bool>(),
        masked in any::<bool>(),
    ) {
        let layout = layout(&lengths);
        let backbone = spread_values(&layout, seed);
        let other = spread_values(&layout, seed ^ 1);
        let base = spread_values(&layout, seed ^ 2);
        let mask = random_mask(&layout, seed, 0.3);
        let base_option = delta.then_some(&base[..]);
        for device in two_devices(seed) {
            let mask = mask.clone();
            let (result, reports) =
                run(device, &layout, (&backbone, &other, base_option), masked.then_some(&mask), weight);
            for (segment, report) in layout.segments().iter().zip(reports) {
                let kept: Vec<usize> = segment.range().filter(|&index| !masked || !mask.get(index)).collect();
                let base_at = |index: usize| if delta { f64::from(base[index]) } else { 0.0 };
                let vector = |values: &[f32]| -> Vec<f64> {
                    kept.iter().map(|&index| f64::from(values[index]) - base_at(index)).collect()
                };
                let (angle, expected) = slerp_oracle(&vector(&backbone), &vector(&other), weight);
                // The sums' rounding, divided by the sine: vectors that are parallel, but of very different
                // length, have angles known to 1e-8 only. Their interpolation is linear or as good as.
                let tolerance = 1e-13 / angle.sin().max(1e-6);
                prop_assert!((report.angle - angle).abs() < tolerance, "angle {} expected {angle}", report.angle);
                let from_opposite = PI - angle;
                for (&index, expected) in kept.iter().zip(expected) {
                    // One rounding to f32, and the angle's error where two large terms nearly cancel.
                    let expected = expected + base_at(index);
                    let error = (f64::from(result[index]) - expected).abs();
                    let tolerance = 1e-6 + expected.abs() * 2.0_f64.powi(-24) + 1e-14 / from_opposite.powi(3).max(1e-9);
                    prop_assert!(error < tolerance, "{index}: {} expected {expected}", result[index]);
                }
                for index in segment.range().filter(|index| masked && mask.get(*index)) {
                    prop_assert_eq!(result[index].to_bits(), backbone[index].to_bits());
                }
            }
        }
    }

    #[test]
    fn transplant_copies_the_masked_bits_and_no_others(length in 1..3000_usize, seed in any::<u64>()) {
        let layout = layout(&[length]);
        let mut source = spread_values(&layout, seed);
        // Bit patterns that arithmetic would not keep.
        source[0] = f32::from_bits(0x7fc0_1234);
        source[length - 1] = -0.0;
        let backbone = spread_values(&layout, seed ^ 1);
        let mask = random_mask(&layout, seed, 0.2);
        for device in two_devices(seed) {
            let mask = mask.clone();
            let mut target = Buffer::from_slice(device, &backbone).unwrap();
            let source_buffer = Buffer::from_slice(device, &source).unwrap();
            transplant(device, target.view_mut(), source_buffer.view(), &mask).unwrap();
            for (index, value) in target.to_vec().unwrap().into_iter().enumerate() {
                let expected = if mask.get(index) { source[index] } else { backbone[index] };
                prop_assert_eq!(value.to_bits(), expected.to_bits());
            }

            let mut copy = Buffer::from_slice(device, &backbone).unwrap();
            let values = gather(device, source_buffer.view(), &mask).unwrap();
            prop_assert_eq!(values.len(), mask.count());
            scatter(device, copy.view_mut(), &mask, &values).unwrap();
            let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            prop_assert_eq!(bits(copy.to_vec().unwrap()), bits(target.to_vec().unwrap()));
        }
    }
}

#[test]
fn differences_are_rounded_once() {
    let layout = layout(&[3001, 2]);
    let (left, right) = (spread_values(&layout, 1), spread_values(&layout, 2));
    let pairs = left.iter().zip(&right);
    let expected: Vec<f32> = pairs.map(|(&a, &b)| (f64::from(a) - f64::from(b)) as f32).collect();
    for device in DEVICES.iter() {
        let mut target = Buffer::from_slice(device, &left).unwrap();
        let other = Buffer::from_slice(device, &right).unwrap();
        subtract(device, target.view_mut(), other.view()).unwrap();
        assert_eq!(target.to_vec().unwrap(), expected);
        assert!(subtract(device, target.view_mut(), other.slice(0..64)).is_err());
    }
}

#[test]
fn large_tensors_are_one_vector_each() {
    let layout = layout(&[200_003, 65]);
    let (backbone, other) = (spread_values(&layout, 1), spread_values(&layout, 2));
    let widen = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let range = layout.segments()[0].range();
    let (angle, expected) = slerp_oracle(&widen(&backbone[range.clone()]), &widen(&other[range]), 0.25);
    for device in DEVICES.iter() {
        let (result, reports) = run(device, &layout, (&backbone, &other, None), None, 0.25);
        assert!((reports[0].angle - angle).abs() < 1e-12);
        for (result, expected) in result.iter().zip(&expected) {
            assert!((f64::from(*result) - expected).abs() < 1e-6);
        }
    }
}

#[test]
fn tiny_angles_are_measured() {
    let layout = layout(&[100_000]);
    let backbone = spread_values(&layout, 3);
    let noise = spread_values(&layout, 4);
    for (tilt, stretch) in [(1e-3, 1.0), (1e-5, 1.0), (3e-6, 1.0), (3e-6, 1.01)] {
        let pairs = backbone.iter().zip(&noise);
        let other: Vec<f32> = pairs.map(|(value, noise)| stretch * (value + tilt * noise)).collect();
        let widen = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
        let (angle, _) = slerp_oracle(&widen(&backbone[..100_000]), &widen(&other[..100_000]), 0.5);
        for device in DEVICES.iter() {
            let (_, reports) = run(device, &layout, (&backbone, &other, None), None, 0.5);
            assert!(reports[0].fallback.is_none());
            let error = (reports[0].angle - angle).abs() / angle;
            assert!(error < 1e-5, "angle {} expected {angle}", reports[0].angle);
        }
    }
}

#[test]
fn fallbacks_are_linear_and_reported() {
    let layout = layout(&[70, 70, 70, 70]);
    let backbone = spread_values(&layout, 6);
    let mut other: Vec<f32> = backbone.clone();
    let ranges: Vec<_> = layout.segments().iter().map(|segment| segment.range()).collect();
    other[ranges[1].clone()].iter_mut().for_each(|value| *value *= 2.0);
    other[ranges[2].clone()].fill(0.0);
    other[ranges[3].clone()].iter_mut().for_each(|value| *value *= -0.5);
    for device in DEVICES.iter() {
        let (result, reports) = run(device, &layout, (&backbone, &other, None), None, 0.3);
        let fallbacks: Vec<_> = reports.iter().map(|report| report.fallback).collect();
        assert_eq!(
            fallbacks,
            [
                Some(Fallback::SmallAngle),
                Some(Fallback::SmallAngle),
                Some(Fallback::ZeroNorm),
                Some(Fallback::Antipodal)
            ]
        );
        assert!((reports[3].angle - std::f64::consts::PI).abs() < 1e-5);
        for index in ranges.iter().cloned().flatten() {
            let expected = 0.7 * f64::from(backbone[index]) + 0.3 * f64::from(other[index]);
            assert!((f64::from(result[index]) - expected).abs() < 1e-6);
        }
        // A model interpolated with itself does not change by a bit.
        assert_eq!(result[ranges[0].clone()], backbone[ranges[0].clone()]);
    }
}

#[test]
fn the_ends_are_the_models() {
    let layout = layout(&[1000]);
    let (backbone, other) = (spread_values(&layout, 7), spread_values(&layout, 8));
    for device in DEVICES.iter() {
        assert_eq!(run(device, &layout, (&backbone, &other, None), None, 0.0).0, backbone);
        assert_eq!(run(device, &layout, (&backbone, &other, None), None, 1.0).0, other);
    }
}

/// Two coordinates of which one dominates are often nearly opposite.
#[test]
fn nearly_opposite_vectors_are_interpolated_linearly() {
    let layout = layout(&[2, 2]);
    let [near, far] = [0, 1].map(|segment| layout.segments()[segment].range());
    let values = |large: f32| {
        let mut values = vec![0.0; layout.len()];
        values[near.clone()].copy_from_slice(&[large, 1e-3]);
        values[far.clone()].copy_from_slice(&[large, 1e-2]);
        values
    };
    let (backbone, other) = (values(7.0), values(-5.0));
    for device in DEVICES.iter() {
        let (result, reports) = run(device, &layout, (&backbone, &other, None), None, 0.25);
        assert_eq!(reports[0].fallback, Some(Fallback::Antipodal));
        assert_eq!(result[near.clone()], [4.0, 1e-3]);
        // Far enough from it, the arc is followed.
        assert_eq!(reports[1].fallback, None);
        let (_, expected) = slerp_oracle(&widen(&backbone[far.clone()]), &widen(&other[far.clone()]), 0.25);
        for (value, expected) in result[far.clone()].iter().zip(expected) {
            assert!(
                (f64::from(*value) - expected).abs() < 1e-6 * expected.abs(),
                "{value} expected {expected}"
            );
        }
    }
}

#[test]
fn values_that_are_not_finite_leave_the_backbone_alone() {
    let layout = layout(&[64, 64]);
    let backbone = spread_values(&layout, 7);
    let mut other = spread_values(&layout, 8);
    other[70] = f32::NAN;
    for device in DEVICES.iter() {
        let mut target = Buffer::from_slice(device, &backbone).unwrap();
        let other = Buffer::from_slice(device, &other).unwrap();
        let error = slerp(device, &layout, target.view_mut(), other.view(), &Options::default()).unwrap_err();
        assert_eq!(error.to_string(), "slerp: `t1` of the other model has values that are not finite");
        assert_eq!(target.to_vec().unwrap(), backbone);
        let options = Options { weight: 1.5, ..Options::default() };
        assert!(slerp(device, &layout, target.view_mut(), other.view(), &options).is_err());

        // Skipped, it does not matter.
        let mut skip = Mask::zeros(128);
        skip.set(70, true);
        let options = Options { skip: Some(&skip), ..Options::default() };
        assert!(slerp(device, &layout, target.view_mut(), other.view(), &options).is_ok());
    }
}

#[test]
fn passes_on_the_stand_in_driver() {
    stand_in::repeat(module_path!(), &[]);
}
