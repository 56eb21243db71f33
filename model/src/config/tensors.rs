//! The tensors of a model, and what follows from their shapes.

use cpift_engine::Layout;

use super::block::BlockSizes;
use super::{DeltaNet, LayerAttention, ModelConfig, Part, VectorRole};
use crate::error::Result;

/// What a tensor's elements are before any training, as `transformers` sets them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum InitialValues {
    /// Normal, with the configuration's `initializer_range`.
    Normal,
    /// The same, but for this row, which is 0: the padding token's.
    NormalButRow(usize),
    /// This number.
    Constant(f32),
    /// ln of numbers spread evenly from 0.01 to 16.
    LogOfUniform,
}

impl ModelConfig {
    /// What layer `index` has weights for.
    pub fn parts(&self, index: usize) -> Vec<Part> {
        let sizes = BlockSizes {
            hidden: self.hidden,
            intermediate: self.intermediate,
            queries: self.attention_width(),
            keys: self.kv_width(),
            head_dim: self.head_dim,
        };
        self.block.parts(&sizes, self.attention[index].delta_net.as_ref())
    }

    /// The gated DeltaNet that layers have which have one: of one model all have the same sizes.
    pub fn delta_net(&self) -> Option<DeltaNet> {
        self.attention.iter().find_map(|layer| layer.delta_net)
    }

    /// Names and shapes of all tensors, as `transformers` names them, in the order they are laid out:
    /// embedding, layers, last norm, head. Tied weights occur once, as the embedding.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.described_tensors().into_iter().map(|(name, shape, _)| (name, shape)).collect()
    }

    /// What a model of random weights begins with, tensor by tensor in the order of [`ModelConfig::tensors`].
    pub fn initial_values(&self) -> Vec<InitialValues> {
        self.described_tensors().into_iter().map(|(_, _, values)| values).collect()
    }

    /// Names, shapes and initial values of all tensors.
    fn described_tensors(&self) -> Vec<(String, Vec<usize>, InitialValues)> {
        use InitialValues::{Constant, LogOfUniform, Normal, NormalButRow};
        let offset = self.block.norm_weight_offset;
        let embedding = self.padding.map_or(Normal, |id| NormalButRow(id as usize));
        let vocabulary_shape = vec![self.vocabulary, self.hidden];
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vocabulary_shape.clone(), embedding)];
        let mut push = |layer: usize, tensor: &str, shape: &[usize], values: InitialValues| {
            tensors.push((format!("model.layers.{layer}.{tensor}"), shape.to_vec(), values));
        };
        for layer in 0..self.layers {
            for part in self.parts(layer) {
                match part {
                    Part::Norm { role, tensor, width } => {
                        let one = Constant(1.0 - role.weight_offset(offset));
                        push(layer, &format!("{tensor}.weight"), &[width], one);
                    }
                    Part::Linear { tensor, first_row: 0, tensor_rows, inputs, bias, .. } => {
                        push(layer, &format!("{tensor}.weight"), &[tensor_rows, inputs], Normal);
                        if bias {
                            push(layer, &format!("{tensor}.bias"), &[tensor_rows], Constant(0.0));
                        }
                    }
                    // Further rows of a tensor that is listed.
                    Part::Linear { .. } => {}
                    Part::Convolution { tensor, channels, taps } => {
                        push(layer, &format!("{tensor}.weight"), &[channels, 1, taps], Normal);
                    }
                    Part::Vector { role, tensor, width } => {
                        let values = match role {
                            VectorRole::DtBias => Constant(1.0),
                            VectorRole::ALog => LogOfUniform,
                        };
                        push(layer, tensor, &[width], values);
                    }
                }
            }
        }
        tensors.push(("model.norm.weight".to_owned(), vec![self.hidden], Constant(1.0 - offset)));
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vocabulary_shape, Normal));
        }
        tensors
    }

    /// The flat layout of all parameters: [`ModelConfig::tensors`] in their order.
    ///
    /// # Errors
    /// When the model's size overflows.
    pub fn layout(&self) -> Result<Layout> {
        Ok(Layout::new(self.tensors())?)
    }

    /// Number of parameters (D); tied weights count once.
    pub fn parameters(&self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Floating-point operations of forward and backward per token, in sequences of `length` tokens:
    /// 6·N for the matrices, 12·(heads·head_dim) for every token that a token sees in a layer: half of T for causal
    /// attention, less with a window. N leaves out the embedding of an untied model, which is looked up, not
    /// multiplied. A gated DeltaNet takes 18 for every element of its states, and 12 for every element of a key or value
    /// and token of a chunk of 64 that a token sees, whatever the length.
    pub fn flops_per_token(&self, length: usize) -> f64 {
        let looked_up = if self.tied { 0 } else { self.vocabulary * self.hidden };
        let multiplied = (self.parameters() - looked_up) as f64;
        let seen = |layer: &LayerAttention| {
            let length = length as f64;
            // The first tokens see fewer than a window holds.
            let window = layer.window.map_or(length, |window| length.min(window.get() as f64));
            window - if length > 0.0 { window * window / (2.0 * length) } else { 0.0 }
        };
        let delta_net = |sizes: DeltaNet| {
            let widths = sizes.key_heads * sizes.key_dim + sizes.value_width();
            18.0 * sizes.state_length() as f64 + 12.0 * 32.5 * widths as f64
        };
        let mixing = |layer: &LayerAttention| match layer.delta_net {
            None => 12.0 * self.attention_width() as f64 * seen(layer),
            Some(sizes) => delta_net(sizes),
        };
        6.0 * multiplied + self.attention.iter().map(mixing).sum::<f64>()
    }
}
