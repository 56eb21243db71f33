//! The forward pass of a layer and of the whole stack.
//!
//! Residual stream: `middle = input + attention(norm(input))`, next `input = middle + mlp(norm(middle))`. The model's
//! [`Block`](crate::config::Block) says which norms there are, before attention and MLP, behind them or both. A
//! residual add is fused with the norm that follows it.

use cpift_engine::ops::attention::{self, Documents};
use cpift_engine::ops::rms_norm::ResidualOutputs;
use cpift_engine::ops::{embedding, gated_mlp, output_gate, rope, scale};
use cpift_engine::{Buffer, Device, IndexView, Real, View, ViewMut};

use super::activations::{Activations, HeadScratch, LayerActivations, MlpActivations, Projected, Scratch};
use super::cache::KeyValueCache;
use super::rotary::{Heads, RotaryTables};
use super::timings::{Part, Timings};
use super::weights::{AttentionWeights, Linear, MixerWeights, ModelWeights, Norm};
use crate::config::ModelConfig;
use crate::error::Result;

/// What a whole pass reads and never changes.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a, T: Real> {
    /// Where it runs.
    pub device: &'a Device,
    /// The model.
    pub config: &'a ModelConfig,
    /// Where its tensors lie.
    pub places: &'a ModelWeights,
    /// The flat weights, in the type everything is computed in.
    pub weights: View<'a, T>,
    /// Rotary angles.
    pub rotary: &'a RotaryTables,
    /// Token ids `[N]`.
    pub tokens: IndexView<'a>,
    /// Row of the rotary tables for every token, by its position and the length of its document `[N]`.
    pub rotary_rows: IndexView<'a>,
}

