//! The forward pass over one tile of queries.

use core::f32::consts::{LN_2, LOG2_E};

use super::TILE;
use super::tile::{Accumulators, Tile, cap_products, row_max, scale_row};
use super::work::WorkTile;
use crate::simt::*;
use crate::softcap::Softcap;

/// Running softmax over tiles of keys, in base 2; see [`super`].
#[inline(always)]
pub fn forward<E: Pack<8>, const ROWS: usize, const N: usize>(
    work: WorkTile,
    (q, k, v): (Global<E>, Global<E>, Global<E>),
    output: GlobalMut<E>,
    log_sum_exp: GlobalMut<f32>,
    scale: f32,
    cap: Softcap,
) {
    let tile = Tile::<ROWS>::new(work.head_dim);
    let kv_head = work.head / (work.heads / work.kv_heads);
    let queries = work.queries(q, (work.first, TILE), work.head);
    let end = work.first + queries.count;
    let mut sums: Accumulators<ROWS, N> = [[[0.0; 4]; N]; ROWS];
    let mut maximum = [f32::MIN; ROWS];
    // Of this thread's columns alone.
    let mut total = [0.0; ROWS];
    let mut first = work.first_keys(work.first, TILE);
    while first < end {
        let mut scores = tile.dot_products(queries, work.keys(k, (first, TILE), kv_head));
        if cap.is_on() {
            cap_products(&mut scores, cap);
        }
        unroll!(i in ROWS {
            let query = work.first + tile.row(i);
            let mut largest = maximum[i];
            for j in 0..4 {
                scores[i][j] *= scale * LOG2_E;
                if work.sees(query, first + tile.column(j)) {
                    largest = max(largest, scores[i][j]);
                }
            }
            let largest = row_max(largest);
            let shrink = exp2_approx(maximum[i] - largest);
            maximum[i] = largest;
            total[i] *= shrink;
            for j in 0..4 {
                let visible = work.sees(query, first + tile.column(j));
                scores[i][j] = if visible { exp2_approx(scores[i][j] - largest) } else { 0.0 };
                total[i] += scores[i][j];
            }
            scale_row(&mut sums[i], shrink);
        });
        tile.set_weights(&scores);
        tile.add_weighted_rows(work.keys(v, (first, TILE), kv_head), &mut sums);
        first += TILE;
    }
    unroll!(i in ROWS {
        let total = half_warp_sum(total[i]);
        scale_row(&mut sums[i], reciprocal_approx(total));
        if tile.leads_rows() && tile.row(i) < queries.count {
            let entry = work.entry(work.first + tile.row(i), work.head);
            log_sum_exp.store(entry, (maximum[i] + log2_approx(total)) * LN_2);
        }
    });
    tile.store(&sums, output, (queries.first, queries.stride, queries.count));
}
