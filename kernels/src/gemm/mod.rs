//! Products of matrices, in the three layouts a linear layer needs, and sums of columns for its bias.
//!
//! All matrices are row-major without gaps. With x `[N, I]`, W `[O, I]`, y `[N, O]`:
//!
//! - `nt`, forward: C = A·Bᵀ + bias, y = x·Wᵀ + b (m = N, n = O, k = I)
//! - `nn`, gradient of the input: C = or += A·B, d_x = d_y·W (m = N, n = I, k = O)
//! - `tn`, gradient of the weight: C += Aᵀ·B in f32, d_W += d_yᵀ·x (m = O, n = I, k = N)
//!
//! Operands are f32 or bf16, sums f32; C is rounded once, to nearest even. `nt` of bf16 also has kernels that
//! leave C in f32, for logits. Sizes are below 2^31.
//!
//! - On tensor cores ([`tensor`]): bf16 whose operands are aligned to 16 bytes and have last dimensions that
//!   are multiples of 8. Tiles of 128 by 256, 128 by 128 and 64 by 64.
//! - Otherwise by fused multiply-adds ([`tile`]): f32, and bf16 of any shape. Tiles of 128 by 128 and of 32
//!   by 32. Operands are read 8 elements at a time where they are aligned to 16 bytes and their last
//!   dimensions are multiples of 8, else one by one.
//!
//! Kernels of different tiles sum in the same order, and so have the same bits; those of [`split_k`] divide k
//! among blocks, for `nn` and `tn` of few tiles and many terms. `nt` is never split: on devices without kernels for their
//! architecture alone ([`gemm_hopper`](crate::gemm_hopper)) what a forward makes of a row does not depend on how many rows come with it.
//! [`dispatch::gemm`](crate::dispatch::gemm) chooses among them. All threads reach every barrier: loops over k are the same for the
//! whole block. Two operations (one fused multiply-add) per element of C and k; per tile and k, its height and width of
//! operands are read.

mod columns;
pub(crate) mod epilogue;
mod split_k;
pub(crate) mod tensor;
pub(crate) mod tile;

use crate::simt::*;
use epilogue::{Epilogue, Sizes, origin};
pub use split_k::*;

/// Squares per side that a thread of a large tile sums: 8 by 8 elements.
pub(crate) const LARGE: usize = 2;
/// The same of a small tile: 4 by 4 elements.
pub(crate) const SMALL: usize = 1;
/// Sizes as kernels have them; the contracts keep them below 2^31.
#[inline(always)]
fn sizes(m: u64, n: u64, k: u64) -> Sizes {
    Sizes { m: m as u32, n: n as u32, k: k as u32 }
}

