//! Elementwise kernels: what they compute is exact up to one rounding, so bits are compared.

use crate::common::*;
use cpift_kernels::elementwise::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::simt::{Bf16, Element, Real};

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
        let mut out = poisoned::<u32>(count + 1, offset);
        fill_u32(emulator, slice_mut(&mut out.as_mut_slice()[offset..offset + count]), count as u64, 77)
            .unwrap();
        for (index, &value) in out.as_slice().iter().enumerate() {
            assert_eq!(value, if inside(index) { 77 } else { u32::MAX }, "element {index}");
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
        f32_to_bf16(
            emulator,
            slice(&x.as_slice()[offset..]),
            slice_mut(&mut y.as_mut_slice()[offset..]),
            count as u64,
        )
        .unwrap();
        for (x, y) in x.as_slice()[offset..].iter().zip(&y.as_slice()[offset..]) {
            assert_eq!(y.0, nearest(*x), "{x:e}");
        }
        let mut back = poisoned::<f32>(count, offset);
        bf16_to_f32(
            emulator,
            slice(&y.as_slice()[offset..]),
            slice_mut(&mut back.as_mut_slice()[offset..]),
            count as u64,
        )
        .unwrap();
        assert_eq!(to_bits(&back.as_slice()[offset..]), to_bits(&y.as_slice()[offset..]));
    });
}

macro_rules! arithmetic {
    ($name:ident, $real:ident, $add:ident, $scale:ident) => {
        #[test]
        fn $name() {
            for_all(|emulator, count, offset| {
                let x = random::<$real>(1, count + offset);
                let mut y = random::<$real>(2, count + offset);
                let before = y.as_slice()[offset..].to_vec();
                let pairs = before.iter().zip(&x.as_slice()[offset..]);
                let sums: Vec<$real> = pairs.map(|(y, x)| $real::from_f32(y.to_f32() + x.to_f32())).collect();
                $add(
                    emulator,
                    slice(&x.as_slice()[offset..]),
                    slice_mut(&mut y.as_mut_slice()[offset..]),
                    count as u64,
                )
                .unwrap();
                assert_eq!(to_bits(&y.as_slice()[offset..]), to_bits(&sums));
                $scale(emulator, slice_mut(&mut y.as_mut_slice()[offset..]), count as u64, -0.3).unwrap();
                let scaled: Vec<$real> =
                    sums.iter().map(|sum| $real::from_f32(sum.to_f32() * -0.3)).collect();
                assert_eq!(to_bits(&y.as_slice()[offset..]), to_bits(&scaled));
            });
        }
    };
}
arithmetic!(adds_and_scales_f32, f32, add_f32, scale_f32);
arithmetic!(adds_and_scales_bf16, Bf16, add_bf16, scale_bf16);
