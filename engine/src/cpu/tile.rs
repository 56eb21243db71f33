//! Products of small matrices that sit in the cache: the inner loops of attention.
//!
//! The right operand is packed into panels of [`LANES`] columns, which the inner loop reads in order;
//! the left one is read in place. Everything here is to be inlined into a
//! `vectorize!` closure.

use std::ops::Range;

/// Columns of a panel. Widths are rounded up to a multiple of it, with zeros in the rest.
pub const LANES: usize = 16;

/// Rows of C computed at once: with [`LANES`] columns they fill the vector registers of AVX2.
const ROWS: usize = 6;

/// A small row-major matrix whose rows are whole panels wide.
#[derive(Debug)]
pub struct Tile<'a> {
    data: &'a mut [f32],
    stride: usize,
}

impl<'a> Tile<'a> {
    /// Floats that a tile takes: its rows, and slack for the last block of a transposed read.
    pub const fn length(rows: usize, columns: usize) -> usize {
        rows * padded(columns) + LANES
    }

    /// A tile in memory of at least [`Tile::length`] floats, whose content stays as it is.
    pub fn new(data: &'a mut [f32], columns: usize) -> Self {
        Self { data, stride: padded(columns) }
    }

    /// One row, with the columns that fill it up to whole panels.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.stride..][..self.stride]
    }

    /// One row to write, with the columns that fill it up to whole panels.
    #[inline(always)]
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.stride..][..self.stride]
    }
}

/// `columns` rounded up to whole panels.
pub const fn padded(columns: usize) -> usize {
    columns.next_multiple_of(LANES)
}

/// Floats that the panels of a `depth` by `columns` matrix take.
pub const fn panels_length(depth: usize, columns: usize) -> usize {
    depth * padded(columns)
}

/// Packs the right operand B\[p\]\[j\] = row(p)\[j\], with `depth` rows of `columns` elements.
#[inline(always)]
pub fn pack_rows<'a>(panels: &mut [f32], depth: usize, columns: usize, row: impl Fn(usize) -> &'a [f32]) {
    for p in 0..depth {
        let row = &row(p)[..columns];
        let (chunks, rest) = row.as_chunks::<LANES>();
        for (index, chunk) in chunks.iter().enumerate() {
            panels[(index * depth + p) * LANES..][..LANES].copy_from_slice(chunk);
        }
        if !rest.is_empty() {
            let target = &mut panels[(chunks.len() * depth + p) * LANES..][..LANES];
            target[..rest.len()].copy_from_slice(rest);
            target[rest.len()..].fill(0.0);
        }
    }
}

/// Packs the right operand B\[p\]\[j\] = column(j)\[p\], with `columns` columns of `depth` elements.
#[inline(always)]
pub fn pack_columns<'a>(
    panels: &mut [f32],
    depth: usize,
    columns: usize,
    column: impl Fn(usize) -> &'a [f32],
) {
    for (index, panel) in panels[..panels_length(depth, columns)].chunks_exact_mut(depth * LANES).enumerate()
    {
        let first = index * LANES;
        for lane in 0..LANES {
            let (rows, _) = panel.as_chunks_mut::<LANES>();
            if first + lane < columns {
                for (row, &value) in rows.iter_mut().zip(&column(first + lane)[..depth]) {
                    row[lane] = value;
                }
            } else {
                rows.iter_mut().for_each(|row| row[lane] = 0.0);
            }
        }
    }
}

/// What happens to the elements of C.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Store {
    /// C ← A·B.
    Overwrite,
    /// C ← C + A·B.
    Add,
}

/// C\[i\]\[j\] (+)= Σ_p row(i)\[p\] · B\[p\]\[j\] for `rows` rows of `depth` elements.
#[inline(always)]
pub fn product<'a>(
    rows: usize,
    depth: usize,
    row: impl Fn(usize) -> &'a [f32],
    panels: &[f32],
    store: Store,
    c: &mut Tile,
) {
    for first in (0..rows).step_by(ROWS) {
        // The last block repeats the last row to be full; the repetitions are not stored.
        let block: [&[f32]; ROWS] = std::array::from_fn(|i| &row((first + i).min(rows - 1))[..depth]);
        let left = |p: usize| -> [f32; ROWS] { std::array::from_fn(|i| block[i][p]) };
        row_block(depth, left, panels, store, c, first..(first + ROWS).min(rows));
    }
}

