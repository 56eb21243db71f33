//! A block's tiles of a bf16 product by groups of warps (`wgmma`), fetched by the copy engine.
//!
//! A block is two groups of four warps that multiply, and a warp that fetches. It does tile after tile of C, every
//! so many-th as there are blocks, in the order of [`origin`]. A tile is 128 by 128 · `HALVES`; a group sums 64 of
//! its rows, in registers.
//!
//! Along k a tile takes stages of 64 levels, which come by a [ring](crate::ring) in shared memory. One lane of the
//! fetching warp starts the copies; it goes on with the next tile while the groups still write the last one. The
//! groups do not wait for each other: while one waits, the other keeps the tensor cores busy.
//!
//! An operand with k as its last dimension comes as one tile of its lines by 64 levels, any other as tiles of 64
//! levels by 64 lines. Both are read by the tensor cores as they are. Beyond the edges there are zeros.

use crate::gemm::output::{Finish, Sizes, origin, write_eight};
use crate::ring::{Place, Ring};
use crate::simt::*;

/// Levels of k in a stage.
pub const DEPTH: u32 = 64;
/// Rows of a tile.
pub const ROWS: u32 = 128;
/// Rows of C that a group of warps sums, and lines of a copy across k.
const LINES: u32 = 64;
/// Warps that multiply; the one behind them fetches.
const WARPS: u32 = 8;
/// Threads of a block.
pub const BLOCK: u32 = (WARPS + 1) * WARP;
/// Bytes of 64 lines by 64 levels, or 64 levels by 64 lines.
const SQUARE: u32 = LINES * DEPTH * 2;
/// Columns that a warp writes at once, of 16 rows.
const STRIP: u32 = 64;
/// Bytes of such a strip.
const STRIP_BYTES: u32 = 16 * STRIP * 4;
/// Tiles of 8 columns in a half of the sums.
const TILES: usize = 16;

/// Columns of a tile.
pub const fn columns(halves: usize) -> u32 {
    128 * halves as u32
}

/// Bytes of a stage.
const fn stage_bytes(halves: usize) -> u32 {
    (ROWS + columns(halves)) * DEPTH * 2
}

/// Bytes of the ring, whatever the tile.
const RING_BYTES: u32 = 192 << 10;

/// The stages: the ring, behind it a strip for each warp, then the barriers.
const fn ring(halves: usize) -> Ring {
    let place = stage_bytes(halves);
    Ring { byte: 0, place, places: RING_BYTES / place, barriers: RING_BYTES + WARPS * STRIP_BYTES }
}

/// Bytes of shared memory.
pub const fn shared_bytes(halves: usize) -> u64 {
    (ring(halves).barriers + ring(halves).barrier_bytes()) as u64
}

/// Tiles of a matrix.
pub const fn count(m: u64, n: u64, halves: usize) -> u64 {
    m.div_ceil(ROWS as u64) * n.div_ceil(columns(halves) as u64)
}

/// The tiles of this block, each multiplied and written. All threads of the block must call it.
///
/// `A_ALONG_K`: A is `[m, k]`, copied by 128 rows, else `[k, m]` by 64; `B_ALONG_K`: B is `[n, k]`, copied by
/// 128 · `HALVES` rows, else `[k, n]` by 64.
#[inline(always)]
pub fn all_tiles<C: Pack<8>, const A_ALONG_K: bool, const B_ALONG_K: bool, const HALVES: usize>(
    a: Tiles<Bf16>,
    b: Tiles<Bf16>,
    out: GlobalMut<C>,
    sizes: Sizes,
    tiles: u32,
    how: Finish<C>,
) {
    let ring = const { ring(HALVES) };
    if thread_idx() == 0 {
        ring.init(WARPS);
        fence_arrivals();
    }
    sync_threads();
    if warp_id() == WARPS {
        if lane_id() == 0 {
            fetch::<A_ALONG_K, B_ALONG_K, HALVES>(a, b, sizes, tiles);
        }
    } else {
        let mut stage = ring.first();
        let mut tile = block_idx();
        while tile < tiles {
            let sums = product::<A_ALONG_K, B_ALONG_K, HALVES>(&mut stage, sizes.k);
            let first = origin(sizes, tile, ROWS, columns(HALVES));
            finish(sums, out, sizes, first, &how);
            tile += grid_dim();
        }
    }
}

/// Starts the copies of all stages of all tiles of the block, each as soon as its place is free.
#[inline(always)]
fn fetch<const A_ALONG_K: bool, const B_ALONG_K: bool, const HALVES: usize>(
    a: Tiles<Bf16>,
    b: Tiles<Bf16>,
    sizes: Sizes,
    tiles: u32,
) {
    let mut stage = const { ring(HALVES) }.first();
    let mut tile = block_idx();
    while tile < tiles {
        let (row, column) = origin(sizes, tile, ROWS, columns(HALVES));
        let mut level = 0;
        while level < sizes.k {
            let full = stage.await_free(stage_bytes(HALVES));
            copy::<A_ALONG_K>(a, (row, level), squares(stage, 0, 2), ROWS / LINES, full);
            let count = columns(HALVES) / LINES;
            copy::<B_ALONG_K>(b, (column, level), squares(stage, 2, count), count, full);
            stage = stage.next();
            level += DEPTH;
        }
        tile += grid_dim();
    }
}

