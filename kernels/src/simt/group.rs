//! Operands of products by groups of warps, as the tensor cores find them in shared memory.

use super::{Bf16, Shared, address_of};

/// A thread's part of 64 by 128 · `HALVES` sums that a group of four warps holds: by halves of 128 columns and
/// tiles of 8.
///
/// Warp w of the group has rows 16·w to 16·w + 15. In a tile a lane holds, with g = lane / 4 and t = lane % 4,
/// [g, 2t], [g, 2t+1], [g+8, 2t], [g+8, 2t+1]: as of [`matrix_multiply`](super::matrix_multiply).
pub type GroupSums<const HALVES: usize> = [[[f32; 4]; 16]; HALVES];

/// Bytes of eight rows of a tile.
const EIGHT_ROWS: u32 = 8 * 128;
/// In a description: 16-byte chunks are permuted within 128 bytes.
const PERMUTED: u64 = 1 << 62;

/// An operand in shared memory: the description that `wgmma` takes.
///
/// Bits 0 to 13 are where it starts, 16 to 29 its leading and 32 to 45 its stride offset, all in 16 bytes; 62 and
/// 63 the permutation. Tiles must begin at multiples of 1024 bytes, where the permutation begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operand(u64);

impl Operand {
    /// Lines (rows of A, columns of B) one behind the other, 64 levels of k each: tiles of a matrix that has k
    /// as its last dimension. The stride is from eight lines to the next eight.
    #[inline(always)]
    pub fn along_k(tile: Shared<Bf16>) -> Self {
        Self::new(tile, 16)
    }

    /// 64 levels of k one behind the other, 64 lines each, and the next 64 lines `apart` bytes further: tiles of
    /// a matrix that has lines as its last dimension. The stride is from eight levels to the next eight.
    #[inline(always)]
    pub fn across_k(tile: Shared<Bf16>, apart: u32) -> Self {
        Self::new(tile, apart)
    }

    #[inline(always)]
    fn new(tile: Shared<Bf16>, leading: u32) -> Self {
        let chunks = |bytes: u32| u64::from((bytes & 0x3_ffff) >> 4);
        Self(chunks(address_of(tile)) | chunks(leading) << 16 | chunks(EIGHT_ROWS) << 32 | PERMUTED)
    }

    /// The description from level `level` on, a multiple of 16 below 64.
    #[inline(always)]
    pub(super) fn level(self, level: u32, along_k: bool) -> u64 {
        let bytes = if along_k { level * 2 } else { level / 8 * EIGHT_ROWS };
        self.0 + u64::from(bytes >> 4)
    }
}
