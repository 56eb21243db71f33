//! [`attention`](crate::attention) on Hopper (compute capability 9.0), by the instructions that Hopper alone has.
//!
//! What is computed and how it is rounded are as in the kernels for all devices: weights and gradients of scores are
//! rounded to bf16, sums are f32. Tiles are larger, 128 tokens, and the hardware adds the terms of a product in an order
//! of its own, so bits differ from theirs. What a token gets is still summed in an order that depends on its document
//! alone; which block has a tile, and so the number of blocks, makes no difference.
//!
//! - Heads have 64, 80, 96 or 128 elements, forward also 256; others are left to the kernels for all devices. TMA
//!   copies 64 columns at a time: of 80 and 96 the last copy has some of the next head, which nothing reads. Their
//!   products with values are two, of 64 columns and of the rest: one instruction would end within what is swizzled together.
//! - Block: 384 threads. Warps 0 to 3 and 4 to 7 are consumer warpgroups, of 64 rows of a tile each; lane 0 of warp 8 is
//!   the producer ([`block`]). Consumers have 232 registers a thread, the producer warpgroup 40.
//! - Grid: `blocks`, or as many as there are tiles and heads; as many as there are multiprocessors is right, since a
//!   block fills one. Block b has tiles b, 2·blocks − 1 − b, 2·blocks + b, …, longest first.
//! - Barriers: one of the block, at the beginning, which all threads reach; then the mbarriers.
//! - Traffic: every operand is read once from memory, if caches hold what tiles share, and once for each of the two
//!   kernels of the backward pass; results are written once. From L2 a tile reads the two operands of every row that it
//!   meets, D rounded up to whole 64: forward 4·128·D flops for 4·D bytes, over queries 6·128·D, over keys 8·128·D.
//! - A value that is not finite reaches all rows of tiles that read it, also of the document in front.
//!
//! Not yet run on hardware: the emulator runs them by the documentation of `wgmma`, `mbarrier` and
//! `cp.async.bulk.tensor`.

// Arrays in registers are walked by index in loops that are unrolled.
#![allow(clippy::needless_range_loop)]

mod backward;
mod block;
mod forward;

use block::TileScheduler;

use crate::simt::*;

macro_rules! forward_kernel {
    ($forward:ident for $head_dim:literal = 16 * $N:literal, keys $keys:literal = 16 * $J:literal) => {
        kernel! {
            /// Attention by tiles of queries: output = softmax(scale·q·kᵀ)·v and log_sum_exp = ln Σ e^score, with a
            /// running softmax over the tiles of keys up to the diagonal. `tile_list`: `[tiles, 4]` of
            /// `Tiles::by_hopper_queries`.
            ///
            /// Block, grid, traffic and barriers: see the module.
            pub fn $forward {
                block: block::BLOCK,
                grid: (tiles * heads).min(blocks),
                shared: forward::shared_bytes($N, $J),
                tensor_cores: Used,
                architecture: "sm_90a",
            } (
                q: tensor_map Bf16 [tokens * heads * head_dim] align 16 of [tokens, heads * head_dim] by 64 at 0,
                k: tensor_map Bf16 [tokens * kv_heads * head_dim] align 16 of [tokens, kv_heads * head_dim] by $keys at 1,
                v: tensor_map Bf16 [tokens * kv_heads * head_dim] align 16 of [tokens, kv_heads * head_dim] by $keys at 2,
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
                let _ = (tokens, blocks);
                let heads = (heads as u32, kv_heads as u32, head_dim as u32);
                let count = tiles as u32;
                let all = TileScheduler { tiles: tile_list, count, per_tile: heads.0, heads, window };
                let outputs = forward::Outputs { output, log_sum_exp };
                forward::forward::<$N, $J>(all, forward::TensorMaps { q, k, v }, outputs, scale);
            }
        }
    };
}
forward_kernel!(attention_forward_64_hopper for 64 = 16 * 4, keys 128 = 16 * 8);
forward_kernel!(attention_forward_80_hopper for 80 = 16 * 5, keys 128 = 16 * 8);
forward_kernel!(attention_forward_96_hopper for 96 = 16 * 6, keys 128 = 16 * 8);
forward_kernel!(attention_forward_128_hopper for 128 = 16 * 8, keys 128 = 16 * 8);
forward_kernel!(attention_forward_256_hopper for 256 = 16 * 16, keys 64 = 16 * 4);

kernel! {
    /// What the backward pass takes of every token and head beside q, k, v and d_output: of every head the
    /// log-sum-exps in base 2, then of every head delta = Σ_d d_output·output; zeros behind the last token.
    ///
    /// Eight lanes per token and head, 32 tokens of a head per block. No barriers. Reads 2·D elements for two numbers.
    pub fn attention_backward_preprocess_hopper {
        block: 256,
        grid: pitch.div_ceil(32) * heads,
        shared: 0,
        architecture: "sm_90a",
    } (
        d_output: read Bf16 [tokens * heads * head_dim] align 16,
        output: read Bf16 [tokens * heads * head_dim] align 16,
        log_sum_exp: read f32 [tokens * heads],
        saved: write f32 [2 * heads * pitch],
        tokens: scalar u64,
        pitch: scalar u64,
        heads: scalar u32,
        head_dim: scalar u32,
    ) requires {
        head_dim.is_multiple_of(8), head_dim < 1 << 16, tokens > 0 && tokens < 1 << 31, pitch >= tokens, heads > 0,
    } {
        let sizes = ((tokens as u32, pitch as usize), (heads, head_dim));
        backward::save((d_output, output), log_sum_exp, saved, sizes.0, sizes.1);
    }
}

