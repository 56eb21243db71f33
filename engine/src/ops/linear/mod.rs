//! Linear layer: y = x·Wᵀ + b, with W as checkpoints store it, `[outputs, inputs]` row-major.
//!
//! N = rows (tokens), I = inputs, O = outputs. Each direction is one matrix product of 2·N·I·O flops.

mod cpu;
mod gpu;

pub use cpu::OnCpu;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check_length};
use crate::ops::work::Work;

/// Sizes of a linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Rows of x and y (N), tokens as a rule.
    pub rows: usize,
    /// Elements of a row of x (I).
    pub inputs: usize,
    /// Elements of a row of y (O).
    pub outputs: usize,
}

/// y = x·Wᵀ + b.
///
/// `x` `[N, I]`, `weight` `[O, I]`, `bias` `[O]`; `y` `[N, O]` is overwritten.
///
/// # Errors
/// When a length does not fit the shape.
pub fn forward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    x: View<T>,
    weight: View<T>,
    bias: Option<View<T>>,
    y: ViewMut<T>,
) -> Result<()> {
    const OP: &str = "linear forward";
    check_length(OP, "x", x.len(), shape.rows * shape.inputs)?;
    check_length(OP, "weight", weight.len(), shape.outputs * shape.inputs)?;
    if let Some(bias) = bias {
        check_length(OP, "bias", bias.len(), shape.outputs)?;
    }
    check_length(OP, "y", y.len(), shape.rows * shape.outputs)?;
    match device {
        Device::Gpu(gpu) => gpu::forward(gpu, shape, x, weight, bias, y)?,
        Device::Cpu(cpu) => {
            let bias = bias.map(|bias| bias.host());
            T::forward(cpu, shape, x.host(), weight.host(), bias, y.host());
        }
    }
    Ok(())
}

/// y = x·Wᵀ in f32, whatever the precision: logits.
///
/// `x` `[N, I]`, `weight` `[O, I]`; `y` `[N, O]` is overwritten. No backward: what is learnt from logits is
/// [`cross_entropy`](super::cross_entropy)'s.
///
/// # Errors
/// When a length does not fit the shape.
pub fn forward_unrounded<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    x: View<T>,
    weight: View<T>,
    y: ViewMut<f32>,
) -> Result<()> {
    const OP: &str = "linear forward_unrounded";
    check_length(OP, "x", x.len(), shape.rows * shape.inputs)?;
    check_length(OP, "weight", weight.len(), shape.outputs * shape.inputs)?;
    check_length(OP, "y", y.len(), shape.rows * shape.outputs)?;
    match device {
        Device::Gpu(gpu) => gpu::forward_unrounded(gpu, shape, x, weight, y)?,
        Device::Cpu(cpu) => T::forward_unrounded(cpu, shape, x.host(), weight.host(), y.host()),
    }
    Ok(())
}

/// Gradient with respect to x: d_x = d_y·W, added to what `d_x` holds when `accumulate`.
///
/// `d_y` `[N, O]`, `weight` `[O, I]`, `d_x` `[N, I]`.
///
/// # Errors
/// When a length does not fit the shape.
pub fn backward_input<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    d_y: View<T>,
    weight: View<T>,
    d_x: ViewMut<T>,
    accumulate: bool,
) -> Result<()> {
    const OP: &str = "linear backward_input";
    check_length(OP, "d_y", d_y.len(), shape.rows * shape.outputs)?;
    check_length(OP, "weight", weight.len(), shape.outputs * shape.inputs)?;
    check_length(OP, "d_x", d_x.len(), shape.rows * shape.inputs)?;
    match device {
        Device::Gpu(gpu) => gpu::backward_input(gpu, shape, d_y, weight, d_x, accumulate)?,
        Device::Cpu(cpu) => {
            T::backward_input(cpu, shape, d_y.host(), weight.host(), d_x.host(), accumulate);
        }
    }
    Ok(())
}

/// Gradients with respect to the parameters: d_weight += d_yᵀ·x and d_bias += Σ over rows of d_y.
///
/// `d_y` `[N, O]`, `x` `[N, I]`, `d_weight` `[O, I]`, `d_bias` `[O]`; both gradients accumulate.
///
/// # Errors
/// When a length does not fit the shape.
pub fn backward_weight<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    d_y: View<T>,
    x: View<T>,
    d_weight: ViewMut<f32>,
    d_bias: Option<ViewMut<f32>>,
) -> Result<()> {
    const OP: &str = "linear backward_weight";
    check_length(OP, "d_y", d_y.len(), shape.rows * shape.outputs)?;
    check_length(OP, "x", x.len(), shape.rows * shape.inputs)?;
    check_length(OP, "d_weight", d_weight.len(), shape.outputs * shape.inputs)?;
    if let Some(d_bias) = &d_bias {
        check_length(OP, "d_bias", d_bias.len(), shape.outputs)?;
    }
    match device {
        Device::Gpu(gpu) => gpu::backward_weight(gpu, shape, d_y, x, d_weight, d_bias)?,
        Device::Cpu(cpu) => {
            let d_bias = d_bias.map(ViewMut::host);
            T::backward_weight(cpu, shape, d_y.host(), x.host(), d_weight.host(), d_bias);
        }
    }
    Ok(())
}

impl Shape {
    /// Work of [`forward`] without a bias.
    pub fn forward_work(&self, element: usize) -> Work {
        let [x, weight, y] = self.elements();
        Work::new((x + weight + y) * element, self.flops())
    }

    /// Work of [`backward_input`] that overwrites.
    pub fn input_work(&self, element: usize) -> Work {
        self.forward_work(element)
    }

    /// Work of [`backward_weight`] without a bias: the gradient is read and written.
    pub fn weight_work(&self, element: usize) -> Work {
        let [x, weight, y] = self.elements();
        Work::new((x + y) * element + 8 * weight, self.flops())
    }

    /// Elements of x, the weight and y.
    fn elements(&self) -> [usize; 3] {
        [self.rows * self.inputs, self.outputs * self.inputs, self.rows * self.outputs]
    }

    fn flops(&self) -> usize {
        2 * self.rows * self.inputs * self.outputs
    }
}
