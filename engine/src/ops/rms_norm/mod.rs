//! RMSNorm: `output = x · r · w` with `r = 1 / sqrt(mean(x²) + epsilon)`, per row, and `w = weight_offset + weight`:
//! Gemma keeps w − 1 as its weight, others w itself.
//!
//! `r` is kept (one f32 a row); the output can be computed again from it, so the backward needs only
//! the input. Also the QK-norm of Qwen3, where a row is one head of one token.
//!
//! With g = d_output · w (elementwise) and m = mean(g · x), per row
//! `d_x += r (g − x r² m)`, and over all rows `d_weight += Σ d_output · x · r`.
//!
//! # What is fused, and what is not
//! N rows, C hidden, 2 bytes an element on a GPU. The addition of the residual stream is fused with the norm behind
//! it ([`forward_residual`]): 8·N·C bytes instead of 10·N·C in two passes. Two more fusions do not pay:
//!
//! - The addition in the epilogue of the product before: product and norm then move 8·N·C instead of 10·N·C, which
//!   for 8192 tokens of Qwen2.5-7B is 17 µs twice a layer of 19 ms.
//! - The norm in the next product's reading of x, which would save 4·N·C, 35 µs there: operands come to shared
//!   memory by copies that pass no register, where nothing can be multiplied on the way.
//!
//! These are counts at an H100's 3.35 TB/s and 600 TFLOP/s, not measurements.

mod cpu;
mod gpu;

pub use cpu::OnCpu;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check, check_length};
use crate::number::Number;
use crate::ops::work::Work;

/// Sizes of a norm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Rows, each normalised by itself.
    pub rows: usize,
    /// Elements of a row.
    pub hidden: usize,
    /// Added to the mean square.
    pub epsilon: f32,
    /// Added to every weight: 1 in Gemma, 0 elsewhere.
    pub weight_offset: f32,
}

impl Shape {
    /// What every pass must fulfil: rows that have elements, and these three of the right length.
    fn check(
        &self,
        op: &'static str,
        weight: usize,
        rows: (&'static str, usize),
        inverse_rms: usize,
    ) -> Result<()> {
        check(op, self.hidden > 0, || "rows have no elements".to_owned())?;
        check_length(op, "weight", weight, self.hidden)?;
        check_length(op, rows.0, rows.1, self.elements())?;
        check_length(op, "inverse_rms", inverse_rms, self.rows)
    }

    fn elements(&self) -> usize {
        self.rows * self.hidden
    }
}

/// What [`backward`] reads.
#[derive(Debug, Clone, Copy)]
pub struct BackwardInputs<'a, T: Number> {
    /// The forward's input `[rows, hidden]`.
    pub input: View<'a, T>,
    /// The norm's weight `[hidden]`.
    pub weight: View<'a, T>,
    /// r of every row `[rows]`, as the forward wrote it.
    pub inverse_rms: View<'a, f32>,
}

/// Normalises `input` `[rows, hidden]` into `output`, and writes r to `inverse_rms` `[rows]`.
/// One read and one write of the rows.
///
/// # Errors
/// Lengths that do not fit the shape.
pub fn forward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    input: View<'_, T>,
    weight: View<'_, T>,
    output: ViewMut<'_, T>,
    inverse_rms: ViewMut<'_, f32>,
) -> Result<()> {
    const OP: &str = "rms_norm";
    shape.check(OP, weight.len(), ("output", output.len()), inverse_rms.len())?;
    check_length(OP, "input", input.len(), shape.elements())?;
    match device {
        Device::Gpu(gpu) => gpu::forward(gpu, shape, input, weight, output, inverse_rms)?,
        Device::Cpu(cpu) => {
            let (input, weight, output) = (input.host(), weight.host(), output.host());
            T::forward(cpu, shape, input, weight, output, inverse_rms.host());
        }
    }
    Ok(())
}

