//! The linear layer on a GPU: one product each, which adds the bias and what is accumulated on its way out.

use cpift_kernels::dispatch::gemm::GemmElement;
use cpift_kernels::gemm::gemm_column_sums;

use super::Shape;
use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::{GpuDevice, products};
use crate::number::Number;

pub fn forward<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    x: View<'_, T>,
    weight: View<'_, T>,
    bias: Option<View<'_, T>>,
    y: ViewMut<'_, T>,
) -> Result<()> {
    let sizes = [shape.rows, shape.outputs, shape.inputs].map(|size| size as u64);
    let bias = bias.map(|bias| bias.on(gpu));
    Ok(T::Kernel::gemm_nt(gpu.launcher(), x.on(gpu), weight.on(gpu), bias, y.on(gpu), sizes)?)
}

pub fn forward_unrounded<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    x: View<'_, T>,
    weight: View<'_, T>,
    y: ViewMut<'_, f32>,
) -> Result<()> {
    let sizes = [shape.rows, shape.outputs, shape.inputs].map(|size| size as u64);
    Ok(T::Kernel::gemm_nt_unrounded(gpu.launcher(), x.on(gpu), weight.on(gpu), y.on(gpu), sizes)?)
}

pub fn backward_input<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    d_y: View<'_, T>,
    weight: View<'_, T>,
    d_x: ViewMut<'_, T>,
    accumulate: bool,
) -> Result<()> {
    let sizes = [shape.rows, shape.inputs, shape.outputs].map(|size| size as u64);
    products::multiply::<T::Kernel>(gpu, [d_y.on(gpu), weight.on(gpu)], d_x.on(gpu), sizes, accumulate)
}

pub fn backward_weight<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    d_y: View<'_, T>,
    x: View<'_, T>,
    d_weight: ViewMut<'_, f32>,
    d_bias: Option<ViewMut<'_, f32>>,
) -> Result<()> {
    let sizes @ [outputs, _, rows] = [shape.outputs, shape.inputs, shape.rows].map(|size| size as u64);
    products::add_transposed::<T::Kernel>(gpu, [d_y.on(gpu), x.on(gpu)], d_weight.on(gpu), sizes)?;
    if let Some(d_bias) = d_bias {
        gemm_column_sums(gpu.launcher(), d_y.on(gpu), d_bias.on(gpu), rows, outputs)?;
    }
    Ok(())
}
