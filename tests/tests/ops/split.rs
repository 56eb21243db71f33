//! Weights split into halves and joined, bit for bit.

use cpift_engine::ops::split::{Planes, join, join_in_place, rounded, split, split_in_place};
use cpift_engine::{Buffer, bf16};
use cpift_tests::devices::devices;
use cpift_tests::flat::{layout, spread_values};
use cpift_tests::precision::{dithered, download, poisoned};

#[test]
fn both_planes_take_the_memory_of_the_weights() {
    for device in devices() {
        // Longer than what a thread takes at a time; shorter on the emulator, to which an element is work.
        let layout = layout(&[if device.name() == "emulated" { 3001 } else { 70_001 }, 33]);
        let length = layout.len();
        let mut values = spread_values(&layout, 1);
        values[7] = f32::MAX;
        values[8] = f32::MIN_POSITIVE / 8.0;
        let weights = Buffer::from_slice(&device, &values).unwrap();
        let mut memory = poisoned::<f32>(&device, length);
        split(&device, weights.view(), 0, Planes::of(memory.view_mut())).unwrap();
        let upper = rounded(memory.view()).to_vec().unwrap();
        let upper: Vec<f32> = upper.into_iter().map(f32::from).collect();
        assert_eq!(upper, dithered(&values));
        let mut joined = poisoned::<f32>(&device, length);
        join(&device, &Planes::of(memory.view_mut()), 0, joined.view_mut()).unwrap();
        let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|value| value.to_bits()).collect() };
        assert_eq!(bits(&download(&joined)), bits(&values));
        let mut short = poisoned::<f32>(&device, length - 1);
        let planes = Planes::of(memory.view_mut());
        assert!(join(&device, &planes, 0, short.view_mut()).is_err());
        assert!(split(&device, weights.slice(1..length), 0, planes).is_err());
    }
}

/// In the weights' own memory, with half as much beside it: the same planes, and the weights again.
#[test]
fn weights_are_split_and_joined_where_they_lie() {
    for device in devices() {
        for tensors in [&[1][..], &[64, 64], &[3001, 33], &[70_001]] {
            let layout = layout(tensors);
            let length = layout.len();
            let values = spread_values(&layout, 2);
            let mut planes = poisoned::<f32>(&device, length);
            let mut memory = Buffer::from_slice(&device, &values).unwrap();
            split(&device, memory.view(), 0, Planes::of(planes.view_mut())).unwrap();
            let mut scratch = poisoned::<bf16>(&device, length);
            split_in_place(&device, memory.view_mut(), scratch.view_mut()).unwrap();
            let bits = |values: &[f32]| -> Vec<u32> { values.iter().map(|value| value.to_bits()).collect() };
            assert!(bits(&download(&memory)) == bits(&download(&planes)), "{tensors:?} split");
            let mut scratch = poisoned::<bf16>(&device, length);
            join_in_place(&device, memory.view_mut(), scratch.view_mut()).unwrap();
            assert!(bits(&download(&memory)) == bits(&values), "{tensors:?} joined");
            assert!(split_in_place(&device, memory.view_mut(), scratch.slice_mut(1..length)).is_err());
        }
    }
}
