//! The gate of the MLP on a GPU.

use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::{GpuDevice, Kernels};
use crate::real::Real;

pub fn forward<T: Real>(
    gpu: &GpuDevice,
    gate: View<'_, T>,
    up: View<'_, T>,
    activation: ViewMut<'_, T>,
) -> Result<()> {
    let count = gate.len() as u64;
    T::Kernel::GATED_MLP(gpu.launcher(), gate.on(gpu), up.on(gpu), activation.on(gpu), count)?;
    Ok(())
}

pub fn backward<T: Real>(
    gpu: &GpuDevice,
    gate: ViewMut<'_, T>,
    up: ViewMut<'_, T>,
    activation: ViewMut<'_, T>,
) -> Result<()> {
    let count = gate.len() as u64;
    T::Kernel::GATED_MLP_BACKWARD(gpu.launcher(), gate.on(gpu), up.on(gpu), activation.on(gpu), count)?;
    Ok(())
}
