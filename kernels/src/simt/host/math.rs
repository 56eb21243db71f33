//! Arithmetic. Where hardware approximates, the host rounds correctly: results differ in the last bits.

use crate::simt::Bf16;

/// a·b + c, rounded once.
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    a.mul_add(b, c)
}

/// √x, rounded to nearest.
pub fn sqrt(x: f32) -> f32 {
    x.sqrt()
}

/// a·b + c in f64, rounded once.
pub fn fma_f64(a: f64, b: f64, c: f64) -> f64 {
    a.mul_add(b, c)
}

/// √x in f64, rounded to nearest.
pub fn sqrt_f64(x: f64) -> f64 {
    x.sqrt()
}

/// 1/√x; two units in the last place on hardware.
pub fn rsqrt_approx(x: f32) -> f32 {
    1.0 / x.sqrt()
}

/// 2^x; two units in the last place on hardware, tiny results and arguments flushed to zero.
pub fn exp2_approx(x: f32) -> f32 {
    x.exp2()
}

/// Base-2 logarithm; absolute error 2^-22 between 0.5 and 2 on hardware.
pub fn log2_approx(x: f32) -> f32 {
    x.log2()
}

/// 1/x; one unit in the last place on hardware.
pub fn reciprocal_approx(x: f32) -> f32 {
    1.0 / x
}

/// a/b, rounded to nearest: many instructions on hardware.
pub fn divide(a: f32, b: f32) -> f32 {
    a / b
}

/// |x|.
pub fn abs(x: f32) -> f32 {
    x.abs()
}

/// The smaller; the number where the other is NaN.
pub fn min(a: f32, b: f32) -> f32 {
    a.min(b)
}

/// The larger; the number where the other is NaN.
pub fn max(a: f32, b: f32) -> f32 {
    a.max(b)
}

/// Two numbers as bf16, the first in the lower half.
pub fn pack_bf16(low: f32, high: f32) -> u32 {
    u32::from(round_to_bf16(low).0) | u32::from(round_to_bf16(high).0) << 16
}

/// The nearest bf16, ties to even; any NaN becomes 0x7fff, as `cvt.rn.bf16.f32` has it.
pub fn round_to_bf16(x: f32) -> Bf16 {
    if x.is_nan() {
        return Bf16(0x7fff);
    }
    let bits = x.to_bits();
    let round = 0x7fff + (bits >> 16 & 1);
    Bf16((bits.wrapping_add(round) >> 16) as u16)
}