/// C\[i\]\[j\] (+)= Σ_p A\[p\]\[i\] · B\[p\]\[j\]: the left operand is given transposed, as the first `depth`
/// rows of a tile, of which the first `rows` columns are used.
#[inline(always)]
pub fn transposed_product(rows: usize, depth: usize, a: &Tile, panels: &[f32], store: Store, c: &mut Tile) {
    for first in (0..rows).step_by(ROWS) {
        // The last block reads past the used columns (a tile has room for it); that is not stored.
        let left = |p: usize| -> [f32; ROWS] {
            *a.data[p * a.stride + first..].first_chunk().expect("a tile ends with slack")
        };
        row_block(depth, left, panels, store, c, first..(first + ROWS).min(rows));
    }
}

/// Rows `rows` of C, all panels: `left(p)` are the elements of A for those rows and inner index p.
#[inline(always)]
fn row_block(
    depth: usize,
    left: impl Fn(usize) -> [f32; ROWS],
    panels: &[f32],
    store: Store,
    c: &mut Tile,
    rows: Range<usize>,
) {
    let panels = panels[..depth * c.stride].chunks_exact(depth * LANES);
    for (index, panel) in panels.enumerate() {
        let mut sums = [[0.0f32; LANES]; ROWS];
        for (p, right) in panel.as_chunks::<LANES>().0.iter().enumerate() {
            let left = left(p);
            for i in 0..ROWS {
                for lane in 0..LANES {
                    sums[i][lane] = left[i].mul_add(right[lane], sums[i][lane]);
                }
            }
        }
        for (row, sums) in rows.clone().zip(&sums) {
            let target = &mut c.data[row * c.stride + index * LANES..][..LANES];
            match store {
                Store::Overwrite => target.copy_from_slice(sums),
                Store::Add => target.iter_mut().zip(sums).for_each(|(value, sum)| *value += sum),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::simd::vectorize;

    fn value(i: usize, j: usize) -> f32 {
        ((i * 31 + j * 17) % 23) as f32 - 11.0
    }

    /// Small integers: every order of summation gives the same result.
    #[test]
    fn products_are_exact_on_integers() {
        for (rows, depth, columns) in [(1, 1, 1), (5, 3, 16), (6, 8, 17), (13, 40, 31), (64, 64, 48)] {
            let a: Vec<f32> = (0..rows * depth).map(|index| value(index / depth, index % depth)).collect();
            let b: Vec<f32> = (0..depth * columns).map(|index| value(index % columns, index)).collect();
            let b_transposed: Vec<f32> =
                (0..depth * columns).map(|index| b[index % depth * columns + index / depth]).collect();
            let mut packed = [
                vec![f32::NAN; panels_length(depth, columns)],
                vec![f32::NAN; panels_length(depth, columns)],
            ];
            vectorize!(|| pack_rows(&mut packed[0], depth, columns, |p| &b[p * columns..][..columns]));
            vectorize!(|| {
                pack_columns(&mut packed[1], depth, columns, |j| &b_transposed[j * depth..][..depth])
            });
            assert_eq!(packed[0], packed[1]);

            let mut a_memory = vec![f32::NAN; Tile::length(depth, rows)];
            let mut a_transposed = Tile::new(&mut a_memory, rows);
            for p in 0..depth {
                for i in 0..rows {
                    a_transposed.row_mut(p)[i] = a[i * depth + p];
                }
            }
            for store in [Store::Overwrite, Store::Add] {
                let start = if store == Store::Add { 3.0 } else { f32::NAN };
                let mut memory =
                    [vec![start; Tile::length(rows, columns)], vec![start; Tile::length(rows, columns)]];
                let [first, second] = &mut memory;
                let (mut c, mut d) = (Tile::new(first, columns), Tile::new(second, columns));
                vectorize!(|| {
                    product(rows, depth, |i| &a[i * depth..][..depth], &packed[0], store, &mut c);
                    transposed_product(rows, depth, &a_transposed, &packed[0], store, &mut d);
                });
                for i in 0..rows {
                    for j in 0..columns {
                        let sum: f32 = (0..depth).map(|p| a[i * depth + p] * b[p * columns + j]).sum();
                        let expected = if store == Store::Add { sum + 3.0 } else { sum };
                        assert_eq!(
                            (c.row(i)[j], d.row(i)[j]),
                            (expected, expected),
                            "{rows}x{depth}x{columns}"
                        );
                    }
                }
            }
        }
    }
}
