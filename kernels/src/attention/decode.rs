//! One new token per row against its sequence's cache, in parts of [`SPLIT`] keys that are put together
//! afterwards.

use core::f32::consts::LOG2_E;

use super::{GROUP, SPLIT};
use crate::simt::*;
use crate::softcap::Softcap;

/// Threads of a block.
pub const BLOCK: u32 = 128;
/// Warps of a block.
const WARPS: u32 = BLOCK / WARP;
/// Lanes that share a key.
const LANES: u32 = 8;
/// Keys the block scores at once, one per group of lanes.
const KEYS: u32 = BLOCK / LANES;
/// Keys, or values, that a thread loads before it uses them.
const BATCH: usize = 4;
/// Elements a thread loads at once.
const PACK: u32 = 8;
/// [`GROUP`], to count heads in registers.
const HEADS: usize = GROUP as usize;
/// Bytes of shared memory: queries and scores, then in their place every thread's sums.
pub const SHARED: u64 = (4 * BLOCK * PACK * GROUP) as u64;

/// The keys of one row, key/value head and part, and the query heads they are for.
#[derive(Clone, Copy)]
pub struct Part<E: Real> {
    /// The first key.
    pub keys: Global<E>,
    /// The first value.
    pub values: Global<E>,
    /// Elements from token to token of both.
    pub stride: usize,
    /// Keys in the part, at least one.
    pub count: u32,
    /// Query heads, at most [`GROUP`].
    pub heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
}

impl<E: Pack<8>> Part<E> {
    /// Eight elements of the key or value `index`, of the last where there are fewer.
    #[inline(always)]
    fn load(self, data: Global<E>, index: u32, column: u32) -> [f32; 8] {
        E::load(data, index.min(self.count - 1) as usize * self.stride + column as usize)
    }
}

/// Attention over a part: per head the largest score (in base 2), the sum of 2^(score − largest) to
/// `statistics` `[heads][2]` (`statistics_stride` elements apart), and the sum of 2^(score − largest)·value
/// to `sums` `[heads][D]` (`sums_stride` elements apart).
///
/// `queries` are `heads` rows of `head_dim`. All threads must call it.
#[inline(always)]
pub fn attend<E: Pack<8>>(
    part: Part<E>,
    queries: Global<E>,
    (sums, sums_stride): (GlobalMut<f32>, usize),
    (statistics, statistics_stride): (GlobalMut<f32>, usize),
    scale: f32,
    cap: Softcap,
) {
    let Part { heads, head_dim, .. } = part;
    let staged = Shared::<f32>::new(0, GROUP * head_dim);
    let scores = Shared::<f32>::new(4 * GROUP * head_dim, GROUP * SPLIT);
    let mut index = thread_idx() * PACK;
    while index < heads * head_dim {
        let [a, b, c, d, e, f, g, h] = E::load(queries, index as usize);
        staged.store_vector(index, F32x4([a, b, c, d]));
        staged.store_vector(index + 4, F32x4([e, f, g, h]));
        index += BLOCK * PACK;
    }
    sync_threads();
    let mut first = 0;
    while first < part.count {
        score(part, first, staged, scores, (scale * LOG2_E, cap));
        first += KEYS * BATCH as u32;
    }
    sync_threads();
    let mut head = warp_id();
    while head < heads {
        let (largest, total) = softmax(scores, head * SPLIT, part.count);
        if lane_id() == 0 {
            let place = head as usize * statistics_stride;
            statistics.store(place, largest);
            statistics.store(place + 1, total);
        }
        head += WARPS;
    }
    sync_threads();

    // As many threads as a value has packs share one value; as many values as fit are summed side by side.
    let packs = head_dim / PACK;
    let (column, lane, lanes) = (thread_idx() % packs * PACK, thread_idx() / packs, BLOCK / packs);
    let own = sum_values(part, scores, column, (lane, lanes));
    sync_threads();
    let all = Shared::<f32>::new(0, BLOCK * PACK * GROUP);
    unroll!(head in HEADS {
        if (head as u32) < heads && lane < lanes {
            let place = (lane * GROUP + head as u32) * head_dim + column;
            let [a, b, c, d, e, f, g, h] = own[head];
            all.store_vector(place, F32x4([a, b, c, d]));
            all.store_vector(place + 4, F32x4([e, f, g, h]));
        }
    });
    sync_threads();
    // `index` counts the columns of all heads.
    let mut index = 4 * thread_idx();
    while index < heads * head_dim {
        let mut sum = [0.0; 4];
        let mut lane = 0;
        while lane < lanes {
            let own = all.load_vector::<F32x4>(lane * GROUP * head_dim + index).0;
            for element in 0..4 {
                sum[element] += own[element];
            }
            lane += 1;
        }
        let (head, column) = (index / head_dim, index % head_dim);
        sums.store_vector(head as usize * sums_stride + column as usize, F32x4(sum));
        index += 4 * BLOCK;
    }
}

