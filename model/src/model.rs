//! A model in training: its master weights and their gradients, and the transformer that computes with them.

use std::ops::Range;

use cpift_engine::ops::adamw::{AdamW, Gradient, Hyper, StateStorage};
use cpift_engine::ops::gradients::{Gradients, GradientsMut, GradientsView};
use cpift_engine::ops::norm::Clip;
use cpift_engine::ops::split::{self, Planes};
use cpift_engine::ranks::OverlappedReduceScatter;
use cpift_engine::{Buffer, Device, Mask, Placement, Ranks, View, ViewMut, bf16};

use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::evaluation::{Observe, Request, RowScores, evaluate};
use crate::stages::pieces::longest_part;
use crate::transformer::{ComputeType, Recompute, Timings, Transformer};

/// f32 master weights, their gradients, and a transformer that computes in f32 or in bf16.
///
/// For bf16 the master weights are [split](split) into two planes, of which the transformer reads one, in the memory
/// that they have in f32. They are split before they are computed with and joined when they are asked for, which
/// overwrites the gradients; neither does anything where it is done already.
pub struct Model {
    device: Device,
    /// The master weights in f32, or what [`Compute`] has in their place.
    weights: Buffer<f32>,
    compute: Compute,
}

enum Compute {
    F32 {
        transformer: Transformer<f32>,
        gradients: Gradients,
    },
    /// Split weights are both planes, in their memory.
    Bf16 {
        transformer: Transformer<bf16>,
        gradients: Gradients,
        is_split: bool,
    },
    /// With master weights in the host's memory. Split ones are gradients in bf16, and behind them the lower halves.
    Offloaded {
        transformer: Transformer<bf16>,
        /// The rounded plane, on the device.
        rounded: Buffer<bf16>,
        /// What gradients are added up in, a tensor at a time.
        sum: Buffer<f32>,
        is_split: bool,
    },
}

/// What a step of the optimizer makes of the gradients.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scaling<'a> {
    /// A factor, measured on the device.
    pub clip: Option<&'a Clip>,
    /// Coordinates that keep their bits.
    pub frozen: Option<&'a Mask>,
}

/// `$body`, with the transformer.
macro_rules! transformer {
    ($model:expr, |$transformer:ident| $body:expr) => {
        match $model {
            Compute::F32 { transformer: $transformer, .. } => $body,
            Compute::Bf16 { transformer: $transformer, .. } => $body,
            Compute::Offloaded { transformer: $transformer, .. } => $body,
        }
    };
}

fn require_prepared(is_split: bool) -> Result<()> {
    match is_split {
        true => Ok(()),
        false => Err(Error::Job("`Model::prepare` has to come before weights are computed with".to_owned())),
    }
}

/// What several ranks say of state that they do not share.
pub(crate) fn not_exact() -> Error {
    Error::Job("several ranks keep exact state".to_owned())
}

impl Model {
    /// Weights of zeros and their gradients, stored as `storage` says of moments, as far as no product reads them; and
    /// memory for training as [`Transformer::new`] takes it.
    ///
    /// # Errors
    /// Memory that cannot be had.
    pub fn new(
        config: &ModelConfig,
        device: &Device,
        compute: ComputeType,
        max_tokens: usize,
        recompute: Recompute,
        storage: impl Into<StateStorage>,
    ) -> Result<Self> {
        let (layout, storage) = (config.layout()?, storage.into());
        let part = longest_part(&layout);
        let placement = Self::placement_of_weights(compute, storage.placement);
        let weights = Buffer::zeros_in(device, layout.len(), placement)?;
        let gradients = || Gradients::new(device, &layout, storage, part);
        let compute = match (compute, placement) {
            (ComputeType::F32, _) => Compute::F32 {
                transformer: Transformer::new(config, device, max_tokens, recompute)?,
                gradients: gradients()?,
            },
            (ComputeType::Bf16, Placement::Device) => Compute::Bf16 {
                transformer: Transformer::new(config, device, max_tokens, recompute)?,
                gradients: gradients()?,
                is_split: false,
            },
            (ComputeType::Bf16, Placement::Host) => Compute::Offloaded {
                transformer: Transformer::new(config, device, max_tokens, recompute)?,
                rounded: Buffer::zeros(device, layout.len())?,
                sum: Buffer::zeros(device, Gradients::sum_length(&layout, part))?,
                is_split: false,
            },
        };
        Ok(Self { device: device.clone(), weights, compute })
    }

