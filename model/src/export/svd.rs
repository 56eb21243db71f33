//! The best product of two thin matrices for a large one: a truncated singular value decomposition.
//!
//! The range of the matrix is found by subspace iteration from fixed random numbers (Halko, Martinsson, Tropp, arXiv 0909.4061),
//! until the energy that is kept no longer grows; where the subspace is all there is, the result is exact. Large matrices are
//! f32, what is small and every sum of squares is f64. All work is cut by sizes alone and every sum has a fixed order: the
//! bits are the same with any number of threads.

use std::ops::Range;

use cpift_engine::random;
use nalgebra::{DMatrix, DMatrixView, Dyn, MatrixView, SymmetricEigen};
use rayon::prelude::*;

/// Columns of the subspace beyond the rank at least: what lies there is not mixed up with what is kept.
const OVERSAMPLING: usize = 16;

/// Rounds at most, and the share of all energy by which a round must gain to be followed by another.
const ROUNDS: usize = 12;
const GAIN: f64 = 1e-5;

/// Rows or columns of a matrix that are taken at once.
const PANEL: usize = 128;

/// Groups of panels whose products are summed at once: each takes a square matrix of as many rows as the subspace.
const GROUPS: usize = 8;

/// Directions with a smaller share of the largest energy are rounding errors.
const NEGLIGIBLE: f64 = 1e-12;

/// Seed of the random numbers.
const SEED: u64 = 0x6c6f_7261;

/// A matrix of rows by columns, row by row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub columns: usize,
}

/// `left · right`, the product of rank r nearest to a matrix: both have the square roots of the singular values.
#[derive(Debug, Clone)]
pub(super) struct Factors {
    /// `[rows, r]`, row by row.
    pub left: Vec<f32>,
    /// `[r, columns]`, row by row.
    pub right: Vec<f32>,
}

/// Some rows as long as there are rows or columns of the matrix, side by side in columns: row i of column j is element
/// i + j · `rows`.
struct Thin {
    values: Vec<f32>,
    rows: usize,
}

impl Factors {
    /// Of a matrix; rows and columns beyond its own number are zeros. None where numbers overflow.
    pub fn of(matrix: Matrix<'_>, rank: usize) -> Option<Self> {
        let Matrix { rows, columns, .. } = matrix;
        let full = rows.min(columns);
        let width = (rank + OVERSAMPLING.max(rank / 2)).min(full);
        let mut along_columns = Thin::random(width, columns);
        let mut kept = 0.0;
        for round in 0.. {
            let range = matrix.times(&along_columns).orthonormal()?;
            // The matrix in coordinates of its range: as long as there are columns.
            let projected = matrix.transposed_times(&range);
            let (energies, directions) = projected.eigen()?;
            let total = energies.iter().sum::<f64>();
            let now = energies.iter().take(rank).sum::<f64>();
            if now - kept <= GAIN * total || width == full || round == ROUNDS {
                return Some(Self::from_subspace(&range, &projected, &energies, &directions, rank));
            }
            kept = now;
            along_columns = projected.orthonormal()?;
        }
        None
    }

    /// The first directions of a subspace, by their energies, which are squares of singular values.
    fn from_subspace(
        range: &Thin,
        projected: &Thin,
        energies: &[f64],
        directions: &DMatrix<f64>,
        rank: usize,
    ) -> Self {
        let largest = energies.first().copied().unwrap_or_default();
        let roots: Vec<f64> = energies.iter().map(|energy| energy.max(0.0).sqrt().sqrt()).collect();
        let scaled = |scale: fn(f64) -> f64| {
            DMatrix::from_fn(rank, directions.nrows(), |row, column| match energies.get(row) {
                Some(&energy) if energy > NEGLIGIBLE * largest => {
                    directions[(column, row)] * scale(roots[row])
                }
                _ => 0.0,
            })
        };
        let left = range.combined(&scaled(|root| root));
        let right = projected.combined(&scaled(f64::recip));
        Self { left: left.values, right: transposed(&right) }
    }

    /// The sum of the squares of what the matrix has and the product has not.
    pub fn residual(&self, matrix: Matrix<'_>) -> f64 {
        let Matrix { rows, columns, .. } = matrix;
        let rank = self.right.len() / columns.max(1);
        let right = DMatrixView::from_slice(&self.right, columns, rank);
        let squares = |panel: Range<usize>| {
            let left =
                DMatrixView::from_slice(&self.left[panel.start * rank..panel.end * rank], rank, panel.len());
            let product = right * left;
            let own = &matrix.values[panel.start * columns..panel.end * columns];
            sum_of_squares(own.iter().zip(product.iter()).map(|(own, product)| own - product))
        };
        ordered_sum(panels(rows), squares)
    }
}

