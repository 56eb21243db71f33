//! The rule on a GPU: what chunks need is prepared by all of them side by side, then the states go from chunk to chunk.

use cpift_kernels::gated_delta_rule::{
    gated_delta_rule, gated_delta_rule_decode, gated_delta_rule_gate_sums, gated_delta_rule_gradients,
    gated_delta_rule_prepare, gated_delta_rule_reverse, gated_delta_rule_states,
};

use super::{CHUNK, Gradients, Inputs, Shape};
use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory, GpuSlice, narrow};
use crate::indices::IndexView;
use crate::number::Number;
use crate::ops::attention::Documents;

const OP: &str = "gated_delta_rule on a GPU";

/// The shape as kernels take it.
#[derive(Clone, Copy)]
struct Sizes {
    key_heads: u32,
    value_heads: u32,
    key_dim: u32,
    value_dim: u32,
    /// 1/√DK.
    query_factor: f32,
}

impl Sizes {
    fn new(shape: &Shape) -> Result<Self> {
        Ok(Self {
            key_heads: narrow(OP, "key_heads", shape.key_heads)?,
            value_heads: narrow(OP, "value_heads", shape.value_heads)?,
            key_dim: narrow(OP, "key_dim", shape.key_dim)?,
            value_dim: narrow(OP, "value_dim", shape.value_dim)?,
            query_factor: 1.0 / (shape.key_dim as f32).sqrt(),
        })
    }
}

/// A batch's lists and sizes on the device, and what all of its chunks need.
struct Prepared<'a> {
    sizes: Sizes,
    tokens: u32,
    chunk_count: u32,
    document_count: u32,
    chunks: GpuSlice<'a, u32>,
    documents: GpuSlice<'a, u32>,
    solver: GpuMemory<f32>,
    scores: GpuMemory<f32>,
    gates: GpuMemory<f32>,
    scales: GpuMemory<f32>,
}

impl<'a> Prepared<'a> {
    fn new<T: Number>(
        gpu: &GpuDevice,
        shape: &Shape,
        documents: &'a Documents,
        inputs: &Inputs<'_, T>,
    ) -> Result<Self> {
        let [chunks, document_list] = documents.chunks(gpu)?;
        let (tokens, chunk_count) = (documents.tokens(), documents.chunk_count());
        let scratch = |elements: usize| GpuMemory::<f32>::scratch(gpu, elements);
        let square = chunk_count * shape.value_heads * CHUNK * CHUNK;
        let mut prepared = Self {
            sizes: Sizes::new(shape)?,
            tokens: narrow(OP, "tokens", tokens)?,
            chunk_count: narrow(OP, "chunks", chunk_count)?,
            document_count: narrow(OP, "documents", documents.len())?,
            chunks,
            documents: document_list,
            solver: scratch(square)?,
            scores: scratch(square)?,
            gates: scratch(3 * tokens * shape.value_heads)?,
            scales: scratch(2 * tokens * shape.key_heads)?,
        };
        let Sizes { key_heads, value_heads, key_dim, value_dim, query_factor } = prepared.sizes;
        gated_delta_rule_prepare(
            gpu.launcher(),
            chunks.argument(),
            inputs.qkv.on(gpu),
            inputs.a.on(gpu),
            inputs.b.on(gpu),
            inputs.a_log.on(gpu),
            inputs.dt_bias.on(gpu),
            prepared.solver.all_mut().argument(),
            prepared.scores.all_mut().argument(),
            prepared.gates.all_mut().argument(),
            prepared.scales.all_mut().argument(),
            prepared.tokens,
            prepared.chunk_count,
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            query_factor,
        )?;
        Ok(prepared)
    }
}

pub fn forward<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: &Inputs<'_, T>,
    output: ViewMut<'_, T>,
    last_states: Option<ViewMut<'_, f32>>,
) -> Result<()> {
    let prepared = Prepared::new(gpu, shape, documents, inputs)?;
    let Sizes { key_heads, value_heads, key_dim, value_dim, .. } = prepared.sizes;
    let keeps = u32::from(last_states.is_some());
    let mut none = GpuMemory::<f32>::scratch(gpu, 0)?;
    let last_states = match last_states {
        Some(states) => states.on(gpu),
        None => none.all_mut().argument(),
    };
    gated_delta_rule(
        gpu.launcher(),
        prepared.documents.argument(),
        inputs.qkv.on(gpu),
        prepared.solver.all().argument(),
        prepared.scores.all().argument(),
        prepared.gates.all().argument(),
        prepared.scales.all().argument(),
        output.on(gpu),
        last_states,
        prepared.tokens,
        prepared.chunk_count,
        prepared.document_count,
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        keeps,
    )?;
    Ok(())
}

