//! A block's tiles of the forward pass, by groups of warps that the copy engine feeds.
//!
//! A block is two groups of four warps that compute, 64 queries each, and a group that fetches and gives them its
//! registers. It does tile after tile of 128 queries and one head. The queries of a tile come to a place of their own; keys and values, in tiles of `16·J`,
//! by a [ring](crate::ring), in the order in which they are used: the first keys, then by turns the next keys and the
//! values of those before, the last values. One lane of the fetching group starts the copies, ahead of the others.
//!
//! A group begins the scores of the next keys together with the sum over these values, and softens the scores while
//! the other group's products are made: they take turns on the tensor cores. Scores and weights stay in registers.

use core::f32::consts::{LN_2, LOG2_E};

use crate::attention::tensor::forward::{mask, softmax};
use crate::attention::tensor::fragments::{Staged, row_sum, scale_rows, sum_row, to_operands};
use crate::attention::work::Work;
use crate::ring::{Place, Ring};
use crate::simt::*;

/// Queries of a tile.
const ROWS: u32 = crate::attention::WIDE_TILE;
/// Those of a group.
const GROUP_ROWS: u32 = 64;
/// Warps that compute; the four behind them fetch.
const WARPS: u32 = 8;
/// Threads of a block.
pub const BLOCK: u32 = (WARPS + 4) * WARP;
/// Registers of a thread that fetches, and of one that computes, where a multiprocessor has 65,536 for a block and
/// each thread begins with a 384th of them, in steps of 8.
const FEW: u32 = 40;
const MANY: u32 = 232;
/// Elements of a head in a tile of the copy engine.
const COLUMNS: u32 = 64;
/// Bytes of a row of such a tile.
const ROW_BYTES: u32 = 2 * COLUMNS;
/// Bytes in which a warp writes 16 rows of such a tile.
const STRIP_BYTES: u32 = Staged::<4>::bytes(16);
/// Bytes of the ring.
const RING_BYTES: u32 = 128 << 10;

/// Where a block has what, in its shared memory: the queries, the ring, strips, barriers.
#[derive(Clone, Copy)]
struct Layout {
    /// Tiles of the copy engine across a head.
    across: u32,
    ring: Ring,
}

/// That for heads of `16·n` elements and tiles of `16·j` keys.
const fn layout(n: usize, j: usize) -> Layout {
    let across = (16 * n as u32).div_ceil(COLUMNS);
    let queries = across * ROWS * ROW_BYTES;
    let place = across * 16 * j as u32 * ROW_BYTES;
    let barriers = queries + RING_BYTES + WARPS * STRIP_BYTES;
    Layout { across, ring: Ring { byte: queries, place, places: RING_BYTES / place, barriers } }
}

impl Layout {
    const fn query_bytes(self) -> u32 {
        self.ring.byte
    }

    /// Those of a group.
    #[inline(always)]
    fn queries(self, group: u32) -> Shared<Bf16> {
        let bytes = self.query_bytes() / 2;
        Shared::new(group * bytes, bytes / 2)
    }

    const fn strips(self) -> u32 {
        self.ring.barriers - WARPS * STRIP_BYTES
    }

    /// Barriers beside those of the ring.
    const fn barrier(self, index: u32) -> u32 {
        self.ring.barriers + self.ring.barrier_bytes() + 8 * index
    }

    /// Where the queries of a tile arrive.
    #[inline(always)]
    fn queries_full(self) -> Arrivals {
        Arrivals::new(self.barrier(0))
    }

    /// Where warps arrive that do not need them any more.
    #[inline(always)]
    fn queries_empty(self) -> Arrivals {
        Arrivals::new(self.barrier(1))
    }

    /// Where the other group's warps arrive when it is a group's turn.
    #[inline(always)]
    fn turn(self, group: u32) -> Arrivals {
        Arrivals::new(self.barrier(2 + group))
    }
}

/// Bytes of shared memory.
pub const fn shared_bytes(n: usize, j: usize) -> u64 {
    layout(n, j).barrier(4) as u64
}

/// q `[N, H, D]`, k and v `[N, KV, D]`, for the copy engine.
#[derive(Clone, Copy)]
pub struct Inputs {
    pub q: Tiles<Bf16>,
    pub k: Tiles<Bf16>,
    pub v: Tiles<Bf16>,
}

/// output `[N, H, D]` and log_sum_exp `[N, H]`.
#[derive(Clone, Copy)]
pub struct Outputs {
    pub output: GlobalMut<Bf16>,
    pub log_sum_exp: GlobalMut<f32>,
}

