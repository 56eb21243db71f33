//! A block's tile of a bf16 product on tensor cores (`mma.m16n8k16`), for sm_80 and newer.
//!
//! The block tile is cut along k into stages of [`TILE_K`]. Stages lie in a ring buffer in shared memory: while one is
//! multiplied, the copies of the next ones are under way (`cp.async`). One barrier a stage: behind it the next stage
//! has arrived, and the last one may be overwritten.
//!
//! A K-major operand has `[lines, 32]` in a stage, an MN-major one `[32, lines]`, as in memory, where lines are rows of
//! A or columns of B; `ldmatrix` transposes the latter on the way to registers. Chunks of eight elements (16 bytes) are
//! swizzled by exclusive-or ([`swizzled`]) within 128 bytes, so that the eight rows an `ldmatrix` reads at once, and
//! the eight chunks that eight threads copy at once, lie in different banks.
//!
//! Warps are arranged 2 by `WARPS` / 2. A warp tile is `MMA_M` by `MMA_N` tiles of 16 by 8, accumulated in registers.
//! The fragments of the next 16 along k are loaded while those before are multiplied.
//!
//! Every element is summed over ascending k in steps of 16, so its bits do not depend on the size of the tile. Beyond
//! the edges of the operands copies write zeros and read nothing.

use super::epilogue::{Epilogue, Sizes, write_eight};
use crate::simt::*;

/// Elements of a stage along k.
pub const TILE_K: u32 = 32;
/// Elements that are copied at once: 16 bytes.
pub const CHUNK: u32 = 8;

/// Rows of a tile.
pub const fn rows(mma_m: usize) -> u32 {
    2 * 16 * mma_m as u32
}

/// Columns of a tile.
pub const fn columns(mma_n: usize, warps: u32) -> u32 {
    warps / 2 * 8 * mma_n as u32
}

/// Stages: the one that is multiplied, the next, and those that may still be on their way when
/// the next is needed.
const fn stages(prefetch: u32) -> u32 {
    prefetch + 2
}

/// Elements of a stage, of both operands.
const fn stage_length(mma_m: usize, mma_n: usize, warps: u32) -> u32 {
    (rows(mma_m) + columns(mma_n, warps)) * TILE_K
}

/// Bytes of shared memory.
pub const fn shared_bytes(mma_m: usize, mma_n: usize, warps: u32, prefetch: u32) -> u64 {
    (stages(prefetch) * stage_length(mma_m, mma_n, warps)) as u64 * 2
}

/// Tiles of a matrix.
pub const fn count(m: u64, n: u64, mma_m: usize, mma_n: usize, warps: u32) -> u64 {
    m.div_ceil(rows(mma_m) as u64) * n.div_ceil(columns(mma_n, warps) as u64)
}

/// Where a stage of `lines` lines has chunk `chunk` of line `row` (`k_major`), or of element `row` along k: the first
/// element of the chunk.
#[inline(always)]
fn swizzled(k_major: bool, lines: u32, row: u32, chunk: u32) -> u32 {
    if k_major {
        // Two lines are 128 bytes.
        row * TILE_K + (chunk ^ (row / 2 % 4)) * CHUNK
    } else {
        row * lines + (chunk ^ (row % 8)) * CHUNK
    }
}

/// How a thread copies its chunks of an operand, stage by stage.
///
/// `K_MAJOR`: memory has k as the operand's last dimension. Neighbouring threads copy neighbouring chunks.
struct Copies<const K_MAJOR: bool> {
    source: Global<Bf16>,
    /// The first element of its first chunk of the next stage.
    from: usize,
    /// Elements of memory from one of its chunks to the next.
    apart: usize,
    /// Elements of memory from stage to stage.
    step: usize,
    /// Lines of the operand from its first chunk's on: none, if that is outside.
    inside: u32,
    /// Lines of a tile.
    lines: u32,
    /// Threads of the block.
    threads: u32,
}

impl<const K_MAJOR: bool> Copies<K_MAJOR> {
    /// Row of the stage (line, or element along k) and chunk in it that this thread copies first.
    #[inline(always)]
    fn position(&self) -> (u32, u32) {
        let chunks = self.chunks();
        (thread_idx() / chunks, thread_idx() % chunks)
    }

