//! A block's tiles of the backward pass: of queries for d_q, of keys for d_k and d_v.
//!
//! Both compute the weights p = 2^(score − log_sum_exp) again, and d_score = p·(d_output·v − delta); the factor of the
//! scores is applied to the sums. A tile's own two operands are held, the others come by the pipeline in tiles of 64
//! rows. Over queries a stage has keys and values; over keys it has queries, d_output and what is saved of them, and
//! scores have keys down and queries across. A warpgroup takes two turns for a stage: for the scores and for d_output·v,
//! then for the sums, in between it makes weights and d_scores of them, which stay in registers.

use core::f32::consts::LOG2_E;

use super::block::{
    Consumer, Layout, Producer, ROW_BYTES, ROWS, TileScheduler, WARPGROUP_ROWS, across, copy, for_each_tile,
};
use crate::attention::backward::row_delta;
use crate::attention::tensor::forward::mask;
use crate::attention::tensor::fragments::{scale_rows, sum_column, sum_row, to_operands};
use crate::attention::work::WorkTile;
use crate::pipeline::Stage;
use crate::simt::*;

/// Rows of the tiles in the pipeline.
const STEP: u32 = 64;
/// The same by 16.
const J: usize = STEP as usize / 16;
/// Stages of the pipeline.
const STAGES: u32 = 4;
/// Numbers that TMA takes of a row of what is saved.
const SAVED: u32 = 32;
/// Bytes of what is saved for the queries of a stage: log-sum-exp by twice 32, delta by twice 32, each a tile of one
/// row of 128 bytes; and up to the next stage.
const SAVED_BYTES: u32 = 1024;
/// Bytes that arrive of it.
const SAVED_ARRIVING: u32 = 4 * 128;

/// Bytes of the 64 rows of an operand.
const fn operand_bytes(n: usize) -> u32 {
    across(n) * STEP * ROW_BYTES
}

/// Shared memory for heads of `16·n` elements: two operands of [`ROWS`] rows are held, two of [`STEP`] are in a
/// stage.
const fn layout(n: usize) -> Layout {
    Layout::new(2 * across(n) * ROWS * ROW_BYTES, 2 * operand_bytes(n) + SAVED_BYTES, STAGES)
}

/// Bytes of shared memory.
pub const fn shared_bytes(n: usize) -> u64 {
    layout(n).bytes()
}

/// q and d_output `[N, H, D]`, k and v `[N, KV, D]`, for TMA.
#[derive(Clone, Copy)]
pub struct TensorMaps {
    pub q: TensorMap<Bf16>,
    pub k: TensorMap<Bf16>,
    pub v: TensorMap<Bf16>,
    pub d_output: TensorMap<Bf16>,
}

/// Starts the copies of the two operands of a stage, at which `more` bytes arrive beside.
#[inline(always)]
fn fetch_place<const N: usize>(
    state: &mut Producer,
    [one, other]: [TensorMap<Bf16>; 2],
    (first, head): (u32, u32),
    more: u32,
) -> (Stage, Mbarrier) {
    let (stage, full) = state.next_stage(2 * operand_bytes(N) + more);
    let at = (first, head * 16 * N as u32);
    copy(one, at, operand(stage, 0, N), (STEP, across(N)), full);
    copy(other, at, operand(stage, 1, N), (STEP, across(N)), full);
    (stage, full)
}

/// Operand 0 or 1 of a stage.
#[inline(always)]
fn operand(stage: Stage, index: u32, n: usize) -> Shared<Bf16> {
    stage.part(index * operand_bytes(n), operand_bytes(n))
}

