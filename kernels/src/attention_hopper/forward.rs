//! A block's tiles of the forward pass.
//!
//! Queries are held; keys and values come by the pipeline, in tiles of `16·J`: the first keys, then by turns the next keys
//! and the values of those before, the last values. A warpgroup begins the scores of the next keys together with the sum
//! over these values. Scores and weights stay in registers.

use core::f32::consts::{LN_2, LOG2_E};

use super::block::{
    Consumer, Layout, Producer, ROW_BYTES, ROWS, TileScheduler, WARPGROUP_ROWS, across, copy, for_each_tile,
};
use crate::attention::tensor::forward::{mask, softmax};
use crate::attention::tensor::fragments::{row_sum, scale_rows, sum_row, to_operands};
use crate::attention::work::WorkTile;
use crate::pipeline::Stage;
use crate::simt::*;

/// Bytes of the pipeline.
const PIPELINE_BYTES: u32 = 128 << 10;

/// Shared memory for heads of `16·n` elements and tiles of `16·j` keys.
const fn layout(n: usize, j: usize) -> Layout {
    let stage = across(n) * 16 * j as u32 * ROW_BYTES;
    Layout::new(across(n) * ROWS * ROW_BYTES, stage, PIPELINE_BYTES / stage)
}

/// Bytes of shared memory.
pub const fn shared_bytes(n: usize, j: usize) -> u64 {
    layout(n, j).bytes()
}

/// q `[N, H, D]`, k and v `[N, KV, D]`, for TMA.
#[derive(Clone, Copy)]
pub struct TensorMaps {
    pub q: TensorMap<Bf16>,
    pub k: TensorMap<Bf16>,
    pub v: TensorMap<Bf16>,
}

/// output `[N, H, D]` and log_sum_exp `[N, H]`.
#[derive(Clone, Copy)]
pub struct Outputs {
    pub output: GlobalMut<Bf16>,
    pub log_sum_exp: GlobalMut<f32>,
}

/// The tiles of this block, for heads of `16·N` elements. All threads of the block must call it.
#[inline(always)]
pub fn forward<const N: usize, const J: usize>(
    all: TileScheduler,
    inputs: TensorMaps,
    outputs: Outputs,
    scale: f32,
) {
    for_each_tile(
        const { layout(N, J) },
        all,
        |work, state| produce::<N, J>(work, state, inputs),
        |work, state| consume::<N, J>(work, state, outputs, scale),
    );
}

#[inline(always)]
fn produce<const N: usize, const J: usize>(work: WorkTile, state: &mut Producer, inputs: TensorMaps) {
    let (layout, keys, width) = const { (layout(N, J), 16 * J as u32, 16 * N as u32) };
    let full = state.await_held();
    state.hold::<N>(inputs.q, (0, 1), (work.first, work.head), full);
    let column = work.head / (work.heads / work.kv_heads) * width;
    let mut produce = |operand: TensorMap<Bf16>, first: u32| {
        let (stage, full) = state.next_stage(layout.stage_bytes());
        copy(operand, (first, column), stage.part(0, layout.stage_bytes()), (keys, across(N)), full);
    };
    let end = work.end(ROWS);
    let mut first = work.first_keys(work.first, keys);
    produce(inputs.k, first);
    while first < end {
        if first + keys < end {
            produce(inputs.k, first + keys);
        }
        produce(inputs.v, first);
        first += keys;
    }
}

#[inline(always)]
fn consume<const N: usize, const J: usize>(
    work: WorkTile,
    state: &mut Consumer,
    outputs: Outputs,
    scale: f32,
) {
    let (layout, keys) = const { (layout(N, J), 16 * J as u32) };
    let (factor, rows) = (scale * LOG2_E, work.first + WARPGROUP_ROWS * state.warpgroup);
    let own = work.first + 16 * warp_id();
    let queries = MatrixDescriptor::k_major(layout.held(state.warpgroup, 2));
    let part = |stage: Stage| stage.part(0, layout.stage_bytes());

    state.await_held();
    let stage = state.next_stage();
    let next = state.await_turn();
    let mut scores = warpgroup_scores::<N, J>(queries, MatrixDescriptor::k_major(part(stage)), next);
    stage.consumer_release();

    let mut sums: Accumulators<N> = [[[0.0; 4]; 2]; N];
    // Of scores·factor. A finite start: no difference to it is NaN.
    let mut maximum = [f32::MIN; 2];
    // Of this lane's columns alone.
    let mut total = [0.0; 2];
    let mut first = work.first_keys(work.first, keys);
    loop {
        if work.hides((rows, WARPGROUP_ROWS), (first, keys)) {
            mask(&mut scores, |row, column| work.sees(own + row, first + column));
        }
        let shrink = softmax(&mut scores, factor, &mut maximum, &mut total);
        scale_rows(&mut sums, shrink);
        let weights = to_operands(&scores);
        first += keys;
        if first >= work.end(ROWS) {
            // The scores are made: their queries are not needed any more.
            state.release_held();
            let stage = state.next_stage();
            let next = state.await_turn();
            let values = MatrixDescriptor::mn_major(part(stage), keys * ROW_BYTES);
            warpgroup_add_values::<N, J>(&weights, values, &mut sums, next);
            stage.consumer_release();
            break;
        }
        let (key_stage, value_stage) = (state.next_stage(), state.next_stage());
        let next = state.await_turn();
        let values = MatrixDescriptor::mn_major(part(value_stage), keys * ROW_BYTES);
        let scored = (queries, MatrixDescriptor::k_major(part(key_stage)));
        scores = warpgroup_scores_and_values::<N, J>(scored, (&weights, values), &mut sums, next);
        key_stage.consumer_release();
        value_stage.consumer_release();
    }

    let total = [row_sum(total[0]), row_sum(total[1])];
    scale_rows(&mut sums, total.map(reciprocal_approx));
    for half in 0..2 {
        let token = own + sum_row(half);
        if lane_id().is_multiple_of(4) && token < work.end(ROWS) {
            let value = (maximum[half] + log2_approx(total[half])) * LN_2;
            outputs.log_sum_exp.store(work.entry(token, work.head), value);
        }
    }
    state.write::<N>(&sums, work, own, (work.head, work.heads), outputs.output);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_fits_a_multiprocessor() {
        for (n, j) in [(4, 8), (5, 8), (6, 8), (8, 8), (16, 4)] {
            assert!(shared_bytes(n, j) <= 227 << 10);
            // The next keys, these values, and as much on the way.
            assert!(PIPELINE_BYTES / layout(n, j).stage_bytes() >= 4);
        }
    }
}
