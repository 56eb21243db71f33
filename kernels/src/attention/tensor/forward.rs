//! The forward pass over one tile of queries, 16 to a warp.

use core::f32::consts::{LN_2, LOG2_E};

use super::ROWS;
use super::fragments::{SharedTile, row_max, row_sum, scale_rows, sum_column, sum_row, to_operands};
use crate::attention::work::WorkTile;
use crate::simt::*;
use crate::softcap::Softcap;

/// Bytes of shared memory: two stages of a tile of `16·J` keys and one of values, or of a stage and the
/// queries.
pub const fn shared<const N: usize, const J: usize>() -> u32 {
    let (stage, queries) = (2 * SharedTile::<N>::bytes(16 * J as u32), SharedTile::<N>::bytes(ROWS));
    stage + if stage > queries { stage } else { queries }
}

/// Running softmax over tiles of `16·J` keys, for heads of up to `16·N` elements.
///
/// The queries stay in registers, as do a tile's scores and the sums. While a tile is worked on the next one is
/// copied. Per tile a warp makes 4·N·J products of 16×8×16 from 2·N·J loads of 512 bytes: at 2048 fma
/// and 256 bytes each the shared memory of an SM of sm_80 delivers as fast as its tensor cores take.
#[inline(always)]
pub(in crate::attention) fn forward<const N: usize, const J: usize>(
    work: WorkTile,
    (q, k, v): (Global<Bf16>, Global<Bf16>, Global<Bf16>),
    output: GlobalMut<Bf16>,
    log_sum_exp: GlobalMut<f32>,
    scale: f32,
    cap: Softcap,
) {
    let tile = 16 * J as u32;
    let factor = scale * LOG2_E;
    let kv_head = work.head / (work.heads / work.kv_heads);
    let queries = work.queries(q, (work.first, ROWS), work.head);
    let own = 16 * warp_id();
    let stage = |stage: u32| {
        let byte = 2 * stage * SharedTile::<N>::bytes(tile);
        (SharedTile::<N>::new(byte, tile), SharedTile::<N>::new(byte + SharedTile::<N>::bytes(tile), tile))
    };
    let copy = |first: u32, to: u32| {
        let (keys, values) = stage(to);
        keys.copy(work.keys(k, (first, tile), kv_head), tile, work.head_dim);
        values.copy(work.keys(v, (first, tile), kv_head), tile, work.head_dim);
        commit_copies();
    };
    let end = work.first + queries.count;
    let mut first = work.first_keys(work.first, tile);
    copy(first, 0);
    // Queries pass through the stage that the loop fills first, and once more when results leave.
    let passage = SharedTile::<N>::new(2 * SharedTile::<N>::bytes(tile), ROWS);
    passage.copy(queries, ROWS, work.head_dim);
    commit_copies();
    wait_copies::<0>();
    sync_threads();
    let mut left: AFragments<N> = [[0; 4]; N];
    unroll!(k in N {
        left[k] = passage.left(own, k);
    });

    let mut sums: Accumulators<N> = [[[0.0; 4]; 2]; N];
    // Of scores·factor. A finite start: no difference to it is NaN.
    let mut maximum = [f32::MIN; 2];
    // Of this lane's columns alone.
    let mut total = [0.0; 2];
    let mut current = 0;
    while first < end {
        wait_copies::<0>();
        sync_threads();
        if first + tile < end {
            copy(first + tile, 1 - current);
        }
        let (keys, values) = stage(current);
        let mut scores = keys.product_transposed::<J>(|k| left[k]);
        if cap.is_on() {
            cap_products(&mut scores, cap);
        }
        if work.hides((work.first, ROWS), (first, tile)) {
            mask(&mut scores, |row, column| work.sees(work.first + own + row, first + column));
        }
        let shrink = softmax(&mut scores, factor, &mut maximum, &mut total);
        scale_rows(&mut sums, shrink);
        values.add_product(&to_operands(&scores), &mut sums);
        first += tile;
        current = 1 - current;
    }

    let total = [row_sum(total[0]), row_sum(total[1])];
    scale_rows(&mut sums, total.map(reciprocal_approx));
    for half in 0..2 {
        let row = own + sum_row(half);
        if lane_id().is_multiple_of(4) && row < queries.count {
            let entry = work.entry(work.first + row, work.head);
            log_sum_exp.store(entry, (maximum[half] + log2_approx(total[half])) * LN_2);
        }
    }
    sync_threads();
    let target = (queries.first + own as usize * queries.stride, queries.stride);
    let count = queries.count.saturating_sub(own);
    passage.write(own, &sums, output, (target.0, target.1, count), work.head_dim);
}

/// Puts a cap on every product.
#[inline(always)]
pub fn cap_products<const J: usize>(products: &mut Accumulators<J>, cap: Softcap) {
    unroll!(j in J {
        products[j] = products[j].map(|half| half.map(|product| cap.apply(product)));
    });
}

/// Makes scores of pairs that do not count −∞.
#[inline(always)]
pub fn mask<const J: usize>(scores: &mut Accumulators<J>, counts: impl Fn(u32, u32) -> bool) {
    unroll!(j in J {
        for half in 0..2 {
            for element in 0..4 {
                let (row, column) = (sum_row(element / 2), sum_column(j, half) + element as u32 % 2);
                if !counts(row, column) {
                    scores[j][half][element] = f32::NEG_INFINITY;
                }
            }
        }
    });
}

/// Takes scores into the running softmax and leaves 2^(score·factor − largest so far) in their place; gives
/// what sums so far are to be multiplied by.
#[inline(always)]
pub fn softmax<const J: usize>(
    scores: &mut Accumulators<J>,
    factor: f32,
    maximum: &mut [f32; 2],
    total: &mut [f32; 2],
) -> [f32; 2] {
    let mut largest = [f32::NEG_INFINITY; 2];
    unroll!(j in J {
        for half in 0..2 {
            for element in 0..4 {
                largest[element / 2] = max(largest[element / 2], scores[j][half][element]);
            }
        }
    });
    let mut shrink = [0.0; 2];
    for row in 0..2 {
        let largest = max(maximum[row], row_max(largest[row]) * factor);
        shrink[row] = exp2_approx(maximum[row] - largest);
        maximum[row] = largest;
        total[row] *= shrink[row];
    }
    unroll!(j in J {
        for half in 0..2 {
            for element in 0..4 {
                let row = element / 2;
                let power = exp2_approx(fma(scores[j][half][element], factor, -maximum[row]));
                scores[j][half][element] = power;
                total[row] += power;
            }
        }
    });
    shrink
}
