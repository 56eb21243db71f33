//! The device API on hosts: the emulator's current thread.

mod hopper;
mod math;
mod memory;
mod tensor;
mod warp;
mod warpgroup;

pub use hopper::*;
pub use math::*;
pub use memory::*;
pub use tensor::*;
pub use warp::*;
pub use warpgroup::*;

use crate::emulator::instructions::{self, Point};
use crate::emulator::thread::with;

/// Index of this thread in its block.
pub fn thread_idx() -> u32 {
    with(|context| context.thread.get())
}

/// Threads of a block.
pub fn block_dim() -> u32 {
    with(|context| context.kernel.block)
}

/// Index of this block in direction x.
pub fn block_idx() -> u32 {
    with(|context| context.block[0])
}

/// Index of this block in direction y.
pub fn block_idx_y() -> u32 {
    with(|context| context.block[1])
}

/// Index of this block in direction z.
pub fn block_idx_z() -> u32 {
    with(|context| context.block[2])
}

/// Blocks in direction x.
pub fn grid_dim() -> u32 {
    with(|context| context.grid[0])
}

/// Barrier of the block: every thread must reach the same one. What was written before is seen behind.
#[track_caller]
pub fn sync_threads() {
    instructions::barrier(Point::caller());
}
