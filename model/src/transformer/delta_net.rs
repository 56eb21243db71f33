//! Layers with a gated DeltaNet in place of attention.
//!
//! Projections give queries, keys and values, which pass a causal convolution, a gate of the output, and two numbers of
//! every head. The gated delta rule takes the place of attention; what each head reads is normed, times silu of its gate.

use cpift_engine::ops::attention::Documents;
use cpift_engine::ops::gated_mlp::{self, Activation};
use cpift_engine::ops::gradients::GradientsMut;
use cpift_engine::ops::{causal_conv1d, gated_delta_rule};
use cpift_engine::{Buffer, Real, View, ViewMut};

use super::activations::{DeltaNetActivations, DeltaNetScratch, LayerActivations, Scratch};
use super::backward::{Backward, d_input};
use super::forward::{Attend, Pass};
use super::timings::{Part, Timings};
use super::weights::{DeltaNetWeights, NormSaved};
use crate::config::DeltaNet;
use crate::error::{Error, Result};

/// Shape of the convolution.
pub fn convolution_shape(sizes: &DeltaNet) -> causal_conv1d::Shape {
    causal_conv1d::Shape { channels: sizes.channels(), taps: sizes.taps }
}

/// Shape of the gated delta rule.
pub(super) fn rule_shape(sizes: &DeltaNet) -> gated_delta_rule::Shape {
    let DeltaNet { key_heads, value_heads, key_dim, value_dim, .. } = *sizes;
    gated_delta_rule::Shape { key_heads, value_heads, key_dim, value_dim }
}

