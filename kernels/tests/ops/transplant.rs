//! Copying the coordinates of a set, against one bit at a time.

use crate::common::{Buffer, SCHEDULES, bits, random, to_bits};
use cpift_kernels::emulator::Emulator;
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
            transplant_gather(
                &emulator,
                source.read(),
                words,
                before,
                values.write(),
                count as u64,
                selected,
            )
            .expect("runs");
            assert!(values.as_slice() == expected, "{count}");
            let mut scattered = Buffer::from_slice(target.as_slice());
            transplant_scatter(
                &emulator,
                scattered.write(),
                words,
                before,
                values.read(),
                count as u64,
                selected,
            )
            .expect("runs");
            assert!(to_bits(scattered.as_slice()) == expected_target, "{count}");
        }
    }
}