/// The sum of the squares of a matrix.
pub(super) fn energy(values: &[f32]) -> f64 {
    let squares = |panel: Range<usize>| sum_of_squares(values[panel].iter().copied());
    ordered_sum(
        (0..values.len())
            .step_by(PANEL * PANEL)
            .map(|start| start..values.len().min(start + PANEL * PANEL))
            .collect(),
        squares,
    )
}

fn sum_of_squares(values: impl Iterator<Item = f32>) -> f64 {
    values.map(|value| f64::from(value) * f64::from(value)).sum()
}

/// Sums in the order of the panels, whichever thread had them.
fn ordered_sum(panels: Vec<Range<usize>>, of: impl Fn(Range<usize>) -> f64 + Sync + Send) -> f64 {
    panels.into_par_iter().map(of).collect::<Vec<f64>>().into_iter().sum()
}

fn panels(length: usize) -> Vec<Range<usize>> {
    (0..length).step_by(PANEL).map(|start| start..length.min(start + PANEL)).collect()
}

impl Matrix<'_> {
    /// The matrix times thin columns.
    fn times(self, thin: &Thin) -> Thin {
        let columns = self.columns;
        let thin_matrix = thin.view(0..columns);
        Thin::by_panels(thin.rows, self.rows, |panel| {
            let values = &self.values[panel.start * columns..panel.end * columns];
            thin_matrix * DMatrixView::from_slice(values, columns, panel.len())
        })
    }

    /// The transposed matrix times thin columns.
    fn transposed_times(self, thin: &Thin) -> Thin {
        let thin_matrix = thin.view(0..self.rows);
        Thin::by_panels(thin.rows, self.columns, |panel| {
            let (rows, strides) = ((Dyn(self.rows), Dyn(panel.len())), (Dyn(self.columns), Dyn(1)));
            let own: MatrixView<'_, f32, Dyn, Dyn, Dyn, Dyn> = MatrixView::from_slice_with_strides_generic(
                &self.values[panel.start..],
                rows.0,
                rows.1,
                strides.0,
                strides.1,
            );
            thin_matrix * own
        })
    }
}

impl Thin {
    /// Numbers from −1 to 1.
    fn random(rows: usize, length: usize) -> Self {
        let start = random::mix(SEED);
        let number = |index: usize| {
            let bits = random::at(start, index as u64) >> 40;
            bits as f32 / (1_u32 << 23) as f32 - 1.0
        };
        Self { values: (0..rows * length).map(number).collect(), rows }
    }

    fn by_panels(rows: usize, length: usize, product: impl Fn(Range<usize>) -> DMatrix<f32> + Sync) -> Self {
        let mut values = vec![0.0; rows * length];
        let targets = values.par_chunks_mut((PANEL * rows).max(1));
        targets.zip(panels(length)).for_each(|(target, panel)| {
            target.copy_from_slice(product(panel).as_slice());
        });
        Self { values, rows }
    }

    fn length(&self) -> usize {
        self.values.len() / self.rows.max(1)
    }

    fn view(&self, columns: Range<usize>) -> DMatrixView<'_, f32> {
        let values = &self.values[columns.start * self.rows..columns.end * self.rows];
        DMatrixView::from_slice(values, self.rows, columns.len())
    }

    /// Products of its rows with each other, their eigenvalues from the largest on, and the eigenvectors as columns. None
    /// where numbers overflow.
    fn eigen(&self) -> Option<(Vec<f64>, DMatrix<f64>)> {
        let panels = panels(self.length());
        let sum_of_group = |group: &[Range<usize>]| {
            let mut sum = DMatrix::zeros(self.rows, self.rows);
            for panel in group {
                let wide = self.view(panel.clone()).map(f64::from);
                sum.gemm(1.0, &wide, &wide.transpose(), 1.0);
            }
            sum
        };
        let groups = panels.par_chunks(panels.len().div_ceil(GROUPS).max(1)).map(sum_of_group);
        let zeros = DMatrix::zeros(self.rows, self.rows);
        let gram: DMatrix<f64> = groups.collect::<Vec<_>>().into_iter().fold(zeros, |sum, group| sum + group);
        if !gram.iter().all(|value| value.is_finite()) {
            return None;
        }
        let eigen = SymmetricEigen::try_new(gram, f64::EPSILON, 0)?;
        let mut order: Vec<usize> = (0..self.rows).collect();
        order.sort_by(|a, b| eigen.eigenvalues[*b].total_cmp(&eigen.eigenvalues[*a]));
        let values = order.iter().map(|&index| eigen.eigenvalues[index].max(0.0)).collect();
        Some((
            values,
            DMatrix::from_fn(self.rows, self.rows, |row, column| eigen.eigenvectors[(row, order[column])]),
        ))
    }

    /// Rows of length 1 at right angles that span the same, but for what is rounding. Twice, as the first leaves errors where
    /// energies are far apart.
    fn orthonormal(&self) -> Option<Self> {
        let once = self.orthonormal_once()?;
        once.orthonormal_once()
    }

    fn orthonormal_once(&self) -> Option<Self> {
        let (energies, directions) = self.eigen()?;
        let largest = energies.first().copied().unwrap_or_default();
        let count = energies.iter().take_while(|&&energy| energy > NEGLIGIBLE * largest).count().max(1);
        let scale = |row: usize| if energies[row] > 0.0 { energies[row].sqrt().recip() } else { 0.0 };
        let count = count.min(energies.len());
        Some(self.combined(&DMatrix::from_fn(count, self.rows, |row, column| {
            directions[(column, row)] * scale(row)
        })))
    }

    /// A matrix times the rows.
    fn combined(&self, matrix: &DMatrix<f64>) -> Self {
        Self::by_panels(matrix.nrows(), self.length(), |panel| {
            (matrix * self.view(panel).map(f64::from)).map(|value| value as f32)
        })
    }
}

