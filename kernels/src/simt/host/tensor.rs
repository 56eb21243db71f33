//! Tensor cores and copies that run beside the arithmetic, by their documented lane maps.

use super::{Global, Shared};
use crate::emulator::instructions::{self, Kind, Point};
use crate::simt::{Bf16, Bf16x8, Element};

/// a·b + c on the warp's tensor cores; see the [fragments](crate::simt#matrix-fragments) of `m16n8k16`.
///
/// Sums in order of the inner dimension with one rounding a step; hardware adds in an order of its own.
#[track_caller]
pub fn matrix_multiply(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    instructions::multiply(Point::caller(), a, b, c)
}

impl Shared<Bf16> {
    /// Four 8×8 matrices for the warp: lane l names with `index` row l % 8 of matrix l / 8, eight elements
    /// aligned to 16 bytes. Word m holds elements 2·(lane % 4) and the next of row lane / 4 of matrix m.
    #[track_caller]
    pub fn load_matrices(self, index: u32) -> [u32; 4] {
        self.exchange_rows(index, false)
    }

    /// [`Shared::load_matrices`] of `index + offset`. A constant offset is part of the instruction: lanes hold
    /// one address for all loads from the same index.
    #[track_caller]
    pub fn load_matrices_at(self, index: u32, offset: u32) -> [u32; 4] {
        self.load_matrices(index + offset)
    }

    /// [`Shared::load_matrices_at`] with every matrix transposed.
    #[track_caller]
    pub fn load_matrices_transposed_at(self, index: u32, offset: u32) -> [u32; 4] {
        self.load_matrices_transposed(index + offset)
    }

    /// [`Shared::load_matrices`] with every matrix transposed.
    #[track_caller]
    pub fn load_matrices_transposed(self, index: u32) -> [u32; 4] {
        self.exchange_rows(index, true)
    }

    /// Loads the row that the lane names, and gives it to the warp.
    #[track_caller]
    fn exchange_rows(self, index: u32, transposed: bool) -> [u32; 4] {
        let Bf16x8(row) = self.load_vector(index);
        let words =
            std::array::from_fn(|pair| u32::from(row[2 * pair].0) | u32::from(row[2 * pair + 1].0) << 16);
        instructions::exchange_rows(Point::caller(), words, transposed)
    }
}

impl<T: Element> Shared<T> {
    /// Starts copying the 16 bytes from `source[from]` on to `self[index]`, both aligned to 16 bytes; zeros
    /// where not `valid`, and nothing is read. They are there once [`wait_copies`] has returned, for other
    /// threads after a barrier behind it. Until then nobody may access the target.
    #[track_caller]
    pub fn copy_async(self, index: u32, source: Global<T>, from: usize, valid: bool) {
        let bytes = if valid { source.load_bytes(from) } else { [0; 16] };
        self.access(Kind::Store, index, 16, 16);
        instructions::start_copy(self.byte() + index * size_of::<T>() as u32, bytes);
    }
}

/// Puts the copies this thread has started since the last call into one group.
pub fn commit_copies() {
    instructions::commit_copies();
}

/// Waits until all but the `LATEST` last groups of this thread's copies are there.
pub fn wait_copies<const LATEST: u32>() {
    instructions::wait_copies(LATEST as usize);
}
