//! The gate of the MLP on a GPU.

use cpift_kernels::gated_mlp::{gated_mlp_backward_f32, gated_mlp_f32};

use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::GpuDevice;

pub fn forward(
    gpu: &GpuDevice,
    gate: View<'_, f32>,
    up: View<'_, f32>,
    activation: ViewMut<'_, f32>,
) -> Result<()> {
    let count = gate.len() as u64;
    gated_mlp_f32(gpu.launcher(), gate.on(gpu), up.on(gpu), activation.on(gpu), count)?;
    Ok(())
}

pub fn backward(
    gpu: &GpuDevice,
    gate: ViewMut<'_, f32>,
    up: ViewMut<'_, f32>,
    activation: ViewMut<'_, f32>,
) -> Result<()> {
    let count = gate.len() as u64;
    gated_mlp_backward_f32(gpu.launcher(), gate.on(gpu), up.on(gpu), activation.on(gpu), count)?;
    Ok(())
}
