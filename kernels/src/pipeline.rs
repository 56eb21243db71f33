//! A pipeline from a producer warp to consumer warpgroups: a ring buffer of stages in shared memory, filled by TMA.
//!
//! Each stage has two mbarriers: `full` counts the bytes of its copies, `empty` the consumer warps that have read them.
//! The producer waits for `empty` and starts the copies, consumers wait for `full`: the producer is ahead by up to as
//! many stages as there are.

use crate::simt::*;

/// Where a block has its stages and their mbarriers, in its dynamic shared memory.
#[derive(Clone, Copy)]
pub struct Pipeline {
    /// First byte, a multiple of 1024, where the [swizzle](crate::simt#tiles-in-shared-memory) begins.
    pub byte: u32,
    /// Bytes of a stage, a multiple of 1024.
    pub stage_bytes: u32,
    /// Number of stages.
    pub stages: u32,
    /// First byte of the mbarriers, a multiple of 8.
    pub barriers: u32,
}

impl Pipeline {
    /// Bytes of the mbarriers.
    pub const fn barrier_bytes(self) -> u32 {
        16 * self.stages
    }

    /// Initialises the mbarriers, for so many consumer warps: for one thread, before its [`fence_mbarrier_init`].
    #[inline(always)]
    pub fn init(self, warps: u32) {
        for index in 0..self.stages {
            let stage = Stage { pipeline: self, index, parity: 0 };
            stage.full().init(1);
            stage.empty().init(warps);
        }
    }

    /// The stage that comes first.
    #[inline(always)]
    pub fn first(self) -> Stage {
        Stage { pipeline: self, index: 0, parity: 0 }
    }
}

/// A stage, as one thread comes to it.
#[derive(Clone, Copy)]
pub struct Stage {
    pipeline: Pipeline,
    index: u32,
    /// Phase parity of its mbarriers: how often the thread has gone round the ring buffer, modulo 2.
    parity: u32,
}

impl Stage {
    /// The one that comes next.
    #[inline(always)]
    pub fn next(self) -> Self {
        if self.index + 1 == self.pipeline.stages {
            Self { index: 0, parity: self.parity ^ 1, ..self }
        } else {
            Self { index: self.index + 1, ..self }
        }
    }

    /// `bytes` of it from its byte `from` on.
    #[inline(always)]
    pub fn part<T: Element>(self, from: u32, bytes: u32) -> Shared<T> {
        let first = self.pipeline.byte + self.index * self.pipeline.stage_bytes + from;
        Shared::new(first, bytes / size_of::<T>() as u32)
    }

    #[inline(always)]
    fn full(self) -> Mbarrier {
        Mbarrier::new(self.pipeline.barriers + 16 * self.index)
    }

    #[inline(always)]
    fn empty(self) -> Mbarrier {
        Mbarrier::new(self.pipeline.barriers + 16 * self.index + 8)
    }

    /// Waits until the stage is empty and gives its `full` mbarrier, which expects `bytes` bytes of the copies that are
    /// started next. For the producer thread.
    #[inline(always)]
    pub fn producer_acquire(self, bytes: u32) -> Mbarrier {
        // The first time round this is the phase before the first, which has completed.
        self.empty().wait(self.parity ^ 1);
        self.full().arrive_expect_tx(bytes);
        self.full()
    }

    /// Waits until the copies have completed. For all consumer threads.
    #[inline(always)]
    pub fn consumer_wait(self) {
        self.full().wait(self.parity);
    }

    /// This warp has read the stage. For all its lanes.
    #[inline(always)]
    pub fn consumer_release(self) {
        if lane_id() == 0 {
            self.empty().arrive();
        }
    }
}