/// d_q of this block's tiles, for heads of `16·N` elements. All threads of the block must call it.
///
/// `saved` is `[2·H, pitch]`: of every head the log-sum-exps in base 2, then of every head delta.
#[inline(always)]
pub fn queries<const N: usize>(
    all: TileScheduler,
    inputs: TensorMaps,
    (saved, pitch): (Global<f32>, usize),
    d_q: GlobalMut<Bf16>,
    scale: f32,
) {
    let produce = |work: WorkTile, state: &mut Producer| {
        let full = state.await_held();
        state.hold::<N>(inputs.q, (0, 2), (work.first, work.head), full);
        state.hold::<N>(inputs.d_output, (1, 2), (work.first, work.head), full);
        let kv_head = work.head / (work.heads / work.kv_heads);
        let mut first = work.first_keys(work.first, STEP);
        while first < work.end(ROWS) {
            fetch_place::<N>(state, [inputs.k, inputs.v], (first, kv_head), 0);
            first += STEP;
        }
    };
    let consume = |work: WorkTile, state: &mut Consumer| {
        let layout = const { layout(N) };
        let (factor, rows) = (scale * LOG2_E, work.first + WARPGROUP_ROWS * state.warpgroup);
        let own = work.first + 16 * warp_id();
        let queries = MatrixDescriptor::k_major(layout.held(state.warpgroup, 4));
        let d_outputs = MatrixDescriptor::k_major(layout.held(2 + state.warpgroup, 4));
        // Of rows behind the last no weights.
        let mut rows_saved = [(f32::INFINITY, 0.0); 2];
        for half in 0..2 {
            let token = own + sum_row(half);
            if token < work.end(ROWS) {
                let entry = work.head as usize * pitch + token as usize;
                let delta = saved.load(entry + work.heads as usize * pitch);
                rows_saved[half] = (saved.load(entry), delta);
            }
        }
        let mut sums: Accumulators<N> = [[[0.0; 4]; 2]; N];
        state.await_held();
        let mut first = work.first_keys(work.first, STEP);
        while first < work.end(ROWS) {
            let stage = state.next_stage();
            let next = state.await_turn();
            let (keys, values) = (operand(stage, 0, N), operand(stage, 1, N));
            let scored = (queries, MatrixDescriptor::k_major(keys));
            let (mut scores, products) =
                warpgroup_two_scores::<N>(scored, (d_outputs, MatrixDescriptor::k_major(values)), next);
            if work.hides((rows, WARPGROUP_ROWS), (first, STEP)) {
                mask(&mut scores, |row, column| work.sees(own + row, first + column));
            }
            unroll!(j in J {
                for half in 0..2 {
                    for element in 0..4 {
                        let (log_sum_exp, delta) = rows_saved[element / 2];
                        let weight = exp2_approx(fma(scores[j][half][element], factor, -log_sum_exp));
                        scores[j][half][element] = weight * (products[j][half][element] - delta);
                    }
                }
            });
            let d_scores = to_operands(&scores);
            let next = state.await_turn();
            let across_keys = MatrixDescriptor::mn_major(keys, STEP * ROW_BYTES);
            warpgroup_add_narrow_values::<N>(&d_scores, across_keys, &mut sums, next);
            stage.consumer_release();
            first += STEP;
        }
        state.release_held();
        scale_rows(&mut sums, [scale; 2]);
        state.write::<N>(&sums, work, own, (work.head, work.heads), d_q);
    };
    for_each_tile(const { layout(N) }, all, produce, consume);
}

/// d_k and d_v of this block's tiles, for heads of `16·N` elements. All threads of the block must call it.
///
/// `saved` as of [`queries`].
#[inline(always)]
pub fn keys<const N: usize>(
    all: TileScheduler,
    inputs: TensorMaps,
    saved: TensorMap<f32>,
    (d_k, d_v): (GlobalMut<Bf16>, GlobalMut<Bf16>),
    scale: f32,
) {
    let produce = |work: WorkTile, state: &mut Producer| {
        let full = state.await_held();
        state.hold::<N>(inputs.k, (0, 2), (work.first, work.head), full);
        state.hold::<N>(inputs.v, (1, 2), (work.first, work.head), full);
        let group = work.heads / work.kv_heads;
        for head in work.head * group..(work.head + 1) * group {
            let mut first = work.first;
            while first < work.end_of_queries(work.end(ROWS)) {
                let (stage, full) =
                    fetch_place::<N>(state, [inputs.q, inputs.d_output], (first, head), SAVED_ARRIVING);
                for part in 0..4 {
                    let row = if part < 2 { head } else { work.heads + head };
                    saved.copy(row, first + SAVED * (part % 2), saved_part(stage, part, N), full);
                }
                first += STEP;
            }
        }
    };
    let consume = |work: WorkTile, state: &mut Consumer| {
        let layout = const { layout(N) };
        let (factor, rows) = (scale * LOG2_E, work.first + WARPGROUP_ROWS * state.warpgroup);
        let own = work.first + 16 * warp_id();
        let keys = MatrixDescriptor::k_major(layout.held(state.warpgroup, 4));
        let values = MatrixDescriptor::k_major(layout.held(2 + state.warpgroup, 4));
        let mut k_sums: Accumulators<N> = [[[0.0; 4]; 2]; N];
        let mut v_sums: Accumulators<N> = [[[0.0; 4]; 2]; N];
        state.await_held();
        let end = work.end_of_queries(work.end(ROWS));
        let group = work.heads / work.kv_heads;
        for _ in 0..group {
            let mut first = work.first;
            while first < end {
                let stage = state.next_stage();
                let next = state.await_turn();
                let (queries, d_outputs) = (operand(stage, 0, N), operand(stage, 1, N));
                let scored = (keys, MatrixDescriptor::k_major(queries));
                let (mut scores, mut products) =
                    warpgroup_two_scores::<N>(scored, (values, MatrixDescriptor::k_major(d_outputs)), next);
                // Queries behind the document's end belong to the next one.
                if work.hides((first, STEP), (rows, WARPGROUP_ROWS)) || first + STEP > work.document.1 {
                    mask(&mut scores, |row, column| {
                        first + column < work.document.1 && work.sees(first + column, own + row)
                    });
                }
                unroll!(j in J {
                    for half in 0..2 {
                        let log_sum_exps = load_saved(stage, 0, sum_column(j, half), N);
                        let deltas = load_saved(stage, 2, sum_column(j, half), N);
                        for element in 0..4 {
                            let exponent =
                                fma(scores[j][half][element], factor, -log_sum_exps[element % 2]);
                            let weight = exp2_approx(exponent);
                            scores[j][half][element] = weight;
                            let product = products[j][half][element];
                            products[j][half][element] = weight * (product - deltas[element % 2]);
                        }
                    }
                });
                let (weights, d_scores) = (to_operands(&scores), to_operands(&products));
                // What was loaded of the stage, TMA may overwrite when the stage is released.
                fence_proxy_async();
                let next = state.await_turn();
                let across_queries = |tile| MatrixDescriptor::mn_major(tile, STEP * ROW_BYTES);
                warpgroup_add_two_values::<N>(
                    (&weights, across_queries(d_outputs), &mut v_sums),
                    (&d_scores, across_queries(queries), &mut k_sums),
                    next,
                );
                stage.consumer_release();
                first += STEP;
            }
        }
        state.release_held();
        scale_rows(&mut k_sums, [scale; 2]);
        state.write::<N>(&k_sums, work, own, (work.head, work.kv_heads), d_k);
        state.write::<N>(&v_sums, work, own, (work.head, work.kv_heads), d_v);
    };
    for_each_tile(const { layout(N) }, all, produce, consume);
}

