//! Numbers that are stored in one type and computed with in f32.

use std::fmt::{Debug, Display};

use bytemuck::Pod;
use cpift_kernels::dither::{dither_to_bf16, lower_half, undo};
use cpift_kernels::simt::Bf16;
use half::bf16;

/// f32 or bf16, as memory holds them.
pub trait Float: Pod + Debug + Display + Default + Send + Sync {
    /// As in recipes and messages.
    const NAME: &'static str;

    /// The value, exactly.
    fn to_f32(self) -> f32;

    /// The value, exactly.
    #[inline(always)]
    fn to_f64(self) -> f64 {
        f64::from(self.to_f32())
    }

    /// The nearest value, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Float for f32 {
    const NAME: &'static str = "f32";

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Float for bf16 {
    const NAME: &'static str = "bf16";

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    // As `bf16::from_f32`, but without a branch: loops over it become vector code.
    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
        // Rounding could carry a NaN to an infinity: its upper half is kept, and made quiet.
        let bits = if value.is_nan() { bits | 0x0040_0000 } else { rounded };
        bf16::from_bits((bits >> 16) as u16)
    }
}

/// Overwrites `target` with `source`, rounded where T has fewer bits. Use it inside `vectorize!`.
#[inline(always)]
pub(crate) fn round_slice<T: Float>(source: &[f32], target: &mut [T]) {
    // A loop: the closure of `for_each` can become a function of its own, without the caller's instructions.
    for (target, &source) in target.iter_mut().zip(source) {
        *target = T::from_f32(source);
    }
}

/// Overwrites `target` with `source`, rounded by dither; `first` is the index of the first. Use it inside `vectorize!`.
#[inline(always)]
pub(crate) fn dither_slice(source: &[f32], first: usize, target: &mut [bf16]) {
    for (lane, (target, &source)) in target.iter_mut().zip(source).enumerate() {
        *target = bf16::from_bits(dither_to_bf16(source, first + lane).0);
    }
}

/// Overwrites both planes with `source`, rounded by dither, and the lower halves of its bits; `first` is the index of the first. Use it inside `vectorize!`.
#[inline(always)]
pub(crate) fn split_slice(source: &[f32], first: usize, rounded: &mut [bf16], lower: &mut [u16]) {
    dither_slice(source, first, rounded);
    for (lower, &source) in lower.iter_mut().zip(source) {
        *lower = lower_half(source);
    }
}

/// Overwrites `target` with what [`split_slice`] split. Use it inside `vectorize!`.
#[inline(always)]
pub(crate) fn join_slice(rounded: &[bf16], lower: &[u16], first: usize, target: &mut [f32]) {
    for (lane, (target, (rounded, &lower))) in target.iter_mut().zip(rounded.iter().zip(lower)).enumerate() {
        *target = undo(Bf16(rounded.to_bits()), lower, first + lane);
    }
}

/// Overwrites `target` with `source`, exactly. Use it inside `vectorize!`.
#[inline(always)]
pub(crate) fn widen_slice<T: Float>(source: &[T], target: &mut [f32]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target = source.to_f32();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_converted_as_its_crate_does() {
        for upper in 0..=u16::MAX {
            let value = bf16::from_bits(upper);
            let widened = Float::to_f32(value);
            assert!(widened.to_bits() == value.to_f32().to_bits() || widened.is_nan() && value.is_nan());
            for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
                let value = f32::from_bits(u32::from(upper) << 16 | lower);
                let rounded = <bf16 as Float>::from_f32(value);
                assert_eq!(rounded.to_bits(), bf16::from_f32(value).to_bits(), "{value}");
            }
        }
    }
}
