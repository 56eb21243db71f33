//! RMSNorm on a GPU: the kernels for short, middle or long rows.

use cpift_kernels::rms_norm::*;

use super::{BackwardInputs, ResidualOutputs, Shape};
use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory, narrow};
use crate::number::Number;

/// The one that rows of so many columns need.
fn by_columns<K: Copy>(columns: u32, [short, middle, long]: [K; 3]) -> K {
    match u64::from(columns) {
        columns if columns <= SHORT => short,
        columns if columns <= MIDDLE => middle,
        _ => long,
    }
}

pub fn forward<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    input: View<'_, T>,
    weight: View<'_, T>,
    output: ViewMut<'_, T>,
    inverse_rms: ViewMut<'_, f32>,
) -> Result<()> {
    let columns = narrow("rms_norm", "hidden", shape.hidden)?;
    let kernel = by_columns(columns, [rms_norm_short, rms_norm_middle, rms_norm_long]);
    kernel(
        gpu.launcher(),
        input.on(gpu),
        weight.on(gpu),
        output.on(gpu),
        inverse_rms.on(gpu),
        shape.rows as u64,
        columns,
        shape.epsilon,
        shape.weight_offset,
    )?;
    Ok(())
}

pub fn forward_residual<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    residual: View<'_, T>,
    delta: View<'_, T>,
    weight: View<'_, T>,
    outputs: ResidualOutputs<'_, T>,
) -> Result<()> {
    let columns = narrow("rms_norm with residual", "hidden", shape.hidden)?;
    let kernel =
        by_columns(columns, [rms_norm_residual_short, rms_norm_residual_middle, rms_norm_residual_long]);
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
        shape.weight_offset,
    )?;
    Ok(())
}

/// Sums for the weight's gradient that the blocks of the backward leave.
pub fn partial_sums(shape: &Shape) -> usize {
    backward_blocks(shape.rows as u64, shape.hidden as u64) as usize * shape.hidden
}

pub fn backward<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    saved: BackwardInputs<'_, T>,
    d_output: View<'_, T>,
    d_input: ViewMut<'_, T>,
    d_weight: ViewMut<'_, f32>,
) -> Result<()> {
    if shape.rows == 0 {
        return Ok(());
    }
    let columns = narrow("rms_norm backward", "hidden", shape.hidden)?;
    let blocks = backward_blocks(shape.rows as u64, u64::from(columns));
    let mut partials = GpuMemory::<f32>::scratch(gpu, partial_sums(shape))?;
    let kernel =
        by_columns(columns, [rms_norm_backward_short, rms_norm_backward_middle, rms_norm_backward_long]);
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
        shape.weight_offset,
    )?;
    let partials = partials.all().argument();
    rms_norm_weight_gradient(gpu.launcher(), partials, d_weight.on(gpu), columns, blocks)?;
    Ok(())
}
