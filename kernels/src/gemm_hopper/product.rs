//! A block's tiles of a bf16 product by `wgmma`, with operands copied by TMA.
//!
//! A block is warp-specialised: two consumer warpgroups multiply, one producer warp starts the copies. It is
//! persistent: it does tile after tile of C, in strides of the grid, in the order of [`origin`]. A tile is 128 by
//! 128 · `HALVES`; a warpgroup accumulates 64 of its rows in registers.
//!
//! Along k a tile takes stages of [`TILE_K`] of a [pipeline](crate::pipeline). One lane of the producer warp goes on with
//! the next tile while the consumers still write the last one. The warpgroups do not wait for each other: while one
//! waits, the other keeps the tensor cores busy.
//!
//! A K-major operand is copied as one tile of its lines by 64 along k, an MN-major one as tiles of 64 along k by 64
//! lines; lines are rows of A or columns of B. Beyond the edges there are zeros.

use crate::gemm::epilogue::{Epilogue, Sizes, origin, write_eight};
use crate::pipeline::{Pipeline, Stage};
use crate::simt::*;

/// Elements along k of a stage.
pub const TILE_K: u32 = 64;
/// Rows of a tile.
pub const ROWS: u32 = 128;
/// Rows of C of a warpgroup, and lines of a copy of an MN-major operand.
const LINES: u32 = 64;
/// Consumer warps; the one behind them is the producer.
const WARPS: u32 = 8;
/// Threads of a block.
pub const BLOCK: u32 = (WARPS + 1) * WARP;
/// Bytes of 64 lines by 64 along k.
const SQUARE: u32 = LINES * TILE_K * 2;
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
    (ROWS + columns(halves)) * TILE_K * 2
}

/// Bytes of the pipeline, whatever the tile.
const PIPELINE_BYTES: u32 = 192 << 10;

/// The stages: the pipeline, behind it a strip for each warp, then the barriers.
const fn pipeline(halves: usize) -> Pipeline {
    let stage_bytes = stage_bytes(halves);
    Pipeline {
        byte: 0,
        stage_bytes,
        stages: PIPELINE_BYTES / stage_bytes,
        barriers: PIPELINE_BYTES + WARPS * STRIP_BYTES,
    }
}

/// Bytes of shared memory.
pub const fn shared_bytes(halves: usize) -> u64 {
    (pipeline(halves).barriers + pipeline(halves).barrier_bytes()) as u64
}

/// Tiles of a matrix.
pub const fn count(m: u64, n: u64, halves: usize) -> u64 {
    m.div_ceil(ROWS as u64) * n.div_ceil(columns(halves) as u64)
}

/// The tiles of this block, each multiplied and written. All threads of the block must call it.
///
/// `A_K_MAJOR`: A is `[m, k]`, copied by 128 rows, else `[k, m]` by 64; `B_K_MAJOR`: B is `[n, k]`, copied by
/// 128 · `HALVES` rows, else `[k, n]` by 64.
#[inline(always)]
pub fn all_tiles<C: Pack<8>, const A_K_MAJOR: bool, const B_K_MAJOR: bool, const HALVES: usize>(
    a: TensorMap<Bf16>,
    b: TensorMap<Bf16>,
    out: GlobalMut<C>,
    sizes: Sizes,
    tiles: u32,
    how: Epilogue<C>,
) {
    let pipeline = const { pipeline(HALVES) };
    if thread_idx() == 0 {
        pipeline.init(WARPS);
        fence_mbarrier_init();
    }
    sync_threads();
    if warp_id() == WARPS {
        if lane_id() == 0 {
            produce::<A_K_MAJOR, B_K_MAJOR, HALVES>(a, b, sizes, tiles);
        }
    } else {
        let mut stage = pipeline.first();
        let mut tile = block_idx();
        while tile < tiles {
            let sums = product::<A_K_MAJOR, B_K_MAJOR, HALVES>(&mut stage, sizes.k);
            let first = origin(sizes, tile, ROWS, columns(HALVES));
            finish(sums, out, sizes, first, &how);
            tile += grid_dim();
        }
    }
}

/// Starts the copies of all stages of all tiles of the block, each as soon as its stage is free.
#[inline(always)]
fn produce<const A_K_MAJOR: bool, const B_K_MAJOR: bool, const HALVES: usize>(
    a: TensorMap<Bf16>,
    b: TensorMap<Bf16>,
    sizes: Sizes,
    tiles: u32,
) {
    let mut stage = const { pipeline(HALVES) }.first();
    let mut tile = block_idx();
    while tile < tiles {
        let (row, column) = origin(sizes, tile, ROWS, columns(HALVES));
        let mut k_offset = 0;
        while k_offset < sizes.k {
            let full = stage.producer_acquire(stage_bytes(HALVES));
            copy::<A_K_MAJOR>(a, (row, k_offset), squares(stage, 0, 2), ROWS / LINES, full);
            let count = columns(HALVES) / LINES;
            copy::<B_K_MAJOR>(b, (column, k_offset), squares(stage, 2, count), count, full);
            stage = stage.next();
            k_offset += TILE_K;
        }
        tile += grid_dim();
    }
}