/// What queries attend to.
#[derive(Debug)]
pub enum Attend<'a, T: Real> {
    /// The document they are in.
    Documents(&'a Documents),
    /// The same, and every document's keys and values are left in the cache, from `first_slot` on.
    Prefill {
        /// The prompts.
        documents: &'a Documents,
        /// Where their keys and values go.
        cache: &'a mut KeyValueCache<T>,
        /// Slot of the first prompt.
        first_slot: usize,
    },
    /// What the cache holds for their row, and themselves.
    Cache(&'a mut KeyValueCache<T>),
}

/// Shape of the attention of layer `index`.
pub fn attention_shape(config: &ModelConfig, index: usize) -> attention::Shape {
    let ModelConfig { heads, kv_heads, head_dim, .. } = *config;
    let (scale, window) = (config.scales.attention, config.attention[index].window);
    attention::Shape { heads, kv_heads, head_dim, scale, window, softcap: config.attention_softcap }
}

impl<T: Real> Pass<'_, T> {
    /// Runs all layers; the last norm's output is left in `scratch.normed`. `keep` leaves in
    /// `activations` what the backward reads; without it memory is used over and over.
    pub fn forward(
        &self,
        activations: &mut Activations<T>,
        attend: &mut Attend<'_, T>,
        keep: bool,
        timings: &mut Timings,
    ) -> Result<()> {
        let Activations { inputs, layers, mlps, scratch } = activations;
        let inputs = if keep { &mut inputs[..] } else { &mut inputs[..2] };
        // The memory of one layer is enough for all, unless each has but what its own kind needs.
        let one_for_all = !keep && self.config.delta_net().is_none();
        let layers = if one_for_all { &mut layers[..1] } else { &mut layers[..] };
        let mlps = if keep { &mut mlps[..] } else { &mut mlps[..1] };
        let (kept_inputs, kept_layers, kept_mlps) = (inputs.len(), layers.len(), mlps.len());

        timings.start();
        self.embed(&mut inputs[0])?;
        timings.lap(Part::Embedding);
        self.norm_if_any(self.places.layers[0].attention_norm.as_ref(), &inputs[0], scratch)?;
        for index in 0..self.config.layers {
            let (layer, mlp) = (&mut layers[index % kept_layers], &mut mlps[index % kept_mlps]);
            timings.lap(Part::Norm);
            let input = &inputs[index % kept_inputs];
            self.mix(index, input, layer, scratch, attend, timings)?;
            self.add(self.places.layers[index].mlp_norm.as_ref(), input, scratch, &mut layer.middle)?;
            timings.lap(Part::Norm);
            self.gate_and_up(index, layer, mlp, scratch)?;
            self.down(index, layer, mlp, scratch)?;
            timings.lap(Part::Mlp);
            let next = self.places.layers.get(index + 1);
            let norm = next.map_or(Some(&self.places.final_norm), |next| next.attention_norm.as_ref());
            self.add(norm, &layer.middle, scratch, &mut inputs[(index + 1) % kept_inputs])?;
        }
        if self.config.scales.logits != 1.0 {
            let hidden = self.hidden_mut(&mut scratch.normed);
            scale::forward_in_place(self.device, self.config.scales.logits, hidden)?;
        }
        timings.lap(Part::Norm);
        Ok(())
    }

    /// Computes again what [`Pass::forward`] left of layer `index` in `layer` and `mlp`: the same calls on the same
    /// values, hence the same bits. The MLP's output is computed only where its norm's backward needs it.
    pub fn recompute(
        &self,
        index: usize,
        input: &Buffer<T>,
        (layer, mlp): (&mut LayerActivations<T>, &mut MlpActivations<T>),
        scratch: &mut Scratch<T>,
        documents: &Documents,
    ) -> Result<()> {
        let mut unseen = Timings::new();
        let places = &self.places.layers[index];
        self.norm_if_any(places.attention_norm.as_ref(), input, scratch)?;
        self.mix(index, input, layer, scratch, &mut Attend::Documents(documents), &mut unseen)?;
        self.add(places.mlp_norm.as_ref(), input, scratch, &mut layer.middle)?;
        self.gate_and_up(index, layer, mlp, scratch)?;
        if places.mlp_output_norm.is_some() {
            self.down(index, layer, mlp, scratch)?;
        }
        Ok(())
    }

    fn embed(&self, output: &mut Buffer<T>) -> Result<()> {
        let table = self.weights.slice(self.places.embedding.clone());
        let shape = self.embedding_shape();
        embedding::forward(self.device, &shape, table, self.tokens, self.hidden_mut(output))?;
        let factor = self.embedding_scale();
        if factor != 1.0 {
            scale::forward_in_place(self.device, factor, self.hidden_mut(output))?;
        }
        Ok(())
    }

    /// Factor of the embedding's output, rounded to the type of the weights, as `transformers` rounds it.
    pub fn embedding_scale(&self) -> f32 {
        T::from_f32(self.config.scales.embedding).to_f32()
    }

    /// `scratch.normed` = norm of `input`.
    pub fn norm(&self, norm: &Norm, input: &Buffer<T>, scratch: &mut Scratch<T>) -> Result<()> {
        let output = self.hidden_mut(&mut scratch.normed);
        norm.forward(self.device, self.weights, self.hidden(input), output, scratch.inverse_rms.view_mut())
    }

    /// As [`Pass::norm`], where there is a norm.
    pub fn norm_if_any(
        &self,
        norm: Option<&Norm>,
        input: &Buffer<T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        norm.map_or(Ok(()), |norm| self.norm(norm, input, scratch))
    }

    /// What attention or MLP read: the norm's output, or the residual stream itself where they have no norm.
    pub fn normed<'b>(
        &self,
        norm: Option<&Norm>,
        residual: &'b Buffer<T>,
        normed: &'b Buffer<T>,
    ) -> View<'b, T> {
        self.hidden(if norm.is_some() { normed } else { residual })
    }

    /// `sum` = `residual` + factor · `scratch.delta`; `scratch.normed` = its norm, where one comes next.
    fn add(
        &self,
        next_norm: Option<&Norm>,
        residual: &Buffer<T>,
        scratch: &mut Scratch<T>,
        sum: &mut Buffer<T>,
    ) -> Result<()> {
        let factor = self.config.scales.residual;
        match next_norm {
            Some(norm) if factor == 1.0 => self.residual_norm(norm, residual, scratch, sum),
            _ => {
                let (residual, delta) = (self.hidden(residual), self.hidden(&scratch.delta));
                scale::add(self.device, residual, factor, delta, self.hidden_mut(sum))?;
                self.norm_if_any(next_norm, sum, scratch)
            }
        }
    }

    /// `sum` = `residual` + `scratch.delta`, `scratch.normed` = its norm.
    fn residual_norm(
        &self,
        norm: &Norm,
        residual: &Buffer<T>,
        scratch: &mut Scratch<T>,
        sum: &mut Buffer<T>,
    ) -> Result<()> {
        let outputs = ResidualOutputs {
            sum: self.hidden_mut(sum),
            output: self.hidden_mut(&mut scratch.normed),
            inverse_rms: scratch.inverse_rms.view_mut(),
        };
        let delta = self.hidden(&scratch.delta);
        norm.forward_residual(self.device, self.weights, self.hidden(residual), delta, outputs)
    }

    /// `scratch.delta` = attention of `scratch.normed`, or of `input` where it has no norm, with the output projection
    /// and its norm; or what is in attention's place.
    fn mix(
        &self,
        index: usize,
        input: &Buffer<T>,
        layer: &mut LayerActivations<T>,
        scratch: &mut Scratch<T>,
        attend: &mut Attend<'_, T>,
        timings: &mut Timings,
    ) -> Result<()> {
        match &self.places.layers[index].mixer {
            MixerWeights::Attention(places) => {
                self.attention((index, places), input, layer, scratch, attend, timings)
            }
            MixerWeights::DeltaNet(places) => {
                self.delta_net((index, places), input, layer, scratch, attend, timings)
            }
        }
    }

    fn attention(
        &self,
        (index, places): (usize, &AttentionWeights),
        input: &Buffer<T>,
        layer: &mut LayerActivations<T>,
        scratch: &mut Scratch<T>,
        attend: &mut Attend<'_, T>,
        timings: &mut Timings,
    ) -> Result<()> {
        let (device, weights) = (self.device, self.weights);
        let LayerActivations { projected, attention, log_sum_exp, attention_output, .. } = layer;
        let normed = self.normed(self.places.layers[index].attention_norm.as_ref(), input, &scratch.normed);
        let query = self.queries_mut(&mut projected.query);
        if self.config.block.output_gate {
            let mut joined = self.joined_mut(&mut projected.joined);
            places.query.forward(device, weights, normed, joined.reborrow())?;
            output_gate::take_queries(device, &self.gate_shape(), joined.as_view(), query)?;
        } else {
            places.query.forward(device, weights, normed, query)?;
        }
        places.key.forward(device, weights, normed, self.keys_mut(&mut projected.key))?;
        places.value.forward(device, weights, normed, self.keys_mut(&mut projected.value))?;

        let mut heads = HeadScratch::forward(self.config, scratch.wide.view_mut(), self.rows());
        if let Some(norms) = &places.query_key_norms {
            self.norm_heads(index, norms, projected, &mut heads, &mut scratch.head_inverse_rms)?;
        } else {
            self.rotate(index, Heads::Queries, self.queries_mut(&mut projected.query))?;
            self.rotate(index, Heads::Keys, self.keys_mut(&mut projected.key))?;
        }
        timings.lap(Part::Projections);

        let inputs = self.attention_inputs(projected, heads.query.as_view(), heads.key.as_view());
        let output = self.queries_mut(attention);
        let log_sum_exp = log_sum_exp.slice_mut(0..self.rows() * self.config.heads);
        let shape = self.attention_shape(index);
        match attend {
            Attend::Documents(documents) => {
                attention::forward(device, &shape, documents, inputs, output, log_sum_exp)?;
            }
            Attend::Prefill { documents, cache, first_slot } => {
                cache.store(index, documents, *first_slot, inputs.k, inputs.v)?;
                attention::forward(device, &shape, documents, inputs, output, log_sum_exp)?;
            }
            Attend::Cache(cache) => {
                cache.append(index, inputs.k, inputs.v)?;
                attention::decode(device, &shape, inputs.q, cache.layer(index), output)?;
            }
        }
        timings.lap(Part::Attention);

        let made = self.gate_attention(projected, attention, &mut heads)?;
        let Scratch { delta, inverse_rms, .. } = scratch;
        self.project_mixed((index, &places.output), made, attention_output, delta, inverse_rms)?;
        timings.lap(Part::Projections);
        Ok(())
    }

    /// What the output projection reads: attention's output, times its gate where it has one.
    pub fn gate_attention<'b>(
        &self,
        projected: &Projected<T>,
        attention: &'b Buffer<T>,
        heads: &'b mut HeadScratch<'_, T>,
    ) -> Result<View<'b, T>> {
        let attention = self.queries(attention);
        if !self.config.block.output_gate {
            return Ok(attention);
        }
        let joined = self.joined(&projected.joined);
        let gated = heads.gated.reborrow();
        output_gate::forward(self.device, &self.gate_shape(), joined, attention, gated)?;
        Ok(heads.gated.as_view())
    }

    /// `delta` = the output projection of what layer `index` mixed, and its norm; where there is one, `before_norm` is
    /// what it reads.
    pub fn project_mixed(
        &self,
        (index, projection): (usize, &Linear),
        mixed: View<'_, T>,
        before_norm: &mut Buffer<T>,
        delta: &mut Buffer<T>,
        inverse_rms: &mut Buffer<f32>,
    ) -> Result<()> {
        let (device, weights) = (self.device, self.weights);
        let Some(norm) = &self.places.layers[index].attention_output_norm else {
            return projection.forward(device, weights, mixed, self.hidden_mut(delta));
        };
        projection.forward(device, weights, mixed, self.hidden_mut(before_norm))?;
        let delta = self.hidden_mut(delta);
        norm.forward(device, weights, self.hidden(before_norm), delta, inverse_rms.view_mut())
    }

    /// `scratch.delta` = norm of what attention or MLP made.
    fn output_norm(&self, norm: &Norm, made: &Buffer<T>, scratch: &mut Scratch<T>) -> Result<()> {
        let delta = self.hidden_mut(&mut scratch.delta);
        norm.forward(self.device, self.weights, self.hidden(made), delta, scratch.inverse_rms.view_mut())
    }

    /// Norms queries and keys of layer `index` into `heads` and rotates them there: what `layer` keeps stays as
    /// the norm's backward needs it.
    pub fn norm_heads(
        &self,
        index: usize,
        (query_norm, key_norm): &(Norm, Norm),
        projected: &Projected<T>,
        heads: &mut HeadScratch<'_, T>,
        inverse_rms: &mut Buffer<f32>,
    ) -> Result<()> {
        let (device, weights) = (self.device, self.weights);
        let query = self.queries(&projected.query);
        let (query_rms, key_rms) = inverse_rms.view_mut().split_at(query_norm.rows(query.len()));
        query_norm.forward(device, weights, query, heads.query.reborrow(), query_rms)?;
        key_norm.forward(device, weights, self.keys(&projected.key), heads.key.reborrow(), key_rms)?;
        self.rotate(index, Heads::Queries, heads.query.reborrow())?;
        self.rotate(index, Heads::Keys, heads.key.reborrow())
    }

    /// What attention reads: queries and keys from `layer`, or `query` and `key` where they are normed.
    pub fn attention_inputs<'b>(
        &self,
        projected: &'b Projected<T>,
        query: View<'b, T>,
        key: View<'b, T>,
    ) -> attention::Inputs<'b, T> {
        let v = self.keys(&projected.value);
        if self.config.block.query_key_norm.is_some() {
            attention::Inputs { q: query, k: key, v }
        } else {
            attention::Inputs { q: self.queries(&projected.query), k: self.keys(&projected.key), v }
        }
    }

    /// Turns the queries or keys of layer `index` by their positions, where the layer does that.
    fn rotate(&self, index: usize, heads: Heads, x: ViewMut<'_, T>) -> Result<()> {
        let Some(rope) = self.config.attention[index].rope else { return Ok(()) };
        let (shape, tables) = (self.rope_shape(rope, heads), self.rotary.view(rope, heads));
        Ok(rope::forward(self.device, &shape, tables, self.rotary_rows, x)?)
    }

    /// `mlp` = gate and up projection of the residual stream's norm, which `scratch.normed` is.
    pub fn gate_and_up(
        &self,
        index: usize,
        layer: &LayerActivations<T>,
        mlp: &mut MlpActivations<T>,
        scratch: &Scratch<T>,
    ) -> Result<()> {
        let (device, weights, places) = (self.device, self.weights, &self.places.layers[index]);
        let normed = self.normed(places.mlp_norm.as_ref(), &layer.middle, &scratch.normed);
        places.gate.forward(device, weights, normed, self.intermediate_mut(&mut mlp.gate))?;
        places.up.forward(device, weights, normed, self.intermediate_mut(&mut mlp.up))
    }

    /// `scratch.delta` = down projection of the gated activation, and its norm.
    fn down(
        &self,
        index: usize,
        layer: &mut LayerActivations<T>,
        mlp: &MlpActivations<T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let (device, weights, places) = (self.device, self.weights, &self.places.layers[index]);
        let (gate, up) = (self.intermediate(&mlp.gate), self.intermediate(&mlp.up));
        let function = self.config.block.activation;
        gated_mlp::forward(device, function, gate, up, self.intermediate_mut(&mut scratch.wide))?;
        let activation = self.intermediate(&scratch.wide);
        let Some(norm) = &places.mlp_output_norm else {
            return places.down.forward(device, weights, activation, self.hidden_mut(&mut scratch.delta));
        };
        places.down.forward(device, weights, activation, self.hidden_mut(&mut layer.mlp_output))?;
        self.output_norm(norm, &layer.mlp_output, scratch)
    }
}

