//! The backward pass: layers in reverse, gradients of all weights added to one flat allocation.
//!
//! Two buffers carry the gradient along: `scratch.d_residual`, that of the residual stream, and
//! `scratch.delta`, that of the norm's output in front of attention or MLP. Where what they add passes a norm or a
//! factor, `scratch.d_added` has the gradient before it. What the forward did not
//! keep (norms, rotated normed heads, the gated activation) is computed again on the way.

use cpift_engine::ops::attention::{self, Documents};
use cpift_engine::ops::gradients::GradientsMut;
use cpift_engine::ops::{embedding, gated_mlp, output_gate, rope, scale};
use cpift_engine::ranks::OverlappedReduceScatter;
use cpift_engine::{Buffer, Real, View, ViewMut};

use super::activations::{Activations, HeadScratch, LayerActivations, MlpActivations, Projected, Scratch};
use super::forward::Pass;
use super::rotary::Heads;
use super::timings::{Part, Timings};
use super::weights::{AttentionWeights, Linear, MixerWeights, Norm, NormSaved};
use crate::error::Result;

impl<T: Real> Pass<'_, T> {
    /// From the gradient of the last norm's output, in `scratch.delta`, to those of all weights but the
    /// head's, added to the flat `gradients`. Reads what [`Pass::forward`] kept, and destroys it. Hands gradients that are
    /// final to `sums`, where there is one.
    pub fn backward<'g>(
        &self,
        activations: &mut Activations<T>,
        documents: &Documents,
        gradients: GradientsMut<'g>,
        sums: Option<&mut OverlappedReduceScatter<'g>>,
        timings: &mut Timings,
    ) -> Result<()> {
        let Activations { inputs, layers, mlps, scratch } = activations;
        let (kept_layers, kept_mlps) = (layers.len(), mlps.len());
        let only_mlps = kept_mlps < kept_layers;
        timings.start();
        let mut backward = Backward { pass: *self, documents, scratch, gradients, sums, timings };
        backward.last_norm(&inputs[self.config.layers])?;
        for index in (0..self.config.layers).rev() {
            let input = &inputs[index];
            let (layer, mlp) = (&mut layers[index % kept_layers], &mut mlps[index % kept_mlps]);
            if kept_layers < self.config.layers {
                self.recompute(index, input, (layer, mlp), backward.scratch, documents)?;
                backward.timings.lap(Part::Recompute);
            }
            backward.mlp(index, layer, mlp, only_mlps)?;
            backward.mix(index, input, layer)?;
            backward.hand_over(self.places.layers[index].start)?;
        }
        backward.embedding()?;
        backward.hand_over(0)
    }
}

/// A backward pass under way.
pub(super) struct Backward<'a, 'g, T: Real> {
    pub(super) pass: Pass<'a, T>,
    pub(super) documents: &'a Documents,
    pub(super) scratch: &'a mut Scratch<T>,
    /// Those that were not handed over.
    pub(super) gradients: GradientsMut<'g>,
    pub(super) sums: Option<&'a mut OverlappedReduceScatter<'g>>,
    pub(super) timings: &'a mut Timings,
}

impl<T: Real> Backward<'_, '_, T> {
    /// Hands over gradients from `first` on, to which nothing is added any more.
    fn hand_over(&mut self, first: usize) -> Result<()> {
        match &mut self.sums {
            Some(sums) => Ok(sums.send_from(&mut self.gradients, first)?),
            None => Ok(()),
        }
    }

    fn last_norm(&mut self, input: &Buffer<T>) -> Result<()> {
        let pass = self.pass;
        if pass.config.scales.logits != 1.0 {
            let d_hidden = pass.hidden_mut(&mut self.scratch.delta);
            scale::forward_in_place(pass.device, pass.config.scales.logits, d_hidden)?;
        }
        pass.hidden_mut(&mut self.scratch.d_residual).fill(T::default())?;
        self.norm(&pass.places.final_norm, input)
    }

