//! The backward pass: over one tile of keys for d_k and d_v, over one tile of queries for d_q.

use core::f32::consts::LOG2_E;

use super::TILE;
use super::tile::{Accumulators, COLUMNS, Tile, cap_products};
use super::work::WorkTile;
use crate::simt::*;
use crate::softcap::Softcap;

/// What the forward pass left, and the gradient that reaches it.
#[derive(Clone, Copy)]
pub struct Saved {
    /// `[N, H]`.
    pub log_sum_exp: Global<f32>,
    /// d_output·output, `[N, H]`.
    pub delta: Global<f32>,
}

impl Saved {
    /// Log-sum-exp in base 2, and delta, of the token `row` of a tile of `count`; of the last where there
    /// are fewer.
    #[inline(always)]
    pub fn load(self, work: WorkTile, (first, count): (u32, u32), row: u32, head: u32) -> (f32, f32) {
        let entry = work.entry(first + row.min(count - 1), head);
        (self.log_sum_exp.load(entry) * LOG2_E, self.delta.load(entry))
    }
}

/// delta\[row\] = Σ_d d_output\[row\]\[d\]·output\[row\]\[d\], eight lanes to a row.
#[inline(always)]
pub fn delta<E: Pack<8>>(
    d_output: Global<E>,
    output: Global<E>,
    delta: GlobalMut<f32>,
    (rows, head_dim): (u32, u32),
) {
    let index = block_idx() * (block_dim() / 8) + thread_idx() / 8;
    // Every lane takes part in the sum; those behind the last row do it again.
    let row = index.min(rows - 1) as usize;
    let sum = row_delta(d_output, output, row, head_dim);
    if thread_idx().is_multiple_of(8) && index < rows {
        delta.store(row, sum);
    }
}

/// Σ_d d_output\[row\]\[d\]·output\[row\]\[d\], in each of the eight lanes that have the row. All lanes of a warp must call
/// it.
#[inline(always)]
pub fn row_delta<E: Pack<8>>(d_output: Global<E>, output: Global<E>, row: usize, head_dim: u32) -> f32 {
    let mut sum = 0.0;
    let mut column = thread_idx() % 8 * 8;
    while column < head_dim {
        let place = row * head_dim as usize + column as usize;
        let (a, b) = (E::load(d_output, place), E::load(output, place));
        for element in 0..8 {
            sum = fma(a[element], b[element], sum);
        }
        column += 64;
    }
    sum += shuffle_xor(sum, 4);
    sum += shuffle_xor(sum, 2);
    sum + shuffle_xor(sum, 1)
}

/// d_q of one tile of queries and one head: Σ over tiles of keys of d_scores·K.
#[inline(always)]
pub fn queries<E: Pack<8>, const ROWS: usize, const N: usize>(
    work: WorkTile,
    (q, k, v, d_output): (Global<E>, Global<E>, Global<E>, Global<E>),
    saved: Saved,
    d_q: GlobalMut<E>,
    scale: f32,
    cap: Softcap,
) {
    let tile = Tile::<ROWS>::new(work.head_dim);
    let kv_head = work.head / (work.heads / work.kv_heads);
    let queries = work.queries(q, (work.first, TILE), work.head);
    let d_outputs = work.queries(d_output, (work.first, TILE), work.head);
    let end = work.first + queries.count;
    let mut rows = [(0.0, 0.0); ROWS];
    unroll!(i in ROWS {
        rows[i] = saved.load(work, (work.first, queries.count), tile.row(i), work.head);
    });
    let mut sums: Accumulators<ROWS, N> = [[[0.0; 4]; N]; ROWS];
    let mut first = work.first_keys(work.first, TILE);
    while first < end {
        let keys = work.keys(k, (first, TILE), kv_head);
        let mut scores = tile.dot_products(queries, keys);
        let products = tile.dot_products(d_outputs, work.keys(v, (first, TILE), kv_head));
        if cap.is_on() {
            cap_products(&mut scores, cap);
        }
        unroll!(i in ROWS {
            let (log_sum_exp, delta) = rows[i];
            for j in 0..4 {
                let probability = exp2_approx(scores[i][j] * (scale * LOG2_E) - log_sum_exp);
                let slope = if cap.is_on() { cap.slope(scores[i][j]) } else { 1.0 };
                let d_score = probability * (products[i][j] - delta) * scale * slope;
                let visible = work.sees(work.first + tile.row(i), first + tile.column(j));
                scores[i][j] = if visible { d_score } else { 0.0 };
            }
        });
        tile.set_weights(&scores);
        tile.add_weighted_rows(keys, &mut sums);
        first += TILE;
    }
    tile.store(&sums, d_q, (queries.first, queries.stride, queries.count));
}

/// d_k and d_v of one tile of keys and one key/value head: Σ over the heads that share it and tiles of
/// queries of d_scoresᵀ·Q and Pᵀ·d_output. Tiles have keys down and queries across.
#[inline(always)]
pub fn keys<E: Pack<8>, const ROWS: usize, const N: usize>(
    work: WorkTile,
    (q, k, v, d_output): (Global<E>, Global<E>, Global<E>, Global<E>),
    saved: Saved,
    (d_k, d_v): (GlobalMut<E>, GlobalMut<E>),
    scale: f32,
    cap: Softcap,
) {
    let tile = Tile::<ROWS>::new(work.head_dim);
    let group = work.heads / work.kv_heads;
    let (keys, values) =
        (work.keys(k, (work.first, TILE), work.head), work.keys(v, (work.first, TILE), work.head));
    let mut k_sums: Accumulators<ROWS, N> = [[[0.0; 4]; N]; ROWS];
    let mut v_sums: Accumulators<ROWS, N> = [[[0.0; 4]; N]; ROWS];
    let end = work.end_of_queries(work.first + keys.count);
    let mut head = work.head * group;
    while head < (work.head + 1) * group {
        let mut first = work.first;
        while first < end {
            let queries = work.queries(q, (first, TILE), head);
            let d_outputs = work.queries(d_output, (first, TILE), head);
            let mut probabilities = tile.dot_products(keys, queries);
            // Before the other products: registers do not suffice for both and a tanh.
            if cap.is_on() {
                cap_products(&mut probabilities, cap);
            }
            let mut d_scores = tile.dot_products(values, d_outputs);
            unroll!(j in COLUMNS {
                let column = tile.column(j);
                let (log_sum_exp, delta) = saved.load(work, (first, queries.count), column, head);
                unroll!(i in ROWS {
                    let visible = work.sees(first + column, work.first + tile.row(i)) && column < queries.count;
                    let score = probabilities[i][j] * (scale * LOG2_E);
                    let probability = if visible { exp2_approx(score - log_sum_exp) } else { 0.0 };
                    probabilities[i][j] = probability;
                    d_scores[i][j] = probability * (d_scores[i][j] - delta) * scale;
                });
            });
            if cap.is_on() {
                unroll!(j in COLUMNS {
                    let log_sum_exp = saved.load(work, (first, queries.count), tile.column(j), head).0;
                    unroll!(i in ROWS {
                        d_scores[i][j] *= cap.slope_by_probability(probabilities[i][j], log_sum_exp, scale);
                    });
                });
            }
            tile.set_weights(&probabilities);
            tile.add_weighted_rows(d_outputs, &mut v_sums);
            sync_threads();
            tile.set_weights(&d_scores);
            tile.add_weighted_rows(queries, &mut k_sums);
            first += TILE;
        }
        head += 1;
    }
    let place = (keys.first, keys.stride, keys.count);
    tile.store(&k_sums, d_k, place);
    tile.store(&v_sums, d_v, place);
}
