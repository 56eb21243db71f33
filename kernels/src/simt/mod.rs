//! The device API that kernels are written in, after the names of CUDA.
//!
//! Two implementations stand behind the same names: `ptx` compiles to PTX instructions, `host` calls the
//! [emulator](crate::emulator). What needs no hardware is defined here once.
//!
//! # Matrix fragments
//!
//! [`matrix_multiply`] is `mma.m16n8k16` on bf16 with f32 sums: A 16×16 by rows, B 16×8 by columns, C 16×8.
//! With g = lane / 4 and t = lane % 4 a lane holds, two bf16 to a word and the lower column or row first,
//! A\[g, 2t..\], A\[g+8, 2t..\], A\[g, 2t+8..\], A\[g+8, 2t+8..\]; B\[2t.., g\], B\[2t+8.., g\]; and of C
//! [g, 2t], [g, 2t+1], [g+8, 2t], [g+8, 2t+1].
//!
//! # Tiles in shared memory
//!
//! TMA writes a tile as rows of 128 bytes, one behind the other, and the tensor cores read it so. Bits
//! 4 to 6 of every address, the 16-byte chunk in the row, are combined by exclusive-or with bits 7 to 9, the row
//! modulo 8: then the same chunk of eight rows lies in eight places of the banks.
//!
//! Blocks have one dimension and a multiple of 32 threads. Warp operations take part with all 32 lanes;
//! there are no masks to get wrong.

#[cfg(not(target_arch = "nvptx64"))]
mod host;
mod pack;
#[cfg(target_arch = "nvptx64")]
mod ptx;
mod real;
mod warpgroup;

#[cfg(not(target_arch = "nvptx64"))]
pub use host::*;
pub use pack::{Pack, cover};
#[cfg(target_arch = "nvptx64")]
pub use ptx::*;
pub use real::{Real, vector_length};
pub use warpgroup::{
    AFragments, Accumulators, MatrixDescriptor, WarpgroupAccumulators, warpgroup_narrow_sizes,
    warpgroup_sizes,
};

pub use crate::values::*;

/// Threads of a warp.
pub const WARP: u32 = 32;

/// Lane of this thread in its warp.
#[inline(always)]
pub fn lane_id() -> u32 {
    thread_idx() % WARP
}

/// Warp of this thread in its block.
#[inline(always)]
pub fn warp_id() -> u32 {
    thread_idx() / WARP
}

/// Index of this thread in the whole grid, for grids of one dimension.
#[inline(always)]
pub fn global_thread_idx() -> usize {
    block_idx() as usize * block_dim() as usize + thread_idx() as usize
}

/// e^x, from the fast base-2 exponential: relative error about 2^-21 near 0, growing with |x|.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    exp2_approx(x * core::f32::consts::LOG2_E)
}

/// Natural logarithm, from the fast base-2 logarithm.
#[inline(always)]
pub fn log(x: f32) -> f32 {
    log2_approx(x) * core::f32::consts::LN_2
}

/// 1/(1 + e^-x).
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    reciprocal_approx(1.0 + exp(-x))
}

/// tanh x to within 2^-21 relative: a polynomial near 0, from the fast base-2 exponential elsewhere.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let square = x * x;
    let p = fma(0.016_177_405, square, -0.052_523_173);
    let p = fma(fma(p, square, 0.133_181_62), square, -0.333_328_22);
    let small = fma(x * square, p, x);
    // 1 − 2 / (e^2x + 1)
    let large = fma(-2.0, reciprocal_approx(1.0 + exp(2.0 * x)), 1.0);
    if abs(x) < 0.55 { small } else { large }
}

/// All ones where bit `index` of `bits` is set, else zeros: what [`blend`] takes.
#[inline(always)]
pub fn lane_mask(bits: u32, index: usize) -> u32 {
    (bits >> index & 1).wrapping_neg()
}

/// The bits of `a` where `mask` has ones, of `b` where it has zeros: a choice that never is a branch.
#[inline(always)]
pub fn blend(mask: u32, a: f32, b: f32) -> f32 {
    f32::from_bits((a.to_bits() & mask) | (b.to_bits() & !mask))
}

/// Sum of `value` over the warp, the same bits in every lane: a butterfly adds in the same pairs everywhere.
#[inline(always)]
pub fn warp_sum(value: f32) -> f32 {
    half_warp_sum(value + shuffle_xor(value, 16))
}

/// Sum of `value` over the sixteen lanes of the half of the warp, the same bits in every lane.
#[inline(always)]
pub fn half_warp_sum(mut value: f32) -> f32 {
    value += shuffle_xor(value, 8);
    value += shuffle_xor(value, 4);
    value += shuffle_xor(value, 2);
    value + shuffle_xor(value, 1)
}

/// Largest `value` of the warp, in every lane.
#[inline(always)]
pub fn warp_max(mut value: f32) -> f32 {
    value = max(value, shuffle_xor(value, 16));
    value = max(value, shuffle_xor(value, 8));
    value = max(value, shuffle_xor(value, 4));
    value = max(value, shuffle_xor(value, 2));
    max(value, shuffle_xor(value, 1))
}

/// Sum of `value` over the block, in every thread: by warps, then over the warps' sums in order.
///
/// `scratch` holds one value per warp. Every thread of the block must call it; `scratch` may be used again
/// at once.
#[inline(always)]
pub fn block_sum(value: f32, scratch: Shared<f32>) -> f32 {
    let sum = warp_sum(value);
    if lane_id() == 0 {
        scratch.store(warp_id(), sum);
    }
    sync_threads();
    let mut total = 0.0;
    for warp in 0..block_dim() / WARP {
        total += scratch.load(warp);
    }
    sync_threads();
    total
}

/// `value` of the lane whose number differs in the bits of `mask`.
#[inline(always)]
fn shuffle_xor_f64(value: f64, mask: u32) -> f64 {
    let bits = value.to_bits();
    let low = shuffle_xor(bits as u32, mask);
    let high = shuffle_xor((bits >> 32) as u32, mask);
    f64::from_bits(u64::from(high) << 32 | u64::from(low))
}

/// [`warp_sum`] in f64.
#[inline(always)]
pub fn warp_sum_f64(mut value: f64) -> f64 {
    value += shuffle_xor_f64(value, 16);
    value += shuffle_xor_f64(value, 8);
    value += shuffle_xor_f64(value, 4);
    value += shuffle_xor_f64(value, 2);
    value + shuffle_xor_f64(value, 1)
}

/// [`block_sum`] in f64.
#[inline(always)]
pub fn block_sum_f64(value: f64, scratch: Shared<f64>) -> f64 {
    let sum = warp_sum_f64(value);
    if lane_id() == 0 {
        scratch.store(warp_id(), sum);
    }
    sync_threads();
    let mut total = 0.0;
    for warp in 0..block_dim() / WARP {
        total += scratch.load(warp);
    }
    sync_threads();
    total
}
