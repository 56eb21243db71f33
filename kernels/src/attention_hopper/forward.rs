//! A block's tiles of the forward pass.
//!
//! Queries are held; keys and values come by the ring, in tiles of `16·J`: the first keys, then by turns the next keys
//! and the values of those before, the last values. A group begins the scores of the next keys together with the sum
//! over these values. Scores and weights stay in registers.

use core::f32::consts::{LN_2, LOG2_E};

use super::block::{
    AllWork, Computing, Fetching, GROUP_ROWS, Layout, ROW_BYTES, ROWS, across, all_tiles, copy,
};
use crate::attention::tensor::forward::{mask, softmax};
use crate::attention::tensor::fragments::{row_sum, scale_rows, sum_row, to_operands};
use crate::attention::work::Work;
use crate::ring::Place;
use crate::simt::*;

/// Bytes of the ring.
const RING_BYTES: u32 = 128 << 10;

/// Shared memory for heads of `16·n` elements and tiles of `16·j` keys.
const fn layout(n: usize, j: usize) -> Layout {
    let place = across(n) * 16 * j as u32 * ROW_BYTES;
    Layout::new(across(n) * ROWS * ROW_BYTES, place, RING_BYTES / place)
}

/// Bytes of shared memory.
pub const fn shared_bytes(n: usize, j: usize) -> u64 {
    layout(n, j).bytes()
}

/// q `[N, H, D]`, k and v `[N, KV, D]`, for the copy engine.
#[derive(Clone, Copy)]
pub struct Inputs {
    pub q: Tiles<Bf16>,
    pub k: Tiles<Bf16>,
    pub v: Tiles<Bf16>,
}

/// output `[N, H, D]` and log_sum_exp `[N, H]`.
#[derive(Clone, Copy)]
pub struct Outputs {
    pub output: GlobalMut<Bf16>,
    pub log_sum_exp: GlobalMut<f32>,
}

/// The tiles of this block, for heads of `16·N` elements. All threads of the block must call it.
#[inline(always)]
pub fn forward<const N: usize, const J: usize>(all: AllWork, inputs: Inputs, outputs: Outputs, scale: f32) {
    all_tiles(
        const { layout(N, J) },
        all,
        |work, state| fetch::<N, J>(work, state, inputs),
        |work, state| compute::<N, J>(work, state, outputs, scale),
    );
}

#[inline(always)]
fn fetch<const N: usize, const J: usize>(work: Work, state: &mut Fetching, inputs: Inputs) {
    let (layout, keys, width) = const { (layout(N, J), 16 * J as u32, 16 * N as u32) };
    let full = state.await_held();
    state.hold::<N>(inputs.q, (0, 1), (work.first, work.head), full);
    let column = work.head / (work.heads / work.kv_heads) * width;
    let mut fetch = |operand: Tiles<Bf16>, first: u32| {
        let (place, full) = state.next_place(layout.place_bytes());
        copy(operand, (first, column), place.part(0, layout.place_bytes()), (keys, across(N)), full);
    };
    let end = work.end(ROWS);
    let mut first = work.first_keys(work.first, keys);
    fetch(inputs.k, first);
    while first < end {
        if first + keys < end {
            fetch(inputs.k, first + keys);
        }
        fetch(inputs.v, first);
        first += keys;
    }
}

#[inline(always)]
fn compute<const N: usize, const J: usize>(work: Work, state: &mut Computing, outputs: Outputs, scale: f32) {
    let (layout, keys) = const { (layout(N, J), 16 * J as u32) };
    let (factor, rows) = (scale * LOG2_E, work.first + GROUP_ROWS * state.group);
    let own = work.first + 16 * warp_id();
    let queries = Operand::along_k(layout.held(state.group, 2));
    let part = |place: Place| place.part(0, layout.place_bytes());

    state.await_held();
    let place = state.next_place();
    let next = state.await_turn();
    let mut scores = scores_by_group::<N, J>(queries, Operand::along_k(part(place)), next);
    place.release();

    let mut sums: Sums<N> = [[[0.0; 4]; 2]; N];
    // Of scores·factor. A finite start: no difference to it is NaN.
    let mut maximum = [f32::MIN; 2];
    // Of this lane's columns alone.
    let mut total = [0.0; 2];
    let mut first = work.first_keys(work.first, keys);
    loop {
        if work.hides((rows, GROUP_ROWS), (first, keys)) {
            mask(&mut scores, |row, column| work.sees(own + row, first + column));
        }
        let shrink = softmax(&mut scores, factor, &mut maximum, &mut total);
        scale_rows(&mut sums, shrink);
        let weights = to_operands(&scores);
        first += keys;
        if first >= work.end(ROWS) {
            // The scores are made: their queries are not needed any more.
            state.release_held();
            let place = state.next_place();
            let next = state.await_turn();
            let values = Operand::across_k(part(place), keys * ROW_BYTES);
            add_values_by_group::<N, J>(&weights, values, &mut sums, next);
            place.release();
            break;
        }
        let (key_place, value_place) = (state.next_place(), state.next_place());
        let next = state.await_turn();
        let values = Operand::across_k(part(value_place), keys * ROW_BYTES);
        let scored = (queries, Operand::along_k(part(key_place)));
        scores = scores_and_values_by_group::<N, J>(scored, (&weights, values), &mut sums, next);
        key_place.release();
        value_place.release();
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
            assert!(RING_BYTES / layout(n, j).place_bytes() >= 4);
        }
    }
}