    /// Chunks in a row of the stage.
    #[inline(always)]
    fn chunks(&self) -> u32 {
        (if K_MAJOR { TILE_K } else { self.lines }) / CHUNK
    }

    /// For lines `first..first + lines` of an operand of `total` lines, from `k_offset` on along k.
    #[inline(always)]
    fn new(
        source: Global<Bf16>,
        (first, lines, total): (u32, u32, u32),
        (k_offset, k): (u32, u32),
        threads: u32,
    ) -> Self {
        let mut copies = Self { source, from: 0, apart: 0, step: 0, inside: 0, lines, threads };
        let (row, chunk) = copies.position();
        let rows_apart = (threads / copies.chunks()) as usize;
        let (own_line, own_k) = if K_MAJOR { (row, chunk * CHUNK) } else { (chunk * CHUNK, row) };
        let (line, k_offset) = ((first + own_line) as usize, (k_offset + own_k) as usize);
        copies.inside = total.saturating_sub(first + own_line);
        let width = (if K_MAJOR { k } else { total }) as usize;
        copies.from = if K_MAJOR { line * width + k_offset } else { k_offset * width + line };
        copies.apart = rows_apart * width;
        copies.step = TILE_K as usize * if K_MAJOR { 1 } else { width };
        copies
    }

    /// Starts the copies of the next stage, of which `k_left` elements along k are inside the operand.
    #[inline(always)]
    fn start(&mut self, stage: Shared<Bf16>, k_left: u32) {
        let (row, chunk) = self.position();
        let rows_apart = self.threads / self.chunks();
        let to = swizzled(K_MAJOR, self.lines, row, chunk);
        let row_length = if K_MAJOR { TILE_K } else { self.lines };
        // A multiple of eight rows further the swizzle is the same.
        for copy in 0..self.lines * TILE_K / CHUNK / self.threads {
            let further = copy * rows_apart;
            let valid = if K_MAJOR {
                further < self.inside && chunk * CHUNK < k_left
            } else {
                self.inside > 0 && row + further < k_left
            };
            let from = self.from.wrapping_add(copy as usize * self.apart);
            stage.copy_async(to + further * row_length, self.source, from, valid);
        }
        self.from = self.from.wrapping_add(self.step);
    }
}

/// A thread's part of 16 elements along k of both operands, see [`matrix_multiply`].
struct Fragments<const MMA_M: usize, const MMA_N: usize> {
    a: [[u32; 4]; MMA_M],
    b: [[u32; 2]; MMA_N],
}

/// The fragments of half `half` of a stage.
#[inline(always)]
fn load_fragments<
    const A_K_MAJOR: bool,
    const B_K_MAJOR: bool,
    const MMA_M: usize,
    const MMA_N: usize,
    const WARPS: u32,
>(
    stage_a: Shared<Bf16>,
    stage_b: Shared<Bf16>,
    half: u32,
) -> Fragments<MMA_M, MMA_N> {
    let (lane, warp) = (lane_id(), warp_id());
    let (first_row, first_column) = (warp % 2 * 16 * MMA_M as u32, warp / 2 * 8 * MMA_N as u32);
    // The lane names a row of eight of matrix lane / 8. Of an operand that is stored along k, matrices are
    // lines by k, otherwise k by lines. The four of A are, by line and k: 0 0, 8 0, 0 8, 8 8;
    // those of B, two fragments: 0 0, 0 8, 8 0, 8 8.
    let (eight, odd, upper) = (lane % 8, lane / 8 % 2, lane / 16);
    let mut fragments = Fragments { a: [[0; 4]; MMA_M], b: [[0; 2]; MMA_N] };
    unroll!(mma_row in MMA_M {
        let line = first_row + 16 * mma_row as u32;
        fragments.a[mma_row] = if A_K_MAJOR {
            stage_a.load_matrices(swizzled(true, 0, line + eight + 8 * odd, 2 * half + upper))
        } else {
            let lines = rows(MMA_M);
            stage_a.load_matrices_transposed(swizzled(false, lines, 16 * half + eight + 8 * upper, line / 8 + odd))
        };
    });
    unroll!(mma_column in MMA_N {
        if mma_column.is_multiple_of(2) {
            let line = first_column + 8 * mma_column as u32;
            let [b0, b1, b2, b3] = if B_K_MAJOR {
                stage_b.load_matrices(swizzled(true, 0, line + eight + 8 * upper, 2 * half + odd))
            } else {
                let lines = columns(MMA_N, WARPS);
                stage_b.load_matrices_transposed(swizzled(false, lines, 16 * half + eight + 8 * odd, line / 8 + upper))
            };
            fragments.b[mma_column] = [b0, b1];
            fragments.b[mma_column + 1] = [b2, b3];
        }
    });
    fragments
}