/// Starts the copies of an operand's part of a stage: `squares` times 64 lines, from line and level `at` on.
#[inline(always)]
fn copy<const ALONG_K: bool>(
    operand: Tiles<Bf16>,
    (line, level): (u32, u32),
    to: Shared<Bf16>,
    squares: u32,
    full: Arrivals,
) {
    if ALONG_K {
        operand.copy(line, level, to, full);
    } else {
        for square in 0..squares {
            let to = to.part(square * (SQUARE / 2), SQUARE / 2);
            operand.copy(level, line + square * LINES, to, full);
        }
    }
}

/// This thread's part of the product of the next `k` levels that are fetched. All threads of a group must call it.
#[inline(always)]
fn product<const A_ALONG_K: bool, const B_ALONG_K: bool, const HALVES: usize>(
    stage: &mut Place,
    k: u32,
) -> GroupSums<HALVES> {
    // Lane 0's is that of all lanes, but only so does the assembler know: operands are described in registers of
    // the whole warp.
    let group = shuffle_idx(warp_id() / 4, 0);
    let mut sums = [[[0.0; 4]; TILES]; HALVES];
    let mut level = 0;
    while level < k {
        let a = operand::<A_ALONG_K>(squares(*stage, group, 1));
        let b = operand::<B_ALONG_K>(squares(*stage, 2, columns(HALVES) / LINES));
        stage.await_full();
        multiply_by_group::<A_ALONG_K, B_ALONG_K, HALVES>(&mut sums, a, b);
        stage.release();
        *stage = stage.next();
        level += DEPTH;
    }
    sums
}

/// `count` squares of a stage from number `first` on: two of A, then those of B.
#[inline(always)]
fn squares(stage: Place, first: u32, count: u32) -> Shared<Bf16> {
    stage.part(first * SQUARE, count * SQUARE)
}

#[inline(always)]
fn operand<const ALONG_K: bool>(squares: Shared<Bf16>) -> Operand {
    if ALONG_K { Operand::along_k(squares) } else { Operand::across_k(squares, SQUARE) }
}

/// Where a strip has the pair of sums `pair` of `row`, in pairs: neighbouring rows lie in different banks.
#[inline(always)]
fn place(row: u32, pair: u32) -> u32 {
    row * (STRIP / 2) + (pair ^ (row % 4 * 4))
}

/// Writes a tile of C, or adds to it. All lanes of a warp must call it.
///
/// A warp puts a strip of 16 rows by 64 columns at a time into shared memory of its own, so that a lane has eight
/// consecutive elements of C to write.
#[inline(always)]
fn finish<C: Pack<8>, const HALVES: usize>(
    sums: GroupSums<HALVES>,
    out: GlobalMut<C>,
    sizes: Sizes,
    first: (u32, u32),
    how: &Finish<C>,
) {
    let (lane, warp) = (lane_id(), warp_id());
    let byte = RING_BYTES + warp * STRIP_BYTES;
    let pairs = Shared::<u64>::new(byte, STRIP_BYTES / 8);
    let whole = how.is_whole(out, sizes);
    unroll!(half in HALVES {
        unroll!(tile in TILES {
            let [a, b, c, d] = sums[half][tile];
            let at = place(lane / 4, tile as u32 % 8 * 4 + lane % 4);
            pairs.store(at, pair(a, b));
            pairs.store(at + 8 * (STRIP / 2), pair(c, d));
            if tile % 8 == 7 {
                sync_warp();
                let columns = 128 * half as u32 + STRIP * (tile as u32 / 8);
                let strip = Shared::<f32>::new(byte, STRIP_BYTES / 4);
                write_strip(strip, out, sizes, (first.0 + 16 * warp, first.1 + columns), how, whole);
                sync_warp();
            }
        });
    });
}

/// Writes a strip to C, from row and column `first` on.
#[inline(always)]
fn write_strip<C: Pack<8>>(
    strip: Shared<f32>,
    out: GlobalMut<C>,
    sizes: Sizes,
    first: (u32, u32),
    how: &Finish<C>,
    whole: bool,
) {
    for round in 0..4 {
        let eight = round * WARP + lane_id();
        let (row, column) = (eight / 8, eight % 8 * 8);
        let from = 2 * place(row, column / 2);
        let [a, b, c, d] = strip.load_vector::<F32x4>(from).0;
        let [e, f, g, h] = strip.load_vector::<F32x4>(from + 4).0;
        write_eight([a, b, c, d, e, f, g, h], (first.0 + row, first.1 + column), out, sizes, how, whole);
    }
}

/// Two numbers as they lie in memory.
#[inline(always)]
fn pair(first: f32, second: f32) -> u64 {
    u64::from(first.to_bits()) | u64::from(second.to_bits()) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_fits_a_multiprocessor_once() {
        for halves in [1, 2] {
            let bytes = shared_bytes(halves);
            assert!(bytes <= 227 << 10 && 2 * (bytes + 1024) > 228 << 10, "{bytes}");
            assert!(ring(halves).places >= 4);
            assert_eq!(stage_bytes(halves) % 1024, 0);
        }
    }

    #[test]
    fn half_warps_write_strips_to_all_banks() {
        for tile in 0..8 {
            for half in 0..2 {
                let mut banks: Vec<u32> = (16 * half..16 * (half + 1))
                    .map(|lane| place(lane / 4, tile * 4 + lane % 4) % 16)
                    .collect();
                banks.sort_unstable();
                assert_eq!(banks, (0..16).collect::<Vec<_>>());
            }
        }
    }
}
