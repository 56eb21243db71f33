//! Dithered rounding of f32 to bf16, by which the weights that products read follow their master weights.
//!
//! bf16 has 16 bits fewer than f32. With L the lower half of a value's bits and u(i) a number of 16 bits that belongs
//! to its index, the value is cut off where L + u(i) < 2^16, else rounded away from zero. Over indices u is uniform,
//! so rounded weights have the mean of what they were rounded from, however small the update was; rounded to nearest,
//! most do not move at all until their updates have added up to half a unit. u depends on nothing but the index:
//! rounded weights are a function of the master weights, whichever way they came about, and do not change from step to step
//! by themselves.
//!
//! A value that is a bf16 stays as it is. A NaN stays one.
//!
//! A rounded weight and the lower half of its master weight are the master weight: [`undo`] takes back the carry, which
//! index and lower half tell. In 4 bytes a weight, both are there.

use crate::simt::Bf16;

/// u: 16 bits that look random, the same for the same index. Two rounds of the multiply and shift of MurmurHash3's
/// finaliser; indices beyond 32 bits begin again.
#[inline(always)]
fn threshold(index: usize) -> u32 {
    let mut bits = (index as u32).wrapping_mul(0x9e37_79b1);
    bits = (bits ^ bits >> 15).wrapping_mul(0x85eb_ca6b);
    bits = (bits ^ bits >> 13).wrapping_mul(0xc2b2_ae35);
    bits >> 16
}

/// Element `index` of the weights, rounded. See [`self`](crate::dither).
#[inline(always)]
pub fn dither_to_bf16(value: f32, index: usize) -> Bf16 {
    cut_off(value, threshold(index))
}

/// The lower half of a value's bits: what [`dither_to_bf16`] cuts off.
#[inline(always)]
pub fn lower_half(value: f32) -> u16 {
    value.to_bits() as u16
}

/// The value of which [`dither_to_bf16`] made `rounded`, from its [`lower_half`]: the same bits, or another NaN.
#[inline(always)]
pub fn undo(rounded: Bf16, lower: u16, index: usize) -> f32 {
    let carry = (u32::from(lower) + threshold(index)) >> 16;
    let upper = u32::from(rounded.0).wrapping_sub(carry);
    f32::from_bits(upper << 16 | u32::from(lower))
}

/// The upper half of `value` after `addend`, below 2^16, was added to its bits: away from zero where that carries.
#[inline(always)]
pub(crate) fn cut_off(value: f32, addend: u32) -> Bf16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(addend);
    // Rounding could carry a NaN to an infinity: its upper half is kept, and made quiet.
    let bits = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
    Bf16((bits >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bf16 of this exponent and sign, and its distance from the next.
    fn bf16(index: usize) -> (f32, f64) {
        let exponent = 0x3000 + ((index as u32 * 37) & 0x0fff);
        let value = f32::from_bits((exponent | (index as u32 & 1) << 15) << 16);
        let next = f32::from_bits(value.to_bits() + 0x1_0000);
        (value, f64::from(next) - f64::from(value))
    }

    #[test]
    fn what_is_bf16_stays() {
        for index in 0..10_000 {
            let (value, _) = bf16(index);
            assert_eq!(dither_to_bf16(value, index).to_f32().to_bits(), value.to_bits());
            for special in [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY] {
                assert_eq!(dither_to_bf16(special, index).to_f32().to_bits(), special.to_bits());
            }
            // A NaN whose upper half alone would be an infinity.
            assert!(dither_to_bf16(f32::from_bits(0x7f80_0001), index).to_f32().is_nan());
            assert!(dither_to_bf16(f32::from_bits(0xffff_ffff), index).to_f32().is_nan());
        }
    }

    #[test]
    fn master_weights_come_back_bit_for_bit() {
        for index in (0..2_000_000).chain(5_000_000_000..5_000_100_000) {
            // All upper halves, with lower halves that carry and that do not.
            let bits = (index as u32).wrapping_mul(0x9e37_79b1) ^ (index as u32) << 16;
            let value = f32::from_bits(bits);
            let back = undo(dither_to_bf16(value, index), lower_half(value), index);
            assert!(back.to_bits() == bits || back.is_nan() && value.is_nan(), "{index}: {bits:#x}");
        }
    }

    #[test]
    fn others_become_a_neighbour() {
        for index in 0..10_000 {
            let (value, distance) = bf16(index);
            let between = f32::from_bits(value.to_bits() + 1 + (index as u32 * 7919) % 0xffff);
            let rounded = f64::from(dither_to_bf16(between, index).to_f32());
            assert!(rounded == f64::from(value) || rounded == f64::from(value) + distance);
        }
    }

    /// Rows, columns of matrices of many widths, and single tensors far from the start: everywhere the mean of what is
    /// rounded is the mean of what it was rounded from.
    #[test]
    fn the_mean_is_kept_along_rows_and_columns() {
        const COUNT: usize = 4096;
        for stride in [1, 2, 3, 64, 192, 576, 987, 1536, 1597, 2048, 4096, 6765, 65_536, 49_152] {
            for first in [0, 12_345, 3_000_000_000, 5_000_000_000] {
                for share in [0.03, 0.5, 0.9] {
                    let up = (0..COUNT).filter(|row| {
                        let value = f32::from_bits(0x3d12_0000 + (share * 65_536.0) as u32);
                        dither_to_bf16(value, first + row * stride).to_f32() > value
                    });
                    let share_up = up.count() as f64 / COUNT as f64;
                    // Five standard deviations of as many throws of a coin.
                    let tolerance = 5.0 * (share * (1.0 - share) / COUNT as f64).sqrt();
                    assert!((share_up - share).abs() < tolerance, "{stride} {first} {share}: {share_up}");
                }
            }
        }
    }
}
