//! A model in training: its master weights, and the transformer that computes with them.

use cpift_engine::ops::adamw::{AdamW, Gradient, Hyper};
use cpift_engine::ops::round;
use cpift_engine::{Buffer, Device, View, ViewMut, bf16};

use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::evaluation::{Observe, Request, RowScores, evaluate};
use crate::transformer::{ComputeType, Timings, Transformer};

/// f32 master weights, and a transformer that computes in f32 or in bf16, then with a copy of the weights:
/// the optimizer writes it in its step, and it is made again when the weights were changed otherwise.
pub struct Model {
    device: Device,
    weights: Buffer<f32>,
    compute: Compute,
}

enum Compute {
    F32(Transformer<f32>),
    Bf16(Transformer<bf16>, Copy),
}

/// The weights, rounded.
struct Copy {
    values: Buffer<bf16>,
    /// Whether the master weights may have changed since.
    outdated: bool,
}

/// `$body`, with the transformer and the weights it computes with.
macro_rules! compute {
    ($model:ident, |$transformer:ident, $weights:ident| $body:expr) => {
        match &mut $model.compute {
            Compute::F32($transformer) => {
                let $weights = $model.weights.view();
                $body
            }
            Compute::Bf16($transformer, copy) => {
                let $weights = copy.values.view();
                $body
            }
        }
    };
}

impl Model {
    /// Weights of zeros and memory for training as [`Transformer::new`] takes it.
    ///
    /// # Errors
    /// Memory that cannot be had.
    pub fn new(
        config: &ModelConfig,
        device: &Device,
        compute: ComputeType,
        max_tokens: usize,
        recompute: bool,
    ) -> Result<Self> {
        let length = config.layout()?.len();
        let weights = Buffer::zeros(device, length)?;
        let compute = match compute {
            ComputeType::F32 => Compute::F32(Transformer::new(config, device, max_tokens, recompute)?),
            ComputeType::Bf16 => {
                let copy = Copy { values: Buffer::zeros(device, length)?, outdated: false };
                Compute::Bf16(Transformer::new(config, device, max_tokens, recompute)?, copy)
            }
        };
        Ok(Self { device: device.clone(), weights, compute })
    }

    /// Bytes of the copy of `length` weights that are computed with; none in f32.
    pub fn copy_bytes(compute: ComputeType, length: usize) -> usize {
        match compute {
            ComputeType::F32 => 0,
            ComputeType::Bf16 => length * size_of::<bf16>(),
        }
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        match &self.compute {
            Compute::F32(transformer) => transformer.config(),
            Compute::Bf16(transformer, _) => transformer.config(),
        }
    }

    /// The transformer's [`Transformer::timings`].
    pub fn timings(&mut self) -> &mut Timings {
        match &mut self.compute {
            Compute::F32(transformer) => transformer.timings(),
            Compute::Bf16(transformer, _) => transformer.timings(),
        }
    }

    /// The master weights, flat.
    pub fn weights(&self) -> View<'_, f32> {
        self.weights.view()
    }

    /// The master weights, to be changed.
    pub fn weights_mut(&mut self) -> ViewMut<'_, f32> {
        if let Compute::Bf16(_, copy) = &mut self.compute {
            copy.outdated = true;
        }
        self.weights.view_mut()
    }

    /// The weights that are computed with, where they are not the master weights themselves.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn copy(&mut self) -> Result<Option<View<'_, bf16>>> {
        self.refresh()?;
        match &self.compute {
            Compute::F32(_) => Ok(None),
            Compute::Bf16(_, copy) => Ok(Some(copy.values.view())),
        }
    }

    /// Makes the copy again if the weights may have changed.
    fn refresh(&mut self) -> Result<()> {
        if let Compute::Bf16(_, copy) = &mut self.compute
            && copy.outdated
        {
            round::to_bf16(&self.device, self.weights.view(), copy.values.view_mut())?;
            copy.outdated = false;
        }
        Ok(())
    }

    /// [`Transformer::loss_and_gradients`] with the weights as they are.
    ///
    /// # Errors
    /// As that.
    pub fn loss_and_gradients(
        &mut self,
        batch: &Batch,
        scale: f32,
        gradients: ViewMut<'_, f32>,
        losses: ViewMut<'_, f32>,
    ) -> Result<()> {
        self.refresh()?;
        compute!(self, |transformer, weights| transformer
            .loss_and_gradients(weights, batch, scale, gradients, losses))
    }

    /// One step of the optimizer.
    ///
    /// # Errors
    /// As [`AdamW::step`].
    pub fn step(&mut self, optimizer: &mut AdamW, gradient: Gradient<'_>, hyper: &Hyper) -> Result<()> {
        // A step that a broken gradient stops writes no copy: it must not be outdated before.
        self.refresh()?;
        let copy = match &mut self.compute {
            Compute::F32(_) => None,
            Compute::Bf16(_, copy) => Some(copy.values.view_mut()),
        };
        Ok(optimizer.step_with_copy(self.weights.view_mut(), copy, gradient, hyper)?)
    }

    /// Measures the model on the rows of a data set.
    ///
    /// # Errors
    /// As [`evaluate`].
    pub fn evaluate(&mut self, request: &Request<'_>, observe: Observe<'_>) -> Result<RowScores> {
        self.refresh()?;
        compute!(self, |transformer, weights| evaluate(transformer, weights, request, observe))
    }
}
