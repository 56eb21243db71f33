//! Runs of f32 and bf16, one to the other, on the calling thread.

use half::bf16;

use super::simd::vectorize;
use crate::float::Float;

/// Magnitudes from here on are infinite or NaN.
const INFINITY: u32 = 0x7f80_0000;

/// Whether no value is NaN or infinite.
pub fn all_finite(values: &[f32]) -> bool {
    // The largest magnitude as an integer: one pass that vectorises, where a search does not.
    let largest = |largest: u32, value: &f32| (value.to_bits() & 0x7fff_ffff).max(largest);
    vectorize!(|| values.iter().fold(0, largest)) < INFINITY
}

/// Converts to f32; false when a value is NaN or infinite. Panics when lengths differ.
pub fn widen_bf16(values: &[bf16], target: &mut [f32]) -> bool {
    assert_eq!(values.len(), target.len());
    vectorize!(|| {
        let mut largest = 0;
        for (value, target) in values.iter().zip(target) {
            *target = Float::to_f32(*value);
            largest = largest.max(target.to_bits() & 0x7fff_ffff);
        }
        largest < INFINITY
    })
}

/// Converts to bf16, rounded to nearest, ties to even; false when a value is not finite or becomes so. Panics when lengths
/// differ.
pub fn narrow_bf16(values: &[f32], target: &mut [bf16]) -> bool {
    assert_eq!(values.len(), target.len());
    vectorize!(|| {
        let mut largest = 0;
        for (value, target) in values.iter().zip(target) {
            *target = Float::from_f32(*value);
            largest = largest.max(Float::to_f32(*target).to_bits() & 0x7fff_ffff);
        }
        largest < INFINITY
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_is_rounded_as_half_does_and_what_is_not_finite_is_seen() {
        let values: Vec<f32> = (0..100_000_u32)
            .map(|index| f32::from_bits(index.wrapping_mul(0x9e37_79b9)))
            .filter(|value| value.abs() < 3.3e38)
            .collect();
        let mut narrow = vec![bf16::NAN; values.len()];
        assert!(narrow_bf16(&values, &mut narrow));
        assert!(values.iter().zip(&narrow).all(|(value, narrow)| bf16::from_f32(*value) == *narrow));
        let mut wide = vec![f32::NAN; values.len()];
        assert!(widen_bf16(&narrow, &mut wide) && all_finite(&wide));
        assert!(narrow.iter().zip(&wide).all(|(narrow, wide)| narrow.to_f32() == *wide));
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, -f32::NAN] {
            assert!(!narrow_bf16(&[1.0, bad, 2.0], &mut [bf16::ZERO; 3]), "{bad}");
            assert!(!widen_bf16(&[bf16::from_f32(bad), bf16::ONE], &mut [0.0; 2]), "{bad}");
        }
        assert!(!all_finite(&[0.0, f32::NAN]) && all_finite(&[0.0, f32::MAX]));
    }
}
