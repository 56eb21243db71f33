//! Attention of bf16 on tensor cores, over the same tiles of documents as the kernels for f32.
//!
//! A block of four warps owns 64 rows of the result, a warp 16 of them, in registers. The other operand comes in
//! tiles by a pipeline of two stages in shared memory: while one is worked on, the next is copied. Products are
//! m16n8k16 with sums in f32. What a product leaves in registers is laid out as the next product takes
//! its left operand, so scores and probabilities never reach memory; they are rounded to bf16 on the way.
//!
//! Kernels exist for heads of 64, 80, 96, 128 and 256 elements, which compute nothing that does not count;
//! other heads use the next larger, padded with zeros in shared memory.

mod backward;
pub(crate) mod forward;
pub(crate) mod fragments;

use super::backward::Saved;
#[cfg(not(target_arch = "nvptx64"))]
use super::fits;
use super::work::WorkTile;
use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 128;
/// Rows of the result of a block: 16 to a warp.
const ROWS: u32 = BLOCK / WARP * 16;

/// `[N, H, D]`, `[N, KV, D]`, `[N, KV, D]`.
#[derive(Clone, Copy)]
pub(super) struct GlobalInputs {
    q: Global<Bf16>,
    k: Global<Bf16>,
    v: Global<Bf16>,
}

macro_rules! tensor_kernels {
    (
        $limit:literal = 16 * $N:literal,
        $forward:ident keys 16 * $forward_keys:literal min_blocks $forward_resident:literal,
        $queries:ident keys 16 * $queries_keys:literal held $held:literal min_blocks $queries_resident:literal,
        $keys:ident queries 16 * $keys_queries:literal parts $parts:literal min_blocks $keys_resident:literal $(,)?
    ) => {
        kernel! {
            /// Attention of one tile of queries: output = softmax(scale·q·kᵀ)·v and log_sum_exp =
            /// ln Σ e^score, with a running softmax over the tiles of keys up to the diagonal.
            ///
            /// One block of 128 threads per tile and query head, heads first. Tiles: `[tiles, 4]` of
            /// `Tiles::by_queries`. Every loop that holds a barrier or a product has bounds that depend on the
            /// block alone.
            pub fn $forward {
                block: BLOCK,
                grid: tiles * heads,
                shared: forward::shared::<$N, $forward_keys>() as u64,
                min_blocks: $forward_resident,
                tensor_cores: Used,
            } (
                q: read Bf16 [tokens * heads * head_dim] align 16,
                k: read Bf16 [tokens * kv_heads * head_dim] align 16,
                v: read Bf16 [tokens * kv_heads * head_dim] align 16,
                tile_list: read u32 [4 * tiles],
                output: write Bf16 [tokens * heads * head_dim] align 16,
                log_sum_exp: write f32 [tokens * heads],
                tokens: scalar u32,
                tiles: scalar u32,
                heads: scalar u32,
                kv_heads: scalar u32,
                head_dim: scalar u32,
                window: scalar u32,
                scale: scalar f32,
            ) requires {
                fits(head_dim, $limit), kv_heads > 0, heads > 0 && heads.is_multiple_of(kv_heads), tokens < 1 << 31,
                window > 0, scale > 0.0,
            } {
                let work = WorkTile::new(tile_list, heads, (heads, kv_heads, head_dim), window);
                let inputs = GlobalInputs { q, k, v };
                forward::forward::<$N, $forward_keys>(work, inputs, output, log_sum_exp, scale);
            }
        }

        kernel! {
            /// d_q of one tile of queries: Σ over keys of d_score·k, with p = e^(score − log_sum_exp) and
            /// d_score = scale·p·(d_output·v − delta). Otherwise as the forward pass.
            pub fn $queries {
                block: BLOCK,
                grid: tiles * heads,
                shared: backward::queries_shared::<$N, $queries_keys>($held) as u64,
                min_blocks: $queries_resident,
                tensor_cores: Used,
            } (
                q: read Bf16 [tokens * heads * head_dim] align 16,
                k: read Bf16 [tokens * kv_heads * head_dim] align 16,
                v: read Bf16 [tokens * kv_heads * head_dim] align 16,
                d_output: read Bf16 [tokens * heads * head_dim] align 16,
                log_sum_exp: read f32 [tokens * heads],
                delta: read f32 [tokens * heads],
                tile_list: read u32 [4 * tiles],
                d_q: write Bf16 [tokens * heads * head_dim] align 16,
                tokens: scalar u32,
                tiles: scalar u32,
                heads: scalar u32,
                kv_heads: scalar u32,
                head_dim: scalar u32,
                window: scalar u32,
                scale: scalar f32,
            ) requires {
                fits(head_dim, $limit), kv_heads > 0, heads > 0 && heads.is_multiple_of(kv_heads), tokens < 1 << 31,
                window > 0, scale > 0.0,
            } {
                let work = WorkTile::new(tile_list, heads, (heads, kv_heads, head_dim), window);
                let (inputs, saved) = (GlobalInputs { q, k, v }, Saved { log_sum_exp, delta });
                backward::queries::<$N, $queries_keys, $held>(work, inputs, d_output, saved, d_q, scale);
            }
        }

        kernel! {
            /// d_k and d_v of one tile of keys: Σ over the query heads of the group, then over queries from
            /// the diagonal on, of d_score·q and p·d_output.
            ///
            /// One block of 128 threads per tile and key/value head, heads first; for heads of more than 128
            /// elements, whose sums fill the registers, one for d_v and one for d_k. Tiles: `[tiles, 4]` of
            /// `Tiles::by_keys`. Otherwise as the forward pass.
            pub fn $keys {
                block: BLOCK,
                grid: (tiles * kv_heads, $parts),
                shared: backward::keys_shared::<$N, $keys_queries>() as u64,
                min_blocks: $keys_resident,
                tensor_cores: Used,
            } (
                q: read Bf16 [tokens * heads * head_dim] align 16,
                k: read Bf16 [tokens * kv_heads * head_dim] align 16,
                v: read Bf16 [tokens * kv_heads * head_dim] align 16,
                d_output: read Bf16 [tokens * heads * head_dim] align 16,
                log_sum_exp: read f32 [tokens * heads],
                delta: read f32 [tokens * heads],
                tile_list: read u32 [4 * tiles],
                d_k: write Bf16 [tokens * kv_heads * head_dim] align 16,
                d_v: write Bf16 [tokens * kv_heads * head_dim] align 16,
                tokens: scalar u32,
                tiles: scalar u32,
                heads: scalar u32,
                kv_heads: scalar u32,
                head_dim: scalar u32,
                window: scalar u32,
                scale: scalar f32,
            ) requires {
                fits(head_dim, $limit), kv_heads > 0, heads > 0 && heads.is_multiple_of(kv_heads), tokens < 1 << 31,
                window > 0, scale > 0.0,
            } {
                let work = WorkTile::new(tile_list, kv_heads, (heads, kv_heads, head_dim), window);
                let (inputs, saved) = (GlobalInputs { q, k, v }, Saved { log_sum_exp, delta });
                let sums = (d_k, d_v);
                if const { $parts == 1 } {
                    backward::keys::<$N, $keys_queries, true, true>(work, inputs, d_output, saved, sums, scale);
                } else if block_idx_y() == 0 {
                    backward::keys::<$N, $keys_queries, false, true>(work, inputs, d_output, saved, sums, scale);
                } else {
                    backward::keys::<$N, $keys_queries, true, false>(work, inputs, d_output, saved, sums, scale);
                }
            }
        }
    };
}

