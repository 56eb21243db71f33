//! Operands of products by groups of warps, as the tensor cores find them in shared memory.

use super::{Bf16, Shared, address_of};

/// A thread's part of 64 by 128 · `HALVES` sums that a group of four warps holds: by halves of 128 columns and
/// tiles of 8.
///
/// Warp w of the group has rows 16·w to 16·w + 15. In a tile a lane holds, with g = lane / 4 and t = lane % 4,
/// [g, 2t], [g, 2t+1], [g+8, 2t], [g+8, 2t+1]: as of [`matrix_multiply`](super::matrix_multiply).
pub type GroupSums<const HALVES: usize> = [[[f32; 4]; 16]; HALVES];

/// Rows by `16·N` columns of sums, of which a warp has 16, by halves of 16 columns: in a half a lane holds what it
/// does of [`matrix_multiply`](super::matrix_multiply).
pub type Sums<const N: usize> = [[[f32; 4]; 2]; N];
/// 16 rows by `16·N` columns as left operands of [`matrix_multiply`](super::matrix_multiply).
pub type Operands<const N: usize> = [[u32; 4]; N];

/// Whether heads of `16·n` elements and tiles of `16·j` keys are among the sizes of attention's products by groups.
pub const fn group_sizes(n: usize, j: usize) -> bool {
    matches!((n, j), (4 | 5 | 6 | 8, 8) | (16, 4))
}

/// Whether heads of `16·n` elements are among the sizes of attention's products by groups with tiles of 64 rows.
pub const fn narrow_group_sizes(n: usize) -> bool {
    matches!(n, 4 | 5 | 6 | 8)
}

/// Bytes of eight rows of a tile.
const EIGHT_ROWS: u32 = 8 * 128;
/// In a description: 16-byte chunks are permuted within 128 bytes.
const PERMUTED: u64 = 1 << 62;

/// From a step of 16 levels to the next in the same tile, k being the last dimension, in 16 bytes.
pub(super) const STEP_ALONG: u64 = 32 >> 4;
/// The same, lines being the last dimension.
pub(super) const STEP_ACROSS: u64 = 2 * (EIGHT_ROWS >> 4) as u64;

/// From the last step of a tile of 64 levels and `lines` lines to the first of the tile behind it, k being the last
/// dimension, in 16 bytes.
pub(super) const fn next_tile(lines: u64) -> u64 {
    ((lines * 128) >> 4) - 3 * STEP_ALONG
}

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
        let steps = u64::from(level / 16);
        self.0 + steps * if along_k { STEP_ALONG } else { STEP_ACROSS }
    }

    /// The description.
    #[inline(always)]
    pub(super) fn description(self) -> u64 {
        self.0
    }
}
