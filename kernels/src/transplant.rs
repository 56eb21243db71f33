//! Copying the coordinates of a set from model to model, and to and from short lists.
//!
//! A set is one bit per element: element j is bit j % 32 of word j / 32. No bit is set from element `count` on.
//! Values move bit for bit.

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Elements of a block of [`transplant`]: four per thread.
const CHUNK: u64 = 4 * BLOCK as u64;
/// Words of a mask that share one entry of `offsets`: one warp's.
pub const OFFSET_WORDS: usize = WARP as usize;

kernel! {
    /// backbone[j] ← source[j] for every j in the mask; the others are not touched.
    ///
    /// Four elements a thread: one 16-byte access where all are in the mask, single ones where some are. Those
    /// behind the last multiple of four go one by one. Reads the mask; 8 B per coordinate in it, in whole
    /// sectors of 32 B. No barriers.
    pub fn transplant { block: BLOCK, grid: count.div_ceil(CHUNK), shared: 0 } (
        backbone: update f32 [count] align 16,
        source: read f32 [count] align 16,
        mask: read u32 [count.div_ceil(32)],
        count: scalar u64,
    ) {
        let first = 4 * global_thread_idx();
        let count = count as usize;
        if first < count {
            let bits = mask.load(first / 32) >> (first % 32) & 15;
            if bits == 15 {
                // Taken apart: moved as a whole, it would become two accesses of 8 bytes.
                let F32x4([a, b, c, d]) = source.load_vector(first);
                backbone.store_vector(first, F32x4([a, b, c, d]));
            } else if bits != 0 {
                for lane in 0..4 {
                    if bits >> lane & 1 == 1 {
                        backbone.store(first + lane, source.load(first + lane));
                    }
                }
            }
        }
    }
}

/// Calls `visit` with every index in the mask and its rank among them. One warp has 32 words, a lane one
/// of them; all lanes take part.
#[inline(always)]
fn for_each_index(mask: Global<u32>, offsets: Global<u64>, words: usize, visit: impl Fn(usize, usize)) {
    let index = global_thread_idx();
    let mut word = 0;
    let mut position = 0;
    if index < words {
        word = mask.load(index);
        position = offsets.load(index / OFFSET_WORDS) as usize;
    }
    let own = word.count_ones();
    let mut up_to_here = own;
    let mut distance = 1;
    while distance < WARP {
        let before = shuffle_idx(up_to_here, lane_id().wrapping_sub(distance));
        if lane_id() >= distance {
            up_to_here += before;
        }
        distance *= 2;
    }
    position += (up_to_here - own) as usize;
    while word != 0 {
        visit(32 * index + word.trailing_zeros() as usize, position);
        word &= word - 1;
        position += 1;
    }
}

kernel! {
    /// values[r] = source[j] for the r-th j in the mask, ascending.
    ///
    /// A thread has one word. offsets[i] is the number of coordinates before word 32·i; `selected` is the
    /// number of all. Made for sparse masks: reads the mask, and 36 B per coordinate, in whole sectors.
    pub fn transplant_gather { block: BLOCK, grid: count.div_ceil(32).div_ceil(256), shared: 0 } (
        source: read f32 [count],
        mask: read u32 [count.div_ceil(32)],
        offsets: read u64 [count.div_ceil(32).div_ceil(32)],
        values: write f32 [selected],
        count: scalar u64,
        selected: scalar u64,
    ) {
        let words = (count as usize).div_ceil(32);
        for_each_index(mask, offsets, words, |index, rank| values.store(rank, source.load(index)));
    }
}

kernel! {
    /// target[j] ← values[r] for the r-th j in the mask, ascending: the inverse of [`transplant_gather`].
    ///
    /// As there, and the other coordinates are not touched.
    pub fn transplant_scatter { block: BLOCK, grid: count.div_ceil(32).div_ceil(256), shared: 0 } (
        target: update f32 [count],
        mask: read u32 [count.div_ceil(32)],
        offsets: read u64 [count.div_ceil(32).div_ceil(32)],
        values: read f32 [selected],
        count: scalar u64,
        selected: scalar u64,
    ) {
        let words = (count as usize).div_ceil(32);
        for_each_index(mask, offsets, words, |index, rank| target.store(index, values.load(rank)));
    }
}
