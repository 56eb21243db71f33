//! Products of two thin matrices that are added to a stored one.

use super::header::TensorFile;

/// `scale · left · right`, added to a matrix.
#[derive(Debug, Clone)]
pub(super) struct LowRank {
    /// Number of the file that both are in.
    pub file: usize,
    /// `[rows, rank]`.
    pub left: Factor,
    /// `[rank, columns]`.
    pub right: Factor,
    /// Factor of the product.
    pub scale: f32,
}

/// One of the two matrices.
#[derive(Debug, Clone)]
pub(super) struct Factor {
    /// Name in the file.
    pub name: String,
    /// Rows and columns as they are stored.
    pub shape: [usize; 2],
    /// Rows and columns are stored the other way round.
    pub transposed: bool,
}

/// What is added to a stored tensor.
#[derive(Clone, Copy)]
pub(super) struct Addition<'a> {
    pub file: &'a TensorFile,
    pub low_rank: &'a LowRank,
}

/// A [`LowRank`] in memory.
#[derive(Debug)]
pub(super) struct Product {
    /// Row by row.
    left: Vec<f32>,
    /// Row by row.
    right: Vec<f32>,
    rank: usize,
    scale: f32,
}

impl Product {
    /// From both matrices as they are stored.
    pub fn new(low_rank: &LowRank, left: &[f32], right: &[f32]) -> Self {
        let rows = |factor: &Factor, values: &[f32]| match factor.transposed {
            true => transposed(values, factor.shape[1]),
            false => values.to_vec(),
        };
        let LowRank { left: left_factor, right: right_factor, scale, .. } = low_rank;
        Self {
            left: rows(left_factor, left),
            right: rows(right_factor, right),
            rank: left_factor.shape[usize::from(!left_factor.transposed)],
            scale: *scale,
        }
    }

    /// Adds the elements `start..start + values.len()` of the product to those of the matrix.
    pub fn add_to(&self, start: usize, values: &mut [f32]) {
        let columns = self.right.len() / self.rank;
        let mut sums = vec![0.0_f32; columns.min(values.len())];
        let (mut position, mut rest) = (start, values);
        while !rest.is_empty() {
            let (row, column) = (position / columns, position % columns);
            let (part, after) = rest.split_at_mut((columns - column).min(rest.len()));
            let sums = &mut sums[..part.len()];
            sums.fill(0.0);
            let weights = &self.left[row * self.rank..][..self.rank];
            for (weight, line) in weights.iter().zip(self.right.chunks_exact(columns)) {
                for (sum, value) in sums.iter_mut().zip(&line[column..]) {
                    *sum += weight * value;
                }
            }
            for (value, sum) in part.iter_mut().zip(sums) {
                *value += self.scale * *sum;
            }
            position += part.len();
            rest = after;
        }
    }
}

/// A matrix of so many columns with rows and columns swapped.
pub(crate) fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns.max(1);
    (0..values.len()).map(|index| values[(index % rows) * columns + index / rows]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_added_from_any_element_on() {
        let factor = |shape, transposed| Factor { name: String::new(), shape, transposed };
        // left [3, 2], right [2, 4], stored as they are and the other way round.
        let (left, right) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0, -1.0, 0.0, 1.0, 1.0, 3.0]);
        let turned = (transposed(&left, 2), transposed(&right, 4));
        assert_eq!(turned.0, [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
        let plain =
            LowRank { file: 0, left: factor([3, 2], false), right: factor([2, 4], false), scale: 0.5 };
        let other = LowRank { left: factor([2, 3], true), right: factor([4, 2], true), ..plain.clone() };
        let expected = [0.5, 1.0, 2.0, 2.5, 1.5, 2.0, 5.0, 4.5, 2.5, 3.0, 8.0, 6.5];
        for product in [Product::new(&plain, &left, &right), Product::new(&other, &turned.0, &turned.1)] {
            for start in 0..expected.len() {
                for end in start..=expected.len() {
                    let mut values = vec![10.0; end - start];
                    product.add_to(start, &mut values);
                    let sums: Vec<f32> = expected[start..end].iter().map(|value| 10.0 + value).collect();
                    assert_eq!(values, sums, "{start}..{end}");
                }
            }
        }
    }
}
