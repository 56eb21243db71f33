//! A model in training: its master weights, and the transformer that computes with them.

use cpift_engine::ops::adamw::{AdamW, Gradient, Hyper, Weights};
use cpift_engine::ops::gradients::GradientsMut;
use cpift_engine::ops::split::{self, Planes};
use cpift_engine::{Buffer, Device, Placement, View, ViewMut, bf16};

use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::evaluation::{Observe, Request, RowScores, evaluate};
use crate::transformer::{ComputeType, Recompute, Timings, Transformer};

/// f32 master weights, and a transformer that computes in f32 or in bf16.
///
/// For bf16 the master weights are [split](split) into two planes, of which the transformer reads one, in the memory
/// that they have in f32. Where that is the host's memory, the one that is read has memory of its own on the device. They
/// are split before they are computed with and joined when they are asked for. Either takes `scratch`, memory of as many
/// bf16 that is overwritten; neither does anything where it is done already.
pub struct Model {
    device: Device,
    /// The master weights in f32, or both planes.
    weights: Buffer<f32>,
    compute: Compute,
}

enum Compute {
    F32(Transformer<f32>),
    Bf16 {
        transformer: Transformer<bf16>,
        /// Whether the weights are split.
        is_split: bool,
        /// The rounded plane, where it is not in the master weights' memory.
        rounded: Option<Buffer<bf16>>,
    },
}

/// `$body`, with the transformer and the weights it computes with, which are prepared.
macro_rules! compute {
    ($model:ident, |$transformer:ident, $weights:ident| $body:expr) => {
        match &mut $model.compute {
            Compute::F32($transformer) => {
                let $weights = $model.weights.view();
                $body
            }
            Compute::Bf16 { transformer: $transformer, is_split, rounded } => {
                require_prepared(*is_split)?;
                let $weights = rounded_plane(rounded, &$model.weights);
                $body
            }
        }
    };
}

fn require_prepared(is_split: bool) -> Result<()> {
    match is_split {
        true => Ok(()),
        false => Err(Error::Job("`Model::prepare` has to come before weights are computed with".to_owned())),
    }
}

/// The weights that are computed with, of split ones.
fn rounded_plane<'a>(rounded: &'a Option<Buffer<bf16>>, weights: &'a Buffer<f32>) -> View<'a, bf16> {
    rounded.as_ref().map_or_else(|| split::rounded(weights.view()), Buffer::view)
}