/// Starts the copies of an operand's part of a stage: `squares` times 64 lines, from line and k `at` on.
#[inline(always)]
fn copy<const K_MAJOR: bool>(
    operand: TensorMap<Bf16>,
    (line, k_offset): (u32, u32),
    to: Shared<Bf16>,
    squares: u32,
    full: Mbarrier,
) {
    if K_MAJOR {
        operand.copy(line, k_offset, to, full);
    } else {
        for square in 0..squares {
            let to = to.part(square * (SQUARE / 2), SQUARE / 2);
            operand.copy(k_offset, line + square * LINES, to, full);
        }
    }
}

/// This thread's part of the product over the next `k` elements that are copied. All threads of a warpgroup must call it.
#[inline(always)]
fn product<const A_K_MAJOR: bool, const B_K_MAJOR: bool, const HALVES: usize>(
    stage: &mut Stage,
    k: u32,
) -> WarpgroupAccumulators<HALVES> {
    // Lane 0's is that of all lanes, but only so does the assembler know: matrix descriptors must be warp-uniform.
    let warpgroup = shuffle_idx(warp_id() / 4, 0);
    let mut sums = [[[0.0; 4]; TILES]; HALVES];
    let mut k_offset = 0;
    while k_offset < k {
        let a = operand::<A_K_MAJOR>(squares(*stage, warpgroup, 1));
        let b = operand::<B_K_MAJOR>(squares(*stage, 2, columns(HALVES) / LINES));
        stage.consumer_wait();
        warpgroup_multiply::<A_K_MAJOR, B_K_MAJOR, HALVES>(&mut sums, a, b);
        stage.consumer_release();
        *stage = stage.next();
        k_offset += TILE_K;
    }
    sums
}

/// `count` squares of a stage from number `first` on: two of A, then those of B.
#[inline(always)]
fn squares(stage: Stage, first: u32, count: u32) -> Shared<Bf16> {
    stage.part(first * SQUARE, count * SQUARE)
}

#[inline(always)]
fn operand<const K_MAJOR: bool>(squares: Shared<Bf16>) -> MatrixDescriptor {
    if K_MAJOR { MatrixDescriptor::k_major(squares) } else { MatrixDescriptor::mn_major(squares, SQUARE) }
}

/// Where a strip has the pair of sums `pair` of `row`, in pairs: neighbouring rows lie in different banks.
#[inline(always)]
fn swizzled(row: u32, pair: u32) -> u32 {
    row * (STRIP / 2) + (pair ^ (row % 4 * 4))
}

/// Writes a tile of C, or adds to it. All lanes of a warp must call it.
///
/// A warp puts a strip of 16 rows by 64 columns at a time into shared memory of its own, so that a lane has eight
/// consecutive elements of C to write.
#[inline(always)]
fn finish<C: Pack<8>, const HALVES: usize>(
    sums: WarpgroupAccumulators<HALVES>,
    out: GlobalMut<C>,
    sizes: Sizes,
    first: (u32, u32),
    how: &Epilogue<C>,
) {
    let (lane, warp) = (lane_id(), warp_id());
    let byte = PIPELINE_BYTES + warp * STRIP_BYTES;
    let pairs = Shared::<u64>::new(byte, STRIP_BYTES / 8);
    let whole = how.is_whole(out, sizes);
    unroll!(half in HALVES {
        unroll!(tile in TILES {
            let [a, b, c, d] = sums[half][tile];
            let at = swizzled(lane / 4, tile as u32 % 8 * 4 + lane % 4);
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
    how: &Epilogue<C>,
    whole: bool,
) {
    for round in 0..4 {
        let eight = round * WARP + lane_id();
        let (row, column) = (eight / 8, eight % 8 * 8);
        let from = 2 * swizzled(row, column / 2);
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
            assert!(pipeline(halves).stages >= 4);
            assert_eq!(stage_bytes(halves) % 1024, 0);
        }
    }

    #[test]
    fn half_warps_write_strips_to_all_banks() {
        for tile in 0..8 {
            for half in 0..2 {
                let mut banks: Vec<u32> = (16 * half..16 * (half + 1))
                    .map(|lane| swizzled(lane / 4, tile * 4 + lane % 4) % 16)
                    .collect();
                banks.sort_unstable();
                assert_eq!(banks, (0..16).collect::<Vec<_>>());
            }
        }
    }
}