pub fn backward<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: &Inputs<'_, T>,
    d_output: View<'_, T>,
    gradients: Gradients<'_, T>,
) -> Result<()> {
    let prepared = Prepared::new(gpu, shape, documents, inputs)?;
    let Prepared { sizes, tokens, chunk_count, document_count, .. } = prepared;
    let Sizes { key_heads, value_heads, key_dim, value_dim, .. } = sizes;
    let (launcher, all_tokens) = (gpu.launcher(), documents.tokens());
    let scratch = |elements: usize| GpuMemory::<f32>::scratch(gpu, elements);
    let state_elements = (documents.chunk_count() - documents.len()) * shape.state_length();
    let (mut states, mut d_states) = (scratch(state_elements)?, scratch(state_elements)?);
    let value_elements = all_tokens * shape.output_width();
    let (mut updates, mut d_updates) = (scratch(value_elements)?, scratch(value_elements)?);
    gated_delta_rule_states(
        launcher,
        prepared.documents.argument(),
        inputs.qkv.on(gpu),
        prepared.solver.all().argument(),
        prepared.gates.all().argument(),
        prepared.scales.all().argument(),
        states.all_mut().argument(),
        updates.all_mut().argument(),
        tokens,
        chunk_count,
        document_count,
        key_heads,
        value_heads,
        key_dim,
        value_dim,
    )?;
    gated_delta_rule_reverse(
        launcher,
        prepared.documents.argument(),
        inputs.qkv.on(gpu),
        prepared.solver.all().argument(),
        prepared.scores.all().argument(),
        prepared.gates.all().argument(),
        prepared.scales.all().argument(),
        d_output.on(gpu),
        d_states.all_mut().argument(),
        d_updates.all_mut().argument(),
        tokens,
        chunk_count,
        document_count,
        key_heads,
        value_heads,
        key_dim,
        value_dim,
    )?;
    let mut d_keys = scratch(2 * all_tokens * shape.key_heads * shape.key_dim)?;
    let mut gate_sums = scratch(2 * documents.chunk_count() * shape.value_heads)?;
    gated_delta_rule_gradients(
        launcher,
        prepared.chunks.argument(),
        inputs.qkv.on(gpu),
        inputs.a.on(gpu),
        inputs.b.on(gpu),
        inputs.a_log.on(gpu),
        inputs.dt_bias.on(gpu),
        prepared.scales.all().argument(),
        states.all().argument(),
        d_states.all().argument(),
        updates.all().argument(),
        d_updates.all().argument(),
        d_output.on(gpu),
        d_keys.all_mut().argument(),
        gradients.d_qkv.on(gpu),
        gradients.d_a.on(gpu),
        gradients.d_b.on(gpu),
        gate_sums.all_mut().argument(),
        tokens,
        chunk_count,
        document_count,
        key_heads,
        value_heads,
        key_dim,
        value_dim,
    )?;
    let (gate_sums, d_a_log) = (gate_sums.all().argument(), gradients.d_a_log.on(gpu));
    gated_delta_rule_gate_sums(
        launcher,
        gate_sums,
        d_a_log,
        gradients.d_dt_bias.on(gpu),
        chunk_count,
        value_heads,
    )?;
    Ok(())
}

pub fn decode<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    inputs: &Inputs<'_, T>,
    slots: IndexView<'_>,
    states: ViewMut<'_, f32>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    let Sizes { key_heads, value_heads, key_dim, value_dim, query_factor } = Sizes::new(shape)?;
    let slot_count = narrow(OP, "slots", states.len() / shape.state_length())?;
    gated_delta_rule_decode(
        gpu.launcher(),
        inputs.qkv.on(gpu),
        inputs.a.on(gpu),
        inputs.b.on(gpu),
        inputs.a_log.on(gpu),
        inputs.dt_bias.on(gpu),
        slots.device().on(gpu),
        states.on(gpu),
        output.on(gpu),
        narrow(OP, "rows", slots.len())?,
        slot_count,
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        query_factor,
    )?;
    Ok(())
}
