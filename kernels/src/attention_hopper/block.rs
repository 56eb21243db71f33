//! What blocks of the kernels here have in common: producer and consumers, and how they wait for each other.
//!
//! A block is warp-specialised: two consumer warpgroups compute, 64 rows of a tile each, and a producer warpgroup starts
//! the copies by TMA and gives them its registers (`setmaxnreg`). It is persistent: it does tile after tile. Some
//! operands are held in a place of their own while a tile is computed; the others come by a
//! [pipeline](crate::pipeline), in the order in which they are used. While one consumer warpgroup's products are made,
//! the other works on its results: they take turns on the tensor cores (ping-pong).

use crate::attention::tensor::fragments::SharedTile;
use crate::attention::work::WorkTile;
use crate::pipeline::{Pipeline, Stage};
use crate::simt::*;

/// Rows of a tile.
pub const ROWS: u32 = crate::attention::HOPPER_TILE;
/// Those of a warpgroup.
pub const WARPGROUP_ROWS: u32 = ROWS / 2;
/// Warps that consume; the four behind them produce.
const WARPS: u32 = 8;
/// Threads of a block.
pub const BLOCK: u32 = (WARPS + 4) * WARP;
/// Registers of a thread that produces, and of one that consumes, where a multiprocessor has 65,536 for a block and
/// each thread begins with a 384th of them, in steps of 8.
const PRODUCER_REGISTERS: u32 = 40;
const CONSUMER_REGISTERS: u32 = 232;
/// Elements of a head in a tile of TMA.
const COLUMNS: u32 = 64;
/// Bytes of a row of such a tile.
pub const ROW_BYTES: u32 = 2 * COLUMNS;
/// Bytes in which a warp writes 16 rows of such a tile.
const STRIP_BYTES: u32 = SharedTile::<4>::bytes(16);

/// Tiles of TMA across a head of `16·n` elements.
pub const fn across(n: usize) -> u32 {
    (16 * n as u32).div_ceil(COLUMNS)
}

/// Where a block has what, in its shared memory: what it holds for a tile, the pipeline, strips, barriers.
#[derive(Clone, Copy)]
pub struct Layout {
    pipeline: Pipeline,
}

impl Layout {
    /// For `held` bytes that are held, and a pipeline of so many stages of `stage` bytes.
    pub const fn new(held: u32, stage_bytes: u32, stages: u32) -> Self {
        let barriers = held + stage_bytes * stages + WARPS * STRIP_BYTES;
        Self { pipeline: Pipeline { byte: held, stage_bytes, stages, barriers } }
    }

    /// Bytes of it.
    pub const fn bytes(self) -> u64 {
        self.barrier(4) as u64
    }

    const fn held_bytes(self) -> u32 {
        self.pipeline.byte
    }

    /// Bytes of a stage in the pipeline.
    pub const fn stage_bytes(self) -> u32 {
        self.pipeline.stage_bytes
    }

    /// Barriers beside those of the pipeline.
    const fn barrier(self, index: u32) -> u32 {
        self.pipeline.barriers + self.pipeline.barrier_bytes() + 8 * index
    }

    /// Where what is held arrives.
    #[inline(always)]
    fn full(self) -> Mbarrier {
        Mbarrier::new(self.barrier(0))
    }

    /// Where warps arrive that do not need it any more.
    #[inline(always)]
    fn empty(self) -> Mbarrier {
        Mbarrier::new(self.barrier(1))
    }

    /// Where the other warpgroup's warps arrive when it is a warpgroup's turn.
    #[inline(always)]
    fn turn(self, warpgroup: u32) -> Mbarrier {
        Mbarrier::new(self.barrier(2 + warpgroup))
    }

    /// Part number `part` of `parts` equal ones of what is held.
    #[inline(always)]
    pub fn held(self, part: u32, parts: u32) -> Shared<Bf16> {
        let bytes = self.held_bytes() / parts;
        Shared::new(part * bytes, bytes / 2)
    }

    #[inline(always)]
    fn init(self) {
        self.pipeline.init(WARPS);
        self.full().init(1);
        self.empty().init(WARPS);
        for warpgroup in 0..2 {
            self.turn(warpgroup).init(WARPS / 2);
        }
        fence_mbarrier_init();
    }
}

/// A persistent block's share of all tiles and heads: every so many-th, forwards and backwards by turns, since they are
/// sorted by what there is to do.
#[derive(Clone, Copy)]
pub struct TileScheduler {
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

impl TileScheduler {
    /// The block's work number `round`; none where it has less than others.
    #[inline(always)]
    fn of(self, round: u32) -> Option<WorkTile> {
        let position = if round.is_multiple_of(2) { block_idx() } else { grid_dim() - 1 - block_idx() };
        let index = round * grid_dim() + position;
        let work = || WorkTile::at(self.tiles, index, self.per_tile, self.heads, self.window);
        (index < self.count * self.per_tile).then(work)
    }