tensor_kernels!(
    64 = 16 * 4,
    attention_forward_64_bf16 keys 16 * 4 min_blocks 3,
    attention_backward_queries_64_bf16 keys 16 * 4 held true min_blocks 3,
    attention_backward_keys_64_bf16 queries 16 * 2 parts 1 min_blocks 3,
);
tensor_kernels!(
    80 = 16 * 5,
    attention_forward_80_bf16 keys 16 * 4 min_blocks 3,
    attention_backward_queries_80_bf16 keys 16 * 4 held true min_blocks 2,
    attention_backward_keys_80_bf16 queries 16 * 2 parts 1 min_blocks 2,
);
tensor_kernels!(
    96 = 16 * 6,
    attention_forward_96_bf16 keys 16 * 4 min_blocks 2,
    attention_backward_queries_96_bf16 keys 16 * 4 held true min_blocks 2,
    attention_backward_keys_96_bf16 queries 16 * 2 parts 1 min_blocks 2,
);
tensor_kernels!(
    128 = 16 * 8,
    attention_forward_128_bf16 keys 16 * 4 min_blocks 2,
    attention_backward_queries_128_bf16 keys 16 * 2 held true min_blocks 2,
    attention_backward_keys_128_bf16 queries 16 * 2 parts 1 min_blocks 2,
);
tensor_kernels!(
    256 = 16 * 16,
    attention_forward_256_bf16 keys 16 * 1 min_blocks 2,
    attention_backward_queries_256_bf16 keys 16 * 1 held false min_blocks 1,
    attention_backward_keys_256_bf16 queries 16 * 1 parts 2 min_blocks 1,
);
