//! Products of attention's tiles by the micro-kernels of large products.

use crate::cpu::gemm::Matrix;
use crate::cpu::gemm::kernel::{Kernel, Place, Start, Target, words};
use crate::cpu::parallel::SharedMut;
use crate::cpu::tile::{Store, Tile, padded};
use crate::real::{Real, round_slice};

use super::TILE;

/// Which elements of the operands count. On the diagonal, where both sides of the tile of scores start at the same
/// token, those that a query does not see are zero, or not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// Of the product, what is on and below the diagonal.
    LowerProduct,
    /// Of the left operand, what is on and below the diagonal.
    LowerLeft,
    /// Of the left operand, what is on and above the diagonal.
    UpperLeft,
}

/// Words that a left operand of `rows` by `depth` takes.
pub fn left_length<K: Kernel>(rows: usize, depth: usize) -> usize {
    rows.next_multiple_of(K::ROWS) * words::<K>(depth)
}

/// Words that a right operand of `depth` by `columns` takes.
pub fn right_length<K: Kernel>(depth: usize, columns: usize) -> usize {
    columns.next_multiple_of(K::COLUMNS) * words::<K>(depth)
}

/// Packs a left operand.
#[inline(always)]
pub fn pack_left<K: Kernel>(kernel: K, a: Matrix<K::Element>, panels: &mut [f32]) {
    let [rows, depth] = a.size();
    kernel.pack_rows(a, 0..rows, 0..depth, &mut panels[..left_length::<K>(rows, depth)]);
}

/// Packs a right operand.
#[inline(always)]
pub fn pack_right<K: Kernel>(kernel: K, b: Matrix<K::Element>, panels: &mut [f32]) {
    let [depth, columns] = b.size();
    let panels = &mut panels[..right_length::<K>(depth, columns)];
    kernel.pack_columns(b.transposed(), 0..columns, 0..depth, panels);
}

/// Words that [`rounded`] needs for a tile of scores.
pub const fn rounded_length<T>() -> usize {
    if size_of::<T>() == size_of::<f32>() {
        0
    } else {
        TILE * padded(TILE) * size_of::<T>() / size_of::<f32>()
    }
}

/// The first `rows` rows of a tile of scores as an operand of `columns` columns. `memory` holds what has to be
/// rounded for that.
#[inline(always)]
pub fn rounded<'a, T: Real>(
    tile: &'a Tile,
    [rows, columns]: [usize; 2],
    memory: &'a mut [f32],
) -> Matrix<'a, T> {
    let elements = tile.elements();
    if size_of::<T>() == size_of::<f32>() {
        return Matrix::strided(bytemuck::cast_slice(elements), rows, columns, tile.stride());
    }
    let used = rows * tile.stride();
    let memory = &mut bytemuck::cast_slice_mut::<f32, T>(memory)[..used];
    round_slice(&elements[..used], memory);
    Matrix::strided(memory, rows, columns, tile.stride())
}

/// C ← A·B or C + A·B of packed operands, `[rows, depth]` by `[depth, columns]`; columns of C up to whole lanes
/// are written too.
#[inline(always)]
pub fn multiply<K: Kernel>(
    kernel: K,
    [rows, depth, columns]: [usize; 3],
    (left, right): (&[f32], &[f32]),
    part: Part,
    store: Store,
    c: &mut Tile,
) {
    let stride = c.stride();
    let memory = SharedMut::new(c.elements_mut());
    let lefts = left.chunks_exact(K::ROWS * words::<K>(depth));
    let rights = right.chunks_exact(K::COLUMNS * words::<K>(depth));
    for (row, left) in (0..rows).step_by(K::ROWS).zip(lefts) {
        let end = rows.min(row + K::ROWS);
        let (used, first, last) = match part {
            Part::All => (columns, 0, depth),
            Part::LowerProduct => (columns.min(end), 0, depth),
            Part::LowerLeft => (columns, 0, depth.min(end)),
            Part::UpperLeft => (columns, row.min(depth - 1) / K::STEP * K::STEP, depth),
        };
        let words = words::<K>(first)..words::<K>(last);
        let left = &left[words.start * K::ROWS..words.end * K::ROWS];
        for (column, right) in (0..padded(used)).step_by(K::COLUMNS).zip(rights.clone()) {
            let right = &right[words.start * K::COLUMNS..words.end * K::COLUMNS];
            let target = Target::<f32> {
                result: None,
                sums: Place { memory, start: row * stride + column, stride },
                start: if store == Store::Add { Start::Sums } else { Start::Zero },
                last: true,
                rows: end - row,
                columns: K::COLUMNS.min(stride - column),
            };
            // SAFETY: the tile is this function's alone, and the target lies inside it.
            unsafe { kernel.multiply(left, right, &target) };
        }
    }
}
