//! Memory of a forward and backward pass: planned, allocated once, used for every batch.
//!
//! Kept per layer and token, in elements: the layer's input C and what its backward cannot cheaply
//! compute again: 1 C (residual stream before the MLP), H·D + 2 KV·D (q, k, v), H·D + H (attention),
//! 2 I (gate, up), and C for each norm behind attention or MLP (what it is of). A gated DeltaNet keeps, in place of
//! attention's, what its convolution reads, its output, its gate and those of its heads, M + 2 HV·DV + 2 HV. Norms, gated
//! activations, convolutions, gated outputs and rotated normed heads are computed again instead.
//! What [`Recompute`] says is not kept per layer, but exists once.

use bytemuck::Pod;
use cpift_engine::{Buffer, Device, Indices, Real, ViewMut};
use serde::{Deserialize, Serialize};

use crate::config::{DeltaNet, ModelConfig, NormWidth};
use crate::error::Result;

/// What a transformer is to be used for; decides what is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Losses, logits and generation.
    Inference,
    /// Gradients too.
    Training {
        /// What is computed again.
        recompute: Recompute,
    },
}

/// What of every layer the backward pass computes again instead of having it kept: time for memory, with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing.
    #[default]
    Nothing,
    /// The MLP's gate and up projection: two of its three products, for 2 I of a layer's elements per token.
    Mlp,
    /// All of the layer: only its input is kept, and every product is made a second time.
    Layer,
}

impl Recompute {
    /// All, from the fastest to what takes the least memory.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Mlp, Self::Layer];

    /// As in messages and files; recipes may write `false` and `true` for the first and the last.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Mlp => "mlp",
            Self::Layer => "layer",
        }
    }
}

/// Bytes per part, as [`Transformer::memory_plan`](super::Transformer::memory_plan) gives them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Name of a part and its bytes.
    pub parts: Vec<(&'static str, usize)>,
}

