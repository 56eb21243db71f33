use rayon::prelude::*;

use super::Shape;
use crate::cpu::gemm::{Matrix, Update, multiply};
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::number::{Number, on_cpu};

on_cpu! {
    /// Types that linear layers compute in.
    fn forward = forward(
        cpu: &CpuDevice,
        shape: &Shape,
        x: &[Self],
        weight: &[Self],
        bias: Option<&[Self]>,
        y: &mut [Self],
    );
    fn forward_unrounded = forward_unrounded(
        cpu: &CpuDevice,
        shape: &Shape,
        x: &[Self],
        weight: &[Self],
        y: &mut [f32],
    );
    fn backward_input = backward_input(
        cpu: &CpuDevice,
        shape: &Shape,
        d_y: &[Self],
        weight: &[Self],
        d_x: &mut [Self],
        accumulate: bool,
    );
    fn backward_weight = backward_weight(
        cpu: &CpuDevice,
        shape: &Shape,
        d_y: &[Self],
        x: &[Self],
        d_weight: &mut [f32],
        d_bias: Option<&mut [f32]>,
    );
}

/// Columns of d_y that one thread sums at a time for the bias.
const BIAS_CHUNK: usize = 64;

pub fn forward<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    y: &mut [T],
) {
    let &Shape { rows, inputs, outputs } = shape;
    let update = match bias {
        None => Update::Overwrite,
        Some(bias) => {
            // The product starts from the bias instead of a second pass adding it.
            y.chunks_exact_mut(outputs.max(1)).for_each(|row| row.copy_from_slice(bias));
            Update::Accumulate
        }
    };
    let x = Matrix::new(x, rows, inputs);
    let weight = Matrix::new(weight, outputs, inputs);
    multiply(cpu, x, weight.transposed(), update, y);
}

/// y in f32, whatever the operands are.
pub fn forward_unrounded<T: Number>(cpu: &CpuDevice, shape: &Shape, x: &[T], weight: &[T], y: &mut [f32]) {
    let &Shape { rows, inputs, outputs } = shape;
    let weight = Matrix::new(weight, outputs, inputs);
    multiply(cpu, Matrix::new(x, rows, inputs), weight.transposed(), Update::Overwrite, y);
}

pub fn backward_input<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    d_y: &[T],
    weight: &[T],
    d_x: &mut [T],
    accumulate: bool,
) {
    let &Shape { rows, inputs, outputs } = shape;
    let update = if accumulate { Update::Accumulate } else { Update::Overwrite };
    multiply(cpu, Matrix::new(d_y, rows, outputs), Matrix::new(weight, outputs, inputs), update, d_x);
}

pub fn backward_weight<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    d_y: &[T],
    x: &[T],
    d_weight: &mut [f32],
    d_bias: Option<&mut [f32]>,
) {
    let &Shape { rows, inputs, outputs } = shape;
    let d_y_transposed = Matrix::new(d_y, rows, outputs).transposed();
    multiply(cpu, d_y_transposed, Matrix::new(x, rows, inputs), Update::Accumulate, d_weight);
    if let Some(d_bias) = d_bias {
        cpu.run(|| {
            d_bias.par_chunks_mut(BIAS_CHUNK).enumerate().for_each(|(chunk, d_bias)| {
                add_column_sums(d_y, outputs, chunk * BIAS_CHUNK, d_bias);
            });
        });
    }
}

/// sums[j] += Σ over rows of matrix[row, first + j].
fn add_column_sums<T: Number>(matrix: &[T], columns: usize, first: usize, sums: &mut [f32]) {
    vectorize!(|| {
        let mut totals = [0.0f32; BIAS_CHUNK];
        for row in matrix.chunks_exact(columns) {
            for (total, value) in totals.iter_mut().zip(&row[first..first + sums.len()]) {
                *total += value.to_f32();
            }
        }
        for (sum, total) in sums.iter_mut().zip(totals) {
            *sum += total;
        }
    });
}
