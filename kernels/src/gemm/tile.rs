//! A block's tile of a product: fetched through shared memory, multiplied in registers.
//!
//! For C\[m, n\] = Σ_k A(m, k)·B(k, n) a block owns a square of C. It goes along k in tiles of 16: while
//! one k tile of A and of B is multiplied out of shared memory, every thread has the next one's elements,
//! eight of each, on their way in registers. One barrier per k tile.
//!
//! In shared memory a k tile is `[depth, side]` f32 whatever the operands are. Within a row of it the
//! groups of eight are swizzled by exclusive-or ([`swizzled`]), so that neither writing columns of eight nor
//! reading rows of four makes two lanes wait for one bank; padding could do that for one of the two only.
//!
//! A thread sums `quads`² squares of 4 by 4 elements of C, [`apart`] from each other: then the lanes of a
//! warp, 4 by 8, read adjacent fours.
//!
//! Every element is summed by one thread over ascending k by fused multiply-adds from 0: its bits depend
//! neither on the size of the tile nor on the other rows and columns.

use super::epilogue::{Epilogue, Sizes, origin, write_eight};
use crate::simt::*;

/// Elements of a k tile along k.
const TILE_K: u32 = 16;
/// Consecutive elements that a thread fetches.
const EIGHT: u32 = 8;
/// Rows, and columns, of a tile.
pub const fn side(quads: usize) -> u32 {
    32 * (quads * quads) as u32
}

/// Threads of a block: each fetches eight of the side · 16 elements of a k tile.
pub const fn threads(quads: usize) -> u32 {
    side(quads) * TILE_K / EIGHT
}

/// Blocks that should share a multiprocessor: 512 threads, of at most 128 registers each.
pub const fn min_blocks(quads: usize) -> u32 {
    512 / threads(quads)
}

/// Bytes of a k tile in shared memory.
const fn k_tile_bytes(quads: usize) -> u32 {
    TILE_K * side(quads) * size_of::<f32>() as u32
}

/// Bytes of shared memory: two k tiles of A and two of B.
pub const fn shared_bytes(quads: usize) -> u64 {
    4 * k_tile_bytes(quads) as u64
}

/// Tiles of a matrix.
pub const fn count(m: u64, n: u64, quads: usize) -> u64 {
    let side = side(quads) as u64;
    m.div_ceil(side) * n.div_ceil(side)
}

/// Elements of operands, fetched as they are: widening them waits for them.
pub trait Operand: Real {
    /// Eight elements from `index` on, the first aligned to 16 bytes.
    fn load_eight(from: Global<Self>, index: usize) -> [Self; 8];
}

impl Operand for f32 {
    #[inline(always)]
    fn load_eight(from: Global<Self>, index: usize) -> [Self; 8] {
        <Self as Pack<8>>::load(from, index)
    }
}

impl Operand for Bf16 {
    #[inline(always)]
    fn load_eight(from: Global<Self>, index: usize) -> [Self; 8] {
        from.load_vector::<Bf16x8>(index).0
    }
}

/// Rows, and columns, between the squares of a thread.
const fn apart(quads: usize) -> u32 {
    side(quads) / quads as u32
}

/// Row and column, in its tile, of this thread's first element of C. The lanes of a warp are 4 by 8, the
/// warps of a block as wide as fits between squares.
#[inline(always)]
fn corner<const QUADS: usize>() -> (u32, u32) {
    let warps_beside = apart(QUADS) / 32;
    let (warp, lane) = (warp_id(), lane_id());
    (warp / warps_beside * 16 + lane / 8 * 4, warp % warps_beside * 32 + lane % 8 * 4)
}

/// Index at which a k tile in shared memory has row or column `line` of k `k_offset`. Adding a multiple of 32 to the
/// line adds as much to the index.
#[inline(always)]
fn swizzled<const QUADS: usize>(k_offset: u32, line: u32) -> u32 {
    k_offset * side(QUADS) + (line ^ (k_offset / 4 % 4 * EIGHT))
}

/// How a thread fetches its elements of an operand, k tile by k tile.
///
/// `K_MAJOR`: memory holds the operand with k as its last dimension, and the thread takes eight elements along k of
/// one line (row of A or column of B). Otherwise lines are the last dimension, and it takes eight lines of
/// one element of k.
struct Fetch<const K_MAJOR: bool, const QUADS: usize> {
    /// The first of its elements of the next k tile.
    index: usize,
    /// Elements of memory from k tile to k tile.
    step: usize,
    /// How many of its lines are inside the operand: of one or eight.
    lines: u32,
}

