//! Where each tensor of the model lies in the flat parameters, and the layers made of them.
//!
//! Gradients lie at the same places in a flat allocation of their own.

use std::ops::Range;

use cpift_engine::ops::gradients::GradientsMut;
use cpift_engine::ops::{linear, rms_norm};
use cpift_engine::{Device, Layout, Real, Segment, View, ViewMut};

use crate::config::{DeltaNet, LinearRole, ModelConfig, NormRole, Part, VectorRole};
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
        mut gradients: GradientsMut<'_>,
    ) -> Result<()> {
        let shape = self.shape(d_y.len() / self.outputs);
        let weight = self.weight.clone();
        match self.bias.clone() {
            None => gradients.add(device, weight, |d_weight| {
                Ok(linear::backward_weight(device, &shape, d_y, x, d_weight, None)?)
            }),
            Some(bias) => gradients.add_two(device, [weight, bias], |[d_weight, d_bias]| {
                Ok(linear::backward_weight(device, &shape, d_y, x, d_weight, Some(d_bias))?)
            }),
        }
    }
}

/// An RMSNorm with its weight `[width]`.
#[derive(Debug, Clone)]
pub struct Norm {
    weight: Range<usize>,
    epsilon: f32,
    weight_offset: f32,
}

impl Norm {
    fn shape(&self, elements: usize) -> rms_norm::Shape {
        let hidden = self.weight.len();
        let (epsilon, weight_offset) = (self.epsilon, self.weight_offset);
        rms_norm::Shape { rows: self.rows(elements), hidden, epsilon, weight_offset }
    }

    /// Rows that so many elements are normalised in: tokens, or heads of tokens.
    pub fn rows(&self, elements: usize) -> usize {
        elements / self.weight.len()
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
        mut gradients: GradientsMut<'_>,
    ) -> Result<()> {
        let shape = self.shape(saved.input.len());
        let saved = rms_norm::BackwardInputs {
            input: saved.input,
            weight: weights.slice(self.weight.clone()),
            inverse_rms: saved.inverse_rms.slice(0..shape.rows),
        };
        gradients.add(device, self.weight.clone(), |d_weight| {
            Ok(rms_norm::backward(device, &shape, saved, d_output, d_input, d_weight)?)
        })
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
    /// The first of its elements: those of later layers lie behind all of it.
    pub start: usize,
    /// Of what attention reads.
    pub attention_norm: Option<Norm>,
    /// Attention, or what is in its place.
    pub mixer: MixerWeights,
    /// Of what attention adds to the residual stream.
    pub attention_output_norm: Option<Norm>,
    /// Of what the MLP reads.
    pub mlp_norm: Option<Norm>,
    /// C → intermediate.
    pub gate: Linear,
    /// C → intermediate.
    pub up: Linear,
    /// intermediate → C.
    pub down: Linear,
    /// Of what the MLP adds to the residual stream.
    pub mlp_output_norm: Option<Norm>,
}

/// What mixes the tokens of a layer.
#[derive(Debug, Clone)]
pub enum MixerWeights {
    /// Attention.
    Attention(Box<AttentionWeights>),
    /// A gated DeltaNet.
    DeltaNet(Box<DeltaNetWeights>),
}

/// The tensors of attention.
#[derive(Debug, Clone)]
pub struct AttentionWeights {
    /// C → H·D, or 2 H·D with a gate of the output.
    pub query: Linear,
    /// C → KV·D.
    pub key: Linear,
    /// C → KV·D.
    pub value: Linear,
    /// Norms of queries and keys.
    pub query_key_norms: Option<(Norm, Norm)>,
    /// H·D → C.
    pub output: Linear,
}

/// The tensors of a gated DeltaNet.
#[derive(Debug, Clone)]
pub struct DeltaNetWeights {
    /// Its sizes.
    pub sizes: DeltaNet,
    /// C → queries, keys and values.
    pub qkv: Linear,
    /// C → gate of the output.
    pub gate: Linear,
    /// C → β of the heads.
    pub beta: Linear,
    /// C → decay of the heads.
    pub decay: Linear,
    /// `[channels, K]`.
    pub convolution: Range<usize>,
    /// Added to the decay's input `[HV]`.
    pub dt_bias: Range<usize>,
    /// ln of the decay's rate `[HV]`.
    pub a_log: Range<usize>,
    /// Of every head's output.
    pub norm: Norm,
    /// HV·DV → C.
    pub output: Linear,
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
        let find = Finder { layout: &layout, config };
        let embedding = find.range("model.embed_tokens.weight")?;
        let head = if config.tied { embedding.clone() } else { find.range("lm_head.weight")? };
        let layers = (0..config.layers).map(|layer| find.layer(layer)).collect::<Result<Vec<_>>>()?;
        let final_norm = find.norm("model.norm", config.block.norm_weight_offset)?;
        Ok(Self { embedding, layers, final_norm, head, length: layout.len() })
    }