impl<T: Real> Pass<'_, T> {
    /// `scratch.delta` = the gated DeltaNet of `scratch.normed`, or of `input` where it has no norm, with the output
    /// projection and its norm.
    pub fn delta_net(
        &self,
        (index, places): (usize, &DeltaNetWeights),
        input: &Buffer<T>,
        layer: &mut LayerActivations<T>,
        scratch: &mut Scratch<T>,
        attend: &mut Attend<'_, T>,
        timings: &mut Timings,
    ) -> Result<()> {
        let (device, weights, sizes) = (self.device, self.weights, &places.sizes);
        let LayerActivations { delta_net: kept, attention_output, .. } = layer;
        let Scratch { normed, inverse_rms, head_inverse_rms, delta, wide, .. } = scratch;
        let normed = self.normed(self.places.layers[index].attention_norm.as_ref(), input, normed);
        places.qkv.forward(device, weights, normed, self.wide_mut(&mut kept.mixed, sizes.channels()))?;
        places.gate.forward(device, weights, normed, self.wide_mut(&mut kept.gate, sizes.value_width()))?;
        places.beta.forward(device, weights, normed, self.wide_mut(&mut kept.beta, sizes.value_heads))?;
        places.decay.forward(device, weights, normed, self.wide_mut(&mut kept.decay, sizes.value_heads))?;
        timings.lap(Part::Projections);

        let mut parts = DeltaNetScratch::forward(sizes, wide.view_mut(), self.rows());
        self.read_states((index, places), kept, parts.qkv.reborrow(), attend)?;
        self.gate_read(places, kept, &mut parts, head_inverse_rms)?;
        timings.lap(Part::Attention);

        let gated = parts.gated.as_view();
        self.project_mixed((index, &places.output), gated, attention_output, delta, inverse_rms)?;
        timings.lap(Part::Projections);
        Ok(())
    }

    /// `kept.read` = what the heads read, from their documents' or rows' states; `qkv` = the convolution.
    fn read_states(
        &self,
        (index, places): (usize, &DeltaNetWeights),
        kept: &mut DeltaNetActivations<T>,
        mut qkv: ViewMut<'_, T>,
        attend: &mut Attend<'_, T>,
    ) -> Result<()> {
        let (device, sizes) = (self.device, &places.sizes);
        let (convolution, rule) = (convolution_shape(sizes), rule_shape(sizes));
        let DeltaNetActivations { mixed, beta, decay, read, .. } = kept;
        let (mixed, weight) =
            (self.wide(mixed, sizes.channels()), self.weights.slice(places.convolution.clone()));
        let read = self.wide_mut(read, sizes.value_width());
        match attend {
            Attend::Documents(documents) => {
                causal_conv1d::forward(device, &convolution, documents, mixed, weight, qkv.reborrow())?;
                let inputs = self.rule_inputs(places, qkv.as_view(), beta, decay);
                gated_delta_rule::forward(device, &rule, documents, inputs, read, None)?;
            }
            Attend::Prefill { documents, cache, first_slot } => {
                let states = cache.store_states(index, documents, *first_slot, mixed)?;
                causal_conv1d::forward(device, &convolution, documents, mixed, weight, qkv.reborrow())?;
                let inputs = self.rule_inputs(places, qkv.as_view(), beta, decay);
                gated_delta_rule::forward(device, &rule, documents, inputs, read, Some(states))?;
            }
            Attend::Cache(cache) => {
                let states = cache.states(index);
                let states = states.ok_or_else(|| Error::Job(format!("layer {index} has no states")))?;
                let (slots, latest) = (states.slots, states.inputs);
                causal_conv1d::decode(device, &convolution, mixed, weight, slots, latest, qkv.reborrow())?;
                let inputs = self.rule_inputs(places, qkv.as_view(), beta, decay);
                gated_delta_rule::decode(device, &rule, inputs, slots, states.heads, read)?;
            }
        }
        Ok(())
    }

    /// `parts.normed` = norm of `kept.read`, `parts.gated` = that times silu of its gate.
    fn gate_read(
        &self,
        places: &DeltaNetWeights,
        kept: &DeltaNetActivations<T>,
        parts: &mut DeltaNetScratch<'_, T>,
        inverse_rms: &mut Buffer<f32>,
    ) -> Result<()> {
        let (device, width) = (self.device, places.sizes.value_width());
        let (read, normed) = (self.wide(&kept.read, width), parts.normed.reborrow());
        places.norm.forward(device, self.weights, read, normed, inverse_rms.view_mut())?;
        let (gate, normed) = (self.wide(&kept.gate, width), parts.normed.as_view());
        Ok(gated_mlp::forward(device, Activation::Silu, gate, normed, parts.gated.reborrow())?)
    }

    /// From `parts.d_read` to the gradients of what the convolution and the heads read.
    fn rule_backward(
        &self,
        places: &DeltaNetWeights,
        kept: &DeltaNetActivations<T>,
        parts: &mut DeltaNetScratch<'_, T>,
        documents: &Documents,
        mut gradients: GradientsMut<'_>,
    ) -> Result<()> {
        let (device, sizes) = (self.device, &places.sizes);
        let (convolution, rule) = (convolution_shape(sizes), rule_shape(sizes));
        let mixed = self.wide(&kept.mixed, sizes.channels());
        let weight = self.weights.slice(places.convolution.clone());
        causal_conv1d::forward(device, &convolution, documents, mixed, weight, parts.qkv.reborrow())?;
        let inputs = self.rule_inputs(places, parts.qkv.as_view(), &kept.beta, &kept.decay);
        let vectors = [places.a_log.clone(), places.dt_bias.clone()];
        gradients.add_two(device, vectors, |[d_a_log, d_dt_bias]| {
            let into = gated_delta_rule::Gradients {
                d_qkv: parts.d_qkv.reborrow(),
                d_a: parts.d_decay.reborrow(),
                d_b: parts.d_beta.reborrow(),
                d_a_log,
                d_dt_bias,
            };
            gated_delta_rule::backward(device, &rule, documents, inputs, parts.d_read.as_view(), into)
        })?;
        let (d_qkv, d_mixed) = (parts.d_qkv.as_view(), parts.d_mixed.reborrow());
        gradients.add(device, places.convolution.clone(), |d_weight| {
            let inputs = (mixed, weight);
            Ok(causal_conv1d::backward(device, &convolution, documents, inputs, d_qkv, d_mixed, d_weight)?)
        })
    }

    /// What the gated delta rule reads.
    fn rule_inputs<'b>(
        &'b self,
        places: &DeltaNetWeights,
        qkv: View<'b, T>,
        beta: &'b Buffer<T>,
        decay: &'b Buffer<T>,
    ) -> gated_delta_rule::Inputs<'b, T> {
        let heads = places.sizes.value_heads;
        gated_delta_rule::Inputs {
            qkv,
            a: self.wide(decay, heads),
            b: self.wide(beta, heads),
            a_log: self.weights.slice(places.a_log.clone()),
            dt_bias: self.weights.slice(places.dt_bias.clone()),
        }
    }

    /// `[N, width]`.
    fn wide<'b>(&self, buffer: &'b Buffer<T>, width: usize) -> View<'b, T> {
        buffer.slice(0..self.rows() * width)
    }

    /// `[N, width]`.
    fn wide_mut<'b>(&self, buffer: &'b mut Buffer<T>, width: usize) -> ViewMut<'b, T> {
        buffer.slice_mut(0..self.rows() * width)
    }
}