impl<const K_MAJOR: bool, const QUADS: usize> Fetch<K_MAJOR, QUADS> {
    /// Offset along k and line of this thread's first element in a k tile.
    #[inline(always)]
    fn position() -> (u32, u32) {
        if K_MAJOR {
            let per_line = TILE_K / EIGHT;
            (thread_idx() % per_line * EIGHT, thread_idx() / per_line)
        } else {
            let per_k = side(QUADS) / EIGHT;
            (thread_idx() / per_k, thread_idx() % per_k * EIGHT)
        }
    }

    /// For the tile whose first line is `first`, of an operand of `lines` lines and `k` elements along k.
    #[inline(always)]
    fn new(first: u32, lines: u32, k: u32) -> Self {
        let (k_offset, line) = Self::position();
        let (k_offset, line, inside) =
            (k_offset as usize, (first + line) as usize, lines.saturating_sub(first + line));
        let (k, lines) = (k as usize, lines as usize);
        if K_MAJOR {
            Self { index: line * k + k_offset, step: TILE_K as usize, lines: inside.min(1) }
        } else {
            Self { index: k_offset * lines + line, step: TILE_K as usize * lines, lines: inside.min(EIGHT) }
        }
    }

    /// The elements of the next k tile, zeros outside of the operand, which has `elements along k` from the k tile on.
    /// `whole`: the operand is aligned and its rows in memory are multiples of eight elements; then eight are
    /// either inside or outside.
    #[inline(always)]
    fn next<E: Operand>(&mut self, from: Global<E>, whole: bool, k_left: u32) -> [E; 8] {
        let k_left = k_left.saturating_sub(Self::position().0);
        let inside = match (K_MAJOR, self.lines, k_left) {
            (_, 0, _) | (_, _, 0) => 0,
            (true, _, k_left) => k_left.min(EIGHT),
            (false, lines, _) => lines,
        };
        let mut values = [E::from_f32(0.0); 8];
        if whole {
            if inside > 0 {
                values = E::load_eight(from, self.index);
            }
        } else {
            for (lane, value) in values.iter_mut().enumerate() {
                if lane < inside as usize {
                    *value = from.load(self.index + lane);
                }
            }
        }
        self.index += self.step;
        values
    }

    /// Puts a k tile's elements into shared memory.
    #[inline(always)]
    fn put<E: Operand>(values: [E; 8], k_tile: Shared<f32>) {
        let (k_offset, line) = Self::position();
        let values = values.map(E::to_f32);
        if K_MAJOR {
            // Four elements along k have one swizzle.
            let (first, fifth) = (swizzled::<QUADS>(k_offset, line), swizzled::<QUADS>(k_offset + 4, line));
            for lane in 0..4 {
                k_tile.store(first + lane * side(QUADS), values[lane as usize]);
                k_tile.store(fifth + lane * side(QUADS), values[lane as usize + 4]);
            }
        } else {
            let [a, b, c, d, e, f, g, h] = values;
            let first = swizzled::<QUADS>(k_offset, line);
            k_tile.store_vector(first, F32x4([a, b, c, d]));
            k_tile.store_vector(first + 4, F32x4([e, f, g, h]));
        }
    }
}

/// A thread's elements of C: squares, by their row and column, of rows of four.
pub type Accumulators<const QUADS: usize> = [[[[f32; 4]; 4]; QUADS]; QUADS];

/// Adds the product of two k tiles: the part that tensor cores would do.
#[inline(always)]
fn multiply<const QUADS: usize>(a: Shared<f32>, b: Shared<f32>, sums: &mut Accumulators<QUADS>) {
    let corner = corner::<QUADS>();
    // Two elements along k hide their loads behind each other's arithmetic; four take too many registers.
    for k_offset in 0..TILE_K / 2 {
        multiply_k(a, b, 2 * k_offset, corner, sums);
        multiply_k(a, b, 2 * k_offset + 1, corner, sums);
    }
}

/// Adds the products of one element along k.
#[inline(always)]
fn multiply_k<const QUADS: usize>(
    a: Shared<f32>,
    b: Shared<f32>,
    k_offset: u32,
    (row, column): (u32, u32),
    sums: &mut Accumulators<QUADS>,
) {
    let mut left = [[0.0; 4]; QUADS];
    let mut right = [[0.0; 4]; QUADS];
    for quad in 0..QUADS {
        let apart = quad as u32 * apart(QUADS);
        left[quad] = a.load_vector::<F32x4>(swizzled::<QUADS>(k_offset, row) + apart).0;
        right[quad] = b.load_vector::<F32x4>(swizzled::<QUADS>(k_offset, column) + apart).0;
    }
    for above in 0..QUADS {
        for beside in 0..QUADS {
            for i in 0..4 {
                for j in 0..4 {
                    let sum = &mut sums[above][beside][i][j];
                    *sum = fma(left[above][i], right[beside][j], *sum);
                }
            }
        }
    }
}

