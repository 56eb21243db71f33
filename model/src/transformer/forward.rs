//! The forward pass of a layer and of the whole stack.
//!
//! Pre-norm residual stream: `middle = input + attention(norm(input))`, next `input = middle +
//! mlp(norm(middle))`. Every residual add is fused with the norm that follows it.

use cpift_engine::ops::attention::{self, Documents};
use cpift_engine::ops::gated_mlp::{self, Activation};
use cpift_engine::ops::rms_norm::ResidualOutputs;
use cpift_engine::ops::{embedding, rope};
use cpift_engine::{Buffer, Device, IndexView, Real, View, ViewMut};

use super::activations::{Activations, HeadScratch, LayerActivations, Projected, Scratch};
use super::cache::KeyValueCache;
use super::rotary::RotaryTables;
use super::timings::{Part, Timings};
use super::weights::{ModelWeights, Norm};
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
    /// Position of every token in its document `[N]`.
    pub positions: IndexView<'a>,
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

/// Shape of a model's attention.
pub fn attention_shape(config: &ModelConfig) -> attention::Shape {
    let ModelConfig { heads, kv_heads, head_dim, .. } = *config;
    attention::Shape {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window: None,
        softcap: None,
    }
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
        let Activations { inputs, layers, scratch } = activations;
        let inputs = if keep { &mut inputs[..] } else { &mut inputs[..2] };
        let layers = if keep { &mut layers[..] } else { &mut layers[..1] };
        let (kept_inputs, kept_layers) = (inputs.len(), layers.len());

        timings.start();
        self.embed(self.hidden_mut(&mut inputs[0]))?;
        timings.lap(Part::Embedding);
        self.norm(&self.places.layers[0].attention_norm, &inputs[0], scratch)?;
        for index in 0..self.config.layers {
            let layer = &mut layers[index % kept_layers];
            timings.lap(Part::Norm);
            self.attention(index, layer, scratch, attend, timings)?;
            self.residual_mlp_norm(index, &inputs[index % kept_inputs], layer, scratch)?;
            timings.lap(Part::Norm);
            self.gate_and_up(index, layer, scratch)?;
            self.down(index, layer, scratch)?;
            timings.lap(Part::Mlp);
            let next = self.places.layers.get(index + 1);
            let norm = next.map_or(&self.places.final_norm, |next| &next.attention_norm);
            let sum = &mut inputs[(index + 1) % kept_inputs];
            self.residual_norm(norm, &layer.middle, scratch, sum)?;
        }
        timings.lap(Part::Norm);
        Ok(())
    }

    /// Computes again what [`Pass::forward`] left of layer `index` in `layer`: the same calls on the same
    /// values, hence the same bits. The MLP's output is not needed and not computed.
    pub fn recompute(
        &self,
        index: usize,
        input: &Buffer<T>,
        layer: &mut LayerActivations<T>,
        scratch: &mut Scratch<T>,
        documents: &Documents,
    ) -> Result<()> {
        let mut unseen = Timings::new();
        self.norm(&self.places.layers[index].attention_norm, input, scratch)?;
        self.attention(index, layer, scratch, &mut Attend::Documents(documents), &mut unseen)?;
        self.residual_mlp_norm(index, input, layer, scratch)?;
        self.gate_and_up(index, layer, scratch)
    }

    fn embed(&self, output: ViewMut<'_, T>) -> Result<()> {
        let table = self.weights.slice(self.places.embedding.clone());
        Ok(embedding::forward(self.device, &self.embedding_shape(), table, self.tokens, output)?)
    }

    /// `scratch.normed` = norm of `input`.
    pub fn norm(&self, norm: &Norm, input: &Buffer<T>, scratch: &mut Scratch<T>) -> Result<()> {
        let output = self.hidden_mut(&mut scratch.normed);
        norm.forward(self.device, self.weights, self.hidden(input), output, scratch.inverse_rms.view_mut())
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

    fn residual_mlp_norm(
        &self,
        index: usize,
        input: &Buffer<T>,
        layer: &mut LayerActivations<T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        self.residual_norm(&self.places.layers[index].mlp_norm, input, scratch, &mut layer.middle)
    }

    /// `scratch.delta` = attention of `scratch.normed`, output projection included.
    fn attention(
        &self,
        index: usize,
        layer: &mut LayerActivations<T>,
        scratch: &mut Scratch<T>,
        attend: &mut Attend<'_, T>,
        timings: &mut Timings,
    ) -> Result<()> {
        let (device, weights, places) = (self.device, self.weights, &self.places.layers[index]);
        let LayerActivations { projected, attention, log_sum_exp, .. } = layer;
        let normed = self.hidden(&scratch.normed);
        places.query.forward(device, weights, normed, self.queries_mut(&mut projected.query))?;
        places.key.forward(device, weights, normed, self.keys_mut(&mut projected.key))?;
        places.value.forward(device, weights, normed, self.keys_mut(&mut projected.value))?;

        let mut heads = HeadScratch::forward(self.config, scratch.wide.view_mut(), self.rows());
        if let Some(norms) = &places.query_key_norms {
            self.norm_heads(norms, projected, &mut heads, &mut scratch.head_inverse_rms)?;
        } else {
            self.rotate(self.config.heads, self.queries_mut(&mut projected.query))?;
            self.rotate(self.config.kv_heads, self.keys_mut(&mut projected.key))?;
        }
        timings.lap(Part::Projections);

        let inputs = self.attention_inputs(projected, heads.query.as_view(), heads.key.as_view());
        let output = self.queries_mut(attention);
        let log_sum_exp = log_sum_exp.slice_mut(0..self.rows() * self.config.heads);
        let shape = self.attention_shape();
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

        let delta = self.hidden_mut(&mut scratch.delta);
        places.output.forward(device, weights, self.queries(attention), delta)?;
        timings.lap(Part::Projections);
        Ok(())
    }

    /// Norms every head's query and key into `heads` and rotates them there: what `layer` keeps stays as
    /// the norm's backward needs it.
    pub fn norm_heads(
        &self,
        (query_norm, key_norm): &(Norm, Norm),
        projected: &Projected<T>,
        heads: &mut HeadScratch<'_, T>,
        inverse_rms: &mut Buffer<f32>,
    ) -> Result<()> {
        let (device, weights) = (self.device, self.weights);
        let (query_rms, key_rms) = inverse_rms.view_mut().split_at(self.rows() * self.config.heads);
        let query = self.queries(&projected.query);
        query_norm.forward(device, weights, query, heads.query.reborrow(), query_rms)?;
        key_norm.forward(device, weights, self.keys(&projected.key), heads.key.reborrow(), key_rms)?;
        self.rotate(self.config.heads, heads.query.reborrow())?;
        self.rotate(self.config.kv_heads, heads.key.reborrow())
    }

    /// What attention reads: queries and keys from `layer`, or `query` and `key` where they are normed.
    pub fn attention_inputs<'b>(
        &self,
        projected: &'b Projected<T>,
        query: View<'b, T>,
        key: View<'b, T>,
    ) -> attention::Inputs<'b, T> {
        let v = self.keys(&projected.value);
        if self.config.qk_norm {
            attention::Inputs { q: query, k: key, v }
        } else {
            attention::Inputs { q: self.queries(&projected.query), k: self.keys(&projected.key), v }
        }
    }

    fn rotate(&self, heads: usize, x: ViewMut<'_, T>) -> Result<()> {
        let shape = self.rope_shape(heads);
        Ok(rope::forward(self.device, &shape, self.rotary.view(), self.positions, x)?)
    }

    fn gate_and_up(&self, index: usize, layer: &mut LayerActivations<T>, scratch: &Scratch<T>) -> Result<()> {
        let (device, weights, places) = (self.device, self.weights, &self.places.layers[index]);
        let normed = self.hidden(&scratch.normed);
        places.gate.forward(device, weights, normed, self.intermediate_mut(&mut layer.gate))?;
        places.up.forward(device, weights, normed, self.intermediate_mut(&mut layer.up))
    }

    /// `scratch.delta` = down projection of the gated activation.
    fn down(&self, index: usize, layer: &LayerActivations<T>, scratch: &mut Scratch<T>) -> Result<()> {
        let (device, weights) = (self.device, self.weights);
        let (gate, up) = (self.intermediate(&layer.gate), self.intermediate(&layer.up));
        gated_mlp::forward(device, Activation::Silu, gate, up, self.intermediate_mut(&mut scratch.wide))?;
        let activation = self.intermediate(&scratch.wide);
        let delta = self.hidden_mut(&mut scratch.delta);
        self.places.layers[index].down.forward(device, weights, activation, delta)
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
        embedding::Shape { tokens: self.rows(), vocabulary, hidden }
    }

    /// Shape of attention.
    pub fn attention_shape(&self) -> attention::Shape {
        attention_shape(self.config)
    }

    /// Shape of the rotation of `heads` heads.
    pub fn rope_shape(&self, heads: usize) -> rope::Shape {
        rope::Shape {
            tokens: self.rows(),
            heads,
            head_dim: self.config.head_dim,
            rotary_dim: self.config.head_dim,
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
