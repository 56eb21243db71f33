//! Small matrices that sit in the cache, and their products: the inner loops of the gated delta rule.
//!
//! The right operand is packed into panels of [`LANES`] columns, which the inner loop reads in order;
//! the left one is read in place.

use std::ops::Range;

use super::simd::vectorize;

/// Columns of a panel. Widths are rounded up to a multiple of it, with zeros in the rest.
pub const LANES: usize = 16;

/// Rows of C computed at once: with [`LANES`] columns they fill the vector registers of AVX2.
const ROWS: usize = 6;

/// Rows of a larger array: row i begins at `data[i * stride]`.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Rows `stride` apart, the first at the start of `data`.
    pub fn new(data: &'a [f32], stride: usize) -> Self {
        Self { data, stride }
    }

    /// The first `length` elements of a row.
    #[inline(always)]
    pub fn row(&self, row: usize, length: usize) -> &'a [f32] {
        &self.data[row * self.stride..][..length]
    }
}

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

    /// From one row to the next.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The elements of all rows.
    pub fn elements(&self) -> &[f32] {
        self.data
    }

    /// The elements of all rows, to write.
    pub fn elements_mut(&mut self) -> &mut [f32] {
        self.data
    }

    /// All rows, as a left operand.
    pub fn rows(&self) -> Rows<'_> {
        Rows { data: self.data, stride: self.stride }
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

