use cpift_kernels::elementwise::round_f32_to_bf16;
use half::bf16;

use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::GpuDevice;

pub fn to_bf16(gpu: &GpuDevice, source: View<'_, f32>, target: ViewMut<'_, bf16>) -> Result<()> {
    let count = source.len() as u64;
    Ok(round_f32_to_bf16(gpu.launcher(), source.on(gpu), target.on(gpu), count)?)
}
