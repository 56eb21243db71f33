//! Elementwise kernels: what they compute is exact up to one rounding, so bits are compared.

use crate::common::*;
use cpift_kernels::dither::dither_to_bf16;
use cpift_kernels::elementwise::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::simt::{Bf16, Element};

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

/// The nearest bf16, by trying both neighbours.
fn nearest(x: f32) -> u16 {
    let below = (x.to_bits() >> 16) as u16;
    let error = |candidate: u16| (f64::from(Bf16(candidate).to_f32()) - f64::from(x)).abs();
    match error(below).total_cmp(&error(below + 1)) {
        std::cmp::Ordering::Less => below,
        std::cmp::Ordering::Greater => below + 1,
        std::cmp::Ordering::Equal => below + below % 2,
    }
}

#[test]
fn casts_round_to_nearest_even() {
    for_all(|emulator, count, offset| {
        let mut x = random::<f32>(count as u64, count + offset);
        // Ties, which random numbers hardly ever are.
        for value in x.as_mut_slice().iter_mut().step_by(3) {
            *value = f32::from_bits(value.to_bits() & !0xffff | 0x8000);
        }
        let mut y = poisoned::<Bf16>(count, offset);
        round_f32_to_bf16(
            emulator,
            slice(&x.as_slice()[offset..]),
            slice_mut(&mut y.as_mut_slice()[offset..]),
            count as u64,
        )
        .unwrap();
        for (x, y) in x.as_slice()[offset..].iter().zip(&y.as_slice()[offset..]) {
            assert_eq!(y.0, nearest(*x), "{x:e}");
        }
    });
}

#[test]
fn dithered_casts_round_by_their_index() {
    for_all(|emulator, count, offset| {
        let x = random::<f32>(count as u64, count + offset);
        let mut y = poisoned::<Bf16>(count, offset);
        round_f32_to_bf16_dithered(
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