macro_rules! backward_kernels {
    ($queries:ident, $keys:ident for $head_dim:literal = 16 * $N:literal) => {
        kernel! {
            /// d_q by tiles of queries: Σ over keys of d_score·k, with p = e^(score − log_sum_exp) and
            /// d_score = scale·p·(d_output·v − delta). `saved` is of [`attention_backward_preprocess_hopper`], `tile_list`:
            /// `[tiles, 4]` of `Tiles::by_hopper_queries`.
            ///
            /// Block, grid, traffic and barriers: see the module.
            pub fn $queries {
                block: block::BLOCK,
                grid: (tiles * heads).min(blocks),
                shared: backward::shared_bytes($N),
                tensor_cores: Used,
                architecture: "sm_90a",
            } (
                q: tensor_map Bf16 [tokens * heads * head_dim] align 16 of [tokens, heads * head_dim] by 64 at 0,
                k: tensor_map Bf16 [tokens * kv_heads * head_dim] align 16 of [tokens, kv_heads * head_dim] by 64 at 1,
                v: tensor_map Bf16 [tokens * kv_heads * head_dim] align 16 of [tokens, kv_heads * head_dim] by 64 at 2,
                d_output: tensor_map Bf16 [tokens * heads * head_dim] align 16 of [tokens, heads * head_dim] by 64 at 3,
                saved: read f32 [2 * heads * pitch],
                tile_list: read u32 [4 * tiles],
                d_q: write Bf16 [tokens * heads * head_dim] align 16,
                tokens: scalar u64,
                pitch: scalar u64,
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
                pitch >= tokens, blocks > 0 && blocks < 1 << 16,
            } {
                let _ = (tokens, blocks);
                let heads = (heads as u32, kv_heads as u32, head_dim as u32);
                let all = TileScheduler { tiles: tile_list, count: tiles as u32, per_tile: heads.0, heads, window };
                let inputs = backward::TensorMaps { q, k, v, d_output };
                backward::queries::<$N>(all, inputs, (saved, pitch as usize), d_q, scale);
            }
        }

        kernel! {
            /// d_k and d_v by tiles of keys: Σ over the query heads of the group, then over queries from the diagonal
            /// on, of d_score·q and p·d_output. `saved` is of [`attention_backward_preprocess_hopper`], `tile_list`:
            /// `[tiles, 4]` of `Tiles::by_hopper_keys`.
            ///
            /// Block, grid, traffic and barriers: see the module.
            pub fn $keys {
                block: block::BLOCK,
                grid: (tiles * kv_heads).min(blocks),
                shared: backward::shared_bytes($N),
                tensor_cores: Used,
                architecture: "sm_90a",
            } (
                q: tensor_map Bf16 [tokens * heads * head_dim] align 16 of [tokens, heads * head_dim] by 64 at 0,
                k: tensor_map Bf16 [tokens * kv_heads * head_dim] align 16 of [tokens, kv_heads * head_dim] by 64 at 1,
                v: tensor_map Bf16 [tokens * kv_heads * head_dim] align 16 of [tokens, kv_heads * head_dim] by 64 at 2,
                d_output: tensor_map Bf16 [tokens * heads * head_dim] align 16 of [tokens, heads * head_dim] by 64 at 3,
                saved: tensor_map f32 [2 * heads * pitch] align 16 of [2 * heads, pitch] by 1 at 4,
                tile_list: read u32 [4 * tiles],
                d_k: write Bf16 [tokens * kv_heads * head_dim] align 16,
                d_v: write Bf16 [tokens * kv_heads * head_dim] align 16,
                tokens: scalar u64,
                pitch: scalar u64,
                tiles: scalar u64,
                heads: scalar u64,
                kv_heads: scalar u64,
                head_dim: scalar u64,
                window: scalar u32,
                scale: scalar f32,
                blocks: scalar u32,
            ) requires {
                head_dim == $head_dim, kv_heads > 0, heads > 0 && heads.is_multiple_of(kv_heads),
                tokens < 1 << 31, tiles * kv_heads < 1 << 31, heads * head_dim < 1 << 31, window > 0, scale > 0.0,
                pitch >= tokens, blocks > 0 && blocks < 1 << 16,
            } {
                let _ = (tokens, pitch, blocks);
                let heads = (heads as u32, kv_heads as u32, head_dim as u32);
                let all = TileScheduler { tiles: tile_list, count: tiles as u32, per_tile: heads.1, heads, window };
                let inputs = backward::TensorMaps { q, k, v, d_output };
                backward::keys::<$N>(all, inputs, saved, (d_k, d_v), scale);
            }
        }
    };
}
backward_kernels!(attention_backward_queries_64_hopper, attention_backward_keys_64_hopper for 64 = 16 * 4);
backward_kernels!(attention_backward_queries_80_hopper, attention_backward_keys_80_hopper for 80 = 16 * 5);
backward_kernels!(attention_backward_queries_96_hopper, attention_backward_keys_96_hopper for 96 = 16 * 6);
backward_kernels!(attention_backward_queries_128_hopper, attention_backward_keys_128_hopper for 128 = 16 * 8);
