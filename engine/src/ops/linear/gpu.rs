//! The linear layer on a GPU: one product each, which adds the bias and what is accumulated on its way out.

use cpift_kernels::gemm::{column_sums_f32, gemm_nn_f32, gemm_nt_f32, gemm_tn_f32};

use super::Shape;
use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::GpuDevice;

pub fn forward(
    gpu: &GpuDevice,
    shape: &Shape,
    x: View<'_, f32>,
    weight: View<'_, f32>,
    bias: Option<View<'_, f32>>,
    y: ViewMut<'_, f32>,
) -> Result<()> {
    let sizes = [shape.rows, shape.outputs, shape.inputs].map(|size| size as u64);
    let bias = bias.map(|bias| bias.on(gpu));
    Ok(gemm_nt_f32(gpu.launcher(), x.on(gpu), weight.on(gpu), bias, y.on(gpu), sizes)?)
}

pub fn backward_input(
    gpu: &GpuDevice,
    shape: &Shape,
    d_y: View<'_, f32>,
    weight: View<'_, f32>,
    d_x: ViewMut<'_, f32>,
    accumulate: bool,
) -> Result<()> {
    let sizes = [shape.rows, shape.inputs, shape.outputs].map(|size| size as u64);
    Ok(gemm_nn_f32(gpu.launcher(), d_y.on(gpu), weight.on(gpu), d_x.on(gpu), sizes, accumulate)?)
}

pub fn backward_weight(
    gpu: &GpuDevice,
    shape: &Shape,
    d_y: View<'_, f32>,
    x: View<'_, f32>,
    d_weight: ViewMut<'_, f32>,
    d_bias: Option<ViewMut<'_, f32>>,
) -> Result<()> {
    let sizes @ [outputs, _, rows] = [shape.outputs, shape.inputs, shape.rows].map(|size| size as u64);
    gemm_tn_f32(gpu.launcher(), d_y.on(gpu), x.on(gpu), d_weight.on(gpu), sizes)?;
    if let Some(d_bias) = d_bias {
        column_sums_f32(gpu.launcher(), d_y.on(gpu), d_bias.on(gpu), rows, outputs)?;
    }
    Ok(())
}
