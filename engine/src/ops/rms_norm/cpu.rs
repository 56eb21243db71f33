//! RMSNorm on the CPU.

use rayon::prelude::*;

use super::Shape;
use crate::cpu::rows_per_chunk;
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::number::{Number, on_cpu};

on_cpu! {
    /// Types that the norm computes in.
    fn forward = forward(
        cpu: &CpuDevice,
        shape: &Shape,
        input: &[Self],
        weight: &[Self],
        output: &mut [Self],
        inverse_rms: &mut [f32],
    );
    fn forward_residual = forward_residual(
        cpu: &CpuDevice,
        shape: &Shape,
        residual: &[Self],
        delta: &[Self],
        weight: &[Self],
        outputs: HostOutputs<'_, Self>,
    );
    fn backward_input = backward_input(
        shape: &Shape,
        saved: HostBackwardInputs<'_, Self>,
        d_output: &[Self],
        d_input: &mut [Self],
    );
    fn backward_weight = backward_weight(
        shape: &Shape,
        input: &[Self],
        inverse_rms: &[f32],
        d_output: &[Self],
        d_weight: &mut [f32],
    );
}

/// Partial sums kept side by side, so that a row's sum is vectorised in a fixed order.
const LANES: usize = 16;
/// Columns of the weight's gradient that a task sums: of bf16, a cache line.
const COLUMNS: usize = 32;

pub struct HostOutputs<'a, T> {
    pub sum: &'a mut [T],
    pub output: &'a mut [T],
    pub inverse_rms: &'a mut [f32],
}

#[derive(Clone, Copy)]
pub struct HostBackwardInputs<'a, T> {
    pub input: &'a [T],
    pub weight: &'a [T],
    pub inverse_rms: &'a [f32],
}

pub fn forward<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    input: &[T],
    weight: &[T],
    output: &mut [T],
    inverse_rms: &mut [f32],
) {
    let hidden = shape.hidden;
    let rows = rows_per_chunk(hidden);
    cpu.run(|| {
        let outputs = output.par_chunks_mut(rows * hidden).zip(inverse_rms.par_chunks_mut(rows));
        input.par_chunks(rows * hidden).zip(outputs).for_each(|(input, (output, inverse_rms))| {
            vectorize!(|| {
                let rows = input.chunks_exact(hidden).zip(output.chunks_exact_mut(hidden));
                for ((input, output), inverse_rms) in rows.zip(inverse_rms) {
                    *inverse_rms = normalise(shape, input, weight, output);
                }
            });
        });
    });
}

pub fn forward_residual<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    residual: &[T],
    delta: &[T],
    weight: &[T],
    outputs: HostOutputs<'_, T>,
) {
    let hidden = shape.hidden;
    let rows = rows_per_chunk(hidden);
    let HostOutputs { sum, output, inverse_rms } = outputs;
    cpu.run(|| {
        let inputs = residual.par_chunks(rows * hidden).zip(delta.par_chunks(rows * hidden));
        let sums = sum.par_chunks_mut(rows * hidden).zip(inputs);
        let outputs = output.par_chunks_mut(rows * hidden).zip(inverse_rms.par_chunks_mut(rows));
        sums.zip(outputs).for_each(|((sum, (residual, delta)), (output, inverse_rms))| {
            vectorize!(|| {
                for ((sum, residual), delta) in sum.iter_mut().zip(residual).zip(delta) {
                    *sum = T::from_f32(residual.to_f32() + delta.to_f32());
                }
                let rows = sum.chunks_exact(hidden).zip(output.chunks_exact_mut(hidden));
                for ((sum, output), inverse_rms) in rows.zip(inverse_rms) {
                    *inverse_rms = normalise(shape, sum, weight, output);
                }
            });
        });
    });
}

/// One row; returns r.
#[inline(always)]
fn normalise<T: Number>(shape: &Shape, input: &[T], weight: &[T], output: &mut [T]) -> f32 {
    let mean_square = dot(input, input) / shape.hidden as f64;
    let inverse_rms = (1.0 / (mean_square + f64::from(shape.epsilon)).sqrt()) as f32;
    for ((output, x), weight) in output.iter_mut().zip(input).zip(weight) {
        *output = T::from_f32(x.to_f32() * inverse_rms * (shape.weight_offset + weight.to_f32()));
    }
    inverse_rms
}

