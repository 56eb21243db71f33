//! Arithmetic, one instruction each unless said.

use core::arch::asm;

use crate::simt::Bf16;

#[allow(improper_ctypes)]
unsafe extern "C" {
    #[link_name = "llvm.nvvm.rsqrt.approx.ftz.f"]
    safe fn rsqrt_approx_ftz(x: f32) -> f32;
    #[link_name = "llvm.nvvm.ex2.approx.ftz.f"]
    safe fn ex2_approx_ftz(x: f32) -> f32;
    #[link_name = "llvm.nvvm.lg2.approx.ftz.f"]
    safe fn lg2_approx_ftz(x: f32) -> f32;
    #[link_name = "llvm.nvvm.rcp.approx.ftz.f"]
    safe fn rcp_approx_ftz(x: f32) -> f32;
}

/// a·b + c, rounded once.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    core::f32::math::mul_add(a, b, c)
}

/// √x, rounded to nearest: several instructions.
#[inline(always)]
pub fn sqrt(x: f32) -> f32 {
    core::f32::math::sqrt(x)
}

/// a·b + c in f64, rounded once.
#[inline(always)]
pub fn fma_f64(a: f64, b: f64, c: f64) -> f64 {
    core::f64::math::mul_add(a, b, c)
}

/// √x in f64, rounded to nearest: many instructions.
#[inline(always)]
pub fn sqrt_f64(x: f64) -> f64 {
    core::f64::math::sqrt(x)
}

/// 1/√x; two units in the last place.
#[inline(always)]
pub fn rsqrt_approx(x: f32) -> f32 {
    rsqrt_approx_ftz(x)
}

/// 2^x; two units in the last place, tiny results and arguments flushed to zero.
#[inline(always)]
pub fn exp2_approx(x: f32) -> f32 {
    ex2_approx_ftz(x)
}

/// Base-2 logarithm; absolute error 2^-22 between 0.5 and 2, elsewhere relative.
#[inline(always)]
pub fn log2_approx(x: f32) -> f32 {
    lg2_approx_ftz(x)
}

/// 1/x; one unit in the last place.
#[inline(always)]
pub fn reciprocal_approx(x: f32) -> f32 {
    rcp_approx_ftz(x)
}

/// a/b, rounded to nearest: many instructions.
#[inline(always)]
pub fn divide(a: f32, b: f32) -> f32 {
    a / b
}

/// |x|.
#[inline(always)]
pub fn abs(x: f32) -> f32 {
    x.abs()
}

/// The smaller; the number where the other is NaN.
#[inline(always)]
pub fn min(a: f32, b: f32) -> f32 {
    a.min(b)
}

/// The larger; the number where the other is NaN.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    a.max(b)
}

/// Two numbers as bf16, the first in the lower half.
#[inline(always)]
pub fn pack_bf16(low: f32, high: f32) -> u32 {
    let bits: u32;
    // SAFETY: reads and writes its operands alone.
    unsafe {
        asm!("cvt.rn.bf16x2.f32 {}, {}, {};", out(reg32) bits, in(reg32) high, in(reg32) low,
            options(pure, nomem, nostack));
    }
    bits
}

/// The nearest bf16, ties to even; any NaN becomes 0x7fff.
#[inline(always)]
pub fn round_to_bf16(x: f32) -> Bf16 {
    let bits: u16;
    // SAFETY: reads and writes its operands alone.
    unsafe {
        asm!("cvt.rn.bf16.f32 {}, {};", out(reg16) bits, in(reg32) x, options(pure, nomem, nostack));
    }
    Bf16(bits)
}