/// Part `part` of what a stage has of saved numbers, behind its operands.
///
/// Parts begin at multiples of 128 bytes, as TMA demands of what it swizzles, and not of 1024, after which the swizzle
/// repeats. CUDA's programming guide says what that means: the pattern is that of the address, so a part has the row
/// of the pattern that is its number. Nothing but threads reads them.
#[inline(always)]
fn saved_part<T: Element>(stage: Stage, part: u32, n: usize) -> Shared<T> {
    stage.part(2 * operand_bytes(n) + 128 * part, 128)
}

/// The numbers of queries `column` and `column + 1` of a stage, in the part of `column` behind part `first`. TMA
/// has swizzled the chunks, of two pairs each, of the part's row.
#[inline(always)]
fn load_saved(stage: Stage, first: u32, column: u32, n: usize) -> [f32; 2] {
    let part = first + column / SAVED;
    let pair = column % SAVED / 2;
    let bits = saved_part::<u64>(stage, part, n).load(2 * ((pair / 2) ^ part) + pair % 2);
    [f32::from_bits(bits as u32), f32::from_bits((bits >> 32) as u32)]
}

/// Eight lanes to a token of one head: its log-sum-exp in base 2 and delta = d_output·output to `saved`,
/// `[2·H, pitch]`; zeros behind the last token.
#[inline(always)]
pub fn save(
    (d_output, output): (Global<Bf16>, Global<Bf16>),
    log_sum_exp: Global<f32>,
    saved: GlobalMut<f32>,
    (tokens, pitch): (u32, usize),
    (heads, head_dim): (u32, u32),
) {
    let (tile, head) = (block_idx() / heads, block_idx() % heads);
    let token = tile * (block_dim() / 8) + thread_idx() / 8;
    // Every lane takes part in the sum; those behind the last token do it again.
    let row = token.min(tokens - 1) as usize * heads as usize + head as usize;
    let delta = row_delta(d_output, output, row, head_dim);
    if thread_idx().is_multiple_of(8) && (token as usize) < pitch {
        let counts = token < tokens;
        let stage = head as usize * pitch + token as usize;
        saved.store(stage, if counts { log_sum_exp.load(row) * LOG2_E } else { 0.0 });
        saved.store(stage + heads as usize * pitch, if counts { delta } else { 0.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_fits_a_multiprocessor() {
        for n in [4, 5, 6, 8] {
            assert!(shared_bytes(n) <= 227 << 10, "{}", shared_bytes(n));
        }
    }
}
