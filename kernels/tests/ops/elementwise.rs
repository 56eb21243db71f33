//! Elementwise kernels: what they compute is exact up to one rounding, so bits are compared.

use crate::common::*;
use cpift_kernels::dither::{dither_to_bf16, lower_half};
use cpift_kernels::elementwise::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::simt::{Bf16, Element};
use cpift_kernels::stochastic::{random_bits, round_to_bf16};

/// Less than a vector, less than a block, whole blocks, and what lies between.
const COUNTS: [usize; 6] = [1, 7, 1000, 1024, 2048, 5001];

/// Runs with every count, aligned and not, in every order.
fn for_all(check: impl Fn(&Emulator, usize, usize)) {
    for schedule in SCHEDULES {
        let emulator = Emulator::new(schedule);
        for count in COUNTS {
            for offset in [0, 1] {
                check(&emulator, count, offset);
            }
        }
    }
}

/// Poisoned memory of which elements from `offset` on are used.
fn poisoned<T: Element>(count: usize, offset: usize) -> Buffer<T> {
    Buffer::poisoned(count + offset)
}

#[test]
fn fill_writes_all_and_nothing_else() {
    for_all(|emulator, count, offset| {
        let mut out = poisoned::<f32>(count + 1, offset);
        fill_f32(emulator, slice_mut(&mut out.as_mut_slice()[offset..offset + count]), count as u64, 1.25)
            .unwrap();
        let inside = |index: usize| (offset..offset + count).contains(&index);
        for (index, &value) in out.as_slice().iter().enumerate() {
            assert!(if inside(index) { value == 1.25 } else { value.is_nan() }, "element {index}: {value}");
        }
    });
}

#[test]
fn casts_round_by_their_index() {
    for_all(|emulator, count, offset| {
        let mut x = random::<f32>(count as u64, count + offset);
        // NaNs whose upper half alone would be an infinity, infinities, and what rounds to one.
        let special = [0x7f80_0001, 0xffff_ffff, 0x7f80_0000, 0xff80_0000, 0x7f7f_ffff].map(f32::from_bits);
        x.as_mut_slice().iter_mut().step_by(17).zip(special).for_each(|(x, special)| *x = special);
        let mut y = poisoned::<Bf16>(count, offset);
        round_f32_to_bf16(
            emulator,
            slice(&x.as_slice()[offset..]),
            slice_mut(&mut y.as_mut_slice()[offset..]),
            count as u64,
        )
        .unwrap();
        for (index, (x, y)) in x.as_slice()[offset..].iter().zip(&y.as_slice()[offset..]).enumerate() {
            assert_eq!(y.0, dither_to_bf16(*x, index).0, "{index}: {x:e}");
        }
    });
}

#[test]
fn weights_are_split_and_joined_bit_for_bit() {
    /// Where what is split begins in the whole; beyond 32 bits.
    const FIRST: usize = 5_000_000_008;
    for_all(|emulator, count, offset| {
        let mut x = random::<f32>(count as u64, count + offset);
        let special = [0x0000_0001, 0x7f7f_ffff, 0x7f80_0000, 0xff80_0000, 0x8000_0000].map(f32::from_bits);
        x.as_mut_slice().iter_mut().step_by(17).zip(special).for_each(|(x, special)| *x = special);
        let (mut rounded, mut lower) = (poisoned::<Bf16>(count, offset), poisoned::<u16>(count, offset));
        split_f32(
            emulator,
            slice(&x.as_slice()[offset..]),
            slice_mut(&mut rounded.as_mut_slice()[offset..]),
            slice_mut(&mut lower.as_mut_slice()[offset..]),
            count as u64,
            FIRST as u64,
        )
        .unwrap();
        let planes = rounded.as_slice()[offset..].iter().zip(&lower.as_slice()[offset..]);
        for (index, (x, (rounded, lower))) in x.as_slice()[offset..].iter().zip(planes).enumerate() {
            let expected = (dither_to_bf16(*x, FIRST + index), lower_half(*x));
            assert_eq!((*rounded, *lower), expected, "{index}: {x:e}");
        }
        let mut joined = poisoned::<f32>(count, offset);
        join_f32(
            emulator,
            slice(&rounded.as_slice()[offset..]),
            slice(&lower.as_slice()[offset..]),
            slice_mut(&mut joined.as_mut_slice()[offset..]),
            count as u64,
            FIRST as u64,
        )
        .unwrap();
        assert_eq!(to_bits(&joined.as_slice()[offset..]), to_bits(&x.as_slice()[offset..]));
    });
}

#[test]
fn sums_in_bf16_are_rounded_by_index_and_seed() {
    /// Where what is added to begins in the whole, and a seed.
    const PLACE: (usize, u32) = (5_000_000_008, 0x9876_5432);
    for_all(|emulator, count, offset| {
        let mut x = random::<f32>(count as u64, count + offset);
        let special = [f32::INFINITY, f32::NAN, f32::MAX, 1e-42].into_iter();
        x.as_mut_slice().iter_mut().step_by(17).zip(special).for_each(|(x, special)| *x = special);
        let before = random::<Bf16>(count as u64 + 1, count + offset);
        let mut target = Buffer::from_slice(before.as_slice());
        accumulate_bf16(
            emulator,
            slice_mut(&mut target.as_mut_slice()[offset..]),
            slice(&x.as_slice()[offset..]),
            count as u64,
            PLACE.0 as u64,
            PLACE.1,
        )
        .unwrap();
        for index in 0..count {
            let sum = before.as_slice()[offset + index].to_f32() + x.as_slice()[offset + index];
            let expected = round_to_bf16(sum, random_bits(PLACE.0 + index, PLACE.1));
            assert_eq!(target.as_slice()[offset + index].0, expected.0, "element {index}");
        }
        assert_eq!(target.as_slice()[..offset], before.as_slice()[..offset]);
    });
}

#[test]
fn subtraction_is_exact_to_the_last_bit() {
    for count in [0, 3, 1024, 2531] {
        let (left, right) = (random::<f32>(1, count), random::<f32>(2, count));
        let mut target = Buffer::from_slice(left.as_slice());
        subtract_f32(&Emulator::new(SCHEDULES[1]), target.write(), right.read(), count as u64).expect("runs");
        let pairs = left.as_slice().iter().zip(right.as_slice());
        let expected: Vec<f32> = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)) as f32).collect();
        assert!(target.as_slice() == expected);
    }
}
