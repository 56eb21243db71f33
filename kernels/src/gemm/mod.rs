//! Products of matrices, in the three layouts a linear layer needs, and sums of columns for its bias.
//!
//! All matrices are row-major without gaps. With x `[N, I]`, W `[O, I]`, y `[N, O]`:
//!
//! - `nt`, forward: C = A·Bᵀ + bias, y = x·Wᵀ + b (m = N, n = O, k = I)
//! - `nn`, gradient of the input: C = or += A·B, d_x = d_y·W (m = N, n = I, k = O)
//! - `tn`, gradient of the weight: C += Aᵀ·B in f32, d_W += d_yᵀ·x (m = O, n = I, k = N)
//!
//! Operands are f32 or bf16, sums f32; C is rounded once, to nearest even. Sizes are below 2^31.
//!
//! There are two kernels of each, of the same body ([`tile`]) and so with the same bits: blocks of 256
//! threads for tiles of 128 by 128, and blocks of 64 threads for tiles of 32 by 32. [`gemm_nt_f32`] and its
//! like choose between them. All threads reach every barrier: loops over k are the same for the whole block.
//! Shared memory is 32 KiB or 8 KiB. Two operations (one fused multiply-add) per element of C and k; per
//! tile and k, 2 · side operands are read. Operands are read 8 elements at a time where they are aligned to
//! 16 bytes and their rows are multiples of 8 elements, else one by one.

mod columns;
mod tile;

use crate::simt::*;
use tile::{Finish, Sizes};

/// Squares per side that a thread of a large tile sums: 8 by 8 elements.
const LARGE: usize = 2;
/// The same of a small tile: 4 by 4 elements.
const SMALL: usize = 1;
/// Fewer large tiles than this leave most of a GPU idle, so that small ones win.
#[cfg(not(target_arch = "nvptx64"))]
const MANY_TILES: u64 = 64;

/// Whether the kernel for large tiles should compute a C of `m` by `n`.
#[cfg(not(target_arch = "nvptx64"))]
fn large(m: u64, n: u64) -> bool {
    m.min(n) > u64::from(tile::side(SMALL)) && tile::count(m, n, LARGE) >= MANY_TILES
}

/// Sizes as kernels have them; the contracts keep them below 2^31.
#[inline(always)]
fn sizes(m: u64, n: u64, k: u64) -> Sizes {
    Sizes { m: m as u32, n: n as u32, k: k as u32 }
}