/// The rows, one after the other.
fn transposed(thin: &Thin) -> Vec<f32> {
    let length = thin.length();
    let mut rows = vec![0.0; thin.values.len()];
    rows.par_chunks_mut(length.max(1)).enumerate().for_each(|(row, target)| {
        target
            .iter_mut()
            .enumerate()
            .for_each(|(column, value)| *value = thin.values[column * thin.rows + row]);
    });
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random_matrix(rows: usize, columns: usize, seed: u64) -> Vec<f32> {
        let number = |index: usize| random::at(random::mix(seed), index as u64) as u32 as f32 / 2e9 - 1.07;
        (0..rows * columns).map(number).collect()
    }

    /// A matrix with these singular values.
    fn with_spectrum(rows: usize, columns: usize, spectrum: impl Fn(usize) -> f64) -> Vec<f32> {
        let wide = |values: Vec<f32>, rows, columns| {
            DMatrix::from_row_slice(rows, columns, &values).map(f64::from).qr().q()
        };
        let full = rows.min(columns);
        let (left, right) = (
            wide(random_matrix(rows, full, 1), rows, full),
            wide(random_matrix(columns, full, 2), columns, full),
        );
        let middle =
            DMatrix::from_fn(full, full, |row, column| if row == column { spectrum(row) } else { 0.0 });
        let product = left * middle * right.transpose();
        product.transpose().iter().map(|&value| value as f32).collect()
    }

    /// The share of the energy that is kept beside what is possible, which the singular values say.
    #[track_caller]
    fn assert_keeps(values: &[f32], (rows, columns): (usize, usize), rank: usize, tolerance: f64) {
        let matrix = Matrix { values, rows, columns };
        let factors = Factors::of(matrix, rank).unwrap();
        assert_eq!((factors.left.len(), factors.right.len()), (rows * rank, rank * columns));
        let exact = DMatrix::from_row_slice(rows, columns, values).map(f64::from).singular_values();
        let lost: f64 = exact.iter().skip(rank).map(|value| value * value).sum();
        let (total, residual) = (energy(values), factors.residual(matrix));
        assert!(residual - lost <= tolerance * total, "{residual} for {lost} of {total}");
        assert!(residual - lost >= -1e-9 * total, "better than possible: {residual} for {lost} of {total}");
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let again = alone.install(|| Factors::of(matrix, rank).unwrap());
        assert!(again.left == factors.left && again.right == factors.right, "threads show");
    }

    #[test]
    fn products_are_as_near_as_those_of_the_exact_decomposition() {
        for (rows, columns) in [(300, 170), (170, 300)] {
            for rank in [1, 8, 40] {
                let fast = with_spectrum(rows, columns, |index| 0.8_f64.powi(index as i32));
                assert_keeps(&fast, (rows, columns), rank, 1e-6);
                let slow = with_spectrum(rows, columns, |index| 1.0 / (1.0 + index as f64).sqrt());
                assert_keeps(&slow, (rows, columns), rank, 1e-3);
            }
            // No direction stands out: the worst there is.
            assert_keeps(&random_matrix(rows, columns, 3), (rows, columns), 16, 5e-3);
        }
    }

    #[test]
    fn small_matrices_and_those_of_low_rank_are_exact() {
        assert_keeps(&random_matrix(20, 30, 4), (20, 30), 8, 1e-9);
        assert_keeps(&random_matrix(5, 3, 5), (5, 3), 8, 1e-9);
        assert_keeps(&random_matrix(1, 400, 6), (1, 400), 2, 1e-9);
        let of_rank_four = with_spectrum(200, 100, |index| if index < 4 { 1e-4 } else { 0.0 });
        assert_keeps(&of_rank_four, (200, 100), 8, 1e-9);
        assert_keeps(&vec![0.0; 600], (20, 30), 4, 0.0);
    }

    #[test]
    fn what_is_too_large_is_said() {
        let values = vec![f32::MAX; 40 * 40];
        assert!(Factors::of(Matrix { values: &values, rows: 40, columns: 40 }, 2).is_none());
    }
}
