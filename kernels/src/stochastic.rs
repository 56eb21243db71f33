//! Stochastic rounding of f32 to bf16, for moments, importance and sums of gradients that are stored in 16 bits.
//!
//! A value between two bf16 numbers becomes the farther from zero with the probability of how far it is on the way there,
//! so that its expectation stays. Near its mean the second moment changes by about 1 − β2 of itself in a step, a thousandth by
//! default. That is less than half a unit of bf16: rounded to nearest, it would stand still.
//!
//! So would the sum of the gradients of many micro-batches, or of what many steps add to importance, each less than half a
//! unit of it.
//!
//! The random bits are a function of an element's index and of the step, or of the micro-batch within it, so the same run
//! gives the same bits.

use crate::dither::cut_off;
use crate::simt::Bf16;

/// 32 random bits of an element in a step, whose number `seed` is made from: the finaliser of MurmurHash3. Indices
/// beyond 32 bits begin again.
#[inline(always)]
pub fn random_bits(index: usize, seed: u32) -> u32 {
    let mut bits = (index as u32).wrapping_mul(0x9e37_79b1) ^ seed;
    bits = (bits ^ bits >> 16).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ bits >> 13).wrapping_mul(0xc2b2_ae35);
    bits ^ bits >> 16
}

/// 16 bits more, which no moment is rounded by.
#[inline(always)]
pub fn third_bits(bits: u32) -> u32 {
    (bits ^ bits >> 15).wrapping_mul(0x9e37_79b1) >> 16
}

/// What [`random_bits`] takes for step number `step`, or for a micro-batch.
pub fn seed_of_step(step: u64) -> u32 {
    // The finaliser again, so that the seeds of neighbouring steps have no bits in common that an index could undo.
    random_bits(step as usize, (step >> 32) as u32 ^ 0x5bd1_e995)
}

/// `value`, rounded by the lower 16 of these bits. What is a bf16 stays as it is; a NaN stays one.
#[inline(always)]
pub fn round_to_bf16(value: f32, bits: u32) -> Bf16 {
    cut_off(value, bits & 0xffff)
}

/// [`round_to_bf16`] of what arithmetic made of bf16 and of finite numbers: a NaN then is quiet and its lower 16 bits are
/// zeros, so nothing carries out of it, and a comparison less is needed.
#[inline(always)]
pub fn round_result_to_bf16(value: f32, bits: u32) -> Bf16 {
    Bf16((value.to_bits().wrapping_add(bits & 0xffff) >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_bf16_stays() {
        for bits in 0..=u16::MAX {
            let value = Bf16(bits).to_f32();
            let rounded = round_to_bf16(value, random_bits(usize::from(bits), 7)).to_f32();
            assert!(rounded.to_bits() == value.to_bits() || rounded.is_nan() && value.is_nan());
        }
    }

    #[test]
    fn results_are_rounded_alike() {
        for bits in 0..=u16::MAX {
            let random = random_bits(usize::from(bits), 7);
            // Of a bf16, NaNs and infinities among them, and finite numbers.
            let stored = Bf16(bits).to_f32();
            for result in [0.9 * stored, 0.1 * stored + 3e-5, stored * stored, (stored * stored).sqrt()] {
                assert_eq!(round_result_to_bf16(result, random), round_to_bf16(result, random), "{result:e}");
            }
        }
    }

    /// Over elements of a step, over steps of an element, and for both halves of the bits.
    #[test]
    fn the_expectation_is_kept() {
        const COUNT: usize = 65_536;
        for share in [0.01, 0.3, 0.97] {
            let value = f32::from_bits(0x3d12_0000 + (share * 65_536.0) as u32);
            for half in [0, 16] {
                let rises = |bits: u32| round_to_bf16(value, bits >> half).to_f32() > value;
                let by_index = (0..COUNT).filter(|&index| rises(random_bits(index, seed_of_step(3)))).count();
                let by_step =
                    (0..COUNT).filter(|&step| rises(random_bits(12_345, seed_of_step(step as u64)))).count();
                // Five standard deviations of as many throws of a coin.
                let tolerance = 5.0 * (share * (1.0 - share) / COUNT as f64).sqrt();
                for count in [by_index, by_step] {
                    let found = count as f64 / COUNT as f64;
                    assert!((found - share).abs() < tolerance, "{share} {half}: {found}");
                }
            }
        }
    }

    /// The two moments of an element, neighbours, and the same element in the next step are rounded independently: the
    /// share that both are rounded up is the product of the shares.
    #[test]
    fn roundings_do_not_go_together() {
        const COUNT: usize = 65_536;
        let up = |bits: u32| bits & 0xffff >= 0x8000;
        let here = |index: usize| random_bits(index, seed_of_step(5));
        let pairs: [(&str, &dyn Fn(usize) -> u32); 4] = [
            ("the other half", &|index| here(index) >> 16),
            ("the next element", &|index| here(index + 1)),
            ("the next row of 576", &|index| here(index + 576)),
            ("the next step", &|index| random_bits(index, seed_of_step(6))),
        ];
        for (name, other) in pairs {
            let both = (0..COUNT).filter(|&index| up(here(index)) && up(other(index))).count();
            let share = both as f64 / COUNT as f64;
            assert!((share - 0.25).abs() < 5.0 * (0.25 * 0.75 / COUNT as f64).sqrt(), "{name}: {share}");
        }
    }
}
