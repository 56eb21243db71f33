//! One model in training: weights, gradients, optimizer, and what one step does.

use std::time::Instant;

use cpift_engine::ops::adamw::{AdamW, Hyper, ImportanceKind, ImportanceView, MomentsView, StateStorage};
use cpift_engine::ops::norm::{self, Clip};
use cpift_engine::{Buffer, Device, Layout, Mask, View, ViewMut};

use crate::data::StepBatches;
use crate::error::{Error, Result};
use crate::evaluation::{Observe, Request, RowScores};
use crate::machine;
use crate::model::{Model, Scaling};
use crate::progress::{StepReport, TaskShare, TrainingStage};
use crate::recipe::TrainSettings;
use crate::stages::models::Buffers;
use crate::stages::pieces::longest_part;

/// Everything a training step reads and writes, allocated once and used for one fine-tune after the other.
pub struct Trainer {
    device: Device,
    layout: Layout,
    /// Weights and gradients over the flat layout, forward and backward.
    model: Model,
    /// Losses of all positions of a step; grows to the largest step.
    losses: Buffer<f32>,
    clip: Clip,
    /// Moments and importance over the flat layout.
    pub optimizer: AdamW,
}

/// One step to make.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// What is trained, as the report names it.
    pub stage: TrainingStage,
    /// Settings of the fine-tune.
    pub settings: &'a TrainSettings,
    /// Its place on the schedule, from 0.
    pub index: u64,
    /// Steps of the schedule.
    pub schedule_steps: u64,
    /// Coordinates whose weight, moments and importance keep their bits.
    pub frozen: Option<&'a Mask>,
}

/// Summed loss of one source of a step's rows.
#[derive(Debug, Clone, Copy, Default)]
struct SourceLoss {
    sum: f64,
    tokens: u64,
}