/// All tiles and heads, of which a block takes every so many-th, forwards and backwards by turns: they are sorted by
/// what there is to do.
#[derive(Clone, Copy)]
pub struct AllWork {
    /// `[tiles, 4]`, of [`Tiles::by_wide_queries`](crate::attention::Tiles::by_wide_queries).
    pub tiles: Global<u32>,
    /// Number of tiles.
    pub count: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub window: u32,
}

impl AllWork {
    /// The block's work number `round`, of a head of `head_dim` elements; none where it has less than others.
    #[inline(always)]
    fn of(self, round: u32, head_dim: u32) -> Option<Work> {
        let place = if round.is_multiple_of(2) { block_idx() } else { grid_dim() - 1 - block_idx() };
        let index = round * grid_dim() + place;
        let sizes = (self.heads, self.kv_heads, head_dim);
        (index < self.count * self.heads).then(|| Work::at(self.tiles, index, self.heads, sizes, self.window))
    }

    #[inline(always)]
    fn rounds(self) -> u32 {
        (self.count * self.heads).div_ceil(grid_dim())
    }
}

/// The tiles of this block, for heads of `16·N` elements. All threads of the block must call it.
#[inline(always)]
pub fn all_tiles<const N: usize, const J: usize>(
    work: AllWork,
    inputs: Inputs,
    outputs: Outputs,
    scale: f32,
) {
    let layout = const { layout(N, J) };
    if thread_idx() == 0 {
        layout.ring.init(WARPS);
        layout.queries_full().init(1);
        layout.queries_empty().init(WARPS);
        for group in 0..2 {
            layout.turn(group).init(WARPS / 2);
        }
        fence_arrivals();
    }
    sync_threads();
    if warp_id() >= WARPS {
        release_registers::<FEW>();
        if thread_idx() == WARPS * WARP {
            fetch::<N, J>(work, inputs);
        }
        return;
    }
    acquire_registers::<MANY>();
    let mut state = Progress::new(layout);
    for round in 0..work.rounds() {
        if let Some(work) = work.of(round, 16 * N as u32) {
            tile::<N, J>(work, &mut state, outputs, scale);
        }
    }
}

/// Starts the copies of all tiles of the block, each as soon as its place is free.
#[inline(always)]
fn fetch<const N: usize, const J: usize>(all: AllWork, inputs: Inputs) {
    let (layout, keys) = const { (layout(N, J), 16 * J as u32) };
    let mut place = layout.ring.first();
    let mut parity = 0;
    for round in 0..all.rounds() {
        let Some(work) = all.of(round, 16 * N as u32) else { continue };
        layout.queries_empty().wait(parity ^ 1);
        parity ^= 1;
        let full = layout.queries_full();
        full.arrive_expecting(layout.query_bytes());
        for group in 0..2 {
            let at = (work.first + GROUP_ROWS * group, work.head * 16 * N as u32);
            copy(inputs.q, at, layout.queries(group), (GROUP_ROWS, layout.across), full);
        }
        let column = work.head / (work.heads / work.kv_heads) * 16 * N as u32;
        let mut fetch = |operand: Tiles<Bf16>, first: u32| {
            let full = place.await_free(layout.ring.place);
            copy(operand, (first, column), place.part(0, layout.ring.place), (keys, layout.across), full);
            place = place.next();
        };
        let end = work.end(ROWS);
        let mut first = work.first_keys(work.first, keys);
        fetch(inputs.k, first);
        while first < end {
            if first + keys < end {
                fetch(inputs.k, first + keys);
            }
            fetch(inputs.v, first);
            first += keys;
        }
    }
}

/// Starts the copies of `across` tiles of `rows` rows, side by side from row and column `at` on, to `to`.
#[inline(always)]
fn copy(
    operand: Tiles<Bf16>,
    (row, column): (u32, u32),
    to: Shared<Bf16>,
    (rows, across): (u32, u32),
    full: Arrivals,
) {
    let elements = rows * COLUMNS;
    for tile in 0..across {
        operand.copy(row, column + COLUMNS * tile, to.part(tile * elements, elements), full);
    }
}

/// How far a group is.
struct Progress {
    layout: Layout,
    group: u32,
    place: Place,
    /// Of the phase in which its queries arrive.
    queries: u32,
    /// Of the phase before its turn.
    turn: u32,
}

impl Progress {
    #[inline(always)]
    fn new(layout: Layout) -> Self {
        // Lane 0's is that of all lanes, but only so does the assembler know.
        let group = shuffle_idx(warp_id() / 4, 0);
        // The first group's first turn comes at once: that is the phase before the first.
        Self { layout, group, place: layout.ring.first(), queries: 0, turn: group ^ 1 }
    }

    /// The place of the ring that comes next, when its bytes have arrived.
    #[inline(always)]
    fn next_place(&mut self) -> Place {
        let place = self.place;
        place.await_full();
        self.place = place.next();
        place
    }

