//! The forward pass of [`attention`](crate::attention) on Hopper (compute capability 9.0), by the instructions that
//! Hopper alone has.
//!
//! What is computed and how it is rounded are as in the kernels for all devices: weights are rounded to bf16, sums are
//! f32. Tiles of queries are 128 tokens instead of 64, those of keys 128 or 64, and the hardware adds the terms of a
//! product in an order of its own, so bits differ from theirs. What a token gets is still summed in an order that
//! depends on its document alone; which block has a tile, and so the number of blocks, makes no difference.
//!
//! - Heads have 64, 80, 96, 128 or 256 elements: a row of a tile must end where the head does. Others are left to the
//!   kernels for all devices.
//! - Block: 384 threads. Warps 0 to 3 and 4 to 7 compute, lane 0 of warp 8 fetches ([`forward`]); they have 232
//!   registers a thread, the others 40.
//! - Grid: `blocks`, or as many as there are tiles and heads; as many as there are multiprocessors is right, since a
//!   block fills one. Block b has tiles b, 2·blocks − 1 − b, 2·blocks + b, …, longest first.
//! - Barriers: one of the block, at the beginning, which all threads reach; then those for arrivals.
//! - Traffic: q, k and v are read once from memory, if caches hold what tiles share, output is written once. From
//!   L2 every tile of queries reads the tiles of keys and values that it sees: 4·128·D flops for 4·D bytes.
//! - A value that is not finite reaches all queries of tiles that read it, also of the document in front.
//!
//! Not yet run on hardware: the emulator runs them by the documentation of `wgmma`, `mbarrier` and
//! `cp.async.bulk.tensor`.

#[cfg(not(target_arch = "nvptx64"))]
mod choose;
mod forward;

#[cfg(not(target_arch = "nvptx64"))]
pub use choose::*;
use forward::{AllWork, Inputs, Outputs};

use crate::simt::*;

macro_rules! forward_kernel {
    ($forward:ident for $head_dim:literal = 16 * $N:literal, keys $keys:literal = 16 * $J:literal) => {
        kernel! {
            /// Attention by tiles of queries: output = softmax(scale·q·kᵀ)·v and log_sum_exp = ln Σ e^score, with a
            /// running softmax over the tiles of keys up to the diagonal. `tile_list`: `[tiles, 4]` of
            /// `Tiles::by_wide_queries`.
            ///
            /// Block, grid, traffic and barriers: see the module.
            pub fn $forward {
                block: forward::BLOCK,
                grid: (tiles * heads).min(blocks),
                shared: forward::shared_bytes($N, $J),
                tensor: Used,
                architecture: "sm_90a",
            } (
                q: tiles Bf16 [tokens * heads * head_dim] align 16 of [tokens, heads * head_dim] by 64 at 0,
                k: tiles Bf16 [tokens * kv_heads * head_dim] align 16 of [tokens, kv_heads * head_dim] by $keys at 1,
                v: tiles Bf16 [tokens * kv_heads * head_dim] align 16 of [tokens, kv_heads * head_dim] by $keys at 2,
                tile_list: read u32 [4 * tiles],
                output: write Bf16 [tokens * heads * head_dim] align 16,
                log_sum_exp: write f32 [tokens * heads],
                tokens: scalar u64,
                tiles: scalar u64,
                heads: scalar u64,
                kv_heads: scalar u64,
                head_dim: scalar u64,
                window: scalar u32,
                scale: scalar f32,
                blocks: scalar u32,
            ) requires {
                head_dim == $head_dim, kv_heads > 0, heads > 0 && heads.is_multiple_of(kv_heads),
                tokens < 1 << 31, tiles * heads < 1 << 31, heads * head_dim < 1 << 31, window > 0, scale > 0.0,
                blocks > 0 && blocks < 1 << 16,
            } {
                let _ = (tokens, head_dim, blocks);
                let (count, heads, kv_heads) = (tiles as u32, heads as u32, kv_heads as u32);
                let work = AllWork { tiles: tile_list, count, heads, kv_heads, window };
                let (inputs, outputs) = (Inputs { q, k, v }, Outputs { output, log_sum_exp });
                forward::all_tiles::<$N, $J>(work, inputs, outputs, scale);
            }
        }
    };
}
forward_kernel!(attention_forward_64_hopper for 64 = 16 * 4, keys 128 = 16 * 8);
forward_kernel!(attention_forward_80_hopper for 80 = 16 * 5, keys 128 = 16 * 8);
forward_kernel!(attention_forward_96_hopper for 96 = 16 * 6, keys 128 = 16 * 8);
forward_kernel!(attention_forward_128_hopper for 128 = 16 * 8, keys 128 = 16 * 8);
forward_kernel!(attention_forward_256_hopper for 256 = 16 * 16, keys 64 = 16 * 4);

/// The kernels of this family.
#[cfg(not(target_arch = "nvptx64"))]
pub const KERNELS: &[crate::launch::Kernel] = &[
    attention_forward_64_hopper::KERNEL,
    attention_forward_80_hopper::KERNEL,
    attention_forward_96_hopper::KERNEL,
    attention_forward_128_hopper::KERNEL,
    attention_forward_256_hopper::KERNEL,
];
