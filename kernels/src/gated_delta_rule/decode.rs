//! One new token per row: its sequence's state decays, takes the token in and is read.

use super::*;
use crate::chunks::is_first_row;

/// Threads of a block.
const BLOCK: u32 = 256;
const WARPS: u32 = BLOCK / WARP;
/// Where q̂, k̂ and the warps' sums are in shared memory.
const KEY: u32 = 4 * KEY_DIM_LIMIT as u32;
const SUMS: u32 = 2 * KEY;
/// Bytes of shared memory.
const SHARED: u64 = (SUMS + 4 * BLOCK) as u64;

/// `x` of `key_dim` elements to `to`, times `factor`/√(Σx² + ε). All threads must call it; seen behind.
#[inline(always)]
fn normalise<E: Real>(x: Global<E>, start: usize, key_dim: u32, factor: f32, to: Shared<f32>) {
    let column = thread_idx();
    let value = if column < key_dim { x.load(start + column as usize).to_f32() } else { 0.0 };
    let squares = block_sum(value * value, Shared::new(SUMS, WARPS));
    if column < key_dim {
        to.store(column, value * divide(factor, sqrt(squares + EPSILON)));
    }
    sync_threads();
}

/// Sum over the warps of the value of this lane, in every warp. All threads must call it.
#[inline(always)]
fn sum_of_lane(value: f32, sums: Shared<f32>) -> f32 {
    sums.store(thread_idx(), value);
    sync_threads();
    let mut total = 0.0;
    for warp in 0..WARPS {
        total += sums.load(warp * WARP + lane_id());
    }
    sync_threads();
    total
}

kernel! {
    /// output `[rows, HV, DV]` of one new token a row, and the states `[slots, HV, DK, DV]` of their sequences, which take
    /// the tokens in.
    ///
    /// Block (x, y) takes a value head and 32 columns of DV, x, of the sequence whose first row is y, and all its rows in
    /// order; a row whose sequence an earlier row has is not its sequence's first. A lane has a column, a warp every eighth
    /// row of the state, twice a token: the second time from the cache. `query_factor` is 1/√DK. All threads of a block go
    /// the same way and reach every barrier. Reads and writes 4 bytes an element of a state; 7 flops.
    pub fn gated_delta_rule_decode<E> = gated_delta_rule_decode_f32, gated_delta_rule_decode_bf16; {
        block: BLOCK,
        grid: (value_heads * value_dim.div_ceil(u64::from(PART)), rows),
        shared: SHARED,
        min_blocks: 2,
    } (
        qkv: read E [rows * (2 * key_heads * key_dim + value_heads * value_dim)],
        a: read E [rows * value_heads],
        b: read E [rows * value_heads],
        a_log: read E [value_heads],
        dt_bias: read E [value_heads],
        slots: read u32 [rows],
        states: update f32 [slot_count * value_heads * key_dim * value_dim],
        output: write E [rows * value_heads * value_dim],
        rows: scalar u32,
        slot_count: scalar u32,
        key_heads: scalar u32,
        value_heads: scalar u32,
        key_dim: scalar u32,
        value_dim: scalar u32,
        query_factor: scalar f32,
    ) requires {
        key_heads > 0,
        value_heads.is_multiple_of(key_heads),
        key_dim > 0,
        key_dim <= KEY_DIM_LIMIT,
        value_dim > 0,
    } {
        let _ = slot_count;
        let sizes = Sizes { tokens: rows, key_heads, value_heads, key_dim, value_dim };
        let (query, key) =
            (Shared::<f32>::new(0, KEY_DIM_LIMIT as u32), Shared::<f32>::new(KEY, KEY_DIM_LIMIT as u32));
        let sums = Shared::<f32>::new(SUMS, BLOCK);
        let parts = value_dim.div_ceil(PART);
        let (head, column) = (block_idx() / parts, block_idx() % parts * PART + lane_id());
        let inputs = GateInputs { a, b, a_log, dt_bias };
        let slot = slots.load(block_idx_y() as usize);
        let state = sizes.state(slot, head) + column as usize;
        let is_in = column < value_dim;
        let mut row = if is_first_row(slots, block_idx_y()) { block_idx_y() } else { rows };
        while row < rows {
            if slots.load(row as usize) == slot {
                let (entry, key_head) = (sizes.entry(row, head), head / sizes.group());
                normalise(qkv, sizes.query(row, key_head), key_dim, query_factor, query);
                normalise(qkv, sizes.key(row, key_head), key_dim, 1.0, key);
                let decay = exp(-inputs.rate(head) * softplus(inputs.decay_input(entry, head)));
                let mut predicted = 0.0;
                let mut d = warp_id();
                while is_in && d < key_dim {
                    let kept = decay * states.load(state + d as usize * value_dim as usize);
                    predicted = fma(key.load(d), kept, predicted);
                    d += WARPS;
                }
                let predicted = sum_of_lane(predicted, sums);
                let (mut write, mut read) = (0.0, 0.0);
                if is_in {
                    let value = qkv.load(sizes.value(row, head) + column as usize).to_f32();
                    write = inputs.beta(entry) * (value - predicted);
                }
                let mut d = warp_id();
                while is_in && d < key_dim {
                    let place = state + d as usize * value_dim as usize;
                    let new = fma(key.load(d), write, decay * states.load(place));
                    states.store(place, new);
                    read = fma(query.load(d), new, read);
                    d += WARPS;
                }
                let read = sum_of_lane(read, sums);
                if is_in && warp_id() == 0 {
                    output.store(sizes.output(row, head) + column as usize, E::from_f32(read));
                }
            }
            row += 1;
        }
    }
}
