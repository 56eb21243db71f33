//! What blocks of the kernels here have in common: who computes and who fetches, and how they wait for each other.
//!
//! A block is two groups of four warps that compute, 64 rows of a tile each, and a group that fetches and gives them
//! its registers. It does tile after tile. Of operands some are held for a tile's time, in a place of their own;
//! the others come by a [ring](crate::ring), in the order in which they are used. One lane of the fetching group starts
//! the copies, ahead of the others. While one computing group's products are made, the other works on its results:
//! they take turns on the tensor cores.

use crate::attention::tensor::fragments::Staged;
use crate::attention::work::Work;
use crate::ring::{Place, Ring};
use crate::simt::*;

/// Rows of a tile.
pub const ROWS: u32 = crate::attention::WIDE_TILE;
/// Those of a group.
pub const GROUP_ROWS: u32 = ROWS / 2;
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
pub const ROW_BYTES: u32 = 2 * COLUMNS;
/// Bytes in which a warp writes 16 rows of such a tile.
const STRIP_BYTES: u32 = Staged::<4>::bytes(16);

/// Tiles of the copy engine across a head of `16·n` elements.
pub const fn across(n: usize) -> u32 {
    (16 * n as u32).div_ceil(COLUMNS)
}

/// Where a block has what, in its shared memory: what it holds for a tile, the ring, strips, barriers.
#[derive(Clone, Copy)]
pub struct Layout {
    ring: Ring,
}

impl Layout {
    /// For `held` bytes that are held, and a ring of so many places of `place` bytes.
    pub const fn new(held: u32, place: u32, places: u32) -> Self {
        let barriers = held + place * places + WARPS * STRIP_BYTES;
        Self { ring: Ring { byte: held, place, places, barriers } }
    }

    /// Bytes of it.
    pub const fn bytes(self) -> u64 {
        self.barrier(4) as u64
    }

    const fn held_bytes(self) -> u32 {
        self.ring.byte
    }

    /// Bytes of a place in the ring.
    pub const fn place_bytes(self) -> u32 {
        self.ring.place
    }

    /// Barriers beside those of the ring.
    const fn barrier(self, index: u32) -> u32 {
        self.ring.barriers + self.ring.barrier_bytes() + 8 * index
    }

    /// Where what is held arrives.
    #[inline(always)]
    fn full(self) -> Arrivals {
        Arrivals::new(self.barrier(0))
    }

    /// Where warps arrive that do not need it any more.
    #[inline(always)]
    fn empty(self) -> Arrivals {
        Arrivals::new(self.barrier(1))
    }

    /// Where the other group's warps arrive when it is a group's turn.
    #[inline(always)]
    fn turn(self, group: u32) -> Arrivals {
        Arrivals::new(self.barrier(2 + group))
    }

    /// Part number `part` of `parts` equal ones of what is held.
    #[inline(always)]
    pub fn held(self, part: u32, parts: u32) -> Shared<Bf16> {
        let bytes = self.held_bytes() / parts;
        Shared::new(part * bytes, bytes / 2)
    }

    #[inline(always)]
    fn init(self) {
        self.ring.init(WARPS);
        self.full().init(1);
        self.empty().init(WARPS);
        for group in 0..2 {
            self.turn(group).init(WARPS / 2);
        }
        fence_arrivals();
    }
}

/// All tiles and heads, of which a block takes every so many-th, forwards and backwards by turns: they are sorted by
/// what there is to do.
#[derive(Clone, Copy)]
pub struct AllWork {
    /// `[tiles, 4]`, of tiles of [`ROWS`] tokens.
    pub tiles: Global<u32>,
    /// Number of tiles.
    pub count: u32,
    /// Heads for each of which there is a tile.
    pub per_tile: u32,
    /// Query heads, key/value heads, elements of a head.
    pub heads: (u32, u32, u32),
    /// Most tokens that a token sees, itself included.
    pub window: u32,
}

impl AllWork {
    /// The block's work number `round`; none where it has less than others.
    #[inline(always)]
    fn of(self, round: u32) -> Option<Work> {
        let place = if round.is_multiple_of(2) { block_idx() } else { grid_dim() - 1 - block_idx() };
        let index = round * grid_dim() + place;
        let work = || Work::at(self.tiles, index, self.per_tile, self.heads, self.window);
        (index < self.count * self.per_tile).then(work)
    }

    #[inline(always)]
    fn rounds(self) -> u32 {
        (self.count * self.per_tile).div_ceil(grid_dim())
    }
}

