//! A block's tile of a bf16 product on tensor cores (`mma.m16n8k16`), for sm_80 and newer.
//!
//! A block walks along k in stages of 32 levels. They lie in a ring in shared memory: while one is
//! multiplied, the copies of the next ones are under way (`cp.async`, without a register in between). One
//! barrier a stage: behind it the next stage is there, and the place of the last one is free.
//!
//! An operand with k as its last dimension has `[lines, 32]` in a stage, any other `[32, lines]`, as in
//! memory; `ldmatrix` transposes the latter on the way to registers. Chunks of eight elements (16 bytes) are
//! permuted by exclusive-or ([`place`]) within 128 bytes, so that the eight rows an `ldmatrix` reads at once,
//! and the eight chunks that eight threads copy at once, lie in different banks.
//!
//! Warps are two high and `WARPS` / 2 wide. Each sums `TALL` by `WIDE` tiles of 16 by 8 in registers. The
//! fragments of 16 levels are loaded while those before are multiplied.
//!
//! Every element is summed over ascending k in steps of 16, so its bits do not depend on the size of the
//! tile. Beyond the edges of the operands copies write zeros and read nothing.

use super::output::{Finish, Sizes, write_eight};
use crate::simt::*;

/// Levels of k in a stage.
pub const DEPTH: u32 = 32;
/// Elements that are copied at once: 16 bytes.
pub const CHUNK: u32 = 8;

/// Rows of a tile.
pub const fn rows(tall: usize) -> u32 {
    2 * 16 * tall as u32
}

/// Columns of a tile.
pub const fn columns(wide: usize, warps: u32) -> u32 {
    warps / 2 * 8 * wide as u32
}

/// Stages in the ring: the one that is multiplied, the next, and those that may still be on their way when
/// the next is needed.
const fn stages(ahead: u32) -> u32 {
    ahead + 2
}

/// Elements of a stage, of both operands.
const fn stage_length(tall: usize, wide: usize, warps: u32) -> u32 {
    (rows(tall) + columns(wide, warps)) * DEPTH
}

/// Bytes of shared memory.
pub const fn shared_bytes(tall: usize, wide: usize, warps: u32, ahead: u32) -> u64 {
    (stages(ahead) * stage_length(tall, wide, warps)) as u64 * 2
}

/// Tiles of a matrix.
pub const fn count(m: u64, n: u64, tall: usize, wide: usize, warps: u32) -> u64 {
    m.div_ceil(rows(tall) as u64) * n.div_ceil(columns(wide, warps) as u64)
}

/// Where a stage of `lines` lines has chunk `chunk` of line `row` (`along_k`) or of level `row`: the element
/// behind the chunk's start.
#[inline(always)]
fn place(along_k: bool, lines: u32, row: u32, chunk: u32) -> u32 {
    if along_k {
        // Two lines are 128 bytes.
        row * DEPTH + (chunk ^ (row / 2 % 4)) * CHUNK
    } else {
        row * lines + (chunk ^ (row % 8)) * CHUNK
    }
}

/// How a thread copies its chunks of an operand, stage by stage.
///
/// `ALONG_K`: memory has k as the operand's last dimension. Neighbouring threads copy neighbouring chunks.
struct Copies<const ALONG_K: bool> {
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

impl<const ALONG_K: bool> Copies<ALONG_K> {
    /// Row of the stage (line or level) and chunk in it that this thread copies first.
    #[inline(always)]
    fn position(&self) -> (u32, u32) {
        let chunks = self.chunks();
        (thread_idx() / chunks, thread_idx() % chunks)
    }

    /// Chunks in a row of the stage.
    #[inline(always)]
    fn chunks(&self) -> u32 {
        (if ALONG_K { DEPTH } else { self.lines }) / CHUNK
    }

    /// For lines `first..first + lines` of an operand of `total` lines and `k` levels, from level `level` on.
    #[inline(always)]
    fn new(
        source: Global<Bf16>,
        (first, lines, total): (u32, u32, u32),
        (level, k): (u32, u32),
        threads: u32,
    ) -> Self {
        let mut copies = Self { source, from: 0, apart: 0, step: 0, inside: 0, lines, threads };
        let (row, chunk) = copies.position();
        let rows_apart = (threads / copies.chunks()) as usize;
        let (own_line, own_level) = if ALONG_K { (row, chunk * CHUNK) } else { (chunk * CHUNK, row) };
        let (line, level) = ((first + own_line) as usize, (level + own_level) as usize);
        copies.inside = total.saturating_sub(first + own_line);
        let width = (if ALONG_K { k } else { total }) as usize;
        copies.from = if ALONG_K { line * width + level } else { level * width + line };
        copies.apart = rows_apart * width;
        copies.step = DEPTH as usize * if ALONG_K { 1 } else { width };
        copies
    }

