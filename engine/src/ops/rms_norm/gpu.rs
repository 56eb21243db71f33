//! RMSNorm on a GPU: the kernels for short, middle or long rows.

use cpift_kernels::rms_norm::*;

use super::{ResidualOutputs, Saved, Shape};
use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory, narrow};

/// The one that rows of so many columns need.
fn by_columns<K: Copy>(columns: u32, [short, middle, long]: [K; 3]) -> K {
    match u64::from(columns) {
        columns if columns <= SHORT => short,
        columns if columns <= MIDDLE => middle,
        _ => long,
    }
}

pub fn forward(
    gpu: &GpuDevice,
    shape: &Shape,
    input: View<'_, f32>,
    weight: View<'_, f32>,
    output: ViewMut<'_, f32>,
    inverse_rms: ViewMut<'_, f32>,
) -> Result<()> {
    let columns = narrow("rms_norm", "hidden", shape.hidden)?;
    let kernel = by_columns(columns, [rms_norm_short_f32, rms_norm_middle_f32, rms_norm_long_f32]);
    kernel(
        gpu.launcher(),
        input.on(gpu),
        weight.on(gpu),
        output.on(gpu),
        inverse_rms.on(gpu),
        shape.rows as u64,
        columns,
        shape.epsilon,
    )?;
    Ok(())
}

pub fn forward_residual(
    gpu: &GpuDevice,
    shape: &Shape,
    residual: View<'_, f32>,
    delta: View<'_, f32>,
    weight: View<'_, f32>,
    outputs: ResidualOutputs<'_>,
) -> Result<()> {
    let columns = narrow("rms_norm with residual", "hidden", shape.hidden)?;
    let kernel = by_columns(
        columns,
        [rms_norm_residual_short_f32, rms_norm_residual_middle_f32, rms_norm_residual_long_f32],
    );
    kernel(
        gpu.launcher(),
        residual.on(gpu),
        delta.on(gpu),
        weight.on(gpu),
        outputs.sum.on(gpu),
        outputs.output.on(gpu),
        outputs.inverse_rms.on(gpu),
        shape.rows as u64,
        columns,
        shape.epsilon,
    )?;
    Ok(())
}

pub fn backward(
    gpu: &GpuDevice,
    shape: &Shape,
    saved: Saved<'_>,
    d_output: View<'_, f32>,
    d_input: ViewMut<'_, f32>,
    d_weight: ViewMut<'_, f32>,
) -> Result<()> {
    if shape.rows == 0 {
        return Ok(());
    }
    let columns = narrow("rms_norm backward", "hidden", shape.hidden)?;
    let blocks = backward_blocks(shape.rows as u64, u64::from(columns));
    let mut partials = GpuMemory::zeros(gpu, blocks as usize * shape.hidden)?;
    let kernel = by_columns(
        columns,
        [rms_norm_backward_short_f32, rms_norm_backward_middle_f32, rms_norm_backward_long_f32],
    );
    kernel(
        gpu.launcher(),
        saved.input.on(gpu),
        saved.weight.on(gpu),
        saved.inverse_rms.on(gpu),
        d_output.on(gpu),
        d_input.on(gpu),
        partials.all_mut().argument(),
        shape.rows as u64,
        columns,
        blocks,
    )?;
    let partials = partials.all().argument();
    rms_norm_weight_gradient(gpu.launcher(), partials, d_weight.on(gpu), columns, blocks)?;
    Ok(())
}