impl Model {
    /// Weights of zeros, in `placement` as far as no product reads them, and memory for training as
    /// [`Transformer::new`] takes it.
    ///
    /// # Errors
    /// Memory that cannot be had.
    pub fn new(
        config: &ModelConfig,
        device: &Device,
        compute: ComputeType,
        max_tokens: usize,
        recompute: Recompute,
        placement: Placement,
    ) -> Result<Self> {
        let length = config.layout()?.len();
        let weights = Buffer::zeros_in(device, length, Self::placement_of_weights(compute, placement))?;
        let compute = match compute {
            ComputeType::F32 => Compute::F32(Transformer::new(config, device, max_tokens, recompute)?),
            ComputeType::Bf16 => Compute::Bf16 {
                transformer: Transformer::new(config, device, max_tokens, recompute)?,
                is_split: false,
                rounded: match placement {
                    Placement::Device => None,
                    Placement::Host => Some(Buffer::zeros(device, length)?),
                },
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
        match &self.compute {
            Compute::F32(transformer) => transformer.config(),
            Compute::Bf16 { transformer, .. } => transformer.config(),
        }
    }

    /// The transformer's [`Transformer::timings`].
    pub fn timings(&mut self) -> &mut Timings {
        match &mut self.compute {
            Compute::F32(transformer) => transformer.timings(),
            Compute::Bf16 { transformer, .. } => transformer.timings(),
        }
    }

    /// The master weights, flat.
    ///
    /// # Errors
    /// `scratch` of another length, or when the device has failed.
    pub fn weights(&mut self, scratch: ViewMut<'_, bf16>) -> Result<View<'_, f32>> {
        self.join(scratch)?;
        Ok(self.weights.view())
    }

    /// The master weights, to be changed.
    ///
    /// # Errors
    /// As [`Model::weights`].
    pub fn weights_mut(&mut self, scratch: ViewMut<'_, bf16>) -> Result<ViewMut<'_, f32>> {
        self.join(scratch)?;
        Ok(self.weights.view_mut())
    }

    /// The memory of the master weights, split or not.
    pub(crate) fn memory(&self) -> View<'_, f32> {
        self.weights.view()
    }

    /// The weights that are computed with, where they are not the master weights themselves.
    ///
    /// # Errors
    /// As [`Model::weights`].
    pub fn rounded_weights(&mut self, scratch: ViewMut<'_, bf16>) -> Result<Option<View<'_, bf16>>> {
        self.prepare(scratch)?;
        match &self.compute {
            Compute::F32(_) => Ok(None),
            Compute::Bf16 { rounded, .. } => Ok(Some(rounded_plane(rounded, &self.weights))),
        }
    }

    /// Makes the weights what is computed with: for bf16 it splits them.
    ///
    /// # Errors
    /// As [`Model::weights`].
    pub fn prepare(&mut self, scratch: ViewMut<'_, bf16>) -> Result<()> {
        if let Compute::Bf16 { is_split: is_split @ false, rounded, .. } = &mut self.compute {
            let weights = self.weights.view_mut();
            match rounded {
                None => split::split_in_place(&self.device, weights, scratch)?,
                Some(rounded) => split::split_apart(&self.device, weights, rounded.view_mut())?,
            }
            *is_split = true;
        }
        Ok(())
    }

    /// Makes split weights f32 again.
    fn join(&mut self, scratch: ViewMut<'_, bf16>) -> Result<()> {
        if let Compute::Bf16 { is_split: is_split @ true, rounded, .. } = &mut self.compute {
            let weights = self.weights.view_mut();
            match rounded {
                None => split::join_in_place(&self.device, weights, scratch)?,
                Some(rounded) => split::join_apart(&self.device, weights, rounded.view_mut())?,
            }
            *is_split = false;
        }
        Ok(())
    }

    /// [`Transformer::loss_and_gradients`] with the weights, which are [prepared](Model::prepare).
    ///
    /// # Errors
    /// As that, or when they are not prepared.
    pub fn loss_and_gradients<'g>(
        &mut self,
        batch: &Batch,
        scale: f32,
        gradients: impl Into<GradientsMut<'g>>,
        losses: ViewMut<'_, f32>,
    ) -> Result<()> {
        compute!(self, |transformer, weights| transformer
            .loss_and_gradients(weights, batch, scale, gradients, losses))
    }

    /// One step of the optimizer on weights that are [prepared](Model::prepare).
    ///
    /// # Errors
    /// As [`AdamW::step`], or when they are not prepared.
    pub fn step(&mut self, optimizer: &mut AdamW, gradient: Gradient<'_>, hyper: &Hyper) -> Result<()> {
        let weights: Weights<'_> = match &mut self.compute {
            Compute::F32(_) => self.weights.view_mut().into(),
            Compute::Bf16 { is_split, rounded, .. } => {
                require_prepared(*is_split)?;
                let planes = Planes::of(self.weights.view_mut());
                match rounded {
                    None => planes.into(),
                    Some(rounded) => Planes { rounded: rounded.view_mut(), ..planes }.into(),
                }
            }
        };
        Ok(optimizer.step(weights, gradient, hyper)?)
    }

    /// Measures the model on the rows of a data set.
    ///
    /// # Errors
    /// As [`evaluate`] and [`Model::prepare`].
    pub fn evaluate(
        &mut self,
        scratch: ViewMut<'_, bf16>,
        request: &Request<'_>,
        observe: Observe<'_>,
    ) -> Result<RowScores> {
        self.prepare(scratch)?;
        compute!(self, |transformer, weights| evaluate(transformer, weights, request, observe))
    }
}
