//! GPU: partial sums by block, then their sum.

use cpift_kernels::norm::{
    norm_clip_scale, norm_squared_partials, norm_squared_partials_bf16, norm_squared_partials_frozen,
    norm_squared_partials_frozen_bf16, norm_sum_partials,
};

use crate::buffer::{Buffer, View, ViewMut};
use crate::device::Device;
use crate::error::Result;
use crate::gpu::GpuDevice;
use crate::mask::Mask;
use crate::ops::gradients::GradientsView;

/// Partial sums of a gradient of `length` elements.
pub(super) fn partial_count(length: usize) -> usize {
    cpift_kernels::norm::partial_count(length as u64) as usize
}

pub(super) fn squared_norm(
    gpu: &GpuDevice,
    gradient: GradientsView<'_>,
    frozen: Option<&Mask>,
) -> Result<f64> {
    let device = Device::Gpu(gpu.clone());
    let mut partials = Buffer::zeros(&device, partial_count(gradient.len()))?;
    let mut sum = Buffer::zeros(&device, 1)?;
    squared_norm_into(gpu, gradient, frozen, partials.view_mut(), sum.view_mut())?;
    Ok(sum.to_vec()?[0])
}

/// Queues Σ g² into `sum` `[1]`.
pub(super) fn squared_norm_into(
    gpu: &GpuDevice,
    gradient: GradientsView<'_>,
    frozen: Option<&Mask>,
    mut partials: ViewMut<'_, f64>,
    sum: ViewMut<'_, f64>,
) -> Result<()> {
    let (count, parts) = (gradient.len() as u64, partials.len() as u32);
    let (launcher, target) = (gpu.launcher(), partials.reborrow().on(gpu));
    let frozen = frozen.map(|mask| mask.on(gpu)).transpose()?;
    match (gradient, frozen) {
        (GradientsView::F32(values), None) => norm_squared_partials(launcher, values.on(gpu), target, count)?,
        (GradientsView::F32(values), Some(frozen)) => {
            norm_squared_partials_frozen(launcher, values.on(gpu), frozen, target, count)?;
        }
        (GradientsView::Bf16(values), None) => {
            norm_squared_partials_bf16(launcher, values.on(gpu), target, count)?;
        }
        (GradientsView::Bf16(values), Some(frozen)) => {
            norm_squared_partials_frozen_bf16(launcher, values.on(gpu), frozen, target, count)?;
        }
    }
    Ok(norm_sum_partials(gpu.launcher(), partials.as_view().on(gpu), sum.on(gpu), parts)?)
}

/// Queues the clip factor of a squared norm into `factor` `[1]`.
pub(super) fn clip(
    gpu: &GpuDevice,
    squared_norm: View<'_, f64>,
    maximum: f64,
    factor: ViewMut<'_, f32>,
) -> Result<()> {
    Ok(norm_clip_scale(gpu.launcher(), squared_norm.on(gpu), factor.on(gpu), maximum, 1.0)?)
}
