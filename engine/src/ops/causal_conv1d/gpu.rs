//! The convolution on a GPU. Kernels take chunks of tokens; which there are is a list made once per batch.

use cpift_kernels::causal_conv1d::{
    backward_blocks, causal_conv1d, causal_conv1d_backward, causal_conv1d_decode,
};
use cpift_kernels::rms_norm::rms_norm_weight_gradient;

use super::Shape;
use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory, narrow};
use crate::indices::IndexView;
use crate::number::Number;
use crate::ops::attention::Documents;

const OP: &str = "causal_conv1d on a GPU";

impl Shape {
    /// Channels and taps as kernels take them.
    fn numbers(&self) -> Result<[u32; 2]> {
        Ok([narrow(OP, "channels", self.channels)?, narrow(OP, "taps", self.taps)?])
    }
}

pub fn forward<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    documents: &Documents,
    input: View<'_, T>,
    weight: View<'_, T>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    let [channels, taps] = shape.numbers()?;
    let [chunks, _] = documents.chunks(gpu)?;
    causal_conv1d(
        gpu.launcher(),
        chunks.argument(),
        input.on(gpu),
        weight.on(gpu),
        output.on(gpu),
        narrow(OP, "tokens", documents.tokens())?,
        narrow(OP, "chunks", documents.chunk_count())?,
        channels,
        taps,
    )?;
    Ok(())
}

/// Sums for the weight's gradient that the blocks of the backward leave.
pub fn partial_sums(shape: &Shape, documents: &Documents) -> usize {
    backward_blocks(documents.chunk_count()) as usize * shape.channels * shape.taps
}

pub fn backward<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    documents: &Documents,
    (input, weight): (View<'_, T>, View<'_, T>),
    d_output: View<'_, T>,
    (d_input, d_weight): (ViewMut<'_, T>, ViewMut<'_, f32>),
) -> Result<()> {
    if documents.is_empty() {
        return Ok(());
    }
    let [channels, taps] = shape.numbers()?;
    let [chunks, _] = documents.chunks(gpu)?;
    let blocks = backward_blocks(documents.chunk_count());
    let mut partials = GpuMemory::<f32>::scratch(gpu, partial_sums(shape, documents))?;
    causal_conv1d_backward(
        gpu.launcher(),
        chunks.argument(),
        input.on(gpu),
        weight.on(gpu),
        d_output.on(gpu),
        d_input.on(gpu),
        partials.all_mut().argument(),
        narrow(OP, "tokens", documents.tokens())?,
        narrow(OP, "chunks", documents.chunk_count())?,
        channels,
        taps,
        blocks,
    )?;
    // The same sum over blocks as that of a norm's weight, whose columns are all taps.
    let (partials, columns) =
        (partials.all().argument(), narrow(OP, "weights", shape.channels * shape.taps)?);
    rms_norm_weight_gradient(gpu.launcher(), partials, d_weight.on(gpu), columns, blocks)?;
    Ok(())
}

pub fn decode<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    (input, weight): (View<'_, T>, View<'_, T>),
    slots: IndexView<'_>,
    states: ViewMut<'_, T>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    let [channels, taps] = shape.numbers()?;
    let slot_count = states.len().checked_div(shape.state_length()).unwrap_or(0);
    causal_conv1d_decode(
        gpu.launcher(),
        input.on(gpu),
        weight.on(gpu),
        slots.device().on(gpu),
        states.on(gpu),
        output.on(gpu),
        narrow(OP, "rows", slots.len())?,
        narrow(OP, "slots", slot_count)?,
        channels,
        taps,
    )?;
    Ok(())
}
