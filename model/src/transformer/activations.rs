//! Memory of a forward and backward pass: planned, allocated once, used for every batch.
//!
//! Kept per layer and token, in elements: the layer's input C and what its backward cannot cheaply
//! compute again: 1 C (residual stream before the MLP), H·D + 2 KV·D (q, k, v), H·D + H (attention),
//! 2 I (gate, up). Norms, the gated activation and rotated normed heads are computed again instead.
//! With `recompute` only the inputs are kept per layer, and the rest exists once.

use cpift_engine::{Buffer, Device, Indices, ViewMut};

use crate::config::ModelConfig;
use crate::error::Result;

/// What a transformer is to be used for; decides what is kept in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Losses, logits and generation.
    Inference,
    /// Gradients too. `recompute` trades time (a second forward of every layer) for memory.
    Training {
        /// Keep only every layer's input.
        recompute: bool,
    },
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
pub struct LayerActivations {
    /// Queries, keys and values.
    pub projected: Projected,
    /// Attention's output `[N, H, D]`.
    pub attention: Buffer<f32>,
    /// Attention's log-sum-exp `[N, H]`.
    pub log_sum_exp: Buffer<f32>,
    /// Residual stream between attention and MLP `[N, C]`.
    pub middle: Buffer<f32>,
    /// The MLP's gate `[N, I]`; after the backward its gradient.
    pub gate: Buffer<f32>,
    /// The MLP's up projection `[N, I]`; after the backward its gradient.
    pub up: Buffer<f32>,
}

/// Queries, keys and values of one layer.
#[derive(Debug)]
pub struct Projected {
    /// Queries `[N, H, D]`: rotated, or before their norm where there is one.
    pub query: Buffer<f32>,
    /// Keys `[N, KV, D]`, likewise.
    pub key: Buffer<f32>,
    /// Values `[N, KV, D]`.
    pub value: Buffer<f32>,
}

/// Buffers whose content lives no longer than a layer.
#[derive(Debug)]
pub struct Scratch {
    /// The latest norm's output `[N, C]`.
    pub normed: Buffer<f32>,
    /// The latest norm's 1/rms `[N]`.
    pub inverse_rms: Buffer<f32>,
    /// 1/rms of every query and, after them, key `[N, H + KV]` where they are normed, else empty.
    pub head_inverse_rms: Buffer<f32>,
    /// Forward: what attention or MLP add to the residual stream `[N, C]`. Backward: the gradient of `normed`.
    pub delta: Buffer<f32>,
    /// Gradient of the residual stream `[N, C]`; empty for inference.
    pub d_residual: Buffer<f32>,
    /// In turn the MLP's activation or its gradient `[N, I]`, and the parts of [`HeadScratch`].
    pub wide: Buffer<f32>,
}

/// Parts of the wide scratch buffer while attention and its backward run.
#[derive(Debug)]
pub struct HeadScratch<'a> {
    /// Rotated queries `[N, H, D]` where queries are normed, else empty.
    pub query: ViewMut<'a, f32>,
    /// Rotated keys `[N, KV, D]` where keys are normed, else empty.
    pub key: ViewMut<'a, f32>,
    /// Gradient of attention's output `[N, H, D]`; like those below empty in the forward.
    pub d_attention: ViewMut<'a, f32>,
    /// Gradient of the queries `[N, H, D]`.
    pub d_query: ViewMut<'a, f32>,
    /// Gradient of the keys `[N, KV, D]`.
    pub d_key: ViewMut<'a, f32>,
    /// Gradient of the values `[N, KV, D]`.
    pub d_value: ViewMut<'a, f32>,
}

impl<'a> HeadScratch<'a> {
    /// Cuts `wide` for the forward of `tokens` tokens.
    pub fn forward(config: &ModelConfig, wide: ViewMut<'a, f32>, tokens: usize) -> Self {
        Self::cut(config, wide, tokens, 0)
    }

    /// Cuts `wide` for the backward of `tokens` tokens.
    pub fn backward(config: &ModelConfig, wide: ViewMut<'a, f32>, tokens: usize) -> Self {
        Self::cut(config, wide, tokens, tokens)
    }

    fn cut(config: &ModelConfig, wide: ViewMut<'a, f32>, tokens: usize, gradient_tokens: usize) -> Self {
        let (query_width, key_width) = (config.attention_width(), config.kv_width());
        let normed_tokens = if config.qk_norm { tokens } else { 0 };
        let (query, rest) = wide.split_at(normed_tokens * query_width);
        let (key, rest) = rest.split_at(normed_tokens * key_width);
        let (d_attention, rest) = rest.split_at(gradient_tokens * query_width);
        let (d_query, rest) = rest.split_at(gradient_tokens * query_width);
        let (d_key, rest) = rest.split_at(gradient_tokens * key_width);
        let d_value = rest.slice(0..gradient_tokens * key_width);
        Self { query, key, d_attention, d_query, d_key, d_value }
    }