    /// `scratch.d_added` = the gradient of `made`, what attention or MLP made before `norm` and the residual stream's
    /// factor. Does nothing where there is neither: it is then that of the residual stream.
    fn added(&mut self, norm: Option<&Norm>, made: &Buffer<T>) -> Result<()> {
        let pass = self.pass;
        let (device, factor, scratch) = (pass.device, pass.config.scales.residual, &mut *self.scratch);
        let Some(norm) = norm else {
            if factor != 1.0 {
                let (d_sum, d_added) = (pass.hidden(&scratch.d_residual), &mut scratch.d_added);
                scale::forward(device, factor, d_sum, pass.hidden_mut(d_added))?;
            }
            return Ok(());
        };
        pass.norm(norm, made, scratch)?;
        let mut d_normed = pass.hidden(&scratch.d_residual);
        if factor != 1.0 {
            // Free until the gradient in front of attention or MLP is known.
            scale::forward(device, factor, d_normed, pass.hidden_mut(&mut scratch.delta))?;
            d_normed = pass.hidden(&scratch.delta);
        }
        let mut d_added = pass.hidden_mut(&mut scratch.d_added);
        d_added.fill(T::default())?;
        let saved = NormSaved { input: pass.hidden(made), inverse_rms: scratch.inverse_rms.view() };
        norm.backward(device, pass.weights, saved, d_normed, d_added, self.gradients.reborrow())?;
        self.timings.lap(Part::NormBackward);
        Ok(())
    }

    /// Adds the gradient through the latest norm, of whose output `scratch.delta` is the gradient, to
    /// `scratch.d_residual`.
    fn norm(&mut self, norm: &Norm, input: &Buffer<T>) -> Result<()> {
        let pass = self.pass;
        let saved = NormSaved { input: pass.hidden(input), inverse_rms: self.scratch.inverse_rms.view() };
        let d_output = pass.hidden(&self.scratch.delta);
        let d_input = pass.hidden_mut(&mut self.scratch.d_residual);
        norm.backward(pass.device, pass.weights, saved, d_output, d_input, self.gradients.reborrow())?;
        self.timings.lap(Part::NormBackward);
        Ok(())
    }

    /// `scratch.d_residual` goes from the gradient after the MLP to that before it. `recompute` says whether what is in
    /// `mlp` is another layer's.
    fn mlp(
        &mut self,
        index: usize,
        layer: &LayerActivations<T>,
        mlp: &mut MlpActivations<T>,
        recompute: bool,
    ) -> Result<()> {
        let pass = self.pass;
        let (device, weights, places) = (pass.device, pass.weights, &pass.places.layers[index]);
        let input_norm = places.mlp_norm.as_ref();
        self.added(places.mlp_output_norm.as_ref(), &layer.mlp_output)?;
        let scratch = &mut *self.scratch;
        pass.norm_if_any(input_norm, &layer.middle, scratch)?;
        self.timings.lap(Part::NormBackward);
        if recompute {
            pass.gate_and_up(index, layer, mlp, scratch)?;
            self.timings.lap(Part::Recompute);
        }

        let output_norm = places.mlp_output_norm.as_ref();
        let d_output = pass.d_made(output_norm, &scratch.d_added, &scratch.d_residual);
        let d_activation = pass.intermediate_mut(&mut scratch.wide);
        places.down.backward_input(device, weights, d_output, d_activation, false)?;
        gated_mlp::backward(
            device,
            pass.config.block.activation,
            pass.intermediate_mut(&mut mlp.gate),
            pass.intermediate_mut(&mut mlp.up),
            pass.intermediate_mut(&mut scratch.wide),
        )?;
        // In place: the buffers now hold the gradients of gate and up, and the activation again.
        let (d_gate, d_up) = (pass.intermediate(&mlp.gate), pass.intermediate(&mlp.up));
        let activation = pass.intermediate(&scratch.wide);
        places.down.backward_weight(device, d_output, activation, self.gradients.reborrow())?;
        let normed = pass.normed(input_norm, &layer.middle, &scratch.normed);
        places.gate.backward_weight(device, d_gate, normed, self.gradients.reborrow())?;
        places.up.backward_weight(device, d_up, normed, self.gradients.reborrow())?;
        let (d_input, accumulate) = d_input(input_norm, &mut scratch.delta, &mut scratch.d_residual);
        let mut d_input = pass.hidden_mut(d_input);
        places.gate.backward_input(device, weights, d_gate, d_input.reborrow(), accumulate)?;
        places.up.backward_input(device, weights, d_up, d_input, true)?;
        self.timings.lap(Part::MlpBackward);

        input_norm.map_or(Ok(()), |norm| self.norm(norm, &layer.middle))
    }

