//! Causal grouped-query attention over packed documents, never holding a T×T matrix.
//!
//! N tokens are documents one after the other; a token sees itself and the earlier tokens of its document, or
//! of these the last `window` alone.
//! H query heads share KV key/value heads: query head h uses key/value head h / (H/KV). For token t and
//! head h, with s over the tokens seen,
//!
//! score\[s\] = scale · q\[t,h\]·k\[s,h'\], p = softmax(score), output\[t,h\] = Σ_s p\[s\]·v\[s,h'\].
//!
//! With a soft cap c on the products, a score is scale · c·tanh(q·k / c): what caps scores at c' has c = c' / scale.
//!
//! Forward and backward work on tiles of [`TILE`] tokens that begin with their documents (module `tile`):
//! a [list](Tiles) of them is the grid. So tiles above the diagonal, outside the window or of two documents are never met, and
//! what a token gets is summed in an order that depends on its document alone: no atomics, the same bits
//! in every run and beside any other documents. Scores are kept in base 2; sums are f32.
//!
//! Per visible (query, key) pair and query head: 4·D flops forward, 14·D backward (scores and d_output·vᵀ are
//! computed for d_k, d_v and again for d_q). A tile pair reads its tiles of q, k, v from L2 once each
//! (twice those of which a product and a sum are made), for 2·64·64·D fma of the forward: with f32 24 B per
//! 128 fma, an eighth of what an L2 delivers meanwhile. So arithmetic limits.
//!
//! Heads have up to 256 elements, a multiple of 8. A thread's registers hold its part of the results, so
//! kernels over tiles exist for 64, 128 and 256; a head uses the next larger. For bf16 there are others, on tensor
//! cores (module `tensor`), and for Hopper alone ([`attention_hopper`](crate::attention_hopper)).

// Arrays in registers are walked by index in loops that are unrolled.
#![allow(clippy::needless_range_loop)]

#[macro_use]
mod contracts;

#[cfg(not(target_arch = "nvptx64"))]
mod arguments;
pub(crate) mod backward;
mod decode;
mod forward;
pub(crate) mod tensor;
mod tile;
#[cfg(not(target_arch = "nvptx64"))]
mod tiles;
pub(crate) mod work;

#[cfg(not(target_arch = "nvptx64"))]
pub use arguments::{BackwardInputs, Gradients, Sizes, TileLists};
pub use tensor::*;
#[cfg(not(target_arch = "nvptx64"))]
pub use tiles::Tiles;

use backward::Saved;
use decode::Part;
use work::WorkTile;

use crate::simt::*;
use crate::softcap::Softcap;

/// Tokens of a tile.
pub const TILE: u32 = 64;
/// Tokens of a tile of [`attention_hopper`](crate::attention_hopper).
pub const HOPPER_TILE: u32 = 128;
/// Most elements of a head.
pub const HEAD_DIM_LIMIT: u32 = 256;
/// Keys of a part of a decode.
pub const SPLIT: u32 = 256;
/// Most query heads a block of a decode works for: loads of keys and values are shared among them.
const GROUP: u32 = 8;
/// Rows of a tile that a thread of the forward pass holds: as many as registers allow.
const FORWARD_ROWS: usize = 8;
/// Rows of a tile that a thread of the backward pass holds, of two results.
const BACKWARD_ROWS: usize = 4;
/// Threads of a block.
const FORWARD_BLOCK: u32 = tile::ACROSS * TILE / FORWARD_ROWS as u32;
/// Threads of a block.
const BACKWARD_BLOCK: u32 = tile::ACROSS * TILE / BACKWARD_ROWS as u32;
/// Rows of a block of the row-dot kernel.
const DELTA_ROWS: u64 = 32;

/// Whether heads of `head_dim` elements fit kernels made for `limit`.
#[cfg(not(target_arch = "nvptx64"))]
const fn fits(head_dim: u64, limit: u64) -> bool {
    head_dim > 0 && head_dim.is_multiple_of(8) && head_dim <= limit
}

/// Kernels by fused multiply-adds, which stage rows in shared memory as f32. For f32.
macro_rules! multiply_add_kernels {
    (
        $N:literal, $limit:literal;
        $forward:ident min_blocks $forward_blocks:literal,
        $queries:ident min_blocks $queries_blocks:literal,
        $keys:ident min_blocks $keys_blocks:literal $(,)?
    ) => {
        tile_kernels! {
            f32, heads up to $limit;
            $forward: block FORWARD_BLOCK, shared tile::SHARED, min_blocks $forward_blocks,
                by forward::forward::<f32, FORWARD_ROWS, $N>;
            $queries: block BACKWARD_BLOCK, shared tile::SHARED, min_blocks $queries_blocks,
                by backward::queries::<f32, BACKWARD_ROWS, $N>;
            $keys: block BACKWARD_BLOCK, shared tile::SHARED, min_blocks $keys_blocks,
                parts 1, by backward::keys::<f32, BACKWARD_ROWS, $N>;
        }
    };
}

multiply_add_kernels!(
    1, 64;
    attention_forward_64_f32 min_blocks 3,
    attention_backward_queries_64_f32 min_blocks 2,
    attention_backward_keys_64_f32 min_blocks 2,
);
multiply_add_kernels!(
    2, 128;
    attention_forward_128_f32 min_blocks 2,
    attention_backward_queries_128_f32 min_blocks 2,
    attention_backward_keys_128_f32 min_blocks 1,
);
multiply_add_kernels!(
    4, 256;
    attention_forward_256_f32 min_blocks 2,
    attention_backward_queries_256_f32 min_blocks 1,
    attention_backward_keys_256_f32 min_blocks 1,
);