    #[inline(always)]
    fn rounds(self) -> u32 {
        (self.count * self.per_tile).div_ceil(grid_dim())
    }
}

/// The tiles of this block: `produce` starts a tile's copies, `consume` does a warpgroup's half of it. All threads of the
/// block must call this.
#[inline(always)]
pub fn for_each_tile(
    layout: Layout,
    all: TileScheduler,
    produce: impl Fn(WorkTile, &mut Producer),
    consume: impl Fn(WorkTile, &mut Consumer),
) {
    if thread_idx() == 0 {
        layout.init();
    }
    sync_threads();
    if warp_id() >= WARPS {
        setmaxnreg_dec::<PRODUCER_REGISTERS>();
        if thread_idx() == WARPS * WARP {
            let mut producer = Producer { layout, stage: layout.pipeline.first(), held: 0 };
            for round in 0..all.rounds() {
                if let Some(work) = all.of(round) {
                    produce(work, &mut producer);
                }
            }
        }
        return;
    }
    setmaxnreg_inc::<CONSUMER_REGISTERS>();
    // Lane 0's is that of all lanes, but only so does the assembler know.
    let warpgroup = shuffle_idx(warp_id() / 4, 0);
    // The first warpgroup's first turn comes at once: that is the phase before the first.
    let mut consumer =
        Consumer { layout, warpgroup, stage: layout.pipeline.first(), held: 0, turn: warpgroup ^ 1 };
    for round in 0..all.rounds() {
        if let Some(work) = all.of(round) {
            consume(work, &mut consumer);
        }
    }
}

/// How far the producer thread is.
pub struct Producer {
    layout: Layout,
    stage: Stage,
    /// Of the phase of what is held.
    held: u32,
}

impl Producer {
    /// Waits until the warpgroups are done with what they held; gives the barrier at which all of the next arrives.
    #[inline(always)]
    pub fn await_held(&mut self) -> Mbarrier {
        self.layout.empty().wait(self.held ^ 1);
        self.held ^= 1;
        self.layout.full().arrive_expect_tx(self.layout.held_bytes());
        self.layout.full()
    }

    /// Starts the copies of operand `index` of the `count` that are held: of a tile from token `first` on the rows of one
    /// warpgroup, then those of the other, of a head of `16·N` elements. They arrive at `full`.
    #[inline(always)]
    pub fn hold<const N: usize>(
        &self,
        operand: TensorMap<Bf16>,
        (index, count): (u32, u32),
        (first, head): (u32, u32),
        full: Mbarrier,
    ) {
        for warpgroup in 0..2 {
            let at = (first + WARPGROUP_ROWS * warpgroup, head * 16 * N as u32);
            let to = self.layout.held(2 * index + warpgroup, 2 * count);
            copy(operand, at, to, (WARPGROUP_ROWS, across(N)), full);
        }
    }

    /// Waits until the next stage of the pipeline is free; gives it and the barrier at which so many bytes arrive there.
    #[inline(always)]
    pub fn next_stage(&mut self, bytes: u32) -> (Stage, Mbarrier) {
        let stage = self.stage;
        self.stage = stage.next();
        (stage, stage.producer_acquire(bytes))
    }
}

/// Starts the copies of `across` tiles of `rows` rows, side by side from row and column `at` on, to `to`.
#[inline(always)]
pub fn copy(
    operand: TensorMap<Bf16>,
    (row, column): (u32, u32),
    to: Shared<Bf16>,
    (rows, across): (u32, u32),
    full: Mbarrier,
) {
    let elements = rows * COLUMNS;
    for tile in 0..across {
        operand.copy(row, column + COLUMNS * tile, to.part(tile * elements, elements), full);
    }
}

/// How far a consumer warpgroup is.
pub struct Consumer {
    layout: Layout,
    /// Its number.
    pub warpgroup: u32,
    stage: Stage,
    /// Of the phase in which what is held arrives.
    held: u32,
    /// Of the phase before its turn.
    turn: u32,
}

impl Consumer {
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

    /// The stage of the pipeline that comes next, when its bytes have arrived.
    #[inline(always)]
    pub fn next_stage(&mut self) -> Stage {
        let stage = self.stage;
        stage.consumer_wait();
        self.stage = stage.next();
        stage
    }

    /// Waits for the warpgroup's turn; gives the barrier at which to say that it is the other's.
    #[inline(always)]
    pub fn await_turn(&mut self) -> Mbarrier {
        self.layout.turn(self.warpgroup).wait(self.turn);
        self.turn ^= 1;
        self.layout.turn(self.warpgroup ^ 1)
    }

    /// Writes a warp's 16 rows of a result, from token `own` on, to head `head` of `heads`, by strips of 64 columns
    /// that pass through its shared memory.
    #[inline(always)]
    pub fn write<const N: usize>(
        &self,
        sums: &Accumulators<N>,
        work: WorkTile,
        own: u32,
        (head, heads): (u32, u32),
        out: GlobalMut<Bf16>,
    ) {
        let strips = self.layout.pipeline.barriers - WARPS * STRIP_BYTES;
        let strip = SharedTile::<4>::new(strips + warp_id() * STRIP_BYTES, 16);
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
        assert!(
            WARPS * CONSUMER_REGISTERS + (BLOCK / WARP - WARPS) * PRODUCER_REGISTERS
                <= BLOCK / WARP * at_first
        );
    }
}
