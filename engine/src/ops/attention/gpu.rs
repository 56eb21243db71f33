//! Attention on a GPU. Kernels take tiles of tokens; which there are is a list made once per batch.

use cpift_kernels::attention::{AttentionElement, BackwardInputs, QueryTiles, SPLIT, Sizes, Tiles};

use super::{Cache, Documents, Gradients, Inputs, Outputs, Shape};
use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory, GpuSlice, Kernels, narrow};
use crate::real::Real;

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
    })
}

/// The documents' tiles on the device: those of queries, those of keys, wide ones of queries.
fn tiles<'a>(gpu: &GpuDevice, documents: &'a Documents) -> Result<[GpuSlice<'a, u32>; 3]> {
    let all = documents.tiles.get(gpu, || {
        let tiles = Tiles::new(documents.ranges().map(|range| range.start as u32..range.end as u32));
        [tiles.by_queries, tiles.by_keys, tiles.by_wide_queries].concat()
    })?;
    let narrow = Tiles::length(documents.ranges().map(|range| range.len()));
    Ok([all.slice(0..narrow), all.slice(narrow..2 * narrow), all.slice(2 * narrow..all.len())])
}

pub(super) fn forward<T: Real>(
    gpu: &GpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: &Inputs<'_, T>,
    output: ViewMut<'_, T>,
    log_sum_exp: ViewMut<'_, f32>,
) -> Result<()> {
    let sizes = sizes(shape, documents.tokens())?;
    let [narrow, _, wide] = tiles(gpu, documents)?;
    let tiles = QueryTiles { narrow: narrow.argument(), wide: wide.argument() };
    let inputs = [inputs.q.on(gpu), inputs.k.on(gpu), inputs.v.on(gpu)];
    let (output, log_sum_exp) = (output.on(gpu), log_sum_exp.on(gpu));
    T::Kernel::forward(gpu.launcher(), sizes, inputs, tiles, output, log_sum_exp)?;
    Ok(())
}

pub(super) fn backward<T: Real>(
    gpu: &GpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: &Inputs<'_, T>,
    outputs: &Outputs<'_, T>,
    gradients: Gradients<'_, T>,
) -> Result<()> {
    let sizes = sizes(shape, documents.tokens())?;
    let [by_queries, by_keys, _] = tiles(gpu, documents)?;
    let rows = narrow(OP, "rows", outputs.log_sum_exp.len())?;
    let mut delta = GpuMemory::<f32>::scratch(gpu, rows as usize)?;
    let (d_output, output) = (outputs.d_output.on(gpu), outputs.output.on(gpu));
    T::Kernel::ATTENTION_DELTA(
        gpu.launcher(),
        d_output,
        output,
        delta.all_mut().argument(),
        rows,
        sizes.head_dim,
    )?;
    let inputs = BackwardInputs {
        q: inputs.q.on(gpu),
        k: inputs.k.on(gpu),
        v: inputs.v.on(gpu),
        d_output,
        log_sum_exp: outputs.log_sum_exp.on(gpu),
        delta: delta.all().argument(),
    };
    let Gradients { d_q, d_k, d_v } = gradients;
    T::Kernel::backward_keys(gpu.launcher(), sizes, inputs, by_keys.argument(), d_k.on(gpu), d_v.on(gpu))?;
    T::Kernel::backward_queries(gpu.launcher(), sizes, inputs, by_queries.argument(), d_q.on(gpu))?;
    Ok(())
}

/// Parts that a row of so many tokens is decoded in.
pub(super) fn decode_parts(shape: &Shape, length: u32) -> u32 {
    let window = shape.window.map_or(u32::MAX, |window| u32::try_from(window.get()).unwrap_or(u32::MAX));
    length.min(window).div_ceil(SPLIT)
}

pub(super) fn decode<T: Real>(
    gpu: &GpuDevice,
    shape: &Shape,
    q: View<'_, T>,
    cache: &Cache<'_, T>,
    slot_count: usize,
    output: ViewMut<'_, T>,
) -> Result<()> {
    let Sizes { tokens: rows, heads, kv_heads, head_dim, scale, window } = sizes(shape, cache.slots.len())?;
    let longest = cache.lengths.host().iter().copied().max().unwrap_or(0);
    let parts = decode_parts(shape, longest);
    let count = q.len() / shape.head_dim * parts as usize;
    let mut sums = GpuMemory::<f32>::scratch(gpu, count * shape.head_dim)?;
    let mut statistics = GpuMemory::<f32>::scratch(gpu, 2 * count)?;
    let (slots, lengths) = (cache.slots.device().on(gpu), cache.lengths.device().on(gpu));
    T::Kernel::ATTENTION_DECODE(
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
    )?;
    let (sums, statistics) = (sums.all().argument(), statistics.all().argument());
    let output = output.on(gpu);
    T::Kernel::ATTENTION_COMBINE(
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
