//! Attention on a GPU. Kernels take tiles of tokens; which there are is a list made once per batch.

use cpift_kernels::attention::{
    self as kernels, SPLIT, Sizes, TileLists, Tiles, attention_combine, attention_decode,
};
use cpift_kernels::dispatch::attention::AttentionElement;

use super::{BackwardInputs, Cache, Documents, Gradients, Inputs, Shape};
use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory, narrow};
use crate::number::Number;

const OP: &str = "attention on a GPU";

/// The shape as kernels take it.
fn sizes(shape: &Shape, tokens: usize) -> Result<Sizes> {
    Ok(Sizes {
        tokens: narrow(OP, "tokens", tokens)?,
        heads: narrow(OP, "heads", shape.heads)?,
        kv_heads: narrow(OP, "kv_heads", shape.kv_heads)?,
        head_dim: narrow(OP, "head_dim", shape.head_dim)?,
        scale: shape.scale,
        window: shape.window.map_or(u32::MAX, |window| u32::try_from(window.get()).unwrap_or(u32::MAX)),
        softcap: shape.softcap.map_or(0.0, |cap| cap / shape.scale),
    })
}

/// The documents' tiles on the device.
fn tiles<'a>(gpu: &GpuDevice, documents: &'a Documents) -> Result<TileLists<'a>> {
    let all = documents.tiles.get(gpu, || {
        Tiles::new(documents.ranges().map(|range| range.start as u32..range.end as u32)).concat()
    })?;
    let ranges = Tiles::ranges(documents.ranges().map(|range| range.len()));
    Ok(ranges.map(|range| all.slice(range).argument()).into())
}

pub(super) fn forward<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: &Inputs<'_, T>,
    output: ViewMut<'_, T>,
    log_sum_exp: ViewMut<'_, f32>,
) -> Result<()> {
    let sizes = sizes(shape, documents.tokens())?;
    let tiles = tiles(gpu, documents)?;
    let inputs = [inputs.q.on(gpu), inputs.k.on(gpu), inputs.v.on(gpu)];
    let (output, log_sum_exp) = (output.on(gpu), log_sum_exp.on(gpu));
    T::Kernel::forward(gpu.launcher(), sizes, inputs, tiles, output, log_sum_exp)?;
    Ok(())
}

pub(super) fn backward<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: &Inputs<'_, T>,
    outputs: &BackwardInputs<'_, T>,
    gradients: Gradients<'_, T>,
) -> Result<()> {
    let sizes = sizes(shape, documents.tokens())?;
    let tiles = tiles(gpu, documents)?;
    let launcher = gpu.launcher();
    let mut scratch = GpuMemory::<f32>::scratch(gpu, T::Kernel::backward_scratch(launcher, sizes))?;
    let inputs = kernels::BackwardInputs {
        q: inputs.q.on(gpu),
        k: inputs.k.on(gpu),
        v: inputs.v.on(gpu),
        output: outputs.output.on(gpu),
        log_sum_exp: outputs.log_sum_exp.on(gpu),
        d_output: outputs.d_output.on(gpu),
    };
    let Gradients { d_q, d_k, d_v } = gradients;
    let gradients = kernels::Gradients { d_q: d_q.on(gpu), d_k: d_k.on(gpu), d_v: d_v.on(gpu) };
    let scratch = scratch.all_mut().argument();
    T::Kernel::backward(launcher, sizes, inputs, tiles, scratch, gradients)?;
    Ok(())
}

/// Parts that a row of so many tokens is decoded in.
pub(super) fn decode_parts(shape: &Shape, length: u32) -> u32 {
    let window = shape.window.map_or(u32::MAX, |window| u32::try_from(window.get()).unwrap_or(u32::MAX));
    length.min(window).div_ceil(SPLIT)
}

pub(super) fn decode<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    q: View<'_, T>,
    cache: &Cache<'_, T>,
    slot_count: usize,
    output: ViewMut<'_, T>,
) -> Result<()> {
    let Sizes { tokens: rows, heads, kv_heads, head_dim, scale, window, softcap } =
        sizes(shape, cache.slots.len())?;
    let longest = cache.lengths.host().iter().copied().max().unwrap_or(0);
    let parts = decode_parts(shape, longest);
    let count = q.len() / shape.head_dim * parts as usize;
    let mut sums = GpuMemory::<f32>::scratch(gpu, count * shape.head_dim)?;
    let mut statistics = GpuMemory::<f32>::scratch(gpu, 2 * count)?;
    let (slots, lengths) = (cache.slots.device().on(gpu), cache.lengths.device().on(gpu));
    attention_decode(
        gpu.launcher(),
        q.on(gpu),
        cache.k.on(gpu),
        cache.v.on(gpu),
        slots,
        lengths,
        sums.all_mut().argument(),
        statistics.all_mut().argument(),
        rows,
        parts,
        narrow(OP, "slots", slot_count)?,
        narrow(OP, "capacity", cache.capacity)?,
        heads,
        kv_heads,
        head_dim,
        window,
        scale,
        softcap,
    )?;
    let (sums, statistics) = (sums.all().argument(), statistics.all().argument());
    let output = output.on(gpu);
    attention_combine(
        gpu.launcher(),
        sums,
        statistics,
        lengths,
        output,
        rows,
        parts,
        heads,
        head_dim,
        window,
    )?;
    Ok(())
}