impl MemoryPlan {
    /// All parts together.
    pub fn total(&self) -> usize {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// What one layer's backward reads, N rows each.
#[derive(Debug)]
pub struct LayerActivations<T: Real> {
    /// Queries, keys and values.
    pub projected: Projected<T>,
    /// Attention's output `[N, H, D]`.
    pub attention: Buffer<T>,
    /// Attention's log-sum-exp `[N, H]`.
    pub log_sum_exp: Buffer<f32>,
    /// What a gated DeltaNet keeps in place of these, else empty.
    pub delta_net: DeltaNetActivations<T>,
    /// Residual stream between attention and MLP `[N, C]`.
    pub middle: Buffer<T>,
    /// What attention made `[N, C]`, where a norm stands behind it, else empty.
    pub attention_output: Buffer<T>,
    /// What the MLP made `[N, C]`, where a norm stands behind it, else empty.
    pub mlp_output: Buffer<T>,
}

/// What one MLP's backward reads beside that, N rows each.
#[derive(Debug)]
pub struct MlpActivations<T: Real> {
    /// The gate `[N, I]`; after the backward its gradient.
    pub gate: Buffer<T>,
    /// The up projection `[N, I]`; after the backward its gradient.
    pub up: Buffer<T>,
}

/// What the backward of a gated DeltaNet reads.
#[derive(Debug)]
pub struct DeltaNetActivations<T: Real> {
    /// Queries, keys and values before the convolution `[N, M]`.
    pub mixed: Buffer<T>,
    /// Gate of the output `[N, HV, DV]`; after the backward its gradient.
    pub gate: Buffer<T>,
    /// β of the heads before its sigmoid `[N, HV]`.
    pub beta: Buffer<T>,
    /// Decay of the heads before its gate `[N, HV]`.
    pub decay: Buffer<T>,
    /// What the heads read from their states `[N, HV, DV]`.
    pub read: Buffer<T>,
}

/// Queries, keys and values of one layer.
#[derive(Debug)]
pub struct Projected<T: Real> {
    /// Queries and gates of attention's output `[N, H, 2 D]`, where there is such a gate, else empty.
    pub joined: Buffer<T>,
    /// Queries `[N, H, D]`: rotated, or before their norm where there is one.
    pub query: Buffer<T>,
    /// Keys `[N, KV, D]`, likewise.
    pub key: Buffer<T>,
    /// Values `[N, KV, D]`.
    pub value: Buffer<T>,
}

/// Buffers whose content lives no longer than a layer.
#[derive(Debug)]
pub struct Scratch<T: Real> {
    /// The latest norm's output `[N, C]`.
    pub normed: Buffer<T>,
    /// The latest norm's 1/rms `[N]`.
    pub inverse_rms: Buffer<f32>,
    /// 1/rms of the queries and, after them, keys of N tokens where they are normed, or of the heads of a gated
    /// DeltaNet; else empty.
    pub head_inverse_rms: Buffer<f32>,
    /// Forward: what attention or MLP add to the residual stream `[N, C]`. Backward: the gradient of `normed`.
    pub delta: Buffer<T>,
    /// Gradient of the residual stream `[N, C]`; empty for inference.
    pub d_residual: Buffer<T>,
    /// Gradient of what attention or MLP made `[N, C]`, where it is not that of the residual stream, else empty.
    pub d_added: Buffer<T>,
    /// In turn the MLP's activation or its gradient `[N, I]`, and the parts of [`HeadScratch`] or [`DeltaNetScratch`].
    pub wide: Buffer<T>,
}

/// Parts of the wide scratch buffer while attention and its backward run.
#[derive(Debug)]
pub struct HeadScratch<'a, T: Real> {
    /// Rotated queries `[N, H, D]` where queries are normed, else empty.
    pub query: ViewMut<'a, T>,
    /// Rotated keys `[N, KV, D]` where keys are normed, else empty.
    pub key: ViewMut<'a, T>,
    /// Attention's output times its gate `[N, H, D]`, where there is one, else empty.
    pub gated: ViewMut<'a, T>,
    /// Gradient of attention's output `[N, H, D]`; like those below empty in the forward.
    pub d_attention: ViewMut<'a, T>,
    /// Gradient of the queries `[N, H, D]`.
    pub d_query: ViewMut<'a, T>,
    /// Gradient of the keys `[N, KV, D]`.
    pub d_key: ViewMut<'a, T>,
    /// Gradient of the values `[N, KV, D]`.
    pub d_value: ViewMut<'a, T>,
    /// Gradient of queries and gates `[N, H, 2 D]`, where there are gates, else empty.
    pub d_joined: ViewMut<'a, T>,
}

impl<'a, T: Real> HeadScratch<'a, T> {
    /// Cuts `wide` for the forward of `tokens` tokens.
    pub fn forward(config: &ModelConfig, wide: ViewMut<'a, T>, tokens: usize) -> Self {
        Self::cut(config, wide, tokens, 0)
    }

    /// Cuts `wide` for the backward of `tokens` tokens.
    pub fn backward(config: &ModelConfig, wide: ViewMut<'a, T>, tokens: usize) -> Self {
        Self::cut(config, wide, tokens, tokens)
    }

    fn cut(config: &ModelConfig, wide: ViewMut<'a, T>, tokens: usize, gradient_tokens: usize) -> Self {
        let (query_width, key_width) = (config.attention_width(), config.kv_width());
        let normed_tokens = if config.block.query_key_norm.is_some() { tokens } else { 0 };
        let (query, rest) = wide.split_at(normed_tokens * query_width);
        let (key, rest) = rest.split_at(normed_tokens * key_width);
        let gates = usize::from(config.block.output_gate);
        let (gated, rest) = rest.split_at(gates * tokens * query_width);
        let (d_attention, rest) = rest.split_at(gradient_tokens * query_width);
        let (d_query, rest) = rest.split_at(gradient_tokens * query_width);
        let (d_key, rest) = rest.split_at(gradient_tokens * key_width);
        let (d_value, rest) = rest.split_at(gradient_tokens * key_width);
        let d_joined = rest.slice(0..gates * gradient_tokens * 2 * query_width);
        Self { query, key, gated, d_attention, d_query, d_key, d_value, d_joined }
    }