    /// What of the gradients is final together, in the order of the layout: whole layers, of so many elements at least. The
    /// backward pass comes to the last first. To the first belongs what it comes to at its end, the embedding.
    pub fn buckets(&self, least: usize) -> Vec<Range<usize>> {
        let mut buckets = Vec::new();
        let mut end = self.length;
        for layer in self.layers.iter().rev().filter(|layer| layer.start > 0) {
            if end - layer.start >= least {
                buckets.push(layer.start..end);
                end = layer.start;
            }
        }
        buckets.push(0..end);
        buckets.reverse();
        buckets
    }
}

struct Finder<'a> {
    layout: &'a Layout,
    config: &'a ModelConfig,
}

impl Finder<'_> {
    fn range(&self, name: &str) -> Result<Range<usize>> {
        let id =
            self.layout.find(name).ok_or_else(|| Error::Job(format!("the layout has no tensor `{name}`")))?;
        Ok(self.layout.segment(id).range())
    }

    fn norm(&self, name: &str, weight_offset: f32) -> Result<Norm> {
        let weight = self.range(&format!("{name}.weight"))?;
        Ok(Norm { weight, epsilon: self.config.rms_norm_epsilon, weight_offset })
    }

    fn layer(&self, index: usize) -> Result<LayerWeights> {
        let prefix = format!("model.layers.{index}");
        let segments = self.layout.segments();
        let is_own = |segment: &&Segment| {
            segment.name.strip_prefix(&prefix).is_some_and(|tensor| tensor.starts_with('.'))
        };
        let start = segments.iter().find(is_own).map_or(self.layout.len(), |segment| segment.offset);
        let layer = Layer { find: self, prefix, parts: self.config.parts(index) };
        let mixer = match self.config.attention[index].delta_net {
            None => MixerWeights::Attention(Box::new(layer.attention()?)),
            Some(sizes) => MixerWeights::DeltaNet(Box::new(layer.delta_net(sizes)?)),
        };
        Ok(LayerWeights {
            start,
            attention_norm: layer.norm(NormRole::AttentionInput)?,
            mixer,
            attention_output_norm: layer.norm(NormRole::AttentionOutput)?,
            mlp_norm: layer.norm(NormRole::MlpInput)?,
            gate: layer.linear(LinearRole::Gate)?,
            up: layer.linear(LinearRole::Up)?,
            down: layer.linear(LinearRole::Down)?,
            mlp_output_norm: layer.norm(NormRole::MlpOutput)?,
        })
    }
}

/// One layer, whose tensors are looked for.
struct Layer<'a> {
    find: &'a Finder<'a>,
    prefix: String,
    parts: Vec<Part>,
}