/// A thread's elements of C: tiles of 16 by 8, by row and column.
pub type Accumulators<const MMA_M: usize, const MMA_N: usize> = [[[f32; 4]; MMA_N]; MMA_M];

/// Adds the product of 16 elements along k.
#[inline(always)]
fn multiply<const MMA_M: usize, const MMA_N: usize>(
    fragments: &Fragments<MMA_M, MMA_N>,
    sums: &mut Accumulators<MMA_M, MMA_N>,
) {
    unroll!(mma_row in MMA_M {
        unroll!(mma_column in MMA_N {
            sums[mma_row][mma_column] =
                matrix_multiply(fragments.a[mma_row], fragments.b[mma_column], sums[mma_row][mma_column]);
        });
    });
}

/// This thread's part of A·B, for the tile from row and column `first` on, over the elements along k from `k_range.0` to
/// `k_range.1`, the former a multiple of [`TILE_K`]. All threads of the block must call it.
///
/// `A_K_MAJOR`: A is `[m, k]`, else `[k, m]`; `B_K_MAJOR`: B is `[n, k]`, else `[k, n]`. Both are aligned to
/// 16 bytes, and their last dimensions are multiples of [`CHUNK`].
#[inline(always)]
pub fn product<
    const A_K_MAJOR: bool,
    const B_K_MAJOR: bool,
    const MMA_M: usize,
    const MMA_N: usize,
    const WARPS: u32,
    const PREFETCH: u32,
>(
    a: Global<Bf16>,
    b: Global<Bf16>,
    sizes: Sizes,
    first: (u32, u32),
    k_range: (u32, u32),
) -> Accumulators<MMA_M, MMA_N> {
    let Sizes { m, n, k } = sizes;
    let (height, width, threads) = (rows(MMA_M), columns(MMA_N, WARPS), WARPS * WARP);
    let mut copies_a = Copies::<A_K_MAJOR>::new(a, (first.0, height, m), (k_range.0, k), threads);
    let mut copies_b = Copies::<B_K_MAJOR>::new(b, (first.1, width, n), (k_range.0, k), threads);
    let stage_bytes = 2 * stage_length(MMA_M, MMA_N, WARPS);
    let stage_a = |slot: u32| Shared::<Bf16>::new(slot * stage_bytes, height * TILE_K);
    let stage_b = |slot: u32| Shared::<Bf16>::new(slot * stage_bytes + 2 * height * TILE_K, width * TILE_K);
    let last = stages(PREFETCH) - 1;
    let after = |slot: u32| if slot == last { 0 } else { slot + 1 };

    let mut left = k_range.1.saturating_sub(k_range.0);
    for slot in 0..last {
        let k_left = left.saturating_sub(slot * TILE_K);
        copies_a.start(stage_a(slot), k_left);
        copies_b.start(stage_b(slot), k_left);
        commit_copies();
    }
    wait_copies::<PREFETCH>();
    sync_threads();
    let (mut slot, mut free) = (0, last);
    let load = load_fragments::<A_K_MAJOR, B_K_MAJOR, MMA_M, MMA_N, WARPS>;
    let mut lower = load(stage_a(0), stage_b(0), 0);
    let mut sums = [[[0.0; 4]; MMA_N]; MMA_M];
    while left > 0 {
        let upper = load(stage_a(slot), stage_b(slot), 1);
        // Behind the last stage these write zeros: then what is loaded last, and not used, is there.
        let k_left = left.saturating_sub(last * TILE_K);
        copies_a.start(stage_a(free), k_left);
        copies_b.start(stage_b(free), k_left);
        commit_copies();
        multiply(&lower, &mut sums);
        wait_copies::<PREFETCH>();
        sync_threads();
        (slot, free) = (after(slot), slot);
        lower = load(stage_a(slot), stage_b(slot), 0);
        multiply(&upper, &mut sums);
        left = left.saturating_sub(TILE_K);
    }
    sums
}