macro_rules! product_kernels {
    (
        $quads:ident;
        $nt:ident = $($nt_entry:ident),*;
        $nn:ident = $($nn_entry:ident),*;
        $tn:ident = $($tn_entry:ident),*;
    ) => {
        kernel! {
            /// out = a·bᵀ, plus bias in every row if `biased` is 1; out `[m, n]`, a `[m, k]`, b `[n, k]`, bias `[n]`.
            ///
            /// Grid, traffic and barriers: see the module.
            pub fn $nt<E> = $($nt_entry),*; {
                block: tile::threads($quads),
                grid: tile::count(m, n, $quads),
                shared: tile::shared_bytes($quads),
                min_blocks: tile::min_blocks($quads),
            } (
                a: read E [m * k],
                b: read E [n * k],
                bias: read E [biased * n],
                out: write E [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
                biased: scalar u32,
            ) requires { m < 1 << 31, n < 1 << 31, k < 1 << 31, biased <= 1 } {
                let sizes = sizes(m, n, k);
                let sums = tile::product::<E, true, true, $quads>(a, b, sizes);
                let how = if biased == 1 { Epilogue::AddBias(bias) } else { Epilogue::Write };
                tile::finish::<E, $quads>(sums, out, sizes, how);
            }
        }

        kernel! {
            /// out = a·b, or out += a·b if `accumulate` is 1; out `[m, n]`, a `[m, k]`, b `[k, n]`. Without
            /// `accumulate`, out is not read.
            ///
            /// Grid, traffic and barriers: see the module.
            pub fn $nn<E> = $($nn_entry),*; {
                block: tile::threads($quads),
                grid: tile::count(m, n, $quads),
                shared: tile::shared_bytes($quads),
                min_blocks: tile::min_blocks($quads),
            } (
                a: read E [m * k],
                b: read E [k * n],
                out: update E [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
                accumulate: scalar u32,
            ) requires { m < 1 << 31, n < 1 << 31, k < 1 << 31, accumulate <= 1 } {
                let sizes = sizes(m, n, k);
                let sums = tile::product::<E, true, false, $quads>(a, b, sizes);
                let how = if accumulate == 1 { Epilogue::Add } else { Epilogue::Write };
                tile::finish::<E, $quads>(sums, out, sizes, how);
            }
        }

        kernel! {
            /// out += aᵀ·b; out `[m, n]`, a `[k, m]`, b `[k, n]`.
            ///
            /// Grid, traffic and barriers: see the module.
            pub fn $tn<E> = $($tn_entry),*; {
                block: tile::threads($quads),
                grid: tile::count(m, n, $quads),
                shared: tile::shared_bytes($quads),
                min_blocks: tile::min_blocks($quads),
            } (
                a: read E [k * m],
                b: read E [k * n],
                out: update f32 [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
            ) requires { m < 1 << 31, n < 1 << 31, k < 1 << 31 } {
                let sizes = sizes(m, n, k);
                let sums = tile::product::<E, false, false, $quads>(a, b, sizes);
                tile::finish::<f32, $quads>(sums, out, sizes, Epilogue::Add);
            }
        }
    };
}
product_kernels! {
    LARGE;
    gemm_nt_128 = gemm_nt_f32_128, gemm_nt_bf16_128;
    gemm_nn_128 = gemm_nn_f32_128, gemm_nn_bf16_128;
    gemm_tn_128 = gemm_tn_f32_128, gemm_tn_bf16_128;
}
product_kernels! {
    SMALL;
    gemm_nt_32 = gemm_nt_f32_32, gemm_nt_bf16_32;
    gemm_nn_32 = gemm_nn_f32_32, gemm_nn_bf16_32;
    gemm_tn_32 = gemm_tn_f32_32, gemm_tn_bf16_32;
}

macro_rules! unrounded_kernel {
    ($quads:ident, $nt:ident) => {
        kernel! {
            /// out = a·bᵀ in f32, not rounded to the operands' type; out `[m, n]`, a `[m, k]`, b `[n, k]`.
            ///
            /// Grid, traffic and barriers: see the module.
            pub fn $nt {
                block: tile::threads($quads),
                grid: tile::count(m, n, $quads),
                shared: tile::shared_bytes($quads),
                min_blocks: tile::min_blocks($quads),
            } (
                a: read Bf16 [m * k],
                b: read Bf16 [n * k],
                out: write f32 [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
            ) requires { m < 1 << 31, n < 1 << 31, k < 1 << 31 } {
                let sizes = sizes(m, n, k);
                let sums = tile::product::<Bf16, true, true, $quads>(a, b, sizes);
                tile::finish::<f32, $quads>(sums, out, sizes, Epilogue::Write);
            }
        }
    };
}
unrounded_kernel!(LARGE, gemm_nt_bf16_f32_128);
unrounded_kernel!(SMALL, gemm_nt_bf16_f32_32);

macro_rules! tensor_kernels {
    ($mma_m:literal, $mma_n:literal, $warps:literal, $prefetch:literal, $min_blocks:literal,
        $nt:ident, $nt_f32:ident, $nn:ident, $tn:ident) => {
        kernel! {
            /// out = a·bᵀ, plus bias in every row if `biased` is 1; out `[m, n]`, a `[m, k]`, b `[n, k]`, bias `[n]`.
            ///
            /// On tensor cores. Grid, traffic and barriers: see the module.
            pub fn $nt {
                block: $warps * WARP,
                grid: tensor::count(m, n, $mma_m, $mma_n, $warps),
                shared: tensor::shared_bytes($mma_m, $mma_n, $warps, $prefetch),
                min_blocks: $min_blocks,
                tensor_cores: KeepsAccumulators,
            } (
                a: read Bf16 [m * k] align 16,
                b: read Bf16 [n * k] align 16,
                bias: read Bf16 [biased * n],
                out: write Bf16 [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
                biased: scalar u32,
            ) requires { m < 1 << 31, n < 1 << 31, k < 1 << 31, k.is_multiple_of(8), biased <= 1 } {
                let sizes = sizes(m, n, k);
                let first = origin(sizes, block_idx(), tensor::rows($mma_m), tensor::columns($mma_n, $warps));
                let sums =
                    tensor::product::<true, true, $mma_m, $mma_n, $warps, $prefetch>(a, b, sizes, first, (0, sizes.k));
                let how = if biased == 1 { Epilogue::AddBias(bias) } else { Epilogue::Write };
                tensor::finish(sums, out, sizes, first, how);
            }
        }

        kernel! {
            /// out = a·bᵀ in f32, not rounded to bf16; out `[m, n]`, a `[m, k]`, b `[n, k]`.
            ///
            /// On tensor cores. Grid, traffic and barriers: see the module.
            pub fn $nt_f32 {
                block: $warps * WARP,
                grid: tensor::count(m, n, $mma_m, $mma_n, $warps),
                shared: tensor::shared_bytes($mma_m, $mma_n, $warps, $prefetch),
                min_blocks: $min_blocks,
                tensor_cores: KeepsAccumulators,
            } (
                a: read Bf16 [m * k] align 16,
                b: read Bf16 [n * k] align 16,
                out: write f32 [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
            ) requires { m < 1 << 31, n < 1 << 31, k < 1 << 31, k.is_multiple_of(8) } {
                let sizes = sizes(m, n, k);
                let first = origin(sizes, block_idx(), tensor::rows($mma_m), tensor::columns($mma_n, $warps));
                let sums =
                    tensor::product::<true, true, $mma_m, $mma_n, $warps, $prefetch>(a, b, sizes, first, (0, sizes.k));
                tensor::finish(sums, out, sizes, first, Epilogue::Write);
            }
        }

        kernel! {
            /// out = a·b, or out += a·b if `accumulate` is 1; out `[m, n]`, a `[m, k]`, b `[k, n]`. Without
            /// `accumulate`, out is not read.
            ///
            /// On tensor cores. Grid, traffic and barriers: see the module.
            pub fn $nn {
                block: $warps * WARP,
                grid: tensor::count(m, n, $mma_m, $mma_n, $warps),
                shared: tensor::shared_bytes($mma_m, $mma_n, $warps, $prefetch),
                min_blocks: $min_blocks,
                tensor_cores: KeepsAccumulators,
            } (
                a: read Bf16 [m * k] align 16,
                b: read Bf16 [k * n] align 16,
                out: update Bf16 [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
                accumulate: scalar u32,
            ) requires {
                m < 1 << 31, n < 1 << 31, k < 1 << 31,
                n.is_multiple_of(8), k.is_multiple_of(8), accumulate <= 1,
            } {
                let sizes = sizes(m, n, k);
                let first = origin(sizes, block_idx(), tensor::rows($mma_m), tensor::columns($mma_n, $warps));
                let sums =
                    tensor::product::<true, false, $mma_m, $mma_n, $warps, $prefetch>(a, b, sizes, first, (0, sizes.k));
                let how = if accumulate == 1 { Epilogue::Add } else { Epilogue::Write };
                tensor::finish(sums, out, sizes, first, how);
            }
        }

        kernel! {
            /// out += aᵀ·b; out `[m, n]`, a `[k, m]`, b `[k, n]`.
            ///
            /// On tensor cores. Grid, traffic and barriers: see the module.
            pub fn $tn {
                block: $warps * WARP,
                grid: tensor::count(m, n, $mma_m, $mma_n, $warps),
                shared: tensor::shared_bytes($mma_m, $mma_n, $warps, $prefetch),
                min_blocks: $min_blocks,
                tensor_cores: KeepsAccumulators,
            } (
                a: read Bf16 [k * m] align 16,
                b: read Bf16 [k * n] align 16,
                out: update f32 [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
            ) requires { m < 1 << 31, n < 1 << 31, k < 1 << 31, m.is_multiple_of(8), n.is_multiple_of(8) } {
                let sizes = sizes(m, n, k);
                let first = origin(sizes, block_idx(), tensor::rows($mma_m), tensor::columns($mma_n, $warps));
                let sums =
                    tensor::product::<false, false, $mma_m, $mma_n, $warps, $prefetch>(a, b, sizes, first, (0, sizes.k));
                tensor::finish(sums, out, sizes, first, Epilogue::Add);
            }
        }
    };
}
// Warps of 64 by 64 elements: per 16 elements along k, 32 products of tiles for 8 loads of fragments. A thread has all
// the registers there are, so one block of eight warps or two of four share a multiprocessor.
tensor_kernels!(
    4,
    8,
    8,
    2,
    1,
    gemm_nt_bf16_128x256,
    gemm_nt_bf16_f32_128x256,
    gemm_nn_bf16_128x256,
    gemm_tn_bf16_128x256
);
tensor_kernels!(
    4,
    8,
    4,
    1,
    2,
    gemm_nt_bf16_128x128,
    gemm_nt_bf16_f32_128x128,
    gemm_nn_bf16_128x128,
    gemm_tn_bf16_128x128
);
// Warps of 32 by 32, for few tiles; their stages are short, so more of them are on their way. Shared memory
// leaves room for three blocks.
tensor_kernels!(
    2,
    4,
    4,
    4,
    3,
    gemm_nt_bf16_64x64,
    gemm_nt_bf16_f32_64x64,
    gemm_nn_bf16_64x64,
    gemm_tn_bf16_64x64
);

kernel! {
    /// sums\[column\] += Σ over rows of matrix\[row, column\]; matrix `[rows, columns]`.
    ///
    /// A block of 16 warps sums 32 columns, one per lane: warp w takes rows w, w + 16, …, then the
    /// first warp adds the warps' sums in order. One barrier, reached by all. Reads every element
    /// once, in rows of 32; one addition per element.
    pub fn gemm_column_sums<E> = gemm_column_sums_f32, gemm_column_sums_bf16; {
        block: columns::BLOCK,
        grid: columns.div_ceil(u64::from(WARP)),
        shared: columns::SHARED,
    } (
        matrix: read E [rows * columns],
        sums: update f32 [columns],
        rows: scalar u64,
        columns: scalar u64,
    ) requires { rows < 1 << 31, columns < 1 << 31 } {
        columns::add_sums(matrix, sums, rows as usize, columns as usize);
    }
}
