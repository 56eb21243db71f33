//! Matrices of which TMA copies tiles: what a tensor map of CUDA's driver describes.

use std::fmt;
use std::ops::Range;

/// Bytes of a row of a tile, within which 16-byte chunks are swizzled in shared memory (`SWIZZLE_128B`).
pub const SWIZZLE_BYTES: u32 = 128;
/// Most rows of a tile.
pub const MAX_BOX_ROWS: u32 = 256;
/// What a matrix's address, and the bytes of its rows, must be multiples of.
pub const GRAIN: u64 = 16;

/// A row-major matrix without gaps in device memory, and the box (the shape of a tile) that one copy brings.
///
/// Tiles may begin anywhere and reach over the edges; what is outside is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TensorMapLayout {
    /// Of the first element.
    pub address: u64,
    /// Elements of the buffer the matrix is in.
    pub length: usize,
    /// Bytes of an element.
    pub element_bytes: u32,
    /// Rows of the matrix.
    pub rows: u64,
    /// Columns of the matrix.
    pub columns: u64,
    /// Rows of a tile.
    pub box_rows: u32,
}

/// Why a matrix cannot be copied by tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TensorMapError {
    /// An edge of length zero, or over what coordinates can be.
    #[error("{0} rows and columns: each must be from 1 to 2^31 - 1")]
    Shape(Shape),
    /// TMA works in chunks of 16 bytes.
    #[error("rows of {0} bytes, which is not a multiple of {GRAIN}")]
    Row(u64),
    /// A tile of no rows, or of too many.
    #[error("tiles of {0} rows, which is not from 1 to {MAX_BOX_ROWS}")]
    Tile(u32),
}

/// Rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape(pub u64, pub u64);

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} by {}", self.0, self.1)
    }
}

impl TensorMapLayout {
    /// Elements in a row of a tile.
    pub fn box_columns(&self) -> u32 {
        SWIZZLE_BYTES / self.element_bytes
    }

    /// Bytes of a row of the matrix.
    pub fn row_bytes(&self) -> u64 {
        self.columns * u64::from(self.element_bytes)
    }

    /// Bytes of a tile: what its copy brings, the zeros outside of the matrix included.
    pub fn box_bytes(&self) -> u32 {
        self.box_rows * SWIZZLE_BYTES
    }

    /// Bytes, from the address on, of what a tile's row that begins at `row` and `column` has of the matrix.
    pub fn part_of_row(&self, row: u64, column: u64) -> Range<usize> {
        let end = (column + u64::from(self.box_columns())).min(self.columns);
        if row >= self.rows || column >= end {
            return 0..0;
        }
        let byte = |column: u64| (row * self.columns + column) as usize * self.element_bytes as usize;
        byte(column)..byte(end)
    }

    /// Checks what TMA demands beside the alignment of the address.
    pub fn check(&self) -> Result<(), TensorMapError> {
        let edge = 1..1 << 31;
        if !edge.contains(&self.rows) || !edge.contains(&self.columns) {
            return Err(TensorMapError::Shape(Shape(self.rows, self.columns)));
        }
        if !self.row_bytes().is_multiple_of(GRAIN) {
            return Err(TensorMapError::Row(self.row_bytes()));
        }
        if self.box_rows == 0 || self.box_rows > MAX_BOX_ROWS {
            return Err(TensorMapError::Tile(self.box_rows));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tma_cannot_do_is_refused() {
        let matrix =
            TensorMapLayout { address: 16, length: 80, element_bytes: 2, rows: 10, columns: 8, box_rows: 64 };
        assert_eq!(matrix.check(), Ok(()));
        assert_eq!((matrix.box_columns(), matrix.box_bytes()), (64, 8192));
        assert_eq!((matrix.part_of_row(2, 6), matrix.part_of_row(10, 0)), (44..48, 0..0));
        let wrong = |change: fn(&mut TensorMapLayout)| {
            let mut matrix = matrix;
            change(&mut matrix);
            matrix.check().unwrap_err()
        };
        assert_eq!(wrong(|matrix| matrix.rows = 0), TensorMapError::Shape(Shape(0, 8)));
        assert_eq!(wrong(|matrix| matrix.columns = 1 << 31), TensorMapError::Shape(Shape(10, 1 << 31)));
        assert_eq!(wrong(|matrix| matrix.columns = 12), TensorMapError::Row(24));
        assert_eq!(wrong(|matrix| matrix.box_rows = 257), TensorMapError::Tile(257));
    }
}