    /// Elements per token.
    fn width(config: &ModelConfig, purpose: Purpose) -> usize {
        let heads = config.attention_width() + config.kv_width();
        let normed = if config.qk_norm { heads } else { 0 };
        match purpose {
            Purpose::Inference => normed,
            Purpose::Training { .. } => normed + 2 * heads,
        }
    }
}

/// All memory of the passes but the batch's own.
#[derive(Debug)]
pub struct Activations {
    /// Residual stream before every layer and after the last `[N, C]`; two in turn for inference.
    pub inputs: Vec<Buffer<f32>>,
    /// One per layer, or a single one for inference and `recompute`.
    pub layers: Vec<LayerActivations>,
    /// Shared by all layers.
    pub scratch: Scratch,
}

/// Takes the name of a part and a number of elements; allocates, or only counts.
type Allocate<'a> = dyn FnMut(&'static str, usize) -> Result<Buffer<f32>> + 'a;

impl Activations {
    /// Allocates for batches of up to `max_tokens` tokens.
    pub fn new(config: &ModelConfig, device: &Device, max_tokens: usize, purpose: Purpose) -> Result<Self> {
        Self::build(config, max_tokens, purpose, &mut |_, length| Ok(Buffer::zeros(device, length)?))
    }

    /// Goes through the very code that allocates, but only counts.
    pub fn plan(
        config: &ModelConfig,
        device: &Device,
        max_tokens: usize,
        purpose: Purpose,
    ) -> Result<MemoryPlan> {
        let mut parts: Vec<(&'static str, usize)> = Vec::new();
        let mut count = |part: &'static str, length: usize| {
            let bytes = length * size_of::<f32>();
            match parts.iter_mut().find(|(name, _)| *name == part) {
                Some((_, sum)) => *sum += bytes,
                None => parts.push((part, bytes)),
            }
            Ok(Buffer::zeros(device, 0)?)
        };
        Self::build(config, max_tokens, purpose, &mut count)?;
        Ok(MemoryPlan { parts })
    }

    fn build(
        config: &ModelConfig,
        tokens: usize,
        purpose: Purpose,
        allocate: &mut Allocate<'_>,
    ) -> Result<Self> {
        let (kept_inputs, kept_layers) = match purpose {
            Purpose::Inference => (2, 1),
            Purpose::Training { recompute: true } => (config.layers + 1, 1),
            Purpose::Training { recompute: false } => (config.layers + 1, config.layers),
        };
        let inputs = (0..kept_inputs).map(|_| allocate("layer inputs", tokens * config.hidden));
        let inputs = inputs.collect::<Result<_>>()?;
        let layers = (0..kept_layers).map(|_| LayerActivations::build(config, tokens, allocate));
        let layers = layers.collect::<Result<_>>()?;
        let scratch = Scratch::build(config, tokens, purpose, allocate)?;
        Ok(Self { inputs, layers, scratch })
    }
}

impl LayerActivations {
    fn build(config: &ModelConfig, tokens: usize, allocate: &mut Allocate<'_>) -> Result<Self> {
        let (query_width, key_width) = (tokens * config.attention_width(), tokens * config.kv_width());
        Ok(Self {
            projected: Projected {
                query: allocate("attention", query_width)?,
                key: allocate("attention", key_width)?,
                value: allocate("attention", key_width)?,
            },
            attention: allocate("attention", query_width)?,
            log_sum_exp: allocate("attention", tokens * config.heads)?,
            middle: allocate("mlp", tokens * config.hidden)?,
            gate: allocate("mlp", tokens * config.intermediate)?,
            up: allocate("mlp", tokens * config.intermediate)?,
        })
    }
}

impl Scratch {
    fn build(
        config: &ModelConfig,
        tokens: usize,
        purpose: Purpose,
        allocate: &mut Allocate<'_>,
    ) -> Result<Self> {
        const PART: &str = "scratch";
        let normed_heads = if config.qk_norm { config.heads + config.kv_heads } else { 0 };
        let d_residual = if purpose == Purpose::Inference { 0 } else { tokens * config.hidden };
        let wide = config.intermediate.max(HeadScratch::width(config, purpose));
        Ok(Self {
            normed: allocate(PART, tokens * config.hidden)?,
            inverse_rms: allocate(PART, tokens)?,
            head_inverse_rms: allocate(PART, tokens * normed_heads)?,
            delta: allocate(PART, tokens * config.hidden)?,
            d_residual: allocate(PART, d_residual)?,
            wide: allocate(PART, tokens * wide)?,
        })
    }
}

/// The batch on the device, and its losses.
#[derive(Debug)]
pub struct BatchBuffers {
    /// Token ids `[N]`.
    pub tokens: Indices,
    /// Positions in their documents `[N]`.
    pub positions: Indices,
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
            positions: Indices::with_capacity(device, max_tokens)?,
            targets: Indices::with_capacity(device, max_tokens)?,
            losses: Buffer::zeros(device, max_tokens)?,
        })
    }

    /// What [`BatchBuffers::new`] takes.
    pub fn bytes(max_tokens: usize) -> usize {
        max_tokens * (3 * size_of::<u32>() + size_of::<f32>())
    }
}