/// Sizes, and buffers cut to the rows of this pass.
impl<T: Real> Pass<'_, T> {
    /// Tokens of this pass (N).
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Shape of the embedding.
    pub fn embedding_shape(&self) -> embedding::Shape {
        let (vocabulary, hidden) = (self.config.vocabulary, self.config.hidden);
        embedding::Shape { tokens: self.rows(), vocabulary, hidden, padding: self.config.padding }
    }

    /// Shape of the attention of layer `index`.
    pub fn attention_shape(&self, index: usize) -> attention::Shape {
        attention_shape(self.config, index)
    }

    /// Shape of the gate of attention's output.
    pub fn gate_shape(&self) -> output_gate::Shape {
        let (heads, head_dim) = (self.config.heads, self.config.head_dim);
        output_gate::Shape { tokens: self.rows(), heads, head_dim }
    }

    /// Shape of the rotation of queries or keys by the rotary embedding of that number.
    pub fn rope_shape(&self, rope: usize, heads: Heads) -> rope::Shape {
        rope::Shape {
            tokens: self.rows(),
            heads: if heads == Heads::Queries { self.config.heads } else { self.config.kv_heads },
            head_dim: self.config.head_dim,
            rotary_dim: self.config.ropes[rope].rotary_dim,
        }
    }

    /// `[N, C]`.
    pub fn hidden<'b>(&self, buffer: &'b Buffer<T>) -> View<'b, T> {
        buffer.slice(0..self.rows() * self.config.hidden)
    }

    /// `[N, C]`.
    pub fn hidden_mut<'b>(&self, buffer: &'b mut Buffer<T>) -> ViewMut<'b, T> {
        buffer.slice_mut(0..self.rows() * self.config.hidden)
    }

    /// `[N, H, D]`.
    pub fn queries<'b>(&self, buffer: &'b Buffer<T>) -> View<'b, T> {
        buffer.slice(0..self.rows() * self.config.attention_width())
    }

    /// `[N, H, D]`.
    pub fn queries_mut<'b>(&self, buffer: &'b mut Buffer<T>) -> ViewMut<'b, T> {
        buffer.slice_mut(0..self.rows() * self.config.attention_width())
    }

    /// `[N, H, 2 D]`.
    pub fn joined<'b>(&self, buffer: &'b Buffer<T>) -> View<'b, T> {
        buffer.slice(0..2 * self.rows() * self.config.attention_width())
    }

    /// `[N, H, 2 D]`.
    pub fn joined_mut<'b>(&self, buffer: &'b mut Buffer<T>) -> ViewMut<'b, T> {
        buffer.slice_mut(0..2 * self.rows() * self.config.attention_width())
    }

    /// `[N, KV, D]`.
    pub fn keys<'b>(&self, buffer: &'b Buffer<T>) -> View<'b, T> {
        buffer.slice(0..self.rows() * self.config.kv_width())
    }

    /// `[N, KV, D]`.
    pub fn keys_mut<'b>(&self, buffer: &'b mut Buffer<T>) -> ViewMut<'b, T> {
        buffer.slice_mut(0..self.rows() * self.config.kv_width())
    }

    /// `[N, I]`.
    pub fn intermediate<'b>(&self, buffer: &'b Buffer<T>) -> View<'b, T> {
        buffer.slice(0..self.rows() * self.config.intermediate)
    }

    /// `[N, I]`.
    pub fn intermediate_mut<'b>(&self, buffer: &'b mut Buffer<T>) -> ViewMut<'b, T> {
        buffer.slice_mut(0..self.rows() * self.config.intermediate)
    }
}