    /// `scratch.d_residual` goes from the gradient after attention, or what is in its place, to that before it.
    fn mix(&mut self, index: usize, input: &Buffer<T>, layer: &mut LayerActivations<T>) -> Result<()> {
        let pass = self.pass;
        let places = &pass.places.layers[index];
        let input_norm = places.attention_norm.as_ref();
        self.added(places.attention_output_norm.as_ref(), &layer.attention_output)?;
        pass.norm_if_any(input_norm, input, self.scratch)?;
        self.timings.lap(Part::NormBackward);
        match &places.mixer {
            MixerWeights::Attention(mixer) => self.attention((index, mixer), input, layer)?,
            MixerWeights::DeltaNet(mixer) => {
                self.delta_net((index, mixer), input, layer)?;
            }
        }
        input_norm.map_or(Ok(()), |norm| self.norm(norm, input))
    }

    /// From what attention added to what it read.
    fn attention(
        &mut self,
        (index, places): (usize, &AttentionWeights),
        input: &Buffer<T>,
        layer: &LayerActivations<T>,
    ) -> Result<()> {
        let pass = self.pass;
        let (device, weights, projected) = (pass.device, pass.weights, &layer.projected);
        let Scratch { normed, head_inverse_rms, delta, d_residual, d_added, wide, .. } = &mut *self.scratch;
        let output_norm = pass.places.layers[index].attention_output_norm.as_ref();
        let d_output = pass.d_made(output_norm, d_added, d_residual);
        let mut heads = HeadScratch::backward(pass.config, wide.view_mut(), pass.rows());
        if let Some(norms) = &places.query_key_norms {
            pass.norm_heads(index, norms, projected, &mut heads, head_inverse_rms)?;
        }
        let attention = pass.queries(&layer.attention);
        let made = pass.gate_attention(projected, &layer.attention, &mut heads)?;
        places.output.backward_weight(device, d_output, made, self.gradients.reborrow())?;
        places.output.backward_input(device, weights, d_output, heads.d_attention.reborrow(), false)?;
        if pass.config.block.output_gate {
            let (inputs, d_joined) = ((pass.joined(&projected.joined), attention), heads.d_joined.reborrow());
            let gradient = heads.d_attention.reborrow();
            output_gate::backward(device, &pass.gate_shape(), inputs, gradient, d_joined)?;
        }
        self.timings.lap(Part::ProjectionsBackward);

        let inputs = pass.attention_inputs(projected, heads.query.as_view(), heads.key.as_view());
        let outputs = attention::BackwardInputs {
            output: attention,
            log_sum_exp: layer.log_sum_exp.slice(0..pass.rows() * pass.config.heads),
            d_output: heads.d_attention.as_view(),
        };
        let gradients = attention::Gradients {
            d_q: heads.d_query.reborrow(),
            d_k: heads.d_key.reborrow(),
            d_v: heads.d_value.reborrow(),
        };
        let shape = pass.attention_shape(index);
        attention::backward(device, &shape, self.documents, inputs, outputs, gradients)?;
        self.timings.lap(Part::AttentionBackward);

        pass.rotate_back(index, Heads::Queries, heads.d_query.reborrow())?;
        pass.rotate_back(index, Heads::Keys, heads.d_key.reborrow())?;
        if let Some(norms) = &places.query_key_norms {
            let gradients = self.gradients.reborrow();
            pass.norm_heads_backward(norms, projected, &mut heads, head_inverse_rms, gradients)?;
        }
        if pass.config.block.output_gate {
            let (d_query, d_joined) = (heads.d_query.as_view(), heads.d_joined.reborrow());
            output_gate::put_queries(device, &pass.gate_shape(), d_query, d_joined)?;
        }
        let d_query = if pass.config.block.output_gate { &heads.d_joined } else { &heads.d_query };
        let projections = [
            (&places.query, d_query.as_view()),
            (&places.key, heads.d_key.as_view()),
            (&places.value, heads.d_value.as_view()),
        ];
        let input_norm = pass.places.layers[index].attention_norm.as_ref();
        let normed = pass.normed(input_norm, input, normed);
        let into = d_input(input_norm, delta, d_residual);
        pass.projections_backward(&projections, normed, into, self.gradients.reborrow())?;
        self.timings.lap(Part::ProjectionsBackward);
        Ok(())
    }

