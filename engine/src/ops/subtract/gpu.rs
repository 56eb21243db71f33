use cpift_kernels::elementwise::subtract_f32;

use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::GpuDevice;

pub(super) fn subtract(gpu: &GpuDevice, target: ViewMut<'_, f32>, other: View<'_, f32>) -> Result<()> {
    let count = target.len() as u64;
    Ok(subtract_f32(gpu.launcher(), target.on(gpu), other.on(gpu), count)?)
}