/// Writes the block's tile of C, or adds it to what is there. All threads of the block must call it.
///
/// Every warp puts 16 rows of its sums at a time into shared memory of its own, so that a thread has eight
/// consecutive elements of C to write. A row there is 8 elements longer than needed: then the pairs that a
/// warp writes lie in different banks.
#[inline(always)]
pub fn finish<C: Pack<8>, const MMA_M: usize, const MMA_N: usize>(
    sums: Accumulators<MMA_M, MMA_N>,
    out: GlobalMut<C>,
    sizes: Sizes,
    first: (u32, u32),
    how: Epilogue<C>,
) {
    let (lane, warp) = (lane_id(), warp_id());
    let width = 8 * MMA_N as u32;
    let pitch = width + 8;
    let bytes = 16 * pitch * 4;
    let pairs = Shared::<u64>::new(warp * bytes, 16 * pitch / 2);
    let staged = Shared::<f32>::new(warp * bytes, 16 * pitch);
    let (first_row, first_column) = (first.0 + warp % 2 * 16 * MMA_M as u32, first.1 + warp / 2 * width);
    let whole = how.is_whole(out, sizes);
    // Copies behind the last stage, and other warps' last loads, are in the way.
    wait_copies::<0>();
    sync_threads();
    unroll!(mma_row in MMA_M {
        unroll!(mma_column in MMA_N {
            let [a, b, c, d] = sums[mma_row][mma_column];
            let at = lane / 4 * (pitch / 2) + 4 * mma_column as u32 + lane % 4;
            pairs.store(at, pair(a, b));
            pairs.store(at + 8 * (pitch / 2), pair(c, d));
        });
        sync_warp();
        for round in 0..MMA_N as u32 / 2 {
            let chunk = round * WARP + lane;
            let (row, column) = (chunk / MMA_N as u32, chunk % MMA_N as u32 * 8);
            let [a, b, c, d] = staged.load_vector::<F32x4>(row * pitch + column).0;
            let [e, f, g, h] = staged.load_vector::<F32x4>(row * pitch + column + 4).0;
            let at = (first_row + 16 * mma_row as u32 + row, first_column + column);
            write_eight([a, b, c, d, e, f, g, h], at, out, sizes, &how, whole);
        }
        sync_warp();
    });
}

/// Two numbers as they lie in memory.
#[inline(always)]
fn pair(first: f32, second: f32) -> u64 {
    u64::from(first.to_bits()) | u64::from(second.to_bits()) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails unless eight accesses of 16 bytes at these elements touch every bank once.
    #[track_caller]
    fn assert_no_conflict(what: &str, elements: impl Iterator<Item = u32>) {
        let mut groups: Vec<u32> = elements.map(|element| element / CHUNK % 8).collect();
        groups.sort_unstable();
        assert_eq!(groups, [0, 1, 2, 3, 4, 5, 6, 7], "{what}: bank groups");
    }

    #[test]
    fn no_two_lanes_want_one_bank() {
        for (k_major, lines) in
            [(true, 64), (true, 128), (true, 256), (false, 64), (false, 128), (false, 256)]
        {
            let (rows, chunks) = if k_major { (lines, TILE_K / CHUNK) } else { (TILE_K, lines / CHUNK) };
            for first in (0..rows).step_by(8) {
                for chunk in 0..chunks {
                    let rows = (first..first + 8).map(|row| swizzled(k_major, lines, row, chunk));
                    assert_no_conflict("ldmatrix", rows);
                }
            }
            for first in (0..rows * chunks).step_by(8) {
                let threads =
                    (first..first + 8).map(|chunk| swizzled(k_major, lines, chunk / chunks, chunk % chunks));
                assert_no_conflict("cp.async", threads);
            }
        }
    }

    #[test]
    fn every_chunk_of_a_stage_has_a_place_of_its_own() {
        for (k_major, lines) in [(true, 128), (false, 64), (false, 256)] {
            let (rows, chunks) = if k_major { (lines, TILE_K / CHUNK) } else { (TILE_K, lines / CHUNK) };
            let mut places: Vec<u32> = (0..rows * chunks)
                .map(|index| swizzled(k_major, lines, index / chunks, index % chunks))
                .collect();
            places.sort_unstable();
            assert!(places.iter().enumerate().all(|(index, &place)| place == index as u32 * CHUNK));
        }
    }
}
