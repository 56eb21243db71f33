//! Products of bf16 matrices on Hopper (compute capability 9.0): the layouts of [`gemm`](crate::gemm), by the
//! instructions that Hopper alone has.
//!
//! Operands are aligned to 16 bytes, their last dimensions are multiples of 8, no size is zero. What is computed
//! and how it is rounded are as in [`gemm`](crate::gemm): sums go over ascending k in steps of 16, whose terms the
//! hardware adds in an order of its own, so bits may differ from those of the kernels for all devices; which block
//! has a tile, and so the number of blocks, makes no difference.
//!
//! - Block: 288 threads. Warps 0 to 3 and 4 to 7 are consumer warpgroups, lane 0 of warp 8 is the producer ([`product`]).
//! - Grid: `blocks`, or as many as there are tiles; as many as there are multiprocessors is right, since a block
//!   fills one: 224 KiB of shared memory, 168 registers a thread at most. Block b has tiles b, b + blocks, …
//! - Tiles of 128 by 256 (four stages of 48 KiB) and of 128 by 128 (six of 32 KiB), for smaller matrices.
//! - Barriers: one of the block, at the beginning, which all threads reach; then the mbarriers, two a stage.
//! - Traffic: per tile and k its height and width of operands are read, C written once (and read, if added to).
//!   Two operations per element of C and k.
//!
//! Not yet run on hardware: the emulator runs them by the documentation of `wgmma`, `mbarrier` and
//! `cp.async.bulk.tensor`.

pub(crate) mod product;

use crate::gemm::epilogue::{Epilogue, Sizes};
use crate::simt::*;

macro_rules! hopper_kernels {
    ($halves:literal, $width:literal, $nt:ident = $nt_f32:ident, $nt_bf16:ident, $nn:ident, $tn:ident) => {
        kernel! {
            /// out = a·b, or out += a·b if `accumulate` is 1; out `[m, n]`, a `[m, k]`, b `[k, n]`. Without
            /// `accumulate`, out is not read.
            ///
            /// Block, grid, traffic and barriers: see the module.
            pub fn $nn {
                block: product::BLOCK,
                grid: tiles.min(blocks),
                shared: product::shared_bytes($halves),
                tensor_cores: KeepsAccumulators,
                architecture: "sm_90a",
            } (
                a: tensor_map Bf16 [m * k] align 16 of [m, k] by 128 at 0,
                b: tensor_map Bf16 [k * n] align 16 of [k, n] by 64 at 1,
                out: update Bf16 [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
                tiles: scalar u64,
                blocks: scalar u32,
                accumulate: scalar u32,
            ) requires {
                m < 1 << 31, n < 1 << 31, k < 1 << 31, blocks > 0, accumulate <= 1,
                tiles == product::count(m, n, $halves),
            } {
                let _ = blocks;
                let sizes = Sizes { m: m as u32, n: n as u32, k: k as u32 };
                let how = if accumulate == 1 { Epilogue::Add } else { Epilogue::Write };
                product::all_tiles::<Bf16, true, false, $halves>(a, b, out, sizes, tiles as u32, how);
            }
        }

        kernel! {
            /// out += aᵀ·b; out `[m, n]`, a `[k, m]`, b `[k, n]`.
            ///
            /// Block, grid, traffic and barriers: see the module.
            pub fn $tn {
                block: product::BLOCK,
                grid: tiles.min(blocks),
                shared: product::shared_bytes($halves),
                tensor_cores: KeepsAccumulators,
                architecture: "sm_90a",
            } (
                a: tensor_map Bf16 [k * m] align 16 of [k, m] by 64 at 0,
                b: tensor_map Bf16 [k * n] align 16 of [k, n] by 64 at 1,
                out: update f32 [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
                tiles: scalar u64,
                blocks: scalar u32,
            ) requires {
                m < 1 << 31, n < 1 << 31, k < 1 << 31, blocks > 0,
                tiles == product::count(m, n, $halves),
            } {
                let _ = blocks;
                let sizes = Sizes { m: m as u32, n: n as u32, k: k as u32 };
                product::all_tiles::<f32, false, false, $halves>(a, b, out, sizes, tiles as u32, Epilogue::Add);
            }
        }

        kernel! {
            /// out = a·bᵀ in E, plus bias in every row if `biased` is 1; out `[m, n]`, a `[m, k]`, b `[n, k]`,
            /// bias `[n]`.
            ///
            /// Block, grid, traffic and barriers: see the module.
            pub fn $nt<E> = $nt_f32, $nt_bf16; {
                block: product::BLOCK,
                grid: tiles.min(blocks),
                shared: product::shared_bytes($halves),
                tensor_cores: KeepsAccumulators,
                architecture: "sm_90a",
            } (
                a: tensor_map Bf16 [m * k] align 16 of [m, k] by 128 at 0,
                b: tensor_map Bf16 [n * k] align 16 of [n, k] by $width at 1,
                bias: read E [biased * n],
                out: write E [m * n],
                m: scalar u64,
                n: scalar u64,
                k: scalar u64,
                tiles: scalar u64,
                blocks: scalar u32,
                biased: scalar u32,
            ) requires {
                m < 1 << 31, n < 1 << 31, k < 1 << 31, blocks > 0, biased <= 1,
                tiles == product::count(m, n, $halves),
            } {
                let _ = blocks;
                let sizes = Sizes { m: m as u32, n: n as u32, k: k as u32 };
                let how = if biased == 1 { Epilogue::AddBias(bias) } else { Epilogue::Write };
                product::all_tiles::<E, true, true, $halves>(a, b, out, sizes, tiles as u32, how);
            }
        }
    };
}
hopper_kernels!(
    2,
    256,
    gemm_nt_hopper_128x256 = gemm_nt_f32_hopper_128x256,
    gemm_nt_hopper_128x256,
    gemm_nn_hopper_128x256,
    gemm_tn_hopper_128x256
);
hopper_kernels!(
    1,
    128,
    gemm_nt_hopper_128x128 = gemm_nt_f32_hopper_128x128,
    gemm_nt_hopper_128x128,
    gemm_nn_hopper_128x128,
    gemm_tn_hopper_128x128
);