    /// Waits for the group's turn; gives the barrier at which to say that it is the other's.
    #[inline(always)]
    fn await_turn(&mut self) -> Arrivals {
        self.layout.turn(self.group).wait(self.turn);
        self.turn ^= 1;
        self.layout.turn(self.group ^ 1)
    }
}

/// A tile of queries: a group's half. All threads of both groups must call it.
#[inline(always)]
fn tile<const N: usize, const J: usize>(work: Work, state: &mut Progress, outputs: Outputs, scale: f32) {
    let (layout, keys) = const { (layout(N, J), 16 * J as u32) };
    let (factor, rows) = (scale * LOG2_E, work.first + GROUP_ROWS * state.group);
    let own = work.first + 16 * warp_id();
    let queries = Operand::along_k(layout.queries(state.group));
    let part = |place: Place| place.part(0, layout.ring.place);

    layout.queries_full().wait(state.queries);
    state.queries ^= 1;
    let place = state.next_place();
    let next = state.await_turn();
    let mut scores = scores_by_group::<N, J>(queries, Operand::along_k(part(place)), next);
    place.release();

    let mut sums: Sums<N> = [[[0.0; 4]; 2]; N];
    // Of scores·factor. A finite start: no difference to it is NaN.
    let mut maximum = [f32::MIN; 2];
    // Of this lane's columns alone.
    let mut total = [0.0; 2];
    let mut first = work.first_keys(work.first, keys);
    loop {
        if work.hides((rows, GROUP_ROWS), (first, keys)) {
            mask(&mut scores, |row, column| work.sees(own + row, first + column));
        }
        let shrink = softmax(&mut scores, factor, &mut maximum, &mut total);
        scale_rows(&mut sums, shrink);
        let weights = to_operands(&scores);
        first += keys;
        if first >= work.end(ROWS) {
            // The scores are made: their queries are not needed any more.
            if lane_id() == 0 {
                layout.queries_empty().arrive();
            }
            let place = state.next_place();
            let next = state.await_turn();
            let values = Operand::across_k(part(place), keys * ROW_BYTES);
            add_values_by_group::<N, J>(&weights, values, &mut sums, next);
            place.release();
            break;
        }
        let (key_place, value_place) = (state.next_place(), state.next_place());
        let next = state.await_turn();
        let values = Operand::across_k(part(value_place), keys * ROW_BYTES);
        let scored = (queries, Operand::along_k(part(key_place)));
        scores = scores_and_values_by_group::<N, J>(scored, (&weights, values), &mut sums, next);
        key_place.release();
        value_place.release();
    }

    let total = [row_sum(total[0]), row_sum(total[1])];
    scale_rows(&mut sums, total.map(reciprocal_approx));
    for half in 0..2 {
        let token = own + sum_row(half);
        if lane_id().is_multiple_of(4) && token < work.end(ROWS) {
            let value = (maximum[half] + log2_approx(total[half])) * LN_2;
            outputs.log_sum_exp.store(work.entry(token, work.head), value);
        }
    }
    write::<N>(&sums, work, own, layout.strips() + warp_id() * STRIP_BYTES, outputs.output);
}

/// Writes a warp's 16 rows of the result, from token `own` on, by strips of 64 columns that pass through its shared
/// memory at byte `strip`.
#[inline(always)]
fn write<const N: usize>(sums: &Sums<N>, work: Work, own: u32, strip: u32, output: GlobalMut<Bf16>) {
    let strip = Staged::<4>::new(strip, 16);
    let stride = work.heads as usize * 16 * N;
    let start = own as usize * stride + work.head as usize * 16 * N;
    let count = work.end(ROWS).saturating_sub(own);
    unroll!(n in N {
        if n.is_multiple_of(4) {
            let columns = 16 * (N - n).min(4);
            let part = [sums[n], sums[(n + 1).min(N - 1)], sums[(n + 2).min(N - 1)], sums[(n + 3).min(N - 1)]];
            strip.write(0, &part, output, (start + 16 * n, stride, count), columns as u32);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_fits_a_multiprocessor() {
        for (n, j) in [(4, 8), (5, 8), (6, 8), (8, 8), (16, 4)] {
            let (layout, bytes) = (layout(n, j), shared_bytes(n, j));
            assert!(bytes <= 227 << 10, "{bytes}");
            // The next keys, these values, and as much on the way.
            assert!(layout.ring.places >= 4);
            assert_eq!((layout.ring.byte % 1024, layout.ring.place % 1024), (0, 0));
        }
    }

    #[test]
    fn registers_are_given_before_they_are_taken() {
        let at_first = (65_536 / BLOCK) / 8 * 8;
        assert!(WARPS * MANY + (BLOCK / WARP - WARPS) * FEW <= BLOCK / WARP * at_first);
    }
}