    fn embedding(&mut self) -> Result<()> {
        let pass = self.pass;
        let factor = pass.embedding_scale();
        if factor != 1.0 {
            let d_output = pass.hidden_mut(&mut self.scratch.d_residual);
            scale::forward_in_place(pass.device, factor, d_output)?;
        }
        let d_output = pass.hidden(&self.scratch.d_residual);
        self.gradients.add(pass.device, pass.places.embedding.clone(), |d_table| {
            embedding::backward(pass.device, &pass.embedding_shape(), pass.tokens, d_output, d_table)
        })?;
        self.timings.lap(Part::EmbeddingBackward);
        Ok(())
    }
}

/// Where the gradient of what attention or MLP read goes, and whether it is added to what is there: behind their norm, or
/// to the residual stream's where they have none.
pub fn d_input<'a, T: Real>(
    input_norm: Option<&Norm>,
    delta: &'a mut Buffer<T>,
    d_residual: &'a mut Buffer<T>,
) -> (&'a mut Buffer<T>, bool) {
    if input_norm.is_some() { (delta, false) } else { (d_residual, true) }
}

impl<T: Real> Pass<'_, T> {
    /// The gradients of projections of `normed`, and of `normed` itself into what [`d_input`] says.
    pub fn projections_backward(
        &self,
        projections: &[(&Linear, View<'_, T>)],
        normed: View<'_, T>,
        (d_normed, accumulate): (&mut Buffer<T>, bool),
        mut gradients: GradientsMut<'_>,
    ) -> Result<()> {
        for (projection, d_projected) in projections {
            projection.backward_weight(self.device, *d_projected, normed, gradients.reborrow())?;
        }
        let mut d_normed = self.hidden_mut(d_normed);
        for (index, (projection, d_projected)) in projections.iter().enumerate() {
            let (weights, accumulate) = (self.weights, accumulate || index > 0);
            projection.backward_input(self.device, weights, *d_projected, d_normed.reborrow(), accumulate)?;
        }
        Ok(())
    }

    /// The gradient of what attention or MLP made: see [`Backward::added`].
    pub fn d_made<'b>(
        &self,
        output_norm: Option<&Norm>,
        d_added: &'b Buffer<T>,
        d_residual: &'b Buffer<T>,
    ) -> View<'b, T> {
        let is_own = output_norm.is_some() || self.config.scales.residual != 1.0;
        self.hidden(if is_own { d_added } else { d_residual })
    }

    fn rotate_back(&self, index: usize, heads: Heads, d_x: ViewMut<'_, T>) -> Result<()> {
        let Some(rope) = self.config.attention[index].rope else { return Ok(()) };
        let (shape, tables) = (self.rope_shape(rope, heads), self.rotary.view(rope, heads));
        Ok(rope::backward(self.device, &shape, tables, self.rotary_rows, d_x)?)
    }

    /// `heads.d_query` and `heads.d_key` go from the gradients of the normed heads to those of the heads.
    fn norm_heads_backward(
        &self,
        (query_norm, key_norm): &(Norm, Norm),
        projected: &Projected<T>,
        heads: &mut HeadScratch<'_, T>,
        inverse_rms: &Buffer<f32>,
        mut gradients: GradientsMut<'_>,
    ) -> Result<()> {
        let (device, weights) = (self.device, self.weights);
        let (query, key) = (self.queries(&projected.query), self.keys(&projected.key));
        let (query_rows, key_rows) = (query_norm.rows(query.len()), key_norm.rows(key.len()));
        let key_rms = inverse_rms.slice(query_rows..query_rows + key_rows);
        let query = NormSaved { input: query, inverse_rms: inverse_rms.slice(0..query_rows) };
        let key = NormSaved { input: key, inverse_rms: key_rms };
        // The norm adds to the gradient of its input, and the rotated heads are no longer needed:
        // their memory takes the sum, and the two then trade places.
        heads.query.fill(T::default())?;
        heads.key.fill(T::default())?;
        let d_query = heads.d_query.as_view();
        query_norm.backward(device, weights, query, d_query, heads.query.reborrow(), gradients.reborrow())?;
        key_norm.backward(device, weights, key, heads.d_key.as_view(), heads.key.reborrow(), gradients)?;
        std::mem::swap(&mut heads.query, &mut heads.d_query);
        std::mem::swap(&mut heads.key, &mut heads.d_key);
        Ok(())
    }
}