/// This thread's part of A·B. All threads of the block must call it.
///
/// `A_K_MAJOR`: A is `[m, k]`, else `[k, m]`; `B_K_MAJOR`: B is `[n, k]`, else `[k, n]`.
#[inline(always)]
pub fn product<E: Operand, const A_K_MAJOR: bool, const B_K_MAJOR: bool, const QUADS: usize>(
    a: Global<E>,
    b: Global<E>,
    sizes: Sizes,
) -> Accumulators<QUADS> {
    let Sizes { m, n, k } = sizes;
    let (first_row, first_column) = origin(sizes, block_idx(), side(QUADS), side(QUADS));
    let whole_a = a.is_aligned() && (if A_K_MAJOR { k } else { m }).is_multiple_of(EIGHT);
    let whole_b = b.is_aligned() && (if B_K_MAJOR { k } else { n }).is_multiple_of(EIGHT);
    let mut fetch_a = Fetch::<A_K_MAJOR, QUADS>::new(first_row, m, k);
    let mut fetch_b = Fetch::<B_K_MAJOR, QUADS>::new(first_column, n, k);
    let k_tile = |index: u32| Shared::<f32>::new(index * k_tile_bytes(QUADS), TILE_K * side(QUADS));

    let mut k_left = k;
    Fetch::<A_K_MAJOR, QUADS>::put(fetch_a.next(a, whole_a, k_left), k_tile(0));
    Fetch::<B_K_MAJOR, QUADS>::put(fetch_b.next(b, whole_b, k_left), k_tile(2));
    sync_threads();
    let mut sums = [[[[0.0; 4]; 4]; QUADS]; QUADS];
    let mut current = 0;
    while k_left > 0 {
        // Behind the last k tile these are zeros, and nothing is loaded.
        k_left = k_left.saturating_sub(TILE_K);
        let next_a = fetch_a.next(a, whole_a, k_left);
        let next_b = fetch_b.next(b, whole_b, k_left);
        multiply(k_tile(current), k_tile(2 + current), &mut sums);
        current ^= 1;
        Fetch::<A_K_MAJOR, QUADS>::put(next_a, k_tile(current));
        Fetch::<B_K_MAJOR, QUADS>::put(next_b, k_tile(2 + current));
        sync_threads();
    }
    sums
}

/// Writes the block's tile of C, or adds it to what is there. All threads of the block must call it, behind
/// a barrier that ends the use of shared memory.
///
/// Sums go through shared memory, so that every thread has eight consecutive elements of C to write.
#[inline(always)]
pub fn finish<C: Pack<8>, const QUADS: usize>(
    sums: Accumulators<QUADS>,
    out: GlobalMut<C>,
    sizes: Sizes,
    how: Epilogue<C>,
) {
    let staged = Shared::new(0, side(QUADS) * apart(QUADS));
    stage::<QUADS>(&sums, 0, staged);
    sync_threads();
    write_staged::<C, QUADS>(0, staged, out, sizes, &how);
    if QUADS == 2 {
        sync_threads();
        stage::<QUADS>(&sums, 1, staged);
        sync_threads();
        write_staged::<C, QUADS>(1, staged, out, sizes, &how);
    }
}

/// Puts this thread's squares of column `beside` into shared memory, `[side, apart]`.
#[inline(always)]
fn stage<const QUADS: usize>(sums: &Accumulators<QUADS>, beside: usize, staged: Shared<f32>) {
    let (row, column) = corner::<QUADS>();
    for (above, squares) in (0..).zip(sums) {
        for (i, &four) in (0..).zip(&squares[beside]) {
            let row = row + above * apart(QUADS) + i;
            staged.store_vector(row * apart(QUADS) + column, F32x4(four));
        }
    }
}

/// Writes what is staged.
#[inline(always)]
fn write_staged<C: Pack<8>, const QUADS: usize>(
    beside: u32,
    staged: Shared<f32>,
    out: GlobalMut<C>,
    sizes: Sizes,
    how: &Epilogue<C>,
) {
    let (first_row, first_column) = origin(sizes, block_idx(), side(QUADS), side(QUADS));
    let first_column = first_column + beside * apart(QUADS);
    let per_row = apart(QUADS) / EIGHT;
    let whole = how.is_whole(out, sizes);
    let mut chunk = thread_idx();
    while chunk < side(QUADS) * per_row {
        let at = chunk * EIGHT;
        let [a, b, c, d] = staged.load_vector::<F32x4>(at).0;
        let [e, f, g, h] = staged.load_vector::<F32x4>(at + 4).0;
        let row = first_row + chunk / per_row;
        let column = first_column + chunk % per_row * EIGHT;
        write_eight([a, b, c, d, e, f, g, h], (row, column), out, sizes, how, whole);
        chunk += threads(QUADS);
    }
}