pub fn backward_input<T: Number>(
    shape: &Shape,
    saved: HostBackwardInputs<'_, T>,
    d_output: &[T],
    d_input: &mut [T],
) {
    let hidden = shape.hidden;
    let rows = rows_per_chunk(hidden);
    let inputs = saved.input.par_chunks(rows * hidden).zip(saved.inverse_rms.par_chunks(rows));
    let gradients = d_input.par_chunks_mut(rows * hidden).zip(d_output.par_chunks(rows * hidden));
    gradients.zip(inputs).for_each(|((d_input, d_output), (input, inverse_rms))| {
        vectorize!(|| {
            let gradients = d_input.chunks_exact_mut(hidden).zip(d_output.chunks_exact(hidden));
            let inputs = input.chunks_exact(hidden).zip(inverse_rms);
            for ((d_input, d_output), (input, &inverse_rms)) in gradients.zip(inputs) {
                let mean = weighted_dot(shape, d_output, saved.weight, input) / hidden as f64;
                let pull = (f64::from(inverse_rms).powi(2) * mean) as f32;
                let weighted = d_output.iter().zip(saved.weight);
                for ((d_input, x), (d_output, weight)) in d_input.iter_mut().zip(input).zip(weighted) {
                    let gradient = d_output.to_f32() * (shape.weight_offset + weight.to_f32());
                    let change = inverse_rms * (gradient - x.to_f32() * pull);
                    *d_input = T::from_f32(d_input.to_f32() + change);
                }
            }
        });
    });
}

/// Every task owns `COLUMNS` columns and walks all rows: no partial sums to keep, and one order whatever
/// the number of threads.
pub fn backward_weight<T: Number>(
    shape: &Shape,
    input: &[T],
    inverse_rms: &[f32],
    d_output: &[T],
    d_weight: &mut [f32],
) {
    let hidden = shape.hidden;
    d_weight.par_chunks_mut(COLUMNS).enumerate().for_each(|(chunk, d_weight)| {
        let column = chunk * COLUMNS;
        vectorize!(|| {
            if d_weight.len() == COLUMNS {
                add_columns::<T, COLUMNS>(hidden, column, input, inverse_rms, d_output, d_weight);
            } else {
                for (lane, d_weight) in d_weight.chunks_exact_mut(1).enumerate() {
                    add_columns::<T, 1>(hidden, column + lane, input, inverse_rms, d_output, d_weight);
                }
            }
        });
    });
}

/// Adds Σ over rows of d_output · x · r for `WIDTH` columns from `column` on.
#[inline(always)]
fn add_columns<T: Number, const WIDTH: usize>(
    hidden: usize,
    column: usize,
    input: &[T],
    inverse_rms: &[f32],
    d_output: &[T],
    d_weight: &mut [f32],
) {
    // f32 inside a block of rows, f64 across blocks: as fast as f32, and long batches lose nothing.
    const BLOCK: usize = 64;
    let mut total = [0.0f64; WIDTH];
    for (block, inverse_rms) in inverse_rms.chunks(BLOCK).enumerate() {
        let mut partial = [0.0f32; WIDTH];
        for (row, &inverse_rms) in inverse_rms.iter().enumerate() {
            let start = (block * BLOCK + row) * hidden + column;
            let input = &input[start..start + WIDTH];
            let d_output = &d_output[start..start + WIDTH];
            for lane in 0..WIDTH {
                partial[lane] += d_output[lane].to_f32() * (input[lane].to_f32() * inverse_rms);
            }
        }
        for lane in 0..WIDTH {
            total[lane] += f64::from(partial[lane]);
        }
    }
    for lane in 0..WIDTH {
        d_weight[lane] += total[lane] as f32;
    }
}

#[inline(always)]
fn dot<T: Number>(left: &[T], right: &[T]) -> f64 {
    let mut lanes = [0.0f32; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            lanes[lane] = left[lane].to_f32().mul_add(right[lane].to_f32(), lanes[lane]);
        }
    }
    let rest: f64 =
        left_rest.iter().zip(right_rest).map(|(l, r)| f64::from(l.to_f32()) * f64::from(r.to_f32())).sum();
    lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + rest
}

/// Σ d_output · (weight_offset + weight) · input.
#[inline(always)]
fn weighted_dot<T: Number>(shape: &Shape, d_output: &[T], weight: &[T], input: &[T]) -> f64 {
    let offset = shape.weight_offset;
    let mut lanes = [0.0f32; LANES];
    let (d_output, d_output_rest) = d_output.as_chunks::<LANES>();
    let (weight, weight_rest) = weight.as_chunks::<LANES>();
    let (input, input_rest) = input.as_chunks::<LANES>();
    for ((d_output, weight), input) in d_output.iter().zip(weight).zip(input) {
        for lane in 0..LANES {
            let gradient = d_output[lane].to_f32() * (offset + weight[lane].to_f32());
            lanes[lane] = gradient.mul_add(input[lane].to_f32(), lanes[lane]);
        }
    }
    let rest = d_output_rest.iter().zip(weight_rest).zip(input_rest);
    let term = |((d_output, weight), input): ((&T, &T), &T)| {
        f64::from(d_output.to_f32()) * f64::from(offset + weight.to_f32()) * f64::from(input.to_f32())
    };
    let rest: f64 = rest.map(term).sum();
    lanes.iter().map(|&lane| f64::from(lane)).sum::<f64>() + rest
}
