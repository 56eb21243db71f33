//! The backward pass: d_q by tiles of queries, d_k and d_v by tiles of keys.
//!
//! Both compute the probabilities p = 2^(score − log_sum_exp) again, and d_score = p·(d_output·v − delta). The
//! factor of the scores is applied to the sums.

use core::f32::consts::LOG2_E;

use super::ROWS;
use super::forward::{cap_products, mask};
use super::fragments::{SharedTile, scale_rows, sum_column, sum_row, to_operands};
use crate::attention::backward::Saved;
use crate::attention::work::WorkTile;
use crate::simt::*;
use crate::softcap::Softcap;

/// Bytes of shared memory of [`queries`].
pub const fn queries_shared<const N: usize, const J: usize>(held: bool) -> u32 {
    let stages = 4 * SharedTile::<N>::bytes(16 * J as u32);
    let rows = 2 * SharedTile::<N>::bytes(ROWS);
    match (held, stages > rows) {
        (true, true) => stages,
        (true, false) => rows,
        (false, _) => stages + rows,
    }
}

/// d_q of one tile of queries and one head: Σ over tiles of `16·J` keys of d_scores·K.
///
/// Where `HELD`, queries and d_output stay in registers and only pass through shared memory; else they stay there
/// and are loaded for each tile.
#[inline(always)]
pub fn queries<const N: usize, const J: usize, const HELD: bool>(
    work: WorkTile,
    (q, k, v, d_output): Inputs,
    saved: Saved,
    d_q: GlobalMut<Bf16>,
    scale: f32,
    cap: Softcap,
) {
    let tile = 16 * J as u32;
    let (box_bytes, row_bytes) = (SharedTile::<N>::bytes(tile), SharedTile::<N>::bytes(ROWS));
    let kv_head = work.head / (work.heads / work.kv_heads);
    let rows = work.queries(q, (work.first, ROWS), work.head);
    let own = 16 * warp_id();
    let queries = SharedTile::<N>::new(0, ROWS);
    let d_outputs = SharedTile::<N>::new(row_bytes, ROWS);
    queries.copy(rows, ROWS, work.head_dim);
    d_outputs.copy(work.queries(d_output, (work.first, ROWS), work.head), ROWS, work.head_dim);
    commit_copies();
    let stages = if HELD { 0 } else { 2 * row_bytes };
    let stage = |stage: u32| {
        let byte = stages + 2 * stage * box_bytes;
        (SharedTile::<N>::new(byte, tile), SharedTile::<N>::new(byte + box_bytes, tile))
    };
    let copy = |first: u32, to: u32| {
        let (keys, values) = stage(to);
        keys.copy(work.keys(k, (first, tile), kv_head), tile, work.head_dim);
        values.copy(work.keys(v, (first, tile), kv_head), tile, work.head_dim);
        commit_copies();
    };
    let mut held: [AFragments<N>; 2] = [[[0; 4]; N]; 2];
    if HELD {
        wait_copies::<0>();
        sync_threads();
        unroll!(k in N {
            held[0][k] = queries.left(own, k);
            held[1][k] = d_outputs.left(own, k);
        });
        sync_threads();
    }
    let mut statistics = [(0.0, 0.0); 2];
    for half in 0..2 {
        statistics[half] = saved.load(work, (work.first, rows.count), own + sum_row(half), work.head);
    }

    let end = work.first + rows.count;
    let mut first = work.first_keys(work.first, tile);
    copy(first, 0);
    let mut sums: Accumulators<N> = [[[0.0; 4]; 2]; N];
    let mut current = 0;
    while first < end {
        wait_copies::<0>();
        sync_threads();
        if first + tile < end {
            copy(first + tile, 1 - current);
        }
        let (keys, values) = stage(current);
        let mut scores =
            keys.product_transposed::<J>(|k| if HELD { held[0][k] } else { queries.left(own, k) });
        if cap.is_on() {
            cap_products(&mut scores, cap);
        }
        if work.hides((work.first, ROWS), (first, tile)) {
            mask(&mut scores, |row, column| work.sees(work.first + own + row, first + column));
        }
        let products =
            values.product_transposed::<J>(|k| if HELD { held[1][k] } else { d_outputs.left(own, k) });
        unroll!(j in J {
            for half in 0..2 {
                for element in 0..4 {
                    let (log_sum_exp, delta) = statistics[element / 2];
                    let probability = exp2_approx(fma(scores[j][half][element], scale * LOG2_E, -log_sum_exp));
                    let slope = if cap.is_on() { cap.slope(scores[j][half][element]) } else { 1.0 };
                    scores[j][half][element] = probability * (products[j][half][element] - delta) * slope;
                }
            }
        });
        keys.add_product(&to_operands(&scores), &mut sums);
        first += tile;
        current = 1 - current;
    }
    scale_rows(&mut sums, [scale; 2]);
    sync_threads();
    let start = rows.first + own as usize * rows.stride;
    queries.write(own, &sums, d_q, (start, rows.stride, rows.count.saturating_sub(own)), work.head_dim);
}