macro_rules! product_kernels {
    ($real:ident, $quads:ident, $nt:ident, $nn:ident, $tn:ident) => {
        kernel! {
            /// out = a·bᵀ, plus bias in every row if `biased` is 1; out `[m, n]`, a `[m, k]`, b `[n, k]`, bias `[n]`.
            ///
            /// Grid, traffic and barriers: see the module.
            pub fn $nt {
                block: tile::threads($quads),
                grid: tile::count(m, n, $quads),
                shared: tile::shared_bytes($quads),
                resident: tile::resident($quads),
            } (
                a: read $real [m * k],
                b: read $real [n * k],
                bias: read $real [biased * n],
                out: write $real [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
                biased: scalar u32,
            ) requires { m < 1 << 31, n < 1 << 31, k < 1 << 31, biased <= 1 } {
                let sizes = sizes(m, n, k);
                let sums = tile::product::<$real, true, true, $quads>(a, b, sizes);
                let how = if biased == 1 { Finish::AddBias(bias) } else { Finish::Write };
                tile::finish::<$real, $quads>(sums, out, sizes, how);
            }
        }

        kernel! {
            /// out = a·b, or out += a·b if `accumulate` is 1; out `[m, n]`, a `[m, k]`, b `[k, n]`. Without
            /// `accumulate`, out is not read.
            ///
            /// Grid, traffic and barriers: see the module.
            pub fn $nn {
                block: tile::threads($quads),
                grid: tile::count(m, n, $quads),
                shared: tile::shared_bytes($quads),
                resident: tile::resident($quads),
            } (
                a: read $real [m * k],
                b: read $real [k * n],
                out: update $real [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
                accumulate: scalar u32,
            ) requires { m < 1 << 31, n < 1 << 31, k < 1 << 31, accumulate <= 1 } {
                let sizes = sizes(m, n, k);
                let sums = tile::product::<$real, true, false, $quads>(a, b, sizes);
                let how = if accumulate == 1 { Finish::Add } else { Finish::Write };
                tile::finish::<$real, $quads>(sums, out, sizes, how);
            }
        }

        kernel! {
            /// out += aᵀ·b; out `[m, n]`, a `[k, m]`, b `[k, n]`.
            ///
            /// Grid, traffic and barriers: see the module.
            pub fn $tn {
                block: tile::threads($quads),
                grid: tile::count(m, n, $quads),
                shared: tile::shared_bytes($quads),
                resident: tile::resident($quads),
            } (
                a: read $real [k * m],
                b: read $real [k * n],
                out: update f32 [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
            ) requires { m < 1 << 31, n < 1 << 31, k < 1 << 31 } {
                let sizes = sizes(m, n, k);
                let sums = tile::product::<$real, false, false, $quads>(a, b, sizes);
                tile::finish::<f32, $quads>(sums, out, sizes, Finish::Add);
            }
        }
    };
}
product_kernels!(f32, LARGE, gemm_nt_f32_128, gemm_nn_f32_128, gemm_tn_f32_128);
product_kernels!(f32, SMALL, gemm_nt_f32_32, gemm_nn_f32_32, gemm_tn_f32_32);
product_kernels!(Bf16, LARGE, gemm_nt_bf16_128, gemm_nn_bf16_128, gemm_tn_bf16_128);
product_kernels!(Bf16, SMALL, gemm_nt_bf16_32, gemm_nn_bf16_32, gemm_tn_bf16_32);

macro_rules! column_kernel {
    ($name:ident, $real:ident) => {
        kernel! {
            /// sums\[column\] += Σ over rows of matrix\[row, column\]; matrix `[rows, columns]`.
            ///
            /// A block of 16 warps sums 32 columns, one per lane: warp w takes rows w, w + 16, …, then the
            /// first warp adds the warps' sums in order. One barrier, reached by all. Reads every element
            /// once, in rows of 32; one addition per element.
            pub fn $name {
                block: columns::BLOCK,
                grid: columns.div_ceil(u64::from(WARP)),
                shared: columns::SHARED,
            } (
                matrix: read $real [rows * columns],
                sums: update f32 [columns],
                rows: scalar u64,
                columns: scalar u64,
            ) requires { rows < 1 << 31, columns < 1 << 31 } {
                columns::add_sums(matrix, sums, rows as usize, columns as usize);
            }
        }
    };
}
column_kernel!(column_sums_f32, f32);
column_kernel!(column_sums_bf16, Bf16);

/// Launchers that choose the size of the tiles.
#[cfg(not(target_arch = "nvptx64"))]
mod choose {
    use super::*;
    use crate::launch::{Launch, LaunchError, Slice, SliceMut};

    macro_rules! choose {
        ($real:ident, $nt:ident = $nt_large:ident | $nt_small:ident, $nn:ident = $nn_large:ident | $nn_small:ident,
         $tn:ident = $tn_large:ident | $tn_small:ident) => {
            /// out = a·bᵀ (+ bias in every row); out `[m, n]`, a `[m, k]`, b `[n, k]`, bias `[n]`.
            ///
            /// # Errors
            /// A buffer too short, a size from 2^31 on, or what the launcher reports.
            pub fn $nt(
                launcher: &dyn Launch,
                a: Slice<'_, $real>,
                b: Slice<'_, $real>,
                bias: Option<Slice<'_, $real>>,
                out: SliceMut<'_, $real>,
                [m, n, k]: [u64; 3],
            ) -> Result<(), LaunchError> {
                let biased = u32::from(bias.is_some());
                // SAFETY: without elements nothing is accessed.
                let bias = bias.unwrap_or_else(|| unsafe { Slice::new(0, 0) });
                let launch = if large(m, n) { $nt_large } else { $nt_small };
                launch(launcher, a, b, bias, out, m, n, k, biased)
            }

            /// out = a·b, or out += a·b to `accumulate`; out `[m, n]`, a `[m, k]`, b `[k, n]`.
            ///
            /// # Errors
            /// A buffer too short, a size from 2^31 on, or what the launcher reports.
            pub fn $nn(
                launcher: &dyn Launch,
                a: Slice<'_, $real>,
                b: Slice<'_, $real>,
                out: SliceMut<'_, $real>,
                [m, n, k]: [u64; 3],
                accumulate: bool,
            ) -> Result<(), LaunchError> {
                let launch = if large(m, n) { $nn_large } else { $nn_small };
                launch(launcher, a, b, out, m, n, k, u32::from(accumulate))
            }

            /// out += aᵀ·b; out `[m, n]`, a `[k, m]`, b `[k, n]`.
            ///
            /// # Errors
            /// A buffer too short, a size from 2^31 on, or what the launcher reports.
            pub fn $tn(
                launcher: &dyn Launch,
                a: Slice<'_, $real>,
                b: Slice<'_, $real>,
                out: SliceMut<'_, f32>,
                [m, n, k]: [u64; 3],
            ) -> Result<(), LaunchError> {
                let launch = if large(m, n) { $tn_large } else { $tn_small };
                launch(launcher, a, b, out, m, n, k)
            }
        };
    }
    choose!(
        f32,
        gemm_nt_f32 = gemm_nt_f32_128 | gemm_nt_f32_32,
        gemm_nn_f32 = gemm_nn_f32_128 | gemm_nn_f32_32,
        gemm_tn_f32 = gemm_tn_f32_128 | gemm_tn_f32_32
    );
    choose!(
        Bf16,
        gemm_nt_bf16 = gemm_nt_bf16_128 | gemm_nt_bf16_32,
        gemm_nn_bf16 = gemm_nn_bf16_128 | gemm_nn_bf16_32,
        gemm_tn_bf16 = gemm_tn_bf16_128 | gemm_tn_bf16_32
    );
}
#[cfg(not(target_arch = "nvptx64"))]
pub use choose::*;

/// The kernels of this family.
#[cfg(not(target_arch = "nvptx64"))]
pub const KERNELS: &[crate::launch::Kernel] = &[
    gemm_nt_f32_128::KERNEL,
    gemm_nn_f32_128::KERNEL,
    gemm_tn_f32_128::KERNEL,
    gemm_nt_f32_32::KERNEL,
    gemm_nn_f32_32::KERNEL,
    gemm_tn_f32_32::KERNEL,
    gemm_nt_bf16_128::KERNEL,
    gemm_nn_bf16_128::KERNEL,
    gemm_tn_bf16_128::KERNEL,
    gemm_nt_bf16_32::KERNEL,
    gemm_nn_bf16_32::KERNEL,
    gemm_tn_bf16_32::KERNEL,
    column_sums_f32::KERNEL,
    column_sums_bf16::KERNEL,
];