/// The tiles of this block: `fetch` starts a tile's copies, `compute` does a group's half of it. All threads of the
/// block must call this.
#[inline(always)]
pub fn all_tiles(
    layout: Layout,
    all: AllWork,
    fetch: impl Fn(Work, &mut Fetching),
    compute: impl Fn(Work, &mut Computing),
) {
    if thread_idx() == 0 {
        layout.init();
    }
    sync_threads();
    if warp_id() >= WARPS {
        release_registers::<FEW>();
        if thread_idx() == WARPS * WARP {
            let mut fetching = Fetching { layout, place: layout.ring.first(), held: 0 };
            for round in 0..all.rounds() {
                if let Some(work) = all.of(round) {
                    fetch(work, &mut fetching);
                }
            }
        }
        return;
    }
    acquire_registers::<MANY>();
    // Lane 0's is that of all lanes, but only so does the assembler know.
    let group = shuffle_idx(warp_id() / 4, 0);
    // The first group's first turn comes at once: that is the phase before the first.
    let mut computing = Computing { layout, group, place: layout.ring.first(), held: 0, turn: group ^ 1 };
    for round in 0..all.rounds() {
        if let Some(work) = all.of(round) {
            compute(work, &mut computing);
        }
    }
}

/// How far the fetching thread is.
pub struct Fetching {
    layout: Layout,
    place: Place,
    /// Of the phase of what is held.
    held: u32,
}

impl Fetching {
    /// Waits until the groups are done with what they held; gives the barrier at which all of the next arrives.
    #[inline(always)]
    pub fn await_held(&mut self) -> Arrivals {
        self.layout.empty().wait(self.held ^ 1);
        self.held ^= 1;
        self.layout.full().arrive_expecting(self.layout.held_bytes());
        self.layout.full()
    }

    /// Starts the copies of operand `index` of the `count` that are held: of a tile from token `first` on the rows of one
    /// group, then those of the other, of a head of `16·N` elements. They arrive at `full`.
    #[inline(always)]
    pub fn hold<const N: usize>(
        &self,
        operand: Tiles<Bf16>,
        (index, count): (u32, u32),
        (first, head): (u32, u32),
        full: Arrivals,
    ) {
        for group in 0..2 {
            let at = (first + GROUP_ROWS * group, head * 16 * N as u32);
            let to = self.layout.held(2 * index + group, 2 * count);
            copy(operand, at, to, (GROUP_ROWS, across(N)), full);
        }
    }

    /// Waits until the next place of the ring is free; gives it and the barrier at which so many bytes arrive there.
    #[inline(always)]
    pub fn next_place(&mut self, bytes: u32) -> (Place, Arrivals) {
        let place = self.place;
        self.place = place.next();
        (place, place.await_free(bytes))
    }
}

/// Starts the copies of `across` tiles of `rows` rows, side by side from row and column `at` on, to `to`.
#[inline(always)]
pub fn copy(
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

/// How far a computing group is.
pub struct Computing {
    layout: Layout,
    /// Its number.
    pub group: u32,
    place: Place,
    /// Of the phase in which what is held arrives.
    held: u32,
    /// Of the phase before its turn.
    turn: u32,
}

impl Computing {
    /// Waits until what is held for the tile has arrived.
    #[inline(always)]
    pub fn await_held(&mut self) {
        self.layout.full().wait(self.held);
        self.held ^= 1;
    }

    /// This warp needs it no more. For all its lanes.
    #[inline(always)]
    pub fn release_held(&self) {
        if lane_id() == 0 {
            self.layout.empty().arrive();
        }
    }

    /// The place of the ring that comes next, when its bytes have arrived.
    #[inline(always)]
    pub fn next_place(&mut self) -> Place {
        let place = self.place;
        place.await_full();
        self.place = place.next();
        place
    }

    /// Waits for the group's turn; gives the barrier at which to say that it is the other's.
    #[inline(always)]
    pub fn await_turn(&mut self) -> Arrivals {
        self.layout.turn(self.group).wait(self.turn);
        self.turn ^= 1;
        self.layout.turn(self.group ^ 1)
    }

    /// Writes a warp's 16 rows of a result, from token `own` on, to head `head` of `heads`, by strips of 64 columns
    /// that pass through its shared memory.
    #[inline(always)]
    pub fn write<const N: usize>(
        &self,
        sums: &Sums<N>,
        work: Work,
        own: u32,
        (head, heads): (u32, u32),
        out: GlobalMut<Bf16>,
    ) {
        let strips = self.layout.ring.barriers - WARPS * STRIP_BYTES;
        let strip = Staged::<4>::new(strips + warp_id() * STRIP_BYTES, 16);
        let stride = heads as usize * 16 * N;
        let start = own as usize * stride + head as usize * 16 * N;
        let count = work.end(ROWS).saturating_sub(own);
        unroll!(n in N {
            if n.is_multiple_of(4) {
                let last = N - 1;
                let part = [sums[n], sums[last.min(n + 1)], sums[last.min(n + 2)], sums[last.min(n + 3)]];
                let columns = 16 * (N - n).min(4) as u32;
                strip.write(0, &part, out, (start + 16 * n, stride, count), columns);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_given_before_they_are_taken() {
        let at_first = (65_536 / BLOCK) / 8 * 8;
        assert!(WARPS * MANY + (BLOCK / WARP - WARPS) * FEW <= BLOCK / WARP * at_first);
    }
}
