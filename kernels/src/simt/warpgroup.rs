//! AFragments of products by warpgroups, as the tensor cores find them in shared memory.

use super::{Bf16, Shared, address_of};

/// A thread's part of 64 by 128 · `HALVES` sums that a warpgroup holds: by halves of 128 columns and
/// tiles of 8.
///
/// Warp w of the warpgroup has rows 16·w to 16·w + 15. In a tile a lane holds, with g = lane / 4 and t = lane % 4,
/// [g, 2t], [g, 2t+1], [g+8, 2t], [g+8, 2t+1]: as of [`matrix_multiply`](super::matrix_multiply).
pub type WarpgroupAccumulators<const HALVES: usize> = [[[f32; 4]; 16]; HALVES];

/// Rows by `16·N` columns of sums, of which a warp has 16, by halves of 16 columns: in a half a lane holds what it
/// does of [`matrix_multiply`](super::matrix_multiply).
pub type Accumulators<const N: usize> = [[[f32; 4]; 2]; N];
/// 16 rows by `16·N` columns as left operands of [`matrix_multiply`](super::matrix_multiply).
pub type AFragments<const N: usize> = [[u32; 4]; N];

/// Whether heads of `16·n` elements and tiles of `16·j` keys are among the sizes of attention's products by warpgroups.
pub const fn warpgroup_sizes(n: usize, j: usize) -> bool {
    matches!((n, j), (4 | 5 | 6 | 8, 8) | (16, 4))
}

/// Whether heads of `16·n` elements are among the sizes of attention's products by warpgroups with tiles of 64 rows.
pub const fn warpgroup_narrow_sizes(n: usize) -> bool {
    matches!(n, 4 | 5 | 6 | 8)
}

/// Bytes of eight rows of a tile.
const EIGHT_ROWS: u32 = 8 * 128;
/// Columns that are swizzled together where they are the last dimension.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) const SWIZZLED_COLUMNS: u32 = 64;
/// In a matrix descriptor: 16-byte chunks are swizzled within 128 bytes.
const SWIZZLED: u64 = 1 << 62;

/// From a step of 16 along k to the next in the same tile, k being the last dimension, in 16 bytes.
pub(super) const STEP_K_MAJOR: u64 = 32 >> 4;
/// The same, lines being the last dimension.
pub(super) const STEP_MN_MAJOR: u64 = 2 * (EIGHT_ROWS >> 4) as u64;

/// From the last step of a tile of 64 along k and `lines` lines to the first of the tile behind it, k being the last
/// dimension, in 16 bytes.
pub(super) const fn next_tile(lines: u64) -> u64 {
    ((lines * 128) >> 4) - 3 * STEP_K_MAJOR
}

/// An operand in shared memory: the matrix descriptor that `wgmma` takes.
///
/// Bits 0 to 13 are where it starts, 16 to 29 its leading and 32 to 45 its stride offset, all in 16 bytes; 62 and
/// 63 the swizzle. Tiles must begin at multiples of 1024 bytes, where the swizzle begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatrixDescriptor(u64);

impl MatrixDescriptor {
    /// Lines (rows of A, columns of B) one behind the other, 64 along k each: tiles of a matrix that has k
    /// as its last dimension. The stride is from eight lines to the next eight.
    #[inline(always)]
    pub fn k_major(tile: Shared<Bf16>) -> Self {
        Self::new(tile, 16)
    }

    /// 64 along k one behind the other, 64 lines each, and the next 64 lines `apart` bytes further: tiles of
    /// a matrix that has lines as its last dimension. The stride is from eight along k to the next eight.
    #[inline(always)]
    pub fn mn_major(tile: Shared<Bf16>, apart: u32) -> Self {
        Self::new(tile, apart)
    }

    #[inline(always)]
    fn new(tile: Shared<Bf16>, leading: u32) -> Self {
        let chunks = |bytes: u32| u64::from((bytes & 0x3_ffff) >> 4);
        Self(chunks(address_of(tile)) | chunks(leading) << 16 | chunks(EIGHT_ROWS) << 32 | SWIZZLED)
    }

    /// The matrix descriptor from `k_offset` along k on, a multiple of 16 below 64.
    #[inline(always)]
    pub(super) fn at_k(self, k_offset: u32, k_major: bool) -> u64 {
        let steps = u64::from(k_offset / 16);
        self.0 + steps * if k_major { STEP_K_MAJOR } else { STEP_MN_MAJOR }
    }

    /// Its leading offset, in 16 bytes: from 64 lines to the next, lines being the last dimension.
    #[cfg(not(target_arch = "nvptx64"))]
    pub(super) fn leading(self) -> u64 {
        self.0 >> 16 & 0x3fff
    }

    /// The matrix descriptor.
    #[inline(always)]
    pub(super) fn descriptor(self) -> u64 {
        self.0
    }
}
