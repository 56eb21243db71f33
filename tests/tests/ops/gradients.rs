//! Gradients as they are stored: what operations add to them, in f32 and in bf16.

use cpift_engine::ops::accumulate::accumulate;
use cpift_engine::ops::adamw::MomentType;
use cpift_engine::ops::gradients::Gradients;
use cpift_engine::{Buffer, Error, ViewMut, bf16};
use cpift_tests::devices::devices;
use cpift_tests::flat::{layout, spread_values};

#[test]
fn what_is_added_to_bf16_becomes_a_neighbour() {
    for device in devices() {
        // More than a thread takes at a time, but on the emulator.
        let layout = layout(&[if device.name() == "emulated" { 3001 } else { 70_001 }]);
        let before: Vec<bf16> = spread_values(&layout, 1).into_iter().map(bf16::from_f32).collect();
        let x = spread_values(&layout, 2);
        let of_x = Buffer::from_slice(&device, &x).unwrap();
        let add = |first: usize, number: usize| {
            let mut target = Buffer::from_slice(&device, &before).unwrap();
            accumulate(&device, target.view_mut(), of_x.view(), first, number).unwrap();
            target.to_vec().unwrap()
        };
        let sums = add(0, 0);
        for ((actual, before), x) in sums.iter().zip(&before).zip(&x) {
            let exact = f64::from(*before) + f64::from(*x);
            // A unit of bf16 is 2^-7 of the power of two below; the f32 sum is off by 2^-24 of it.
            let error = (f64::from(*actual) - exact).abs();
            assert!(error <= exact.abs() * (1.0 + 1e-5) / 128.0, "{before} + {x} = {actual}");
        }
        assert_ne!(add(0, 1), sums, "the micro-batch");
        assert_ne!(add(1, 0), sums, "the place");
        let mut target = Buffer::from_slice(&device, &before).unwrap();
        assert!(accumulate(&device, target.view_mut(), of_x.slice(1..64), 0, 0).is_err());
    }
}

/// 512 times 1: rounded to nearest, the sum would stop at 256, where 1 is half a unit.
#[test]
fn sums_of_many_micro_batches_do_not_stand_still() {
    let layout = layout(&[4096]);
    for device in devices() {
        let mut gradients = Gradients::new(&device, &layout, MomentType::Bf16, 0).unwrap();
        for micro_batch in 0..512 {
            let mut view = gradients.of_micro_batch(micro_batch);
            view.add(&device, 0..4096, |mut sum| sum.fill(1.0)).unwrap();
        }
        let sums = gradients.view().to_vec().unwrap();
        let mean = sums.iter().map(|&sum| f64::from(sum)).sum::<f64>() / 4096.0;
        // From 256 on 1 is 0 or 2: a sum's deviation is 16, that of the mean of 4096 a quarter.
        assert!((mean - 512.0).abs() < 1.25, "{}: {mean}", device.name());
    }
}

/// Ranges in either order, and a tensor that is added to twice.
#[test]
fn ranges_are_added_to_alone() {
    let layout = layout(&[70, 3, 130]);
    let [first, vector, last] = [0, 1, 2].map(|segment| layout.segments()[segment].range());
    for device in devices() {
        for stored in [MomentType::F32, MomentType::Bf16] {
            let mut gradients = Gradients::new(&device, &layout, stored, 0).unwrap();
            // What was there is no gradient of the next step.
            gradients.scratch().fill(bf16::NAN).unwrap();
            gradients.part(64).fill(f32::NAN).unwrap();
            gradients.clear().unwrap();
            let add = |mut target: ViewMut<'_, f32>, value: f32| -> Result<(), Error> {
                let sums = target.as_view().to_vec()?.into_iter().map(|sum| sum + value);
                target.copy_from_host(&sums.collect::<Vec<_>>())
            };
            let both = |values: [f32; 2]| {
                move |targets: [ViewMut<'_, f32>; 2]| {
                    targets.into_iter().zip(values).try_for_each(|(target, value)| add(target, value))
                }
            };
            let mut view = gradients.of_micro_batch(0);
            view.add(&device, last.clone(), |target| add(target, 1.0)).unwrap();
            view.add_two(&device, [first.clone(), vector.clone()], both([2.0, 0.375])).unwrap();
            view.add_two(&device, [last.clone(), first.clone()], both([0.25, 0.5])).unwrap();
            let mut expected = vec![0.0; layout.len()];
            expected[first.clone()].fill(2.5);
            expected[vector.clone()].fill(0.375);
            expected[last.clone()].fill(1.25);
            assert_eq!(gradients.view().to_vec().unwrap(), expected, "{stored:?}");
        }
    }
    let bytes = |stored| Gradients::bytes(&layout, stored, 0);
    // The sum has the longest tensor's elements, and the longest vector's.
    assert_eq!(bytes(MomentType::Bf16), [2 * layout.len(), 4 * 2 * 192]);
    assert_eq!(bytes(MomentType::F32), [4 * layout.len(), 0]);
}
