//! One model in training: weights, gradients, optimizer, and what one step does.
//!
//! Several [ranks](cpift_engine::ranks) have a trainer each. Weights and gradients are whole on every rank; of moments,
//! importance and the frozen mask each has its own range (ZeRO-1). Rank 0 runs the job and has the others do what it does:
//! what it is asked for, it first sends as a `Command` (`command.rs`), and they make the same calls (`worker.rs`). In a step each
//! rank computes its share of the micro-batches (`shard.rs`).

pub mod agreement;
mod command;
mod shard;
mod state;
mod state_file;
mod worker;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use cpift_engine::ops::adamw::{AdamW, Hyper, ImportanceKind};
use cpift_engine::ops::norm::{self, Clip};
use cpift_engine::{Buffer, Device, Layout, Mask, Ranks, View, ViewMut};
use serde::{Deserialize, Serialize};

use crate::batch::Batch;
use crate::compute::ComputeType;
use crate::config::ModelConfig;
use crate::data::StepBatches;
use crate::error::{Error, Result};
use crate::evaluation::{Observe, Request, RowScores};
use crate::machine;
use crate::model::{Model, Scaling};
use crate::progress::{StepReport, TaskShare, TrainingStage};
use crate::recipe::TrainSettings;
use crate::stages::models::Buffers;
use crate::stages::pieces::longest_part;
use crate::state_type::StateType;
use crate::transformer::Recompute;
use command::{Command, OpenOrder, StepOrder};
pub use cpift_engine::ops::adamw::{StateMut, StateView};
pub use state::StatePart;
pub use worker::work;

/// Everything a training step reads and writes, allocated once and used for one fine-tune after the other.
pub struct Trainer {
    device: Device,
    layout: Layout,
    /// Weights and gradients over the flat layout, forward and backward.
    model: Model,
    /// Losses of all positions of a step; grows to the largest step.
    losses: Buffer<f32>,
    clip: Clip,
    /// Moments and importance, of this rank's range.
    optimizer: AdamW,
    /// The frozen coordinates of this rank's range.
    frozen: Option<Arc<Mask>>,
    ranks: Ranks,
    /// What of the flat layout each rank owns.
    ranges: Vec<Range<usize>>,
    /// What of the gradients is final together.
    buckets: Vec<Range<usize>>,
    /// Whether the other ranks have the weights that this one, rank 0, has.
    is_shared: bool,
    /// Whether the master weights are here as a whole: of other ranks' ranges steps bring only what is computed with.
    is_whole: bool,
    /// Memory of a part of a model, where several ranks are and models are fused.
    part: Option<Buffer<f32>>,
}

/// What a trainer is made for.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The model.
    pub config: ModelConfig,
    /// What it computes in.
    pub compute: ComputeType,
    /// Most tokens of a micro-batch.
    pub max_tokens: usize,
    /// What the backward pass computes again.
    pub recompute: Recompute,
    /// What the optimizer accumulates.
    pub importance: ImportanceKind,
    /// How moments and gradients are stored; exact with several ranks.
    pub state: StateType,
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
}

/// What the optimizer does in a step, whatever the rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Update {
    #[serde(with = "command::HyperForm")]
    hyper: Hyper,
    /// What the gradient's norm is clipped to; nothing is clipped without.
    maximum_norm: Option<f64>,
    /// Steps that the optimizer has made before.
    steps: u64,
    /// Supervised tokens of all micro-batches: what the summed loss is divided by.
    supervised_tokens: usize,
}

/// Summed loss of one source of a step's rows.
#[derive(Debug, Clone, Copy, Default)]
struct SourceLoss {
    sum: f64,
    tokens: u64,
}