impl Layer<'_> {
    fn attention(&self) -> Result<AttentionWeights> {
        Ok(AttentionWeights {
            query: self.linear(LinearRole::Query)?,
            key: self.linear(LinearRole::Key)?,
            value: self.linear(LinearRole::Value)?,
            query_key_norms: self.norm(NormRole::Query)?.zip(self.norm(NormRole::Key)?),
            output: self.linear(LinearRole::Output)?,
        })
    }

    fn delta_net(&self, sizes: DeltaNet) -> Result<DeltaNetWeights> {
        Ok(DeltaNetWeights {
            sizes,
            qkv: self.linear(LinearRole::DeltaNetQkv)?,
            gate: self.linear(LinearRole::DeltaNetGate)?,
            beta: self.linear(LinearRole::DeltaNetBeta)?,
            decay: self.linear(LinearRole::DeltaNetDecay)?,
            convolution: self.find_part("convolution", |part| match part {
                Part::Convolution { tensor, .. } => Some(format!("{tensor}.weight")),
                _ => None,
            })?,
            dt_bias: self.vector(VectorRole::DtBias)?,
            a_log: self.vector(VectorRole::ALog)?,
            norm: self.norm(NormRole::DeltaNet)?.ok_or_else(|| self.missing("norm of a gated DeltaNet"))?,
            output: self.linear(LinearRole::Output)?,
        })
    }

    fn norm(&self, role: NormRole) -> Result<Option<Norm>> {
        let mut of_role = self.parts.iter().filter_map(|part| match part {
            Part::Norm { role: found, tensor, .. } if *found == role => Some(tensor),
            _ => None,
        });
        let offset = role.weight_offset(self.find.config.block.norm_weight_offset);
        let find = |tensor| self.find.norm(&format!("{}.{tensor}", self.prefix), offset);
        of_role.next().map(find).transpose()
    }

    fn vector(&self, role: VectorRole) -> Result<Range<usize>> {
        self.find_part("vector", |part| match part {
            Part::Vector { role: found, tensor, .. } if *found == role => Some((*tensor).to_owned()),
            _ => None,
        })
    }

    /// Where the tensor lies that `name` gives of a part.
    fn find_part(&self, what: &str, name: impl Fn(&Part) -> Option<String>) -> Result<Range<usize>> {
        let tensor = self.parts.iter().find_map(name).ok_or_else(|| self.missing(what))?;
        self.find.range(&format!("{}.{tensor}", self.prefix))
    }

    fn missing(&self, what: &str) -> Error {
        Error::Job(format!("`{}` has no {what}", self.prefix))
    }

    /// A linear layer: all rows of its tensor, or those that are its own where others share it.
    fn linear(&self, role: LinearRole) -> Result<Linear> {
        let of_role = |part: &&Part| matches!(part, Part::Linear { role: found, .. } if *found == role);
        let Some(&Part::Linear { tensor, first_row, outputs, inputs, bias, .. }) =
            self.parts.iter().find(of_role)
        else {
            return Err(self.missing(&format!("projection {role:?}")));
        };
        let rows = |kind: &str, width: usize| -> Result<Range<usize>> {
            let start =
                self.find.range(&format!("{}.{tensor}.{kind}", self.prefix))?.start + first_row * width;
            Ok(start..start + outputs * width)
        };
        let bias = if bias { Some(rows("bias", 1)?) } else { None };
        Ok(Linear { weight: rows("weight", inputs)?, bias, inputs, outputs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(tied: bool) -> ModelWeights {
        let text = format!(
            r#"{{"model_type": "llama", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48,
                "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
                "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": {tied}}}"#
        );
        ModelWeights::new(&ModelConfig::parse("config.json".as_ref(), &text).unwrap()).unwrap()
    }

    #[test]
    fn buckets_are_whole_layers_and_cover_everything() {
        for tied in [false, true] {
            let weights = weights(tied);
            let starts: Vec<usize> = weights.layers.iter().map(|layer| layer.start).collect();
            assert!(starts[0] >= weights.embedding.end && starts.is_sorted());
            for least in [1, 8_000, 20_000, usize::MAX] {
                let buckets = weights.buckets(least);
                assert_eq!((buckets[0].start, buckets[buckets.len() - 1].end), (0, weights.length));
                assert!(buckets.windows(2).all(|pair| pair[0].end == pair[1].start), "{buckets:?}");
                assert!(
                    buckets[1..].iter().all(|bucket| bucket.len() >= least && starts.contains(&bucket.start))
                );
            }
            assert_eq!((weights.buckets(1).len(), weights.buckets(usize::MAX).len()), (4, 1));
        }
    }
}