    /// Elements per token.
    fn width(config: &ModelConfig, purpose: Purpose) -> usize {
        let heads = config.attention_width() + config.kv_width();
        let normed = if config.block.query_key_norm.is_some() { heads } else { 0 };
        let gated = if config.block.output_gate { config.attention_width() } else { 0 };
        match purpose {
            Purpose::Inference => normed + gated,
            Purpose::Training { .. } => normed + 2 * heads + 3 * gated,
        }
    }
}

/// Parts of the wide scratch buffer while a gated DeltaNet and its backward run.
#[derive(Debug)]
pub struct DeltaNetScratch<'a, T: Real> {
    /// Queries, keys and values `[N, M]`.
    pub qkv: ViewMut<'a, T>,
    /// The normed output `[N, HV, DV]`; in the backward then its gradient.
    pub normed: ViewMut<'a, T>,
    /// That times its gate `[N, HV, DV]`; in the backward before that its gradient.
    pub gated: ViewMut<'a, T>,
    /// Gradient of what the heads read `[N, HV, DV]`; like those below empty in the forward.
    pub d_read: ViewMut<'a, T>,
    /// Gradient of `qkv` `[N, M]`.
    pub d_qkv: ViewMut<'a, T>,
    /// Gradient of what the convolution reads `[N, M]`.
    pub d_mixed: ViewMut<'a, T>,
    /// Gradient of β's input `[N, HV]`.
    pub d_beta: ViewMut<'a, T>,
    /// Gradient of the decay's input `[N, HV]`.
    pub d_decay: ViewMut<'a, T>,
}

impl<'a, T: Real> DeltaNetScratch<'a, T> {
    /// Cuts `wide` for the forward of `tokens` tokens.
    pub fn forward(sizes: &DeltaNet, wide: ViewMut<'a, T>, tokens: usize) -> Self {
        Self::cut(sizes, wide, tokens, 0)
    }

    /// Cuts `wide` for the backward of `tokens` tokens.
    pub fn backward(sizes: &DeltaNet, wide: ViewMut<'a, T>, tokens: usize) -> Self {
        Self::cut(sizes, wide, tokens, tokens)
    }

    fn cut(sizes: &DeltaNet, wide: ViewMut<'a, T>, tokens: usize, gradient_tokens: usize) -> Self {
        let (channels, values) = (sizes.channels(), sizes.value_width());
        let (qkv, rest) = wide.split_at(tokens * channels);
        let (normed, rest) = rest.split_at(tokens * values);
        let (gated, rest) = rest.split_at(tokens * values);
        let (d_read, rest) = rest.split_at(gradient_tokens * values);
        let (d_qkv, rest) = rest.split_at(gradient_tokens * channels);
        let (d_mixed, rest) = rest.split_at(gradient_tokens * channels);
        let (d_beta, rest) = rest.split_at(gradient_tokens * sizes.value_heads);
        let d_decay = rest.slice(0..gradient_tokens * sizes.value_heads);
        Self { qkv, normed, gated, d_read, d_qkv, d_mixed, d_beta, d_decay }
    }

    /// Elements per token.
    fn width(sizes: &DeltaNet, purpose: Purpose) -> usize {
        let (channels, values) = (sizes.channels(), sizes.value_width());
        match purpose {
            Purpose::Inference => channels + 2 * values,
            Purpose::Training { .. } => 3 * channels + 3 * values + 2 * sizes.value_heads,
        }
    }
}

/// All memory of the passes but the batch's own.
#[derive(Debug)]
pub struct Activations<T: Real> {
    /// Residual stream before every layer and after the last `[N, C]`; two in turn for inference.
    pub inputs: Vec<Buffer<T>>,
    /// One per layer, or a single one for inference and where layers are computed again.
    pub layers: Vec<LayerActivations<T>>,
    /// One per layer, or a single one for inference and where they are computed again.
    pub mlps: Vec<MlpActivations<T>>,
    /// Shared by all layers.
    pub scratch: Scratch<T>,
}

/// Where buffers come from.
struct Memory<'a> {
    device: &'a Device,
    /// What was taken, by part.
    parts: Vec<(&'static str, usize)>,
    /// Whether it is only counted: buffers are then empty.
    counts_only: bool,
}