    /// Starts the copies of the next stage, of which `levels` levels are inside the operand.
    #[inline(always)]
    fn start(&mut self, stage: Shared<Bf16>, levels: u32) {
        let (row, chunk) = self.position();
        let rows_apart = self.threads / self.chunks();
        let to = place(ALONG_K, self.lines, row, chunk);
        let row_length = if ALONG_K { DEPTH } else { self.lines };
        // A multiple of eight rows further the permutation is the same.
        for copy in 0..self.lines * DEPTH / CHUNK / self.threads {
            let further = copy * rows_apart;
            let valid = if ALONG_K {
                further < self.inside && chunk * CHUNK < levels
            } else {
                self.inside > 0 && row + further < levels
            };
            let from = self.from.wrapping_add(copy as usize * self.apart);
            stage.copy_async(to + further * row_length, self.source, from, valid);
        }
        self.from = self.from.wrapping_add(self.step);
    }
}

/// A thread's part of 16 levels of both operands, see [`matrix_multiply`].
struct Fragments<const TALL: usize, const WIDE: usize> {
    a: [[u32; 4]; TALL],
    b: [[u32; 2]; WIDE],
}

/// The fragments of half `half` of a stage.
#[inline(always)]
fn load_fragments<
    const A_ALONG_K: bool,
    const B_ALONG_K: bool,
    const TALL: usize,
    const WIDE: usize,
    const WARPS: u32,
>(
    stage_a: Shared<Bf16>,
    stage_b: Shared<Bf16>,
    half: u32,
) -> Fragments<TALL, WIDE> {
    let (lane, warp) = (lane_id(), warp_id());
    let (first_row, first_column) = (warp % 2 * 16 * TALL as u32, warp / 2 * 8 * WIDE as u32);
    // The lane names a row of eight of matrix lane / 8. Of an operand that is stored along k, matrices are
    // lines by levels, otherwise levels by lines. The four of A are, by line and level: 0 0, 8 0, 0 8, 8 8;
    // those of B, two fragments: 0 0, 0 8, 8 0, 8 8.
    let (eight, odd, upper) = (lane % 8, lane / 8 % 2, lane / 16);
    let mut fragments = Fragments { a: [[0; 4]; TALL], b: [[0; 2]; WIDE] };
    unroll!(above in TALL {
        let line = first_row + 16 * above as u32;
        fragments.a[above] = if A_ALONG_K {
            stage_a.load_matrices(place(true, 0, line + eight + 8 * odd, 2 * half + upper))
        } else {
            let lines = rows(TALL);
            stage_a.load_matrices_transposed(place(false, lines, 16 * half + eight + 8 * upper, line / 8 + odd))
        };
    });
    unroll!(beside in WIDE {
        if beside.is_multiple_of(2) {
            let line = first_column + 8 * beside as u32;
            let [b0, b1, b2, b3] = if B_ALONG_K {
                stage_b.load_matrices(place(true, 0, line + eight + 8 * upper, 2 * half + odd))
            } else {
                let lines = columns(WIDE, WARPS);
                stage_b.load_matrices_transposed(place(false, lines, 16 * half + eight + 8 * odd, line / 8 + upper))
            };
            fragments.b[beside] = [b0, b1];
            fragments.b[beside + 1] = [b2, b3];
        }
    });
    fragments
}

/// A thread's elements of C: tiles of 16 by 8, by row and column.
pub type Sums<const TALL: usize, const WIDE: usize> = [[[f32; 4]; WIDE]; TALL];

/// Adds the product of 16 levels.
#[inline(always)]
fn multiply<const TALL: usize, const WIDE: usize>(
    fragments: &Fragments<TALL, WIDE>,
    sums: &mut Sums<TALL, WIDE>,
) {
    unroll!(above in TALL {
        unroll!(beside in WIDE {
            sums[above][beside] =
                matrix_multiply(fragments.a[above], fragments.b[beside], sums[above][beside]);
        });
    });
}

/// This thread's part of A·B, for the tile from row and column `first` on, over the levels from `levels.0` to
/// `levels.1`, the former a multiple of [`DEPTH`]. All threads of the block must call it.
///
/// `A_ALONG_K`: A is `[m, k]`, else `[k, m]`; `B_ALONG_K`: B is `[n, k]`, else `[k, n]`. Both are aligned to
/// 16 bytes, and their last dimensions are multiples of [`CHUNK`].
#[inline(always)]
pub fn product<
    const A_ALONG_K: bool,
    const B_ALONG_K: bool,
    const TALL: usize,
    const WIDE: usize,
    const WARPS: u32,
    const AHEAD: u32,
>(
    a: Global<Bf16>,
    b: Global<Bf16>,
    sizes: Sizes,
    first: (u32, u32),
    levels: (u32, u32),
) -> Sums<TALL, WIDE> {
    let Sizes { m, n, k } = sizes;
    let (height, width, threads) = (rows(TALL), columns(WIDE, WARPS), WARPS * WARP);
    let mut copies_a = Copies::<A_ALONG_K>::new(a, (first.0, height, m), (levels.0, k), threads);
    let mut copies_b = Copies::<B_ALONG_K>::new(b, (first.1, width, n), (levels.0, k), threads);
    let stage_bytes = 2 * stage_length(TALL, WIDE, WARPS);
    let stage_a = |slot: u32| Shared::<Bf16>::new(slot * stage_bytes, height * DEPTH);
    let stage_b = |slot: u32| Shared::<Bf16>::new(slot * stage_bytes + 2 * height * DEPTH, width * DEPTH);
    let last = stages(AHEAD) - 1;
    let after = |slot: u32| if slot == last { 0 } else { slot + 1 };

    let mut left = levels.1.saturating_sub(levels.0);
    for slot in 0..last {
        let levels = left.saturating_sub(slot * DEPTH);
        copies_a.start(stage_a(slot), levels);
        copies_b.start(stage_b(slot), levels);
        commit_copies();
    }
    wait_copies::<AHEAD>();
    sync_threads();
    let (mut slot, mut free) = (0, last);
    let load = load_fragments::<A_ALONG_K, B_ALONG_K, TALL, WIDE, WARPS>;
    let mut lower = load(stage_a(0), stage_b(0), 0);
    let mut sums = [[[0.0; 4]; WIDE]; TALL];
    while left > 0 {
        let upper = load(stage_a(slot), stage_b(slot), 1);
        // Behind the last stage these write zeros: then what is loaded last, and not used, is there.
        let levels = left.saturating_sub(last * DEPTH);
        copies_a.start(stage_a(free), levels);
        copies_b.start(stage_b(free), levels);
        commit_copies();
        multiply(&lower, &mut sums);
        wait_copies::<AHEAD>();
        sync_threads();
        (slot, free) = (after(slot), slot);
        lower = load(stage_a(slot), stage_b(slot), 0);
        multiply(&upper, &mut sums);
        left = left.saturating_sub(DEPTH);
    }
    sums
}

/// Writes the block's tile of C, or adds it to what is there. All threads of the block must call it.
///
/// Every warp puts 16 rows of its sums at a time into shared memory of its own, so that a thread has eight
/// consecutive elements of C to write. A row there is 8 elements longer than needed: then the pairs that a
/// warp writes lie in different banks.
#[inline(always)]
pub fn finish<C: Pack<8>, const TALL: usize, const WIDE: usize>(
    sums: Sums<TALL, WIDE>,
    out: GlobalMut<C>,
    sizes: Sizes,
    first: (u32, u32),
    how: Finish<C>,
) {
    let (lane, warp) = (lane_id(), warp_id());
    let width = 8 * WIDE as u32;
    let pitch = width + 8;
    let bytes = 16 * pitch * 4;
    let pairs = Shared::<u64>::new(warp * bytes, 16 * pitch / 2);
    let staged = Shared::<f32>::new(warp * bytes, 16 * pitch);
    let (first_row, first_column) = (first.0 + warp % 2 * 16 * TALL as u32, first.1 + warp / 2 * width);
    let whole = how.is_whole(out, sizes);
    // Copies behind the last stage, and other warps' last loads, are in the way.
    wait_copies::<0>();
    sync_threads();
    unroll!(above in TALL {
        unroll!(beside in WIDE {
            let [a, b, c, d] = sums[above][beside];
            let at = lane / 4 * (pitch / 2) + 4 * beside as u32 + lane % 4;
            pairs.store(at, pair(a, b));
            pairs.store(at + 8 * (pitch / 2), pair(c, d));
        });
        sync_warp();
        for round in 0..WIDE as u32 / 2 {
            let chunk = round * WARP + lane;
            let (row, column) = (chunk / WIDE as u32, chunk % WIDE as u32 * 8);
            let [a, b, c, d] = staged.load_vector::<F32x4>(row * pitch + column).0;
            let [e, f, g, h] = staged.load_vector::<F32x4>(row * pitch + column + 4).0;
            let at = (first_row + 16 * above as u32 + row, first_column + column);
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
        for (along_k, lines) in
            [(true, 64), (true, 128), (true, 256), (false, 64), (false, 128), (false, 256)]
        {
            let (rows, chunks) = if along_k { (lines, DEPTH / CHUNK) } else { (DEPTH, lines / CHUNK) };
            for first in (0..rows).step_by(8) {
                for chunk in 0..chunks {
                    let rows = (first..first + 8).map(|row| place(along_k, lines, row, chunk));
                    assert_no_conflict("ldmatrix", rows);
                }
            }
            for first in (0..rows * chunks).step_by(8) {
                let threads =
                    (first..first + 8).map(|chunk| place(along_k, lines, chunk / chunks, chunk % chunks));
                assert_no_conflict("cp.async", threads);
            }
        }
    }

    #[test]
    fn every_chunk_of_a_stage_has_a_place_of_its_own() {
        for (along_k, lines) in [(true, 128), (false, 64), (false, 256)] {
            let (rows, chunks) = if along_k { (lines, DEPTH / CHUNK) } else { (DEPTH, lines / CHUNK) };
            let mut places: Vec<u32> = (0..rows * chunks)
                .map(|index| place(along_k, lines, index / chunks, index % chunks))
                .collect();
            places.sort_unstable();
            assert!(places.iter().enumerate().all(|(index, &place)| place == index as u32 * CHUNK));
        }
    }
}
