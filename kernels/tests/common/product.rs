//! Products in f64.

use cpift_kernels::simt::Real;

use super::widen;

/// A matrix, and its elements' places: row-major or transposed.
pub struct Matrix {
    values: Vec<f64>,
    columns: usize,
    transposed: bool,
}

impl Matrix {
    /// `values` by rows of `columns`, of which it is the transpose if `transposed`.
    pub fn new<E: Real>(values: &[E], columns: usize, transposed: bool) -> Self {
        Self { values: widen(values), columns, transposed }
    }

    /// An element.
    pub fn at(&self, row: usize, column: usize) -> f64 {
        let (row, column) = if self.transposed { (column, row) } else { (row, column) };
        self.values[row * self.columns + column]
    }
}

/// Fails unless `actual` is start + a·b, start given by element.
///
/// A sum of k fused multiply-adds in f32, then one addition, errs by at most k + 1 roundings of what the
/// magnitudes add up to; then comes the rounding to the output, to half of `unit`.
#[track_caller]
pub fn assert_product<C: Real>(
    what: &str,
    actual: &[C],
    (a, b): (&Matrix, &Matrix),
    (n, k): (usize, usize),
    start: impl Fn(usize, usize) -> f64,
    unit: f64,
) {
    for (index, actual) in widen(actual).into_iter().enumerate() {
        let (row, column) = (index / n, index % n);
        let start = start(row, column);
        let (mut expected, mut magnitude) = (start, start.abs());
        for index in 0..k {
            let product = a.at(row, index) * b.at(index, column);
            expected += product;
            magnitude += product.abs();
        }
        let bound = (k + 1) as f64 * 2f64.powi(-24) * magnitude;
        let bound = bound + 0.5 * unit * (expected.abs() + bound);
        // Written so that NaN fails.
        assert!(
            (actual - expected).abs() <= bound,
            "{what}[{row}, {column}] is {actual}, not {expected}: bound {bound:e}"
        );
    }
}