impl<'a> Memory<'a> {
    fn new(device: &'a Device, counts_only: bool) -> Self {
        Self { device, parts: Vec::new(), counts_only }
    }

    /// `length` elements for the named part.
    fn take<E: Pod>(&mut self, part: &'static str, length: usize) -> Result<Buffer<E>> {
        let bytes = length * size_of::<E>();
        match self.parts.iter_mut().find(|(name, _)| *name == part) {
            Some((_, sum)) => *sum += bytes,
            None => self.parts.push((part, bytes)),
        }
        Ok(Buffer::zeros(self.device, if self.counts_only { 0 } else { length })?)
    }
}

impl<T: Real> Activations<T> {
    /// Allocates for batches of up to `max_tokens` tokens.
    pub fn new(config: &ModelConfig, device: &Device, max_tokens: usize, purpose: Purpose) -> Result<Self> {
        Self::build(config, max_tokens, purpose, &mut Memory::new(device, false))
    }

    /// Goes through the very code that allocates, but only counts.
    pub fn plan(
        config: &ModelConfig,
        device: &Device,
        max_tokens: usize,
        purpose: Purpose,
    ) -> Result<MemoryPlan> {
        let mut memory = Memory::new(device, true);
        Self::build(config, max_tokens, purpose, &mut memory)?;
        Ok(MemoryPlan { parts: memory.parts })
    }

    fn build(config: &ModelConfig, tokens: usize, purpose: Purpose, memory: &mut Memory<'_>) -> Result<Self> {
        let all = config.layers;
        let (kept_inputs, kept_layers, kept_mlps) = match purpose {
            Purpose::Inference => (2, 1, 1),
            Purpose::Training { recompute: Recompute::Layer } => (all + 1, 1, 1),
            Purpose::Training { recompute: Recompute::Mlp } => (all + 1, all, 1),
            Purpose::Training { recompute: Recompute::Nothing } => (all + 1, all, all),
        };
        let inputs = (0..kept_inputs).map(|_| memory.take("layer inputs", tokens * config.hidden));
        let inputs = inputs.collect::<Result<_>>()?;
        let mixers = |index| match kept_layers == config.layers {
            true => Mixers::of_layer(config, index),
            false => Mixers::of_model(config),
        };
        let layers =
            (0..kept_layers).map(|index| LayerActivations::build(config, mixers(index), tokens, memory));
        let layers = layers.collect::<Result<_>>()?;
        let mlps = (0..kept_mlps).map(|_| MlpActivations::build(config, tokens, memory));
        let mlps = mlps.collect::<Result<_>>()?;
        let scratch = Scratch::build(config, tokens, purpose, memory)?;
        Ok(Self { inputs, layers, mlps, scratch })
    }
}

/// What a layer's memory is for: attention, a gated DeltaNet, or the one and the other in turn.
#[derive(Debug, Clone, Copy)]
struct Mixers {
    attention: bool,
    delta_net: Option<DeltaNet>,
}

impl Mixers {
    fn of_layer(config: &ModelConfig, index: usize) -> Self {
        let delta_net = config.attention[index].delta_net;
        Self { attention: delta_net.is_none(), delta_net }
    }

    fn of_model(config: &ModelConfig) -> Self {
        let attention = config.attention.iter().any(|layer| layer.delta_net.is_none());
        Self { attention, delta_net: config.delta_net() }
    }
}

impl<T: Real> LayerActivations<T> {
    fn build(config: &ModelConfig, mixers: Mixers, tokens: usize, memory: &mut Memory<'_>) -> Result<Self> {
        let attending = if mixers.attention { tokens } else { 0 };
        let (query_width, key_width) = (attending * config.attention_width(), attending * config.kv_width());
        let joined_width = if config.block.output_gate { 2 * query_width } else { 0 };
        let norms = &config.block.norms;
        let made = |norm: Option<&str>| if norm.is_some() { tokens * config.hidden } else { 0 };
        Ok(Self {
            projected: Projected {
                joined: memory.take("attention", joined_width)?,
                query: memory.take("attention", query_width)?,
                key: memory.take("attention", key_width)?,
                value: memory.take("attention", key_width)?,
            },
            attention: memory.take("attention", query_width)?,
            log_sum_exp: memory.take("attention", attending * config.heads)?,
            delta_net: DeltaNetActivations::build(mixers.delta_net.as_ref(), tokens, memory)?,
            middle: memory.take("mlp", tokens * config.hidden)?,
            attention_output: memory.take("attention", made(norms.attention_output))?,
            mlp_output: memory.take("mlp", made(norms.mlp_output))?,
        })
    }
}

