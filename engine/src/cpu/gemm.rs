//! Products of large matrices, over a packed GEMM crate: the one place that names it.
//!
//! The crate is `matrixmultiply`, one thread per part of C. Measured on a Zen 3 core, f32, shapes of
//! transformer layers: it, `gemm` 0.19 and `faer` 0.24 all reach 70 to 85 GFLOP/s, as MKL does in
//! PyTorch; the other two take minutes to compile and `faer` falls behind on the weight gradient (a
//! transposed left operand). Packing and blocking of our own around a 6 by 16 kernel came to 50 to 77.

use rayon::prelude::*;

use super::parallel::{SharedMut, part};
use crate::device::CpuDevice;

/// Rows and columns of C are split at multiples of this, the tile of the crate's kernel.
const TILE: usize = 8;
/// The crate packs the left operand anew for every so many columns of C.
const COLUMN_BLOCK: usize = 1024;
/// Products of fewer multiply-adds stay on one thread: waking another costs more.
const SERIAL_BELOW: usize = 1 << 16;

/// A matrix to read: rows and columns at any stride in a slice.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix. Panics unless `data` holds exactly its elements.
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "matrix of {rows} by {columns}");
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// What happens to the elements C has before the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// C ← A·B; what C held is not read.
    Overwrite,
    /// C ← C + A·B.
    Accumulate,
}

/// C ← A·B or C + A·B, with C row-major `[a.rows, b.columns]`. Panics when the sizes disagree.
///
/// Every element of C is summed by one thread in an order that depends on the inner dimension alone:
/// the result has the same bits for every number of threads.
pub fn multiply(cpu: &CpuDevice, a: Matrix, b: Matrix, update: Update, c: &mut [f32]) {
    assert_eq!(a.columns, b.rows, "inner dimensions");
    assert_eq!(c.len(), a.rows * b.columns, "C");
    let (rows, columns) = (a.rows, b.columns);
    let threads = if rows * columns * a.columns < SERIAL_BELOW { 1 } else { cpu.threads() };
    let (row_parts, column_parts) = grid(rows, columns, a.columns, threads);
    let c = SharedMut::new(c);
    let run_part = |index: usize| {
        let row_range = part(rows, row_parts, index / column_parts, TILE);
        let column_range = part(columns, column_parts, index % column_parts, TILE);
        let beta = if update == Update::Accumulate { 1.0 } else { 0.0 };
        if row_range.is_empty() || column_range.is_empty() {
            return;
        }
        let a_rows = &a.data[row_range.start * a.row_stride..];
        let b_columns = &b.data[column_range.start * b.column_stride..];
        // SAFETY: the sizes were checked against the slices above, so every index the strides reach
        // lies inside them; the parts of C are disjoint and inside C, borrowed mutably for this call.
        unsafe {
            matrixmultiply::sgemm(
                row_range.len(),
                a.columns,
                column_range.len(),
                1.0,
                a_rows.as_ptr(),
                a.row_stride as isize,
                a.column_stride as isize,
                b_columns.as_ptr(),
                b.row_stride as isize,
                b.column_stride as isize,
                beta,
                c.as_mut_ptr().add(row_range.start * columns + column_range.start),
                columns as isize,
                1,
            );
        }
    };
    if threads == 1 {
        run_part(0);
    } else {
        cpu.run(|| (0..row_parts * column_parts).into_par_iter().with_max_len(1).for_each(run_part));
    }
}

/// Into how many parts C is cut by rows and by columns: one part per thread, the cut with the least
/// work for the largest part. Every part packs its rows of A (again for each block of columns) and its
/// columns of B, and what two parts pack twice is lost.
fn grid(rows: usize, columns: usize, depth: usize, threads: usize) -> (usize, usize) {
    let cost = |row_parts: usize| {
        let part_rows = rows.div_ceil(TILE).div_ceil(row_parts) * TILE;
        let part_columns = columns.div_ceil(TILE).div_ceil(threads / row_parts) * TILE;
        // In multiply-adds of which a core does about 16 in the time it packs 1/2 an element.
        let packed = part_rows * part_columns.div_ceil(COLUMN_BLOCK) + part_columns;
        depth * (part_rows * part_columns + 32 * packed)
    };
    let row_parts =
        (1..=threads).filter(|parts| threads.is_multiple_of(*parts)).min_by_key(|&parts| cost(parts));
    let row_parts = row_parts.unwrap_or(1);
    (row_parts, threads / row_parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    fn cpu(threads: usize) -> CpuDevice {
        match Device::cpu(std::num::NonZeroUsize::new(threads)).expect("threads") {
            Device::Cpu(cpu) => cpu,
            Device::Gpu(_) => unreachable!("asked for the CPU"),
        }
    }

    /// Deterministic values without structure.
    fn values(length: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn all_layouts_match_a_plain_product_for_any_number_of_threads() {
        for (rows, depth, columns) in [(1, 1, 1), (3, 5, 7), (70, 65, 33), (33, 300, 129), (200, 17, 64)] {
            let (a, b) = (values(rows * depth, 1), values(depth * columns, 2));
            let start = values(rows * columns, 3);
            let plain: Vec<f64> = (0..rows * columns)
                .map(|index| {
                    let (i, j) = (index / columns, index % columns);
                    (0..depth).map(|p| f64::from(a[i * depth + p]) * f64::from(b[p * columns + j])).sum()
                })
                .collect();
            let transpose = |data: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..rows * columns).map(|index| data[index % rows * columns + index / rows]).collect()
            };
            let (a_transposed, b_transposed) = (transpose(&a, rows, depth), transpose(&b, depth, columns));
            for update in [Update::Overwrite, Update::Accumulate] {
                let mut results = Vec::new();
                for threads in [1, 2, 3, 4] {
                    let left =
                        [Matrix::new(&a, rows, depth), Matrix::new(&a_transposed, depth, rows).transposed()];
                    let right = [
                        Matrix::new(&b, depth, columns),
                        Matrix::new(&b_transposed, columns, depth).transposed(),
                    ];
                    for left in left {
                        for right in right {
                            let mut c = match update {
                                Update::Overwrite => vec![f32::NAN; rows * columns],
                                Update::Accumulate => start.clone(),
                            };
                            multiply(&cpu(threads), left, right, update, &mut c);
                            results.push(c);
                        }
                    }
                }
                for result in &results {
                    assert_eq!(result, &results[0], "bits differ for {rows}x{depth}x{columns}");
                }
                for (index, &actual) in results[0].iter().enumerate() {
                    let before = if update == Update::Accumulate { f64::from(start[index]) } else { 0.0 };
                    let error = (f64::from(actual) - plain[index] - before).abs();
                    assert!(
                        error < 1e-6 * depth as f64 + 1e-6,
                        "{rows}x{depth}x{columns} at {index}: {error}"
                    );
                }
            }
        }
    }
}
