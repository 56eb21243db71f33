//! Row-major products as a library for column-major matrices is asked for them.
//!
//! A row-major matrix is its own transpose, read by columns. So Cᵀ = op(B)ᵀ·op(A)ᵀ is asked for: the first factor
//! is B, the second A, and what is written is C by rows.

/// A matrix product C = op(A)·op(B), all row-major.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// Rows of C.
    pub m: usize,
    /// Columns of C.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// A is stored as `[k, m]`.
    pub a_transposed: bool,
    /// B is stored as `[n, k]`.
    pub b_transposed: bool,
    /// C is added to.
    pub accumulate: bool,
}

/// A column-major product: first factor `[m, k]`, second `[k, n]`, result `[m, n]`, each with a leading dimension,
/// the distance between columns as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColumnMajor {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// What is summed over.
    pub k: usize,
    /// Whether the first factor is stored as `[k, m]`, the second as `[n, k]`.
    pub transposed: [bool; 2],
    /// Leading dimensions of first factor, second and result.
    pub leading: [usize; 3],
    /// The result is added to.
    pub accumulate: bool,
}

impl Product {
    /// The product that, asked of a library for column-major matrices with B first, writes C by rows.
    pub fn column_major(&self) -> ColumnMajor {
        let Self { m, n, k, a_transposed, b_transposed, accumulate } = *self;
        ColumnMajor {
            m: n,
            n: m,
            k,
            transposed: [b_transposed, a_transposed],
            leading: [if b_transposed { k } else { n }, if a_transposed { m } else { k }, n],
            accumulate,
        }
    }
}

impl ColumnMajor {
    /// Rows and columns of first factor, second and result, as they are stored.
    pub fn stored(&self) -> [(usize, usize); 3] {
        let Self { m, n, k, transposed: [first, second], .. } = *self;
        [if first { (k, m) } else { (m, k) }, if second { (n, k) } else { (k, n) }, (m, n)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the documentation of cuBLAS says of `gemm`, by its indices: column-major.
    fn gemm(asked: &ColumnMajor, first: &[i64], second: &[i64], result: &mut [i64]) {
        let [lda, ldb, ldc] = asked.leading;
        for column in 0..asked.n {
            for row in 0..asked.m {
                let term = |level: usize| {
                    let a = if asked.transposed[0] { level + row * lda } else { row + level * lda };
                    let b = if asked.transposed[1] { column + level * ldb } else { level + column * ldb };
                    first[a] * second[b]
                };
                let sum: i64 = (0..asked.k).map(term).sum();
                let place = &mut result[row + column * ldc];
                *place = sum + if asked.accumulate { *place } else { 0 };
            }
        }
    }

    fn numbers(length: usize, factor: usize) -> Vec<i64> {
        (0..length).map(|index| (index * factor % 23) as i64 - 11).collect()
    }

    #[test]
    fn what_is_asked_for_is_the_row_major_product() {
        let [m, n, k] = [3, 5, 4];
        let (a, b, start) = (numbers(m * k, 7), numbers(k * n, 5), numbers(m * n, 3));
        for choice in 0..8 {
            let [a_transposed, b_transposed, accumulate] = [1, 2, 4].map(|bit| choice & bit != 0);
            let product = Product { m, n, k, a_transposed, b_transposed, accumulate };
            let mut expected = start.clone();
            for (index, element) in expected.iter_mut().enumerate() {
                let (row, column) = (index / n, index % n);
                let term = |level: usize| {
                    let a = a[if a_transposed { level * m + row } else { row * k + level }];
                    a * b[if b_transposed { column * k + level } else { level * n + column }]
                };
                let sum: i64 = (0..k).map(term).sum();
                *element = sum + if accumulate { *element } else { 0 };
            }
            let mut result = start.clone();
            gemm(&product.column_major(), &b, &a, &mut result);
            assert_eq!(result, expected, "{product:?}");
        }
    }

    #[test]
    fn leading_dimensions_are_the_rows_that_are_stored() {
        for choice in 0..4 {
            let [a_transposed, b_transposed] = [1, 2].map(|bit| choice & bit != 0);
            let product = Product { m: 3, n: 5, k: 4, a_transposed, b_transposed, accumulate: false };
            let asked = product.column_major();
            assert_eq!(asked.stored().map(|(rows, _)| rows), asked.leading, "{product:?}");
        }
    }
}
