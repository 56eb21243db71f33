//! RMSNorm: output = x·r·(weight_offset + weight) with r = 1/√(mean(x²) + epsilon), per row of `columns` elements.
//!
//! Three sizes of kernels, the same but for how many threads share a row:
//!
//! | kernels | threads of a row | columns |
//! |---|---|---|
//! | `…_short_…` | 8 | up to [`SHORT`] |
//! | `…_middle_…` | a warp | up to [`MIDDLE`] |
//! | `…_long_…` | a block | any, best up to [`REGISTERS`] |
//!
//! Rows lie in registers from the first load to the last store, so that memory is read once; of rows longer
//! than [`REGISTERS`] the rest is read twice. Accesses are of 16 bytes where columns are a multiple of that and
//! all buffers are aligned to it, else of one element. E is f32 or bf16; sums, r and d_weight are f32.

// Constant indices into arrays keep them in registers.
#![allow(clippy::needless_range_loop)]

mod backward;
mod forward;

pub use backward::*;
#[cfg(not(target_arch = "nvptx64"))]
pub use forward::*;

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Warps of a block.
const WARPS: u32 = BLOCK / WARP;
/// Threads that share a short row.
const SHORT_ROW_THREADS: u32 = 8;
/// Elements of a row that a thread holds in registers. The backward has three arrays of them.
const REGISTER_ELEMENTS: u64 = 16;
/// Vectors of 16 bytes they are.
const fn parts<E: Real>() -> usize {
    REGISTER_ELEMENTS as usize / vector_length::<E>()
}
/// The same where rows are walked element by element.
const PARTS_1: usize = REGISTER_ELEMENTS as usize;
/// The same for the backward of long rows, which can do with less and so fits 128 registers a thread.
const LONG_PARTS_1: usize = PARTS_1 / 2;

/// Columns the short kernels can take.
pub const SHORT: u64 = SHORT_ROW_THREADS as u64 * REGISTER_ELEMENTS;
/// Columns the middle kernels can take.
pub const MIDDLE: u64 = WARP as u64 * REGISTER_ELEMENTS;
/// Columns up to which the long kernels read a row once.
pub const REGISTERS: u64 = BLOCK as u64 * REGISTER_ELEMENTS;
/// Columns the long kernels can take.
const ANY: u64 = u32::MAX as u64;
/// Bytes of shared memory that sums over a block take.
const SCRATCH: u64 = size_of::<f32>() as u64 * WARPS as u64;

/// The threads that share a row.
trait ThreadGroup: Copy {
    /// How many they are.
    const SIZE: u32;
    /// Rows a block works on at a time.
    const ROWS: u32 = BLOCK / Self::SIZE;

    /// Sum over the group, the same bits in all its threads. All threads of the block must call it.
    fn sum(value: f32) -> f32;

    /// Bytes of shared memory that the backward of rows of so many columns takes.
    #[cfg(not(target_arch = "nvptx64"))]
    fn shared(columns: u64) -> u64;

    /// This thread in its group.
    #[inline(always)]
    fn rank() -> u32 {
        thread_idx() % Self::SIZE
    }

    /// This thread's group in the block.
    #[inline(always)]
    fn index() -> u32 {
        thread_idx() / Self::SIZE
    }
}

/// Neighbouring lanes of a warp, 8 or 32.
#[derive(Clone, Copy)]
struct Lanes<const COUNT: u32>;

impl<const COUNT: u32> ThreadGroup for Lanes<COUNT> {
    const SIZE: u32 = COUNT;

    #[inline(always)]
    fn sum(mut value: f32) -> f32 {
        if COUNT == 32 {
            value += shuffle_xor(value, 16);
            value += shuffle_xor(value, 8);
        }
        value += shuffle_xor(value, 4);
        value += shuffle_xor(value, 2);
        value + shuffle_xor(value, 1)
    }

    /// d_weight of every warp.
    #[cfg(not(target_arch = "nvptx64"))]
    fn shared(columns: u64) -> u64 {
        SCRATCH * columns
    }
}

/// All threads of a block. The first `WARPS` f32 of shared memory are its.
#[derive(Clone, Copy)]
struct Block;

impl ThreadGroup for Block {
    const SIZE: u32 = BLOCK;

    #[inline(always)]
    fn sum(value: f32) -> f32 {
        block_sum(value, Shared::new(0, WARPS))
    }

    /// What sums take.
    #[cfg(not(target_arch = "nvptx64"))]
    fn shared(_columns: u64) -> u64 {
        SCRATCH
    }
}
