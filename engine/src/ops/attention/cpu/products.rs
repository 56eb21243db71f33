//! Products of attention's tiles by the micro-kernels of large products.

use std::ops::Range;

use crate::cpu::gemm::Matrix;
use crate::cpu::gemm::kernel::{Kernel, Place, Start, Target, words};
use crate::cpu::parallel::SharedMut;
use crate::cpu::tile::{Store, Tile, padded};

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

/// C ← A·B or C + A·B of packed operands, `[rows, depth]` by `[depth, columns]`; columns of C up to whole lanes
/// are written too.
#[inline(always)]
pub fn multiply<K: Kernel>(
    kernel: K,
    size: [usize; 3],
    (left, right): (&[f32], &[f32]),
    part: Part,
    store: Store,
    c: &mut Tile,
) {
    let depth = words::<K>(size[1]);
    for_each_panel::<K>(
        size,
        part,
        #[inline(always)]
        |rows, used, words| {
            let left = &left[rows.start * depth..][words.start * K::ROWS..words.end * K::ROWS];
            for (right, target) in tiles::<K>(right, depth, (rows, used), words, store, c) {
                // SAFETY: C is this function's alone.
                unsafe { kernel.multiply(left, right, &target) };
            }
        },
    );
}

/// The same with a left operand that is not packed, see [`Kernel::multiply_strided`]. `memory` takes a panel of it.
#[inline(always)]
pub fn multiply_strided<K: Kernel, const ROW: usize, const WORD: usize>(
    kernel: K,
    size: [usize; 3],
    (left, right): (&[f32], &[f32]),
    part: Part,
    store: Store,
    c: &mut Tile,
    memory: &mut [f32],
) {
    let depth = words::<K>(size[1]);
    for_each_panel::<K>(
        size,
        part,
        #[inline(always)]
        |rows, used, words| {
            let left = &left[rows.start * ROW + words.start * WORD..];
            let count = words.len();
            let tiles = tiles::<K>(right, depth, (rows, used), words, store, c);
            // SAFETY: C is this function's alone.
            unsafe { kernel.multiply_strided::<ROW, WORD>(left, count, tiles, memory) };
        },
    );
}

/// For each panel of the left operand its rows, the columns of C that count, and the words of the depth that do.
#[inline(always)]
fn for_each_panel<K: Kernel>(
    [rows, depth, columns]: [usize; 3],
    part: Part,
    mut work: impl FnMut(Range<usize>, usize, Range<usize>),
) {
    for row in (0..rows).step_by(K::ROWS) {
        let end = rows.min(row + K::ROWS);
        let (used, first, last) = match part {
            Part::All => (columns, 0, depth),
            Part::LowerProduct => (columns.min(end), 0, depth),
            Part::LowerLeft => (columns, 0, depth.min(end)),
            Part::UpperLeft => (columns, row.min(depth - 1) / K::STEP * K::STEP, depth),
        };
        work(row..end, used, words::<K>(first)..words::<K>(last));
    }
}

/// The panels of the right operand, packed with `depth` words, of which `words` count, and the tiles of C that come of
/// them for a panel of rows, up to `used` columns.
#[inline(always)]
fn tiles<'t, K: Kernel>(
    right: &'t [f32],
    depth: usize,
    (rows, used): (Range<usize>, usize),
    words: Range<usize>,
    store: Store,
    c: &'t mut Tile,
) -> impl Iterator<Item = (&'t [f32], Target<'t, f32>)> {
    let stride = c.stride();
    let memory = SharedMut::new(c.elements_mut());
    let panels = right.chunks_exact(K::COLUMNS * depth);
    (0..padded(used)).step_by(K::COLUMNS).zip(panels).map(
        #[inline(always)]
        move |(column, panel)| {
            let target = Target::<f32> {
                result: None,
                sums: Place { memory, start: rows.start * stride + column, stride },
                start: if store == Store::Add { Start::Sums } else { Start::Zero },
                last: true,
                rows: rows.len(),
                columns: K::COLUMNS.min(stride - column),
            };
            (&panel[words.start * K::COLUMNS..words.end * K::COLUMNS], target)
        },
    )
}
