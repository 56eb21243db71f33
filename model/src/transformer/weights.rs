//! Where each tensor of the model lies in the flat parameters, and the layers made of them.
//!
//! Gradients lie at the same places in a flat allocation of their own.

use std::ops::Range;

use cpift_engine::ops::{linear, rms_norm};
use cpift_engine::{Device, Layout, Real, View, ViewMut};

use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// A linear layer: weight `[outputs, inputs]` and perhaps a bias `[outputs]`.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Range<usize>,
    bias: Option<Range<usize>>,
    inputs: usize,
    outputs: usize,
}

impl Linear {
    fn shape(&self, rows: usize) -> linear::Shape {
        linear::Shape { rows, inputs: self.inputs, outputs: self.outputs }
    }

    /// y `[N, outputs]` = x `[N, inputs]` · Wᵀ + b.
    pub fn forward<T: Real>(
        &self,
        device: &Device,
        weights: View<'_, T>,
        x: View<'_, T>,
        y: ViewMut<'_, T>,
    ) -> Result<()> {
        let shape = self.shape(x.len() / self.inputs);
        let bias = self.bias.clone().map(|bias| weights.slice(bias));
        Ok(linear::forward(device, &shape, x, weights.slice(self.weight.clone()), bias, y)?)
    }

    /// d_x `[N, inputs]` = d_y `[N, outputs]` · W, added to what is there when `accumulate`.
    pub fn backward_input<T: Real>(
        &self,
        device: &Device,
        weights: View<'_, T>,
        d_y: View<'_, T>,
        d_x: ViewMut<'_, T>,
        accumulate: bool,
    ) -> Result<()> {
        let shape = self.shape(d_y.len() / self.outputs);
        let weight = weights.slice(self.weight.clone());
        Ok(linear::backward_input(device, &shape, d_y, weight, d_x, accumulate)?)
    }

    /// Adds the gradients of weight and bias to the flat `gradients`.
    pub fn backward_weight<T: Real>(
        &self,
        device: &Device,
        d_y: View<'_, T>,
        x: View<'_, T>,
        gradients: ViewMut<'_, f32>,
    ) -> Result<()> {
        let shape = self.shape(d_y.len() / self.outputs);
        let (d_weight, d_bias) = match &self.bias {
            None => (gradients.slice(self.weight.clone()), None),
            Some(bias) => {
                let (before, from_bias) = gradients.split_at(bias.start);
                (before.slice(self.weight.clone()), Some(from_bias.slice(0..bias.len())))
            }
        };
        Ok(linear::backward_weight(device, &shape, d_y, x, d_weight, d_bias)?)
    }
}

/// An RMSNorm with its weight `[width]`.
#[derive(Debug, Clone)]
pub struct Norm {
    weight: Range<usize>,
    epsilon: f32,
}

impl Norm {
    fn shape(&self, elements: usize) -> rms_norm::Shape {
        let hidden = self.weight.len();
        rms_norm::Shape { rows: elements / hidden, hidden, epsilon: self.epsilon, weight_offset: 0.0 }
    }

    /// Normalises `input` into `output`; `inverse_rms` has room for at least one element a row.
    pub fn forward<T: Real>(
        &self,
        device: &Device,
        weights: View<'_, T>,
        input: View<'_, T>,
        output: ViewMut<'_, T>,
        inverse_rms: ViewMut<'_, f32>,
    ) -> Result<()> {
        let shape = self.shape(input.len());
        let inverse_rms = inverse_rms.slice(0..shape.rows);
        let weight = weights.slice(self.weight.clone());
        Ok(rms_norm::forward(device, &shape, input, weight, output, inverse_rms)?)
    }

    /// sum = residual + delta, and its norm.
    pub fn forward_residual<T: Real>(
        &self,
        device: &Device,
        weights: View<'_, T>,
        residual: View<'_, T>,
        delta: View<'_, T>,
        outputs: rms_norm::ResidualOutputs<'_, T>,
    ) -> Result<()> {
        let shape = self.shape(residual.len());
        let outputs =
            rms_norm::ResidualOutputs { inverse_rms: outputs.inverse_rms.slice(0..shape.rows), ..outputs };
        let weight = weights.slice(self.weight.clone());
        Ok(rms_norm::forward_residual(device, &shape, residual, delta, weight, outputs)?)
    }

    /// Adds to `d_input` and to the weight's part of the flat `gradients`.
    pub fn backward<T: Real>(
        &self,
        device: &Device,
        weights: View<'_, T>,
        saved: NormSaved<'_, T>,
        d_output: View<'_, T>,
        d_input: ViewMut<'_, T>,
        gradients: ViewMut<'_, f32>,
    ) -> Result<()> {
        let shape = self.shape(saved.input.len());
        let saved = rms_norm::BackwardInputs {
            input: saved.input,
            weight: weights.slice(self.weight.clone()),
            inverse_rms: saved.inverse_rms.slice(0..shape.rows),
        };
        let d_weight = gradients.slice(self.weight.clone());
        Ok(rms_norm::backward(device, &shape, saved, d_output, d_input, d_weight)?)
    }
}