/// Bytes of shared memory of [`keys`]: keys and values, two stages of queries and d_output, and of what is
/// saved for a query.
pub const fn keys_shared<const N: usize, const J: usize>() -> u32 {
    let tile = 16 * J as u32;
    2 * SharedTile::<N>::bytes(ROWS) + 4 * SharedTile::<N>::bytes(tile) + 2 * SAVED * tile
}

/// Bytes of what is saved for a query.
const SAVED: u32 = 8;

/// What both kernels read: q, k, v and d_output.
type Inputs = (Global<Bf16>, Global<Bf16>, Global<Bf16>, Global<Bf16>);

/// d_k and d_v of a tile of keys, by one block or, in two parts, by one each.
#[inline(always)]
pub fn keys<const N: usize, const J: usize, const PARTS: u64>(
    work: WorkTile,
    inputs: Inputs,
    saved: Saved,
    sums: (GlobalMut<Bf16>, GlobalMut<Bf16>),
    scale: f32,
    cap: Softcap,
) {
    if const { PARTS == 1 } {
        keys_part::<N, J, true, true>(work, inputs, saved, sums, scale, cap);
    } else if block_idx_y() == 0 {
        keys_part::<N, J, false, true>(work, inputs, saved, sums, scale, cap);
    } else {
        keys_part::<N, J, true, false>(work, inputs, saved, sums, scale, cap);
    }
}

