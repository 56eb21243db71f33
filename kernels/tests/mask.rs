//! Sets, and copying their coordinates, against one bit at a time.

use crate::common::{Buffer, SCHEDULES, bits, random, slice_mut, to_bits};
use cpift_kernels::elementwise::subtract_f32;
use cpift_kernels::emulator::{Emulator, Schedule};
use cpift_kernels::launch::{Launch, LaunchError, Slice, SliceMut};
use cpift_kernels::mask::*;
use cpift_kernels::transplant::*;

/// A set over `count` elements: empty, full, sparse and mixed words, no bit behind the end.
fn mask(seed: u64, count: usize) -> Buffer<u32> {
    let mut mask = Buffer::poisoned(count.div_ceil(32));
    for (index, word) in (0..).zip(mask.as_mut_slice()) {
        *word = match bits(seed, 2 * index) % 5 {
            0 => 0,
            1 => u32::MAX,
            2 => 1 << (bits(seed, 2 * index + 1) % 32),
            _ => bits(seed, 2 * index + 1) as u32,
        };
    }
    if !count.is_multiple_of(32) {
        *mask.as_mut_slice().last_mut().unwrap() &= (1 << (count % 32)) - 1;
    }
    mask
}

fn indices(mask: &Buffer<u32>) -> Vec<usize> {
    let words = mask.as_slice();
    (0..32 * words.len()).filter(|index| words[index / 32] >> (index % 32) & 1 == 1).collect()
}

type Combination =
    fn(&dyn Launch, Slice<'_, u32>, Slice<'_, u32>, SliceMut<'_, u32>, u64) -> Result<(), LaunchError>;

type Operation = fn(u32, u32) -> u32;

#[test]
fn sets_combine() {
    let combinations: [(Combination, Operation); 3] =
        [(mask_and, |a, b| a & b), (mask_or, |a, b| a | b), (mask_and_not, |a, b| a & !b)];
    for words in [0, 1, 4, 1023, 2050] {
        let (left, right) = (mask(1, 32 * words), mask(2, 32 * words));
        for (kernel, operation) in combinations {
            for schedule in SCHEDULES {
                let mut out = Buffer::poisoned(words);
                let emulator = Emulator::new(schedule);
                kernel(&emulator, left.read(), right.read(), out.write(), words as u64).expect("runs");
                let pairs = left.as_slice().iter().zip(right.as_slice());
                let expected: Vec<u32> = pairs.map(|(&a, &b)| operation(a, b)).collect();
                assert!(out.as_slice() == expected, "{words}");
            }
        }
    }
}

#[test]
fn bits_are_counted() {
    for words in [0, 1, 1023, 9001] {
        let (left, right) = (mask(1, 32 * words), mask(2, 32 * words));
        for schedule in SCHEDULES {
            let emulator = Emulator::new(schedule);
            let (mut own, mut both) = ([7], [1 << 40]);
            mask_count(&emulator, left.read(), slice_mut(&mut own), words as u64).expect("runs");
            mask_intersection_count(&emulator, left.read(), right.read(), slice_mut(&mut both), words as u64)
                .expect("runs");
            let pairs = left.as_slice().iter().zip(right.as_slice());
            let expected: u64 = pairs.map(|(a, b)| u64::from((a & b).count_ones())).sum();
            assert_eq!(own[0], 7 + indices(&left).len() as u64);
            assert_eq!(both[0], (1 << 40) + expected);
        }
    }
}

#[test]
fn transplant_copies_the_bits_in_the_mask_and_no_others() {
    for count in [0, 1, 35, 1024, 3333] {
        let mask = mask(3, count);
        let (backbone, mut source) = (random::<f32>(4, count), random::<f32>(5, count));
        if let Some(first) = source.as_mut_slice().first_mut() {
            *first = f32::from_bits(0x7fc0_1234);
        }
        let mut expected = to_bits(backbone.as_slice());
        for index in indices(&mask) {
            expected[index] = source.as_slice()[index].to_bits();
        }
        for schedule in SCHEDULES {
            let mut target = Buffer::from_slice(backbone.as_slice());
            let emulator = Emulator::new(schedule);
            transplant(&emulator, target.write(), source.read(), mask.read(), count as u64).expect("runs");
            assert!(to_bits(target.as_slice()) == expected, "{count}");
        }
    }
}

/// The number of coordinates before every 32nd word.
fn offsets(mask: &Buffer<u32>) -> Buffer<u64> {
    let mut before = 0;
    let chunks = mask.as_slice().chunks(OFFSET_WORDS).map(|words| {
        let own = words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        before += own;
        before - own
    });
    Buffer::from_slice(&chunks.collect::<Vec<u64>>())
}

#[test]
fn gather_and_scatter_go_by_ascending_index() {
    for count in [1, 31, 1024, 1025, 20_007] {
        let mask = mask(6, count);
        let (indices, offsets) = (indices(&mask), offsets(&mask));
        let selected = indices.len() as u64;
        let (source, target) = (random::<f32>(7, count), random::<f32>(8, count));
        let expected: Vec<f32> = indices.iter().map(|&index| source.as_slice()[index]).collect();
        let mut expected_target = to_bits(target.as_slice());
        for (&index, value) in indices.iter().zip(&expected) {
            expected_target[index] = value.to_bits();
        }
        for schedule in SCHEDULES {
            let emulator = Emulator::new(schedule);
            let mut values = Buffer::poisoned(indices.len());
            let (words, before) = (mask.read(), offsets.read());
            gather(&emulator, source.read(), words, before, values.write(), count as u64, selected)
                .expect("runs");
            assert!(values.as_slice() == expected, "{count}");
            let mut scattered = Buffer::from_slice(target.as_slice());
            scatter(&emulator, scattered.write(), words, before, values.read(), count as u64, selected)
                .expect("runs");
            assert!(to_bits(scattered.as_slice()) == expected_target, "{count}");
        }
    }
}

#[test]
fn subtraction_is_exact_to_the_last_bit() {
    for count in [0, 3, 1024, 2531] {
        let (left, right) = (random::<f32>(1, count), random::<f32>(2, count));
        let mut target = Buffer::from_slice(left.as_slice());
        subtract_f32(&Emulator::new(Schedule::Reverse), target.write(), right.read(), count as u64)
            .expect("runs");
        let pairs = left.as_slice().iter().zip(right.as_slice());
        let expected: Vec<f32> = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)) as f32).collect();
        assert!(target.as_slice() == expected);
    }
}
