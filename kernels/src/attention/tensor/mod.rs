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
use crate::softcap::Softcap;

/// Threads of a block.
const BLOCK: u32 = 128;
/// Rows of the result of a block: 16 to a warp.
const ROWS: u32 = BLOCK / WARP * 16;

macro_rules! tensor_kernels {
    (
        $limit:literal = 16 * $N:literal,
        $forward:ident keys 16 * $forward_keys:literal min_blocks $forward_blocks:literal,
        $queries:ident keys 16 * $queries_keys:literal held $held:literal min_blocks $queries_blocks:literal,
        $keys:ident queries 16 * $keys_queries:literal parts $parts:literal min_blocks $keys_blocks:literal $(,)?
    ) => {
        tile_kernels! {
            Bf16, heads up to $limit, tensor_cores Used;
            $forward: block BLOCK, shared forward::shared::<$N, $forward_keys>() as u64, min_blocks $forward_blocks,
                by forward::forward::<$N, $forward_keys>;
            $queries: block BLOCK, shared backward::queries_shared::<$N, $queries_keys>($held) as u64,
                min_blocks $queries_blocks, by backward::queries::<$N, $queries_keys, $held>;
            $keys: block BLOCK, shared backward::keys_shared::<$N, $keys_queries>() as u64,
                min_blocks $keys_blocks, parts $parts, by backward::keys::<$N, $keys_queries, $parts>;
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
