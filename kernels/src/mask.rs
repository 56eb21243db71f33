//! Sets of parameters, one bit each: element j is bit j % 32 of word j / 32.

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Words of a block: four per thread.
const CHUNK: u64 = 4 * BLOCK as u64;
/// Most blocks that count: more than any device runs at a time.
const COUNTERS: u64 = 2048;

#[inline(always)]
fn combine(
    left: Global<u32>,
    right: Global<u32>,
    out: GlobalMut<u32>,
    words: usize,
    operation: impl Fn(u32, u32) -> u32,
) {
    let first = 4 * global_thread_idx();
    if first + 4 <= words {
        let (a, b) = (left.load_vector::<U32x4>(first).0, right.load_vector::<U32x4>(first).0);
        let results =
            [operation(a[0], b[0]), operation(a[1], b[1]), operation(a[2], b[2]), operation(a[3], b[3])];
        out.store_vector(first, U32x4(results));
    } else {
        for index in first..words {
            out.store(index, operation(left.load(index), right.load(index)));
        }
    }
}

/// A kernel that combines two sets.
macro_rules! combination {
    ($(#[$meta:meta])* $name:ident = $operation:expr) => {
        kernel! {
            $(#[$meta])*
            ///
            /// Four words a thread, those behind the last multiple of four one by one; 12 B per word.
            pub fn $name { block: BLOCK, grid: words.div_ceil(CHUNK), shared: 0 } (
                left: read u32 [words] align 16,
                right: read u32 [words] align 16,
                out: write u32 [words] align 16,
                words: scalar u64,
            ) {
                combine(left, right, out, words as usize, $operation);
            }
        }
    };
}
combination! { /** The elements in both sets. */ mask_and = |a, b| a & b }
combination! { /** The elements in either set. */ mask_or = |a, b| a | b }
combination! { /** The elements of the left set that are not in the right. */ mask_and_not = |a, b| a & !b }

/// Adds the number of bits in all words that `load` and `load_four` give to `total`.
#[inline(always)]
fn count_bits(
    words: usize,
    total: GlobalMut<u64>,
    load: impl Fn(usize) -> u32,
    load_four: impl Fn(usize) -> [u32; 4],
) {
    let mut bits = 0;
    let mut first = 4 * global_thread_idx();
    while first + 4 <= words {
        let [a, b, c, d] = load_four(first);
        bits += a.count_ones() + b.count_ones() + c.count_ones() + d.count_ones();
        first += 4 * grid_dim() as usize * BLOCK as usize;
    }
    for index in first..words {
        bits += load(index).count_ones();
    }
    let mut distance = WARP / 2;
    while distance > 0 {
        bits += shuffle_xor(bits, distance);
        distance /= 2;
    }
    if lane_id() == 0 {
        total.atomic_add(0, u64::from(bits));
    }
}

/// Blocks that count `words` words.
const fn counters(words: u64) -> u64 {
    let blocks = words.div_ceil(4 * CHUNK);
    if blocks < COUNTERS { blocks } else { COUNTERS }
}

kernel! {
    /// total[0] += the number of elements in the set.
    ///
    /// Integers are added atomically, one number per warp, all lanes of which take part: their order does not
    /// show. Below 2^40 words a warp's number fits in 32 bits. 4 B per word.
    pub fn mask_count { block: BLOCK, grid: counters(words), shared: 0 } (
        mask: read u32 [words] align 16,
        total: update u64 [1],
        words: scalar u64,
    ) requires { words < 1 << 40 } {
        count_bits(words as usize, total, |index| mask.load(index), |first| mask.load_vector::<U32x4>(first).0);
    }
}

kernel! {
    /// total[0] += the number of elements in both sets; otherwise as [`mask_count`]. 8 B per word.
    pub fn mask_intersection_count { block: BLOCK, grid: counters(words), shared: 0 } (
        left: read u32 [words] align 16,
        right: read u32 [words] align 16,
        total: update u64 [1],
        words: scalar u64,
    ) requires { words < 1 << 40 } {
        let load = |index| left.load(index) & right.load(index);
        let load_four = |first| {
            let (a, b) = (left.load_vector::<U32x4>(first).0, right.load_vector::<U32x4>(first).0);
            [a[0] & b[0], a[1] & b[1], a[2] & b[2], a[3] & b[3]]
        };
        count_bits(words as usize, total, load, load_four);
    }
}

/// The kernels of this family.
#[cfg(not(target_arch = "nvptx64"))]
pub const KERNELS: &[crate::launch::Kernel] = &[
    mask_and::KERNEL,
    mask_or::KERNEL,
    mask_and_not::KERNEL,
    mask_count::KERNEL,
    mask_intersection_count::KERNEL,
];