impl Trainer {
    /// Buffers for training `model`; `importance` is what the optimizer accumulates, `storage` how moments are stored, and
    /// gradients as well.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(
        device: &Device,
        layout: &Layout,
        model: Model,
        importance: ImportanceKind,
        storage: StateStorage,
    ) -> Result<Self> {
        Ok(Self {
            device: device.clone(),
            layout: layout.clone(),
            model,
            losses: Buffer::zeros(device, 0)?,
            clip: Clip::new(device, layout.len())?,
            optimizer: AdamW::with_storage(device, layout.len(), importance, storage)?,
        })
    }

    /// The flat layout that weights, moments, importance and masks share.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// One value for each element of the layout that means nothing, for what takes values and looks at none.
    pub fn any_values(&self) -> View<'_, f32> {
        self.model.memory()
    }

    /// The master weights. Only between steps, as of [`Model::weights`].
    ///
    /// # Errors
    /// When the device has failed.
    pub fn weights(&mut self) -> Result<View<'_, f32>> {
        self.model.weights()
    }

    /// The master weights, to be changed.
    ///
    /// # Errors
    /// As [`Trainer::weights`].
    pub fn weights_mut(&mut self) -> Result<ViewMut<'_, f32>> {
        self.model.weights_mut()
    }

    /// The master weights, the moments, and the importance accumulated so far.
    ///
    /// # Errors
    /// As [`Trainer::weights`].
    pub fn state(&mut self) -> Result<(View<'_, f32>, MomentsView<'_>, ImportanceView<'_>)> {
        let weights = self.model.weights()?;
        Ok((weights, self.optimizer.moments(), self.optimizer.importance()))
    }

    /// The memory of the weights and of the moments, of their size each, between fine-tunes: the next one has to begin with
    /// weights that are read, and overwrites the moments.
    ///
    /// # Errors
    /// As [`Trainer::weights`].
    pub fn scratch_buffers(&mut self) -> Result<(ViewMut<'_, f32>, ViewMut<'_, f32>)> {
        let weights = self.model.weights_mut()?;
        Ok((weights, self.optimizer.lend_moments()))
    }

    /// Memory to fuse models in: the weights receive what is fused.
    ///
    /// # Errors
    /// As [`Trainer::weights`].
    pub fn fusion_buffers(&mut self) -> Result<Buffers<'_>> {
        let (backbone, operand) = self.model.weights_and_part(longest_part(&self.layout))?;
        Ok(Buffers { backbone, base: self.optimizer.lend_moments(), operand })
    }

    /// [`Model::evaluate`].
    ///
    /// # Errors
    /// As that.
    pub fn evaluate(&mut self, request: &Request<'_>, observe: Observe<'_>) -> Result<RowScores> {
        self.model.evaluate(request, observe)
    }

    /// Forgets moments, steps and importance: a new fine-tune begins with the weights as they are.
    pub fn begin(&mut self) -> Result<()> {
        self.optimizer.restart()?;
        Ok(self.optimizer.clear_importance()?)
    }

    /// Makes one optimizer step on `batches`, whose sources are named by `sources`.
    ///
    /// The loss is the sum of negative log-likelihoods over all micro-batches divided by their
    /// supervised tokens, so 4×2 equals 8. Frozen coordinates keep their bits and take no part in
    /// the clipping norm (docs/algorithm.md, stage 4).
    ///
    /// # Errors
    /// When the loss or the gradient norm is not a number; weights and moments are then as before.
    pub fn step(&mut self, step: Step<'_>, batches: &StepBatches, sources: &[String]) -> Result<StepReport> {
        let started = Instant::now();
        let device = self.device.clone();
        let settings = step.settings;
        let learning_rate = settings.learning_rate_at(step.index, step.schedule_steps);
        let hyper = Hyper {
            learning_rate,
            beta1: settings.beta1,
            beta2: settings.beta2,
            epsilon: settings.eps,
            weight_decay: settings.weight_decay,
        };
        // All of the step is queued, and run as one, before anything is read: a GPU is waited for once.
        device.scope(|| {
            self.model.prepare()?;
            device.record(|| -> Result<()> {
                self.queue_gradients(batches)?;
                let maximum = if settings.clip > 0.0 { settings.clip } else { f64::INFINITY };
                self.clip.measure(self.model.gradients(), step.frozen, maximum)?;
                let scaling = Scaling { clip: Some(&self.clip), frozen: step.frozen };
                self.model.step(&mut self.optimizer, scaling, &hyper)
            })
        })?;
        let (gradient_norm, losses) = self.clip.norm_with(self.losses.slice(0..step_tokens(batches)))?;
        let losses = source_losses(batches, &losses)?;
        let loss = losses.iter().map(|loss| loss.sum).sum::<f64>() / batches.supervised_tokens as f64;
        if !loss.is_finite() || !gradient_norm.is_finite() {
            // The optimizer has counted a step that changed nothing.
            self.optimizer.set_steps(self.optimizer.steps() - 1);
            return Err(Error::Job(self.describe_failure(loss, gradient_norm)));
        }
        let tokens = step_tokens(batches);
        let documents: usize = batches.micro.iter().map(|batch| batch.documents()).sum();
        let mean_length = tokens.div_ceil(documents.max(1));
        let with_tokens = sources.iter().zip(&losses).filter(|(_, loss)| loss.tokens > 0);
        Ok(StepReport {
            stage: step.stage,
            part: String::new(),
            number: step.index + 1,
            steps: step.schedule_steps,
            loss,
            task_losses: with_tokens
                .map(|(name, loss)| (name.clone(), loss.sum / loss.tokens as f64))
                .collect(),
            task_shares: sources
                .iter()
                .zip(&losses)
                .zip(&batches.rows_per_source)
                .map(|((task, loss), &rows)| TaskShare {
                    task: task.clone(),
                    rows: rows as u64,
                    supervised_tokens: loss.tokens,
                })
                .filter(|share| share.rows > 0)
                .collect(),
            learning_rate,
            gradient_norm,
            tokens: tokens as u64,
            supervised_tokens: batches.supervised_tokens as u64,
            seconds: started.elapsed().as_secs_f64(),
            flops: self.model.config().flops_per_token(mean_length) * tokens as f64,
            phase: 1,
            frozen: 0,
            time: machine::unix_seconds(),
            evaluation: Vec::new(),
            evaluation_seconds: 0.0,
        })
    }

    /// Queues the gradients of a step, and the losses of all its positions.
    fn queue_gradients(&mut self, batches: &StepBatches) -> Result<()> {
        self.model.clear_gradients()?;
        let scale = (1.0 / batches.supervised_tokens as f64) as f32;
        let tokens = step_tokens(batches);
        if self.losses.len() < tokens {
            self.losses = Buffer::zeros(&self.device, tokens)?;
        }
        let mut start = 0;
        for (number, batch) in batches.micro.iter().enumerate() {
            let end = start + batch.tokens.len();
            let losses = self.losses.slice_mut(start..end);
            self.model.loss_and_gradients(batch, scale, number, losses)?;
            start = end;
        }
        Ok(())
    }

    /// Says what became NaN or infinite: the loss, or which tensor's gradient first.
    fn describe_failure(&self, loss: f64, gradient_norm: f64) -> String {
        if !loss.is_finite() {
            return format!("the loss became {loss}");
        }
        let is_bad = |segment: &&cpift_engine::Segment| {
            let gradient = self.model.gradients().slice(segment.range());
            norm::squared_norm(&self.device, gradient, None).is_ok_and(|squared| !squared.is_finite())
        };
        match self.layout.segments().iter().find(is_bad) {
            Some(segment) => format!("the gradient of `{}` became {gradient_norm}", segment.name),
            None => format!("the gradient norm became {gradient_norm}"),
        }
    }
}

/// Sums of the losses of all positions of a step by the source of their document.
fn source_losses(batches: &StepBatches, losses: &[f32]) -> Result<Vec<SourceLoss>> {
    let mut sums = vec![SourceLoss::default(); batches.rows_per_source.len()];
    let mut rest = losses;
    for (batch, documents) in batches.micro.iter().zip(&batches.documents) {
        let (losses, behind) = rest.split_at(batch.tokens.len());
        rest = behind;
        for (draw, row) in documents.iter().zip(batch.document_losses(losses)?) {
            sums[draw.source].sum += row.sum;
            sums[draw.source].tokens += row.tokens as u64;
        }
    }
    Ok(sums)
}

/// Tokens of all micro-batches of a step.
fn step_tokens(batches: &StepBatches) -> usize {
    batches.micro.iter().map(|batch| batch.tokens.len()).sum()
}