impl Trainer {
    /// Buffers for training, with weights of zeros. Rank 0 has the other ranks make theirs.
    ///
    /// # Errors
    /// When memory runs out, or there are several ranks with another state than exact.
    pub fn open(device: &Device, setup: &Setup, ranks: &Ranks) -> Result<Self> {
        let Setup { ref config, compute, max_tokens, recompute, importance, state } = *setup;
        if !ranks.is_alone() {
            if state != StateType::Exact {
                return Err(Error::Job(format!("several ranks keep exact state, not {}", state.name())));
            }
            if ranks.rank() == 0 {
                Command::Open(OpenOrder::of(setup)?).send(ranks)?;
            }
        }
        let (layout, storage) = (config.layout()?, state.storage());
        let own = ranks.own_range(layout.len());
        let model = Model::new(config, device, compute, max_tokens, recompute, storage)?;
        Ok(Self {
            device: device.clone(),
            buckets: model.gradient_buckets(),
            model,
            losses: Buffer::zeros(device, 0)?,
            clip: Clip::new(device, layout.len())?,
            optimizer: AdamW::of_range(device, own, importance, storage)?,
            frozen: None,
            ranks: ranks.clone(),
            ranges: ranks.ranges(layout.len()),
            is_shared: false,
            is_whole: true,
            part: None,
            layout,
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
        self.complete_weights()?;
        self.model.weights()
    }

    /// The master weights, to be changed. The other ranks get them before the next step.
    ///
    /// # Errors
    /// As [`Trainer::weights`].
    pub fn weights_mut(&mut self) -> Result<ViewMut<'_, f32>> {
        self.complete_weights()?;
        self.is_shared = false;
        self.model.weights_mut()
    }

    /// The memory of the weights, and as much again, between fine-tunes: the next one has to begin with weights that are
    /// read.
    ///
    /// # Errors
    /// As [`Trainer::weights`].
    pub fn scratch_buffers(&mut self) -> Result<(ViewMut<'_, f32>, ViewMut<'_, f32>)> {
        self.complete_weights()?;
        self.is_shared = false;
        if !self.ranks.is_alone() {
            // Moments of a range are not enough. Gradients mean nothing between steps.
            return self.model.weights_and_part(self.layout.len());
        }
        let weights = self.model.weights_mut()?;
        Ok((weights, self.optimizer.lend_moments()))
    }

    /// Memory to fuse models in: the weights receive what is fused.
    ///
    /// # Errors
    /// As [`Trainer::weights`], or memory runs out.
    pub fn fusion_buffers(&mut self) -> Result<Buffers<'_>> {
        self.complete_weights()?;
        self.is_shared = false;
        let part = longest_part(&self.layout);
        if !self.ranks.is_alone() {
            let operand = self.part.insert(Buffer::zeros(&self.device, part)?).view_mut();
            let (backbone, base) = self.model.weights_and_part(self.layout.len())?;
            return Ok(Buffers { backbone, base, operand });
        }
        let (backbone, operand) = self.model.weights_and_part(part)?;
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
    ///
    /// # Errors
    /// When the device has failed, or another rank has ended.
    pub fn begin(&mut self) -> Result<()> {
        self.tell(Command::Begin)?;
        self.part = None;
        self.optimizer.restart()?;
        Ok(self.optimizer.clear_importance()?)
    }

    /// Forgets moments and steps, and keeps importance.
    ///
    /// # Errors
    /// As [`Trainer::begin`].
    pub fn restart(&mut self) -> Result<()> {
        self.tell(Command::Restart)?;
        Ok(self.optimizer.restart()?)
    }

    /// From here on the coordinates of this mask keep their weight, moments and importance.
    ///
    /// # Errors
    /// A mask that is not over the layout, or another rank has ended.
    pub fn freeze(&mut self, frozen: Option<&Arc<Mask>>) -> Result<()> {
        self.tell(Command::Freeze(frozen.is_some()))?;
        self.share_frozen(frozen)
    }

    /// Steps that the optimizer has made, for its bias correction.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// Sets their number, when a checkpoint is read.
    pub fn set_steps(&mut self, steps: u64) {
        self.optimizer.set_steps(steps);
    }

    /// Makes one optimizer step on `batches`, whose sources are named by `sources`.
    ///
    /// The loss is the sum of negative log-likelihoods over all micro-batches divided by their
    /// supervised tokens, so 4×2 equals 8. Frozen coordinates keep their bits and take no part in
    /// the clipping norm (docs/algorithm.md, stage 4).
    ///
    /// # Errors
    /// When the loss or the gradient norm is not a number; weights and moments are then as before. Another rank has ended.
    pub fn step(&mut self, step: Step<'_>, batches: &StepBatches, sources: &[String]) -> Result<StepReport> {
        let (started, traffic) = (Instant::now(), self.ranks.traffic());
        let settings = step.settings;
        let learning_rate = settings.learning_rate_at(step.index, step.schedule_steps);
        let update = Update {
            hyper: Hyper {
                learning_rate,
                beta1: settings.beta1,
                beta2: settings.beta2,
                epsilon: settings.eps,
                weight_decay: settings.weight_decay,
            },
            maximum_norm: (settings.clip > 0.0).then_some(settings.clip),
            steps: self.optimizer.steps(),
            supervised_tokens: batches.supervised_tokens,
        };
        if !self.ranks.is_alone() {
            self.send_weights()?;
            StepOrder::send(&self.ranks, &update, &batches.micro)?;
        }
        self.make(&update, &batches.micro)?;
        let (gradient_norm, losses) = self.clip.norm_with(self.losses.slice(0..tokens_of(&batches.micro)))?;
        let losses = source_losses(batches, &losses)?;
        let loss = losses.iter().map(|loss| loss.sum).sum::<f64>() / batches.supervised_tokens as f64;
        if !loss.is_finite() || !gradient_norm.is_finite() {
            // The optimizer has counted a step that changed nothing.
            self.optimizer.set_steps(self.optimizer.steps() - 1);
            return Err(Error::Job(self.describe_failure(loss, gradient_norm)));
        }
        let tokens = tokens_of(&batches.micro);
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
            measures: Vec::new(),
            evaluation_seconds: 0.0,
            communication: self.communication(self.ranks.traffic().since(traffic)),
        })
    }

    /// Makes a step with the other ranks, on the micro-batches of all.
    fn make(&mut self, update: &Update, batches: &[Batch]) -> Result<()> {
        let device = self.device.clone();
        self.optimizer.set_steps(update.steps);
        // All of the step is queued, and run as one, before anything is read: a GPU is waited for once.
        device.scope(|| {
            self.model.prepare()?;
            device.record(|| -> Result<()> {
                self.queue_gradients(update, batches)?;
                if !self.ranks.is_alone() {
                    return self.step_own_range(update, batches);
                }
                let frozen = self.frozen.as_deref();
                self.clip.measure(self.model.gradients(), frozen, update.maximum())?;
                let scaling = Scaling { clip: Some(&self.clip), frozen };
                self.model.step(&mut self.optimizer, scaling, &update.hyper)
            })
        })
    }

    /// Queues the gradients of this rank's micro-batches, and the losses of their positions.
    fn queue_gradients(&mut self, update: &Update, batches: &[Batch]) -> Result<()> {
        self.model.clear_gradients()?;
        let scale = (1.0 / update.supervised_tokens as f64) as f32;
        let tokens = tokens_of(batches);
        if self.losses.len() < tokens {
            self.losses = Buffer::zeros(&self.device, tokens)?;
        }
        let own = shard::deal(batches.len(), self.ranks.rank(), self.ranks.size());
        let last = own.end.checked_sub(1).filter(|_| self.overlaps(batches));
        let mut start = tokens_of(&batches[..own.start]);
        for number in own {
            let batch = &batches[number];
            let end = start + batch.tokens.len();
            let losses = self.losses.slice_mut(start..end);
            if last == Some(number) {
                let Self { model, ranks, ranges, buckets, .. } = self;
                ranks.overlapped_reduce_scatter(ranges, buckets, |sums| {
                    model.loss_and_sums(batch, scale, number, Some(sums), losses)
                })?;
            } else {
                self.model.loss_and_gradients(batch, scale, number, losses)?;
            }
            start = end;
        }
        Ok(())
    }

    /// Says what became NaN or infinite: the loss, or which tensor's gradient first. With several ranks those that this one
    /// has are looked at.
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

impl Update {
    /// What the gradient's norm is clipped to.
    fn maximum(&self) -> f64 {
        self.maximum_norm.unwrap_or(f64::INFINITY)
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

/// Tokens of micro-batches.
fn tokens_of(batches: &[Batch]) -> usize {
    batches.iter().map(|batch| batch.tokens.len()).sum()
}