impl<T: Real> Backward<'_, '_, T> {
    /// From what a gated DeltaNet added, whose gradient is [`Pass::d_made`], to what it read. Destroys its gate.
    pub(super) fn delta_net(
        &mut self,
        (index, places): (usize, &DeltaNetWeights),
        input: &Buffer<T>,
        layer: &mut LayerActivations<T>,
    ) -> Result<()> {
        let (pass, mut gradients) = (self.pass, self.gradients.reborrow());
        let (device, weights, sizes) = (pass.device, pass.weights, &places.sizes);
        let Scratch { normed, head_inverse_rms, delta, d_residual, d_added, wide, .. } = &mut *self.scratch;
        let kept = &mut layer.delta_net;
        let layer_places = &pass.places.layers[index];
        let d_output = pass.d_made(layer_places.attention_output_norm.as_ref(), d_added, d_residual);
        let mut parts = DeltaNetScratch::backward(sizes, wide.view_mut(), pass.rows());

        let (read, width) = (pass.wide(&kept.read, sizes.value_width()), sizes.value_width());
        let heads_normed = parts.normed.reborrow();
        places.norm.forward(device, weights, read, heads_normed, head_inverse_rms.view_mut())?;
        places.output.backward_input(device, weights, d_output, parts.gated.reborrow(), false)?;
        let (gate, heads_normed) = (pass.wide_mut(&mut kept.gate, width), parts.normed.reborrow());
        gated_mlp::backward(device, Activation::Silu, gate, heads_normed, parts.gated.reborrow())?;
        // In place: the buffers now hold the gradients of gate and norm, and the gated output again.
        places.output.backward_weight(device, d_output, parts.gated.as_view(), gradients.reborrow())?;
        parts.d_read.fill(T::default())?;
        let saved = NormSaved { input: read, inverse_rms: head_inverse_rms.view() };
        let (d_normed, d_read) = (parts.normed.as_view(), parts.d_read.reborrow());
        places.norm.backward(device, weights, saved, d_normed, d_read, gradients.reborrow())?;

        self.timings.lap(Part::ProjectionsBackward);
        pass.rule_backward(places, kept, &mut parts, self.documents, gradients.reborrow())?;
        self.timings.lap(Part::AttentionBackward);
        let projections = [
            (&places.qkv, parts.d_mixed.as_view()),
            (&places.gate, pass.wide(&kept.gate, width)),
            (&places.beta, parts.d_beta.as_view()),
            (&places.decay, parts.d_decay.as_view()),
        ];
        let input_norm = layer_places.attention_norm.as_ref();
        let normed = pass.normed(input_norm, input, normed);
        let into = d_input(input_norm, delta, d_residual);
        pass.projections_backward(&projections, normed, into, gradients)?;
        self.timings.lap(Part::ProjectionsBackward);
        Ok(())
    }
}