kernel! {
    /// delta\[row\] = Σ_d d_output\[row\]\[d\]·output\[row\]\[d\] for the N·H rows of the backward pass.
    ///
    /// Eight lanes per row, 32 rows per block. No barriers. Reads 2·D elements per row.
    pub fn attention_backward_delta<E> = attention_backward_delta_f32, attention_backward_delta_bf16; {
        block: 256,
        grid: rows.div_ceil(DELTA_ROWS),
        shared: 0,
    } (
        d_output: read E [rows * head_dim] align 16,
        output: read E [rows * head_dim] align 16,
        delta: write f32 [rows],
        rows: scalar u32,
        head_dim: scalar u32,
    ) requires { head_dim.is_multiple_of(8), head_dim < 1 << 16, rows < 1 << 31 } {
        backward::delta(d_output, output, delta, (rows, head_dim));
    }
}

kernel! {
    /// Attention of one new token per row to [`SPLIT`] keys of its cache: of a row, part and query
    /// head the sums Σ 2^(score − largest)·v, and largest (base 2) and Σ 2^(score − largest). What
    /// puts parts together is the kernel `combine`.
    ///
    /// Cache: k, v `[slots, capacity, KV, D]`; row r sees the first `lengths[r]` tokens of slot
    /// `slots[r]`, or of these the last `window`: of values that the launching code checks, the lengths
    /// 1 to the capacity, and what is seen at most `parts`·[`SPLIT`]. Parts count from the first key
    /// seen; those behind the last are not written. One block of 128 threads for
    /// up to 8 query heads of a group, a part and a row; it leaves as a whole or all its threads
    /// reach every barrier. Reads each key and value once: 4·D·(query heads of the group) flops for
    /// 2·D elements; memory limits.
    pub fn attention_decode<E> = attention_decode_f32, attention_decode_bf16; {
        block: decode::BLOCK,
        grid: (kv_heads * (heads / kv_heads).div_ceil(GROUP.into()), parts, rows),
        shared: decode::SHARED,
    } (
        q: read E [rows * heads * head_dim] align 16,
        k: read E [slot_count * capacity * kv_heads * head_dim] align 16,
        v: read E [slot_count * capacity * kv_heads * head_dim] align 16,
        slots: read u32 [rows],
        lengths: read u32 [rows],
        sums: write f32 [rows * heads * parts * head_dim] align 16,
        statistics: write f32 [rows * heads * parts * 2],
        rows: scalar u32,
        parts: scalar u32,
        slot_count: scalar u32,
        capacity: scalar u32,
        heads: scalar u32,
        kv_heads: scalar u32,
        head_dim: scalar u32,
        window: scalar u32,
        scale: scalar f32,
        softcap: scalar f32,
    ) requires {
        fits(head_dim, HEAD_DIM_LIMIT.into()), kv_heads > 0, heads > 0 && heads.is_multiple_of(kv_heads),
        window > 0, softcap >= 0.0,
    } {
        let group = heads / kv_heads;
        let blocks = group.div_ceil(GROUP);
        let (kv_head, first_head) = (block_idx() / blocks, block_idx() % blocks * GROUP);
        let (part, row) = (block_idx_y(), block_idx_z());
        let length = lengths.load(row as usize);
        let seen = length.min(window);
        if part * SPLIT >= seen {
            return;
        }
        let stride = kv_heads as usize * head_dim as usize;
        let first = length - seen + part * SPLIT;
        let token = slots.load(row as usize) as usize * capacity as usize + first as usize;
        let place = token * stride + kv_head as usize * head_dim as usize;
        let head = row as usize * heads as usize + (kv_head * group + first_head) as usize;
        let index = head * parts as usize + part as usize;
        let work = Part {
            keys: k.offset(place),
            values: v.offset(place),
            stride,
            count: SPLIT.min(seen - part * SPLIT),
            heads: GROUP.min(group - first_head),
            head_dim,
        };
        let sums = (sums.offset(index * head_dim as usize), parts as usize * head_dim as usize);
        let statistics = (statistics.offset(2 * index), 2 * parts as usize);
        decode::attend(work, q.offset(head * head_dim as usize), sums, statistics, scale, Softcap::new(softcap));
    }
}

kernel! {
    /// The output of a decode from its parts: with M the largest of a head's scores,
    /// output = Σ sums·2^(largest − M) / Σ total·2^(largest − M), parts in order.
    ///
    /// One warp per row and head. No barriers; a warp behind the last row leaves as a whole.
    pub fn attention_combine<E> = attention_combine_f32, attention_combine_bf16; {
        block: 128,
        grid: (rows * heads).div_ceil(4),
        shared: 0,
    } (
        sums: read f32 [rows * heads * parts * head_dim] align 16,
        statistics: read f32 [rows * heads * parts * 2],
        lengths: read u32 [rows],
        output: write E [rows * heads * head_dim] align 16,
        rows: scalar u32,
        parts: scalar u32,
        heads: scalar u32,
        head_dim: scalar u32,
        window: scalar u32,
    ) requires { fits(head_dim, HEAD_DIM_LIMIT.into()), rows * heads < 1 << 31, window > 0 } {
        let index = block_idx() * 4 + warp_id();
        if index < rows * heads {
            let seen = lengths.load((index / heads) as usize).min(window);
            let (index, head_dim_) = (index as usize, head_dim as usize);
            let sums = sums.offset(index * parts as usize * head_dim_);
            let statistics = statistics.offset(2 * index * parts as usize);
            let own = (sums, statistics, seen.div_ceil(SPLIT));
            decode::combine(own, output.offset(index * head_dim_), head_dim);
        }
    }
}