/// Packs the right operand B\[p\]\[j\] = rows\[p\]\[j\], with `depth` rows of `columns` elements.
pub fn pack_rows(panels: &mut [f32], depth: usize, columns: usize, rows: Rows) {
    for p in 0..depth {
        let (chunks, rest) = rows.row(p, columns).as_chunks::<LANES>();
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

/// Packs the right operand B\[p\]\[j\] = rows\[j\]\[p\], given transposed as `columns` rows of `depth`
/// elements.
pub fn pack_columns(panels: &mut [f32], depth: usize, columns: usize, rows: Rows) {
    let panels = &mut panels[..panels_length(depth, columns)];
    for (index, panel) in panels.chunks_exact_mut(depth * LANES).enumerate() {
        let first = index * LANES;
        let panel = panel.as_chunks_mut::<LANES>().0;
        if first + LANES <= columns {
            let rows: [&[f32]; LANES] = std::array::from_fn(|lane| rows.row(first + lane, depth));
            for (p, target) in panel.iter_mut().enumerate() {
                *target = std::array::from_fn(|lane| rows[lane][p]);
            }
        } else {
            panel.fill([0.0; LANES]);
            for lane in 0..columns - first {
                for (target, &value) in panel.iter_mut().zip(rows.row(first + lane, depth)) {
                    target[lane] = value;
                }
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

/// Which elements of the attention tile (rows are queries, columns are keys) take part in a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All of them.
    All,
    /// Those on and below the diagonal: both sides start at the same token, and none sees a later one.
    Lower,
}

impl Part {
    /// How many of `columns` elements the rows before `end` reach.
    #[inline(always)]
    fn columns(self, columns: usize, end: usize) -> usize {
        if self == Self::Lower { columns.min(end) } else { columns }
    }
}

/// C = A·B for `rows` rows of `depth` elements, where C is the attention tile: of the part asked for,
/// whole panels are written, the rest is left as it is.
pub fn product_into_tile(rows: usize, depth: usize, a: Rows, panels: &[f32], c: &mut Tile, part: Part) {
    vectorize!(|| for first in (0..rows).step_by(ROWS) {
        let end = (first + ROWS).min(rows);
        let columns = part.columns(c.stride, end).next_multiple_of(LANES);
        let left = row_reader(a, first, rows, depth);
        let block = Block { rows: first..end, columns, depth: 0..depth, panel_depth: depth };
        row_block(block, left, panels, Store::Overwrite, c);
    });
}

/// C (+)= A·B, where A is the attention tile, `rows` by `depth`. Of A only the part asked for is used.
pub fn product_of_tile(
    (rows, depth): (usize, usize),
    a: &Tile,
    panels: &[f32],
    store: Store,
    c: &mut Tile,
    part: Part,
) {
    vectorize!(|| for first in (0..rows).step_by(ROWS) {
        let end = (first + ROWS).min(rows);
        let used = part.columns(depth, end);
        let left = row_reader(a.rows(), first, rows, used);
        let block = Block { rows: first..end, columns: c.stride, depth: 0..used, panel_depth: depth };
        row_block(block, left, panels, store, c);
    });
}

/// C += Aᵀ·B, where A is the attention tile, `depth` by `rows`. Of A only the part asked for is used.
pub fn add_product_of_transposed_tile(
    (rows, depth): (usize, usize),
    a: &Tile,
    panels: &[f32],
    c: &mut Tile,
    part: Part,
) {
    vectorize!(|| for first in (0..rows).step_by(ROWS) {
        // The last block reads past the used columns (a tile has room for it); that is not stored.
        let left = |p: usize| -> [f32; ROWS] {
            *a.data[p * a.stride + first..].first_chunk().expect("a tile ends with slack")
        };
        let start = if part == Part::Lower { first.min(depth) } else { 0 };
        let rows = first..(first + ROWS).min(rows);
        let block = Block { rows, columns: c.stride, depth: start..depth, panel_depth: depth };
        row_block(block, left, panels, Store::Add, c);
    });
}

/// Reads element p of the [`ROWS`] rows from `first` on. Where there are fewer than that, the last one is
/// repeated; what comes of the repetitions is not stored.
#[inline(always)]
fn row_reader(a: Rows, first: usize, rows: usize, depth: usize) -> impl Fn(usize) -> [f32; ROWS] {
    let block: [&[f32]; ROWS] = std::array::from_fn(|i| a.row((first + i).min(rows - 1), depth));
    #[inline(always)]
    move |p| std::array::from_fn(|i| block[i][p])
}

/// Up to [`ROWS`] rows of a product.
struct Block {
    /// Rows of C.
    rows: Range<usize>,
    /// Columns of C, whole panels.
    columns: usize,
    /// Inner indices.
    depth: Range<usize>,
    /// Inner indices that the panels hold.
    panel_depth: usize,
}

/// The rows of C that `block` names: `left(p)` are the elements of A for those rows and inner index p.
#[inline(always)]
fn row_block(block: Block, left: impl Fn(usize) -> [f32; ROWS], panels: &[f32], store: Store, c: &mut Tile) {
    for column in (0..block.columns).step_by(LANES) {
        let panel = &panels[column * block.panel_depth..][..LANES * block.panel_depth];
        let panel = &panel.as_chunks::<LANES>().0[block.depth.clone()];
        let mut sums = [[0.0f32; LANES]; ROWS];
        for (p, right) in block.depth.clone().zip(panel) {
            let left = left(p);
            for i in 0..ROWS {
                for lane in 0..LANES {
                    sums[i][lane] = left[i].mul_add(right[lane], sums[i][lane]);
                }
            }
        }
        // The loop has constant bounds: with a variable index the sums could not stay in registers.
        for (i, sums) in sums.iter().enumerate() {
            if i < block.rows.len() {
                let target = &mut c.data[(block.rows.start + i) * c.stride + column..][..LANES];
                match store {
                    Store::Overwrite => target.copy_from_slice(sums),
                    Store::Add => (0..LANES).for_each(|lane| target[lane] += sums[lane]),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            pack_rows(&mut packed[0], depth, columns, Rows::new(&b, columns));
            pack_columns(&mut packed[1], depth, columns, Rows::new(&b_transposed, depth));
            assert_eq!(packed[0], packed[1]);

            let mut a_memory = vec![f32::NAN; Tile::length(depth, rows)];
            let mut a_transposed = Tile::new(&mut a_memory, rows);
            for p in 0..depth {
                for i in 0..rows {
                    a_transposed.row_mut(p)[i] = a[i * depth + p];
                }
            }
            let mut c_memory = [3.0f32, 5.0, 7.0].map(|start| vec![start; Tile::length(rows, columns)]);
            let [into, of, transposed] = &mut c_memory;
            let mut c = [into, of, transposed].map(|memory| Tile::new(memory, columns));
            let a_rows = Rows::new(&a, depth);
            let mut a_memory = vec![f32::NAN; Tile::length(rows, depth)];
            let mut a_tile = Tile::new(&mut a_memory, depth);
            (0..rows).for_each(|i| a_tile.row_mut(i)[..depth].copy_from_slice(a_rows.row(i, depth)));
            for part in [Part::All, Part::Lower] {
                c[0].data.fill(3.0);
                c[1].data.fill(5.0);
                c[2].data.fill(7.0);
                product_into_tile(rows, depth, a_rows, &packed[0], &mut c[0], part);
                product_of_tile((rows, depth), &a_tile, &packed[0], Store::Add, &mut c[1], part);
                add_product_of_transposed_tile((rows, depth), &a_transposed, &packed[0], &mut c[2], part);
                let used = |i: usize, p: usize| part == Part::All || p <= i;
                for i in 0..rows {
                    for j in 0..columns {
                        let term = |p: usize| a[i * depth + p] * b[p * columns + j];
                        let sum: f32 = (0..depth).map(term).sum();
                        let what = format!("{rows}x{depth}x{columns} {part:?} at {i} {j}");
                        if used(i, j) {
                            assert_eq!(c[0].row(i)[j], sum, "{what}");
                        }
                        // Rows of a block share their limits, so only its last or first row is exact.
                        let end = (i / ROWS * ROWS + ROWS).min(rows) - 1;
                        let lower: f32 = (0..depth).filter(|&p| used(end, p)).map(term).sum();
                        assert_eq!(c[1].row(i)[j], 5.0 + lower, "{what}");
                        let upper: f32 = (0..depth).filter(|&p| used(p, i / ROWS * ROWS)).map(term).sum();
                        assert_eq!(c[2].row(i)[j], 7.0 + upper, "{what}");
                    }
                }
            }
        }
    }
}