/// Scores of the keys from `first` on, [`BATCH`] per group of lanes.
#[inline(always)]
fn score<E: Pack<8>>(
    part: Part<E>,
    first: u32,
    queries: Shared<f32>,
    scores: Shared<f32>,
    (factor, cap): (f32, Softcap),
) {
    let key = |i: usize| first + thread_idx() / LANES + KEYS * i as u32;
    let mut products = [[0.0; BATCH]; HEADS];
    let mut column = thread_idx() % LANES * PACK;
    while column < part.head_dim {
        let load = |i| part.load(part.keys, key(i), column);
        let keys: [[f32; 8]; BATCH] = [load(0), load(1), load(2), load(3)];
        unroll!(head in HEADS {
            if (head as u32) < part.heads {
                let place = head as u32 * part.head_dim + column;
                let [a, b, c, d] = queries.load_vector::<F32x4>(place).0;
                let [e, f, g, h] = queries.load_vector::<F32x4>(place + 4).0;
                add_products(&mut products[head], [a, b, c, d, e, f, g, h], &keys);
            }
        });
        column += LANES * PACK;
    }
    unroll!(head in HEADS {
        if (head as u32) < part.heads {
            unroll!(i in BATCH {
                let mut sum = products[head][i];
                sum += shuffle_xor(sum, 4);
                sum += shuffle_xor(sum, 2);
                sum += shuffle_xor(sum, 1);
                if thread_idx().is_multiple_of(LANES) && key(i) < part.count {
                    let sum = if cap.is_on() { cap.apply(sum) } else { sum };
                    scores.store(head as u32 * SPLIT + key(i), factor * sum);
                }
            });
        }
    });
}

/// products\[i\] += query·keys\[i\], over eight elements.
#[inline(always)]
fn add_products(products: &mut [f32; BATCH], query: [f32; 8], keys: &[[f32; 8]; BATCH]) {
    unroll!(i in BATCH {
        for element in 0..8 {
            products[i] = fma(query[element], keys[i][element], products[i]);
        }
    });
}

/// Replaces `count` scores from `first` on by 2^(score − largest); gives the largest and their sum. By one
/// warp.
#[inline(always)]
fn softmax(scores: Shared<f32>, first: u32, count: u32) -> (f32, f32) {
    let mut largest = f32::MIN;
    let mut index = lane_id();
    while index < count {
        largest = max(largest, scores.load(first + index));
        index += WARP;
    }
    let largest = warp_max(largest);
    let mut total = 0.0;
    let mut index = lane_id();
    while index < count {
        let power = exp2_approx(scores.load(first + index) - largest);
        scores.store(first + index, power);
        total += power;
        index += WARP;
    }
    (largest, warp_sum(total))
}

/// For each head, Σ of weight·value over the values `lane`, `lane + lanes`, …, eight columns of them.
#[inline(always)]
fn sum_values<E: Pack<8>>(
    part: Part<E>,
    weights: Shared<f32>,
    column: u32,
    (lane, lanes): (u32, u32),
) -> [[f32; 8]; HEADS] {
    let mut sums = [[0.0; 8]; HEADS];
    let mut first = lane;
    while first < part.count {
        let load = |i: u32| part.load(part.values, first + i * lanes, column);
        let values: [[f32; 8]; BATCH] = [load(0), load(1), load(2), load(3)];
        unroll!(i in BATCH {
            let index = first + i as u32 * lanes;
            if index < part.count {
                unroll!(head in HEADS {
                    if (head as u32) < part.heads {
                        let weight = weights.load(head as u32 * SPLIT + index);
                        for element in 0..8 {
                            sums[head][element] = fma(weight, values[i][element], sums[head][element]);
                        }
                    }
                });
            }
        });
        first += BATCH as u32 * lanes;
    }
    sums
}

/// Puts the parts of one row and head together, by one warp: with M the largest of all scores,
/// output = Σ sums·2^(largest − M) / Σ total·2^(largest − M).
#[inline(always)]
pub fn combine<E: Pack<8>>(
    (sums, statistics, parts): (Global<f32>, Global<f32>, u32),
    output: GlobalMut<E>,
    head_dim: u32,
) {
    let mut largest = f32::MIN;
    let mut part = 0;
    while part < parts {
        largest = max(largest, statistics.load(2 * part as usize));
        part += 1;
    }
    let column = lane_id() * PACK;
    if column < head_dim {
        let mut total = 0.0;
        let mut result = [0.0; 8];
        let mut part = 0;
        while part < parts {
            let factor = exp2_approx(statistics.load(2 * part as usize) - largest);
            total = fma(statistics.load(2 * part as usize + 1), factor, total);
            let values: [f32; 8] = Pack::load(sums, part as usize * head_dim as usize + column as usize);
            for element in 0..8 {
                result[element] = fma(values[element], factor, result[element]);
            }
            part += 1;
        }
        let factor = reciprocal_approx(total);
        for element in 0..8 {
            result[element] *= factor;
        }
        E::store(output, column as usize, result);
    }
}