/// d_k (where `D_K`) and d_v (where `D_V`) of one tile of keys and one key/value head: Σ over the heads that share it
/// and tiles of `16·J` queries of d_scoresᵀ·Q and Pᵀ·d_output. Scores have keys down and queries across.
#[inline(always)]
fn keys_part<const N: usize, const J: usize, const D_K: bool, const D_V: bool>(
    work: WorkTile,
    (q, k, v, d_output): Inputs,
    saved: Saved,
    (d_k, d_v): (GlobalMut<Bf16>, GlobalMut<Bf16>),
    scale: f32,
    cap: Softcap,
) {
    let tile = 16 * J as u32;
    let (box_bytes, row_bytes) = (SharedTile::<N>::bytes(tile), SharedTile::<N>::bytes(ROWS));
    let own = 16 * warp_id();
    let rows = work.keys(k, (work.first, ROWS), work.head);
    let (keys, values) = (SharedTile::<N>::new(0, ROWS), SharedTile::<N>::new(row_bytes, ROWS));
    keys.copy(rows, ROWS, work.head_dim);
    if D_K {
        values.copy(work.keys(v, (work.first, ROWS), work.head), ROWS, work.head_dim);
    }
    let stage = |stage: u32| {
        let byte = 2 * row_bytes + 2 * stage * box_bytes;
        (SharedTile::<N>::new(byte, tile), SharedTile::<N>::new(byte + box_bytes, tile))
    };
    // Of two queries: log-sum-exp in base 2 and delta, and the same of the next.
    let statistics =
        |stage: u32| Shared::<f32>::new(2 * row_bytes + 4 * box_bytes + stage * SAVED * tile, 2 * tile);
    let copy = |(head, first): (u32, u32), to: u32| {
        let (queries, d_outputs) = stage(to);
        let rows = work.queries(q, (first, tile), head);
        let own = match thread_idx() < rows.count {
            true => saved.load(work, (first, rows.count), thread_idx(), head),
            // Its probabilities are zero.
            false => (f32::INFINITY, 0.0),
        };
        queries.copy(rows, tile, work.head_dim);
        d_outputs.copy(work.queries(d_output, (first, tile), head), tile, work.head_dim);
        commit_copies();
        own
    };
    let keep = |(log_sum_exp, delta): (f32, f32), to: u32| {
        if thread_idx() < tile {
            statistics(to).store(2 * thread_idx(), log_sum_exp);
            statistics(to).store(2 * thread_idx() + 1, delta);
        }
    };

    let end = work.end_of_queries(work.first + rows.count);
    let group = work.heads / work.kv_heads;
    let mut place = (work.head * group, work.first);
    keep(copy(place, 0), 0);
    let mut k_sums: Accumulators<N> = [[[0.0; 4]; 2]; N];
    let mut v_sums: Accumulators<N> = [[[0.0; 4]; 2]; N];
    let mut current = 0;
    while place.0 < (work.head + 1) * group {
        wait_copies::<0>();
        sync_threads();
        let (head, first) = place;
        let next = if first + tile < end { (head, first + tile) } else { (head + 1, work.first) };
        let more = next.0 < (work.head + 1) * group;
        let mut loaded = (0.0, 0.0);
        if more {
            loaded = copy(next, 1 - current);
        }
        let (queries, d_outputs) = stage(current);
        let of_pair = |j, half| statistics(current).load_vector::<F32x4>(2 * sum_column(j, half)).0;
        let mut scores = queries.product_transposed::<J>(|k| keys.left(own, k));
        if cap.is_on() {
            cap_products(&mut scores, cap);
        }
        if work.hides((first, tile), (work.first, ROWS)) {
            mask(&mut scores, |row, column| work.sees(first + column, work.first + own + row));
        }
        unroll!(j in J {
            for half in 0..2 {
                let [even, _, odd, _] = of_pair(j, half);
                for element in 0..4 {
                    let log_sum_exp = [even, odd][element % 2];
                    let exponent = fma(scores[j][half][element], scale * LOG2_E, -log_sum_exp);
                    scores[j][half][element] = exp2_approx(exponent);
                }
            }
        });
        if D_V {
            d_outputs.add_product(&to_operands(&scores), &mut v_sums);
        }
        if D_K {
            let products = d_outputs.product_transposed::<J>(|k| values.left(own, k));
            unroll!(j in J {
                for half in 0..2 {
                    let [even_sum, even, odd_sum, odd] = of_pair(j, half);
                    for element in 0..4 {
                        let (delta, log_sum_exp) = ([even, odd][element % 2], [even_sum, odd_sum][element % 2]);
                        let probability = scores[j][half][element];
                        let mut d_score = probability * (products[j][half][element] - delta);
                        if cap.is_on() {
                            d_score *= cap.slope_by_probability(probability, log_sum_exp, scale);
                        }
                        scores[j][half][element] = d_score;
                    }
                }
            });
            queries.add_product(&to_operands(&scores), &mut k_sums);
        }
        if more {
            keep(loaded, 1 - current);
        }
        place = next;
        current = 1 - current;
    }

    // A warp alone has read its rows of keys and values.
    let start = rows.first + own as usize * rows.stride;
    let target = (start, rows.stride, rows.count.saturating_sub(own));
    if D_K {
        scale_rows(&mut k_sums, [scale; 2]);
        keys.write(own, &k_sums, d_k, target, work.head_dim);
    }
    if D_V {
        values.write(own, &v_sums, d_v, target, work.head_dim);
    }
}
