//! Tensor cores and copies that run beside the arithmetic, by their documented lane maps.

use super::{Global, Shared, exchange};
use crate::emulator::shared::Kind;
use crate::emulator::thread::{Words, count, with};
use crate::simt::{Bf16, Bf16x8, Element, Real};

/// a·b + c on the warp's tensor cores; see the [fragments](crate::simt#matrix-fragments) of `m16n8k16`.
///
/// Sums in order of the inner dimension with one rounding a step; hardware adds in an order of its own.
#[track_caller]
pub fn matrix_multiply(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    let mut words: Words = [0; 16];
    words[..4].copy_from_slice(&a);
    words[4..6].copy_from_slice(&b);
    words[6..10].copy_from_slice(&c.map(f32::to_bits));
    // The warp's 2·16·8·16, in 32 parts.
    count(|counter| counter.multiply(2 * 16 * 8 * 16 / 32));
    let words = exchange("matrix_multiply", words, multiply_fragments);
    std::array::from_fn(|index| f32::from_bits(words[6 + index]))
}

/// The two bf16 in a word, the lower half first.
pub(crate) fn halves(word: u32) -> [f32; 2] {
    [Bf16(word as u16).to_f32(), Bf16((word >> 16) as u16).to_f32()]
}

fn multiply_fragments(lanes: &mut [Words; 32]) {
    // A by rows and columns, B by columns and rows: k is last in both.
    let (mut a, mut b) = ([[0.0f32; 16]; 16], [[0.0f32; 16]; 8]);
    for (lane, words) in lanes.iter().enumerate() {
        let (group, first) = (lane / 4, lane % 4 * 2);
        for (index, &word) in words[..4].iter().enumerate() {
            let (row, k) = (group + index % 2 * 8, first + index / 2 * 8);
            a[row][k..k + 2].copy_from_slice(&halves(word));
        }
        for (index, &word) in words[4..6].iter().enumerate() {
            let k = first + index * 8;
            b[group][k..k + 2].copy_from_slice(&halves(word));
        }
    }
    for (lane, words) in lanes.iter_mut().enumerate() {
        for index in 0..4 {
            let (row, column) = (lane / 4 + 8 * (index / 2), lane % 4 * 2 + index % 2);
            let sum = f32::from_bits(words[6 + index]);
            let terms = a[row].iter().zip(&b[column]);
            words[6 + index] = terms.fold(sum, |sum, (&a, &b)| a.mul_add(b, sum)).to_bits();
        }
    }
}

impl Shared<Bf16> {
    /// Four 8×8 matrices for the warp: lane l names with `index` row l % 8 of matrix l / 8, eight elements
    /// aligned to 16 bytes. Word m holds elements 2·(lane % 4) and the next of row lane / 4 of matrix m.
    #[track_caller]
    pub fn load_matrices(self, index: u32) -> [u32; 4] {
        self.exchange_rows("load_matrices", index, |lanes| {
            let rows = *lanes;
            for (lane, words) in lanes.iter_mut().enumerate() {
                for (matrix, word) in words[..4].iter_mut().enumerate() {
                    *word = rows[8 * matrix + lane / 4][lane % 4];
                }
            }
        })
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
        self.exchange_rows("load_matrices_transposed", index, |lanes| {
            let rows = *lanes;
            for (lane, words) in lanes.iter_mut().enumerate() {
                let column = lane / 4;
                for (matrix, word) in words[..4].iter_mut().enumerate() {
                    let element =
                        |row: usize| rows[8 * matrix + row][column / 2] >> (16 * (column % 2)) & 0xffff;
                    *word = element(lane % 4 * 2) | element(lane % 4 * 2 + 1) << 16;
                }
            }
        })
    }

    /// Loads the row that the lane names, and gives it to the warp.
    #[track_caller]
    fn exchange_rows(self, name: &'static str, index: u32, combine: fn(&mut [Words; 32])) -> [u32; 4] {
        let Bf16x8(row) = self.load_vector(index);
        let mut words: Words = [0; 16];
        for (word, pair) in words.iter_mut().zip(row.chunks_exact(2)) {
            *word = u32::from(pair[0].0) | u32::from(pair[1].0) << 16;
        }
        let words = exchange(name, words, combine);
        std::array::from_fn(|matrix| words[matrix])
    }
}

impl<T: Element> Shared<T> {
    /// Starts copying the 16 bytes from `source[from]` on to `self[index]`, both aligned to 16 bytes; zeros
    /// where not `valid`, and nothing is read. They are there once [`wait_copies`] has returned, for other
    /// threads after a barrier behind it. Until then nobody may access the target.
    #[track_caller]
    pub fn copy_async(self, index: u32, source: Global<T>, from: usize, valid: bool) {
        let bytes = if valid { source.load_bytes(from) } else { [0; 16] };
        let pointer = self.access(Kind::Store, index, 16, 16);
        with(|context| {
            let mut shared = context.shared.borrow_mut();
            // SAFETY: `access` has checked that 16 bytes of shared memory begin there.
            let byte = unsafe { pointer.offset_from(shared.pointer()) } as u32;
            shared.start_copy(context.thread.get(), byte, bytes);
        });
    }
}

/// Puts the copies this thread has started since the last call into one group.
pub fn commit_copies() {
    with(|context| context.shared.borrow_mut().commit_copies(context.thread.get()));
}

/// Waits until all but the `LATEST` last groups of this thread's copies are there.
pub fn wait_copies<const LATEST: u32>() {
    with(|context| context.shared.borrow_mut().wait_copies(context.thread.get(), LATEST as usize));
}
