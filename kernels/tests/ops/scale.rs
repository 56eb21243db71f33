//! Products with a number: exact up to the one rounding of the result, so bits are compared.

use crate::common::*;
use cpift_kernels::emulator::Emulator;
use cpift_kernels::scale::*;
use cpift_kernels::simt::{Bf16, Real};

const FACTOR: f32 = 0.8375;

/// A f64 as f32 rounds it, then as E does.
fn rounded<E: Real>(values: impl Iterator<Item = f64>) -> Vec<u32> {
    values.map(|value| E::from_f32(value as f32).to_f32().to_bits()).collect()
}

fn check<E: Real>() {
    // Less than a vector, less than a block, whole blocks, and what lies between; offset 1 is misaligned.
    for count in [1, 19, 1024, 2048, 4101] {
        for (offset, schedule) in [(0, SCHEDULES[0]), (1, SCHEDULES[1]), (0, SCHEDULES[2])] {
            let emulator = Emulator::new(schedule);
            let (x, residual) = (random::<E>(3, count + offset), random::<E>(4, count + offset));
            let (x, residual) = (&x.as_slice()[offset..], &residual.as_slice()[offset..]);
            let factor = f64::from(FACTOR);
            let products = rounded::<E>(widen(x).into_iter().map(|x| factor * x));

            let mut y = Buffer::<E>::poisoned(count + offset);
            let target = slice_mut(&mut y.as_mut_slice()[offset..]);
            scale(&emulator, slice(x), target, count as u64, FACTOR).unwrap();
            assert_eq!(to_bits(&y.as_slice()[offset..]), products);

            let mut y = Buffer::<E>::poisoned(count + offset);
            y.as_mut_slice()[offset..].copy_from_slice(x);
            let target = slice_mut(&mut y.as_mut_slice()[offset..]);
            scale_in_place(&emulator, target, count as u64, FACTOR).unwrap();
            assert_eq!(to_bits(&y.as_slice()[offset..]), products);

            let mut sum = Buffer::<E>::poisoned(count + offset);
            let target = slice_mut(&mut sum.as_mut_slice()[offset..]);
            scale_add(&emulator, slice(residual), slice(x), target, count as u64, FACTOR).unwrap();
            // A product of two f32 is exact in f64, and the sum nearly: its own rounding does not reach that to f32.
            let sums =
                widen(residual).into_iter().zip(widen(x)).map(|(residual, x)| factor.mul_add(x, residual));
            assert_eq!(to_bits(&sum.as_slice()[offset..]), rounded::<E>(sums));
        }
    }
}

#[test]
fn products_are_rounded_once() {
    check::<f32>();
    check::<Bf16>();
}