/// What [`forward_residual`] writes.
#[derive(Debug)]
pub struct ResidualOutputs<'a, T: Number> {
    /// residual + delta `[rows, hidden]`.
    pub sum: ViewMut<'a, T>,
    /// The normalised sum `[rows, hidden]`.
    pub output: ViewMut<'a, T>,
    /// r of every row `[rows]`.
    pub inverse_rms: ViewMut<'a, f32>,
}

/// [`forward`] of `residual + delta` (both `[rows, hidden]`), keeping the sum: the residual add costs no
/// pass of its own.
///
/// # Errors
/// Lengths that do not fit the shape.
pub fn forward_residual<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    residual: View<'_, T>,
    delta: View<'_, T>,
    weight: View<'_, T>,
    outputs: ResidualOutputs<'_, T>,
) -> Result<()> {
    const OP: &str = "rms_norm with residual";
    shape.check(OP, weight.len(), ("output", outputs.output.len()), outputs.inverse_rms.len())?;
    check_length(OP, "residual", residual.len(), shape.elements())?;
    check_length(OP, "delta", delta.len(), shape.elements())?;
    check_length(OP, "sum", outputs.sum.len(), shape.elements())?;
    match device {
        Device::Gpu(gpu) => gpu::forward_residual(gpu, shape, residual, delta, weight, outputs)?,
        Device::Cpu(cpu) => T::forward_residual(
            cpu,
            shape,
            residual.host(),
            delta.host(),
            weight.host(),
            cpu::HostOutputs {
                sum: outputs.sum.host(),
                output: outputs.output.host(),
                inverse_rms: outputs.inverse_rms.host(),
            },
        ),
    }
    Ok(())
}

/// Adds the gradients to `d_input` `[rows, hidden]` and `d_weight` `[hidden]`. Two reads of `input` and
/// `d_output`, one read and write of `d_input`.
///
/// # Errors
/// Lengths that do not fit the shape.
pub fn backward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    saved: BackwardInputs<'_, T>,
    d_output: View<'_, T>,
    d_input: ViewMut<'_, T>,
    d_weight: ViewMut<'_, f32>,
) -> Result<()> {
    const OP: &str = "rms_norm backward";
    shape.check(OP, saved.weight.len(), ("input", saved.input.len()), saved.inverse_rms.len())?;
    check_length(OP, "d_output", d_output.len(), shape.elements())?;
    check_length(OP, "d_input", d_input.len(), shape.elements())?;
    check_length(OP, "d_weight", d_weight.len(), shape.hidden)?;
    match device {
        Device::Gpu(gpu) => gpu::backward(gpu, shape, saved, d_output, d_input, d_weight)?,
        Device::Cpu(cpu) => {
            let (input, weight, inverse_rms) =
                (saved.input.host(), saved.weight.host(), saved.inverse_rms.host());
            let (d_output, d_input) = (d_output.host(), d_input.host());
            cpu.run(|| {
                T::backward_weight(shape, input, inverse_rms, d_output, d_weight.host());
                T::backward_input(
                    shape,
                    cpu::HostBackwardInputs { input, weight, inverse_rms },
                    d_output,
                    d_input,
                );
            });
        }
    }
    Ok(())
}

impl Shape {
    /// Work of [`forward`].
    pub fn forward_work(&self, element: usize) -> Work {
        let bytes = (2 * self.elements() + self.hidden) * element + 4 * self.rows;
        Work::new(bytes, 4 * self.elements())
    }

    /// Work of [`forward_residual`].
    pub fn residual_work(&self, element: usize) -> Work {
        let bytes = (4 * self.elements() + self.hidden) * element + 4 * self.rows;
        Work::new(bytes, 5 * self.elements())
    }

    /// Work of [`backward`], in one pass; on a GPU its blocks leave sums of their own for the weight's gradient,
    /// which another kernel reads.
    pub fn backward_work(&self, on_gpu: bool, element: usize) -> Work {
        let bytes = (4 * self.elements() + self.hidden) * element + 4 * self.rows + 8 * self.hidden;
        let sums = if on_gpu { gpu::partial_sums(self) } else { 0 };
        Work::new(bytes + 8 * sums, 10 * self.elements())
    }
}