/// What [`Norm::backward`] needs from the forward.
#[derive(Debug, Clone, Copy)]
pub struct NormSaved<'a, T: Real> {
    /// The norm's input.
    pub input: View<'a, T>,
    /// As the forward wrote it.
    pub inverse_rms: View<'a, f32>,
}

/// The tensors of one layer.
#[derive(Debug, Clone)]
pub struct LayerWeights {
    /// Before attention.
    pub attention_norm: Norm,
    /// C → H·D.
    pub query: Linear,
    /// C → KV·D.
    pub key: Linear,
    /// C → KV·D.
    pub value: Linear,
    /// Norms of every head's queries and keys, where the architecture has them.
    pub query_key_norms: Option<(Norm, Norm)>,
    /// H·D → C.
    pub output: Linear,
    /// Before the MLP.
    pub mlp_norm: Norm,
    /// C → intermediate.
    pub gate: Linear,
    /// C → intermediate.
    pub up: Linear,
    /// intermediate → C.
    pub down: Linear,
}

/// All tensors of the model.
#[derive(Debug, Clone)]
pub struct ModelWeights {
    /// `[V, C]`.
    pub embedding: Range<usize>,
    /// By depth.
    pub layers: Vec<LayerWeights>,
    /// After the last layer.
    pub final_norm: Norm,
    /// `[V, C]`; the embedding's range when tied, so that both gradients add up in one place.
    pub head: Range<usize>,
    /// Elements of the flat allocation.
    pub length: usize,
}

impl ModelWeights {
    /// Finds every tensor of `config` in its layout.
    pub fn new(config: &ModelConfig) -> Result<Self> {
        let layout = config.layout()?;
        let find = Finder { layout: &layout, epsilon: config.rms_norm_epsilon };
        let embedding = find.range("model.embed_tokens.weight")?;
        let head = if config.tied { embedding.clone() } else { find.range("lm_head.weight")? };
        let layers = (0..config.layers)
            .map(|layer| find.layer(&format!("model.layers.{layer}"), config))
            .collect::<Result<Vec<_>>>()?;
        let final_norm = find.norm("model.norm")?;
        Ok(Self { embedding, layers, final_norm, head, length: layout.len() })
    }
}

struct Finder<'a> {
    layout: &'a Layout,
    epsilon: f32,
}

impl Finder<'_> {
    fn range(&self, name: &str) -> Result<Range<usize>> {
        let id =
            self.layout.find(name).ok_or_else(|| Error::Job(format!("the layout has no tensor `{name}`")))?;
        Ok(self.layout.segment(id).range())
    }

    fn norm(&self, name: &str) -> Result<Norm> {
        Ok(Norm { weight: self.range(&format!("{name}.weight"))?, epsilon: self.epsilon })
    }

    fn linear(&self, name: &str, inputs: usize, outputs: usize, bias: bool) -> Result<Linear> {
        let weight = self.range(&format!("{name}.weight"))?;
        let bias = if bias { Some(self.range(&format!("{name}.bias"))?) } else { None };
        Ok(Linear { weight, bias, inputs, outputs })
    }

    fn layer(&self, prefix: &str, config: &ModelConfig) -> Result<LayerWeights> {
        let (hidden, intermediate) = (config.hidden, config.intermediate);
        let (query_width, key_width) = (config.attention_width(), config.kv_width());
        let attention = |name: &str, inputs, outputs, bias| {
            self.linear(&format!("{prefix}.self_attn.{name}"), inputs, outputs, bias)
        };
        let mlp = |name: &str, inputs, outputs| {
            self.linear(&format!("{prefix}.mlp.{name}"), inputs, outputs, false)
        };
        let query_key_norms = if config.qk_norm {
            let norm = |name: &str| self.norm(&format!("{prefix}.self_attn.{name}"));
            Some((norm("q_norm")?, norm("k_norm")?))
        } else {
            None
        };
        Ok(LayerWeights {
            attention_norm: self.norm(&format!("{prefix}.input_layernorm"))?,
            query: attention("q_proj", hidden, query_width, config.qkv_bias)?,
            key: attention("k_proj", hidden, key_width, config.qkv_bias)?,
            value: attention("v_proj", hidden, key_width, config.qkv_bias)?,
            query_key_norms,
            output: attention("o_proj", query_width, hidden, config.output_bias)?,
            mlp_norm: self.norm(&format!("{prefix}.post_attention_layernorm"))?,
            gate: mlp("gate_proj", hidden, intermediate)?,
            up: mlp("up_proj", hidden, intermediate)?,
            down: mlp("down_proj", intermediate, hidden)?,
        })
    }
}
