//! GPU: partial sums by block, then their sum, read back.

use cpift_kernels::norm::{partial_count, squared_norm_partials, squared_norm_partials_frozen, sum_partials};

use crate::buffer::View;
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory};
use crate::mask::Mask;

pub(super) fn squared_norm(gpu: &GpuDevice, gradient: View<'_, f32>, frozen: Option<&Mask>) -> Result<f64> {
    let count = gradient.len() as u64;
    let parts = partial_count(count);
    let mut partials = GpuMemory::<f64>::zeros(gpu, parts as usize)?;
    let mut sum = GpuMemory::<f64>::zeros(gpu, 1)?;
    let (gradient, target) = (gradient.on(gpu), partials.all_mut().argument());
    match frozen {
        None => squared_norm_partials(gpu.launcher(), gradient, target, count)?,
        Some(mask) => squared_norm_partials_frozen(gpu.launcher(), gradient, mask.on(gpu)?, target, count)?,
    }
    sum_partials(gpu.launcher(), partials.all().argument(), sum.all_mut().argument(), parts as u32)?;
    let mut squared = [0.0];
    sum.all().read(&mut squared)?;
    Ok(squared[0])
}