    /// Where the master weights are, if state is in `placement`: what products read is on the device.
    pub(crate) fn placement_of_weights(compute: ComputeType, placement: Placement) -> Placement {
        match compute {
            ComputeType::F32 => Placement::Device,
            ComputeType::Bf16 => placement,
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        transformer!(&self.compute, |transformer| transformer.config())
    }

    /// The transformer's [`Transformer::timings`].
    pub fn timings(&mut self) -> &mut Timings {
        transformer!(&mut self.compute, |transformer| transformer.timings())
    }

    /// The master weights, flat.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn weights(&mut self) -> Result<View<'_, f32>> {
        self.join()?;
        Ok(self.weights.view())
    }

    /// The master weights, to be changed.
    ///
    /// # Errors
    /// As [`Model::weights`].
    pub fn weights_mut(&mut self) -> Result<ViewMut<'_, f32>> {
        self.join()?;
        Ok(self.weights.view_mut())
    }

    /// The same, and f32 memory of so many elements, at most those of the longest part that models are fused in.
    ///
    /// # Errors
    /// As [`Model::weights`].
    pub fn weights_and_part(&mut self, length: usize) -> Result<(ViewMut<'_, f32>, ViewMut<'_, f32>)> {
        self.join()?;
        let part = match &mut self.compute {
            Compute::F32 { gradients, .. } | Compute::Bf16 { gradients, .. } => gradients.part(length),
            Compute::Offloaded { sum, .. } => sum.slice_mut(0..length),
        };
        Ok((self.weights.view_mut(), part))
    }

    /// The memory of the master weights, split or not.
    pub(crate) fn memory(&self) -> View<'_, f32> {
        self.weights.view()
    }

    /// The weights that are computed with, where they are not the master weights themselves.
    ///
    /// # Errors
    /// As [`Model::weights`].
    pub fn rounded_weights(&mut self) -> Result<Option<View<'_, bf16>>> {
        self.prepare()?;
        Ok(match &self.compute {
            Compute::F32 { .. } => None,
            Compute::Bf16 { .. } => Some(split::rounded(self.weights.view())),
            Compute::Offloaded { rounded, .. } => Some(rounded.view()),
        })
    }

    /// Makes the weights what is computed with: for bf16 it splits them.
    ///
    /// # Errors
    /// As [`Model::weights`].
    pub fn prepare(&mut self) -> Result<()> {
        let weights = self.weights.view_mut();
        match &mut self.compute {
            Compute::Bf16 { gradients, is_split: is_split @ false, .. } => {
                split::split_in_place(&self.device, weights, gradients.scratch())?;
                *is_split = true;
            }
            Compute::Offloaded { rounded, is_split: is_split @ false, .. } => {
                split::split_apart(&self.device, weights, rounded.view_mut())?;
                *is_split = true;
            }
            Compute::F32 { .. } | Compute::Bf16 { .. } | Compute::Offloaded { .. } => {}
        }
        Ok(())
    }

    /// Makes split weights f32 again.
    fn join(&mut self) -> Result<()> {
        let weights = self.weights.view_mut();
        match &mut self.compute {
            Compute::Bf16 { gradients, is_split: is_split @ true, .. } => {
                split::join_in_place(&self.device, weights, gradients.scratch())?;
                *is_split = false;
            }
            Compute::Offloaded { rounded, is_split: is_split @ true, .. } => {
                split::join_apart(&self.device, weights, rounded.view_mut())?;
                *is_split = false;
            }
            Compute::F32 { .. } | Compute::Bf16 { .. } | Compute::Offloaded { .. } => {}
        }
        Ok(())
    }

    /// The gradients, until weights are asked for. The weights are [prepared](Model::prepare).
    pub fn gradients(&self) -> GradientsView<'_> {
        match &self.compute {
            Compute::F32 { gradients, .. } | Compute::Bf16 { gradients, .. } => gradients.view(),
            Compute::Offloaded { .. } => split::rounded(self.weights.view()).into(),
        }
    }

    /// Makes the gradients zero. The weights are [prepared](Model::prepare).
    ///
    /// # Errors
    /// When they are not, or the device has failed.
    pub fn clear_gradients(&mut self) -> Result<()> {
        match &mut self.compute {
            Compute::F32 { gradients, .. } | Compute::Bf16 { gradients, .. } => gradients.clear()?,
            Compute::Offloaded { is_split, .. } => {
                require_prepared(*is_split)?;
                Planes::of(self.weights.view_mut()).rounded.fill(bf16::ZERO)?;
            }
        }
        Ok(())
    }

    /// [`Transformer::loss_and_gradients`] of a micro-batch, the step's number `micro_batch`, whose gradients are added to
    /// those before. The weights are [prepared](Model::prepare).
    ///
    /// # Errors
    /// As that, or when they are not prepared.
    pub fn loss_and_gradients(
        &mut self,
        batch: &Batch,
        scale: f32,
        micro_batch: usize,
        losses: ViewMut<'_, f32>,
    ) -> Result<()> {
        self.loss_and_sums(batch, scale, micro_batch, None, losses)
    }

    /// The same of a rank's last micro-batch of a step, whose gradients `sums` are made of while it runs: see
    /// [`Transformer::loss_and_sums`].
    ///
    /// # Errors
    /// As that, or when the weights are not prepared.
    pub(crate) fn loss_and_sums<'g>(
        &'g mut self,
        batch: &Batch,
        scale: f32,
        micro_batch: usize,
        sums: Option<&mut OverlappedReduceScatter<'g>>,
        losses: ViewMut<'_, f32>,
    ) -> Result<()> {
        match &mut self.compute {
            Compute::F32 { transformer, gradients } => {
                let sums = (gradients.of_micro_batch(micro_batch), sums);
                transformer.loss_and_sums(self.weights.view(), batch, scale, sums, losses)
            }
            Compute::Bf16 { transformer, gradients, is_split } => {
                require_prepared(*is_split)?;
                let weights = split::rounded(self.weights.view());
                let sums = (gradients.of_micro_batch(micro_batch), sums);
                transformer.loss_and_sums(weights, batch, scale, sums, losses)
            }
            Compute::Offloaded { transformer, rounded, sum, is_split } => {
                require_prepared(*is_split)?;
                let values = Planes::of(self.weights.view_mut()).rounded;
                let gradients = GradientsMut::Bf16 { values, sum: sum.view_mut(), micro_batch };
                transformer.loss_and_sums(rounded.view(), batch, scale, (gradients, sums), losses)
            }
        }
    }

    /// [`Transformer::gradient_buckets`].
    pub(crate) fn gradient_buckets(&self) -> Vec<Range<usize>> {
        transformer!(&self.compute, |transformer| transformer.gradient_buckets())
    }

    /// The gradients, to be changed: in f32, and by ranks that own a range of them each.
    ///
    /// # Errors
    /// When they are stored in bf16.
    pub(crate) fn gradients_mut(&mut self) -> Result<ViewMut<'_, f32>> {
        let of_first = match &mut self.compute {
            Compute::F32 { gradients, .. } | Compute::Bf16 { gradients, .. } => {
                Some(gradients.of_micro_batch(0))
            }
            Compute::Offloaded { .. } => None,
        };
        match of_first {
            Some(GradientsMut::F32(values)) => Ok(values),
            Some(GradientsMut::Bf16 { .. }) | None => {
                Err(Error::Job("several ranks add up gradients in f32".to_owned()))
            }
        }
    }

    /// One step of the optimizer. The weights are [prepared](Model::prepare).
    ///
    /// # Errors
    /// As [`AdamW::step`], or when they are not prepared.
    pub fn step(&mut self, optimizer: &mut AdamW, scaling: Scaling<'_>, hyper: &Hyper) -> Result<()> {
        self.step_range(optimizer, 0..self.weights.len(), scaling, hyper)
    }

    /// The same for a range of the parameters, which `optimizer` and the mask in `scaling` are for. Panics when it lies
    /// outside.
    ///
    /// # Errors
    /// As [`Model::step`].
    pub fn step_range(
        &mut self,
        optimizer: &mut AdamW,
        range: Range<usize>,
        scaling: Scaling<'_>,
        hyper: &Hyper,
    ) -> Result<()> {
        let Scaling { clip, frozen } = scaling;
        let weights = self.weights.view_mut();
        let gradient = |values| Gradient { values, scale: 1.0, clip, frozen };
        match &mut self.compute {
            Compute::F32 { gradients, .. } => {
                let values = gradients.view().slice(range.clone());
                optimizer.step(weights.slice(range), gradient(values), hyper)?;
            }
            Compute::Bf16 { gradients, is_split, .. } => {
                require_prepared(*is_split)?;
                let values = gradients.view().slice(range.clone());
                optimizer.step(Planes::of(weights).slice(range), gradient(values), hyper)?;
            }
            Compute::Offloaded { rounded, is_split, .. } => {
                require_prepared(*is_split)?;
                let Planes { rounded: gradients, lower } = Planes::of(weights);
                let values = gradients.as_view().slice(range.clone()).into();
                let planes = Planes { rounded: rounded.view_mut(), lower };
                optimizer.step(planes.slice(range), gradient(values), hyper)?;
            }
        }
        Ok(())
    }

    /// The master weights of a range, of which those who are split are joined in the memory of the gradients: for ranks that
    /// have no more of them than their range. Panics when it lies outside.
    ///
    /// # Errors
    /// When the device has failed, or state is not exact.
    pub(crate) fn master_range(&mut self, range: Range<usize>) -> Result<View<'_, f32>> {
        match &mut self.compute {
            Compute::Bf16 { gradients, is_split: true, .. } if !range.is_empty() => {
                let count = range.len();
                let GradientsMut::F32(memory) = gradients.of_micro_batch(0) else { return Err(not_exact()) };
                let planes = Planes::of(self.weights.view_mut()).slice(range.clone());
                split::join(&self.device, &planes, range.start, memory.slice(0..count))?;
                match gradients.view() {
                    GradientsView::F32(joined) => Ok(joined.slice(0..count)),
                    GradientsView::Bf16(_) => Err(not_exact()),
                }
            }
            Compute::Offloaded { .. } => Err(not_exact()),
            Compute::F32 { .. } | Compute::Bf16 { .. } => Ok(self.weights.slice(range)),
        }
    }

    /// Whether the weights lie split: what is computed with, and what was rounded away.
    pub(crate) fn is_split(&self) -> bool {
        match self.compute {
            Compute::F32 { .. } => false,
            Compute::Bf16 { is_split, .. } | Compute::Offloaded { is_split, .. } => is_split,
        }
    }

    /// Makes the weights of every range those that its rank has, as far as they are computed with: of split weights the
    /// rounded ones. The weights are [prepared](Model::prepare).
    ///
    /// # Errors
    /// As [`Ranks::all_gather`], or when they are not prepared.
    pub(crate) fn gather_weights(&mut self, ranks: &Ranks, ranges: &[Range<usize>]) -> Result<()> {
        match &self.compute {
            Compute::F32 { .. } => ranks.all_gather(self.weights.view_mut(), ranges)?,
            Compute::Bf16 { is_split, .. } => {
                require_prepared(*is_split)?;
                ranks.all_gather(Planes::of(self.weights.view_mut()).rounded, ranges)?;
            }
            Compute::Offloaded { .. } => return Err(not_exact()),
        }
        Ok(())
    }

    /// Makes the rest of split weights of every range that of its rank.
    ///
    /// # Errors
    /// As [`Model::gather_weights`].
    pub(crate) fn gather_lower(&mut self, ranks: &Ranks, ranges: &[Range<usize>]) -> Result<()> {
        match &self.compute {
            Compute::F32 { .. } => Ok(()),
            Compute::Bf16 { is_split, .. } => {
                require_prepared(*is_split)?;
                Ok(ranks.all_gather(Planes::of(self.weights.view_mut()).lower, ranges)?)
            }
            Compute::Offloaded { .. } => Err(not_exact()),
        }
    }

    /// Measures the model on the rows of a data set.
    ///
    /// # Errors
    /// As [`evaluate`] and [`Model::prepare`].
    pub fn evaluate(&mut self, request: &Request<'_>, observe: Observe<'_>) -> Result<RowScores> {
        self.prepare()?;
        match &mut self.compute {
            Compute::F32 { transformer, .. } => evaluate(transformer, self.weights.view(), request, observe),
            Compute::Bf16 { transformer, .. } => {
                evaluate(transformer, split::rounded(self.weights.view()), request, observe)
            }
            Compute::Offloaded { transformer, rounded, .. } => {
                evaluate(transformer, rounded.view(), request, observe)
            }
        }
    }
}
