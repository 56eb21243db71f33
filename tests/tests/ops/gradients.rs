//! Gradients as they are stored: what operations add to them, in f32 and in bf16.

use cpift_engine::ops::accumulate::accumulate;
use cpift_engine::ops::adamw::MomentType;
use cpift_engine::ops::gradients::Gradients;
use cpift_engine::{Buffer, Error, ViewMut, bf16};
use cpift_tests::devices::devices;
use cpift_tests::flat::{layout, spread_values};
use cpift_tests::precision::rounded;

#[test]
fn what_is_added_to_bf16_is_rounded_once() {
    for device in devices() {
        // More than a thread takes at a time, but on the emulator.
        let layout = layout(&[if device.name() == "emulated" { 3001 } else { 70_001 }]);
        let before: Vec<bf16> = spread_values(&layout, 1).into_iter().map(bf16::from_f32).collect();
        let x = spread_values(&layout, 2);
        let mut target = Buffer::from_slice(&device, &before).unwrap();
        let of_x = Buffer::from_slice(&device, &x).unwrap();
        accumulate(&device, target.view_mut(), of_x.view()).unwrap();
        for ((actual, before), x) in target.to_vec().unwrap().iter().zip(&before).zip(&x) {
            let exact = f64::from(*before) + f64::from(*x);
            // The f32 sum is off by 2^-25 of it, which can only decide between two that are as near.
            let error = (f64::from(*actual) - exact).abs();
            assert!(error <= exact.abs() * (1.0 + 1e-6) / 256.0, "{before} + {x} = {actual}");
        }
        assert!(accumulate(&device, target.view_mut(), of_x.slice(1..64)).is_err());
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
            let mut view = gradients.view_mut();
            view.add(&device, last.clone(), |target| add(target, 1.0)).unwrap();
            view.add_two(&device, [first.clone(), vector.clone()], both([2.0, 0.3])).unwrap();
            view.add_two(&device, [last.clone(), first.clone()], both([0.25, 0.5])).unwrap();
            let mut expected = vec![0.0; layout.len()];
            expected[first.clone()].fill(2.5);
            expected[vector.clone()].fill(if stored == MomentType::F32 {
                0.3
            } else {
                rounded::<bf16>(&[0.3])[0]
            });
            expected[last.clone()].fill(1.25);
            assert_eq!(gradients.view().to_vec().unwrap(), expected, "{stored:?}");
        }
    }
    let bytes = |stored| Gradients::bytes(&layout, stored, 0);
    // The sum has the longest tensor's elements, and the longest vector's.
    assert_eq!(bytes(MomentType::Bf16), 2 * layout.len() + 4 * 2 * 192);
    assert_eq!(bytes(MomentType::F32), 4 * layout.len());
}