impl<T: Real> MlpActivations<T> {
    fn build(config: &ModelConfig, tokens: usize, memory: &mut Memory<'_>) -> Result<Self> {
        let width = tokens * config.intermediate;
        Ok(Self { gate: memory.take("mlp", width)?, up: memory.take("mlp", width)? })
    }
}

impl<T: Real> DeltaNetActivations<T> {
    fn build(sizes: Option<&DeltaNet>, tokens: usize, memory: &mut Memory<'_>) -> Result<Self> {
        let [channels, values, heads] = sizes.map_or([0; 3], |sizes| {
            [sizes.channels(), sizes.value_width(), sizes.value_heads].map(|width| tokens * width)
        });
        Ok(Self {
            mixed: memory.take("attention", channels)?,
            gate: memory.take("attention", values)?,
            beta: memory.take("attention", heads)?,
            decay: memory.take("attention", heads)?,
            read: memory.take("attention", values)?,
        })
    }
}

impl<T: Real> Scratch<T> {
    fn build(config: &ModelConfig, tokens: usize, purpose: Purpose, memory: &mut Memory<'_>) -> Result<Self> {
        const PART: &str = "scratch";
        let normed_heads = match config.block.query_key_norm {
            None => 0,
            Some(NormWidth::Head) => config.heads + config.kv_heads,
            Some(NormWidth::AllHeads) => 2,
        };
        let d_residual = if purpose == Purpose::Inference { 0 } else { tokens * config.hidden };
        let norms = &config.block.norms;
        let has_output_norm = norms.attention_output.is_some() || norms.mlp_output.is_some();
        let d_added = if has_output_norm || config.scales.residual != 1.0 { d_residual } else { 0 };
        let delta_net = config.delta_net();
        let normed_heads = normed_heads.max(delta_net.map_or(0, |sizes| sizes.value_heads));
        let delta_net_width = delta_net.map_or(0, |sizes| DeltaNetScratch::<T>::width(&sizes, purpose));
        let wide = config.intermediate.max(HeadScratch::<T>::width(config, purpose)).max(delta_net_width);
        Ok(Self {
            normed: memory.take(PART, tokens * config.hidden)?,
            inverse_rms: memory.take(PART, tokens)?,
            head_inverse_rms: memory.take(PART, tokens * normed_heads)?,
            delta: memory.take(PART, tokens * config.hidden)?,
            d_residual: memory.take(PART, d_residual)?,
            d_added: memory.take(PART, d_added)?,
            wide: memory.take(PART, tokens * wide)?,
        })
    }
}

/// The batch on the device, and its losses.
#[derive(Debug)]
pub struct BatchBuffers {
    /// Token ids `[N]`.
    pub tokens: Indices,
    /// Rows of the rotary tables `[N]`.
    pub rotary_rows: Indices,
    /// Targets `[N]`.
    pub targets: Indices,
    /// Negative log-likelihood of every target `[N]`.
    pub losses: Buffer<f32>,
}

impl BatchBuffers {
    /// For batches of up to `max_tokens` tokens.
    pub fn new(device: &Device, max_tokens: usize) -> Result<Self> {
        Ok(Self {
            tokens: Indices::with_capacity(device, max_tokens)?,
            rotary_rows: Indices::with_capacity(device, max_tokens)?,
            targets: Indices::with_capacity(device, max_tokens)?,
            losses: Buffer::zeros(device, max_tokens)?,
        })
    }

    /// What [`BatchBuffers::new`] takes.
    pub fn bytes(max_tokens: usize) -> usize {
        max_tokens * (3 * size_of::<u32>() + size_of::<f32>())
    }
}
