//! The transformer: forward, backward and generation over flat weights.
//!
//! Decoder-only: RMSNorm, rotary positions, grouped-query attention, gated MLP; what a layer is made of says the
//! configuration's [`Block`](crate::config::Block). Weights are one flat allocation in
//! [`ModelConfig::layout`]'s order; gradients another with the same layout. All of it computes in one
//! number type ([`Real`]); losses, norms' 1/rms and attention's log-sum-exp are f32, and so are gradients of weights
//! where they are added to; they may be [stored](cpift_engine::ops::gradients) in bf16. Read
//! [`forward`] first, then `backward`; [`activations`] says what is kept between the two.

mod activations;
mod backward;
mod cache;
mod delta_net;
mod forward;
mod generate;
mod initialize;
mod rotary;
mod sampling;
mod temporary;
mod timings;
mod weights;

use std::ops::Range;

use cpift_engine::ops::attention::{self, Documents};
use cpift_engine::ops::cross_entropy::{self, Workspace};
use cpift_engine::ops::gradients::GradientsMut;
use cpift_engine::ops::{causal_conv1d, gated_delta_rule, linear, softcap};
use cpift_engine::ranks::OverlappedReduceScatter;
use cpift_engine::{Buffer, Device, Real, View, ViewMut};

use activations::{Activations, BatchBuffers};
pub use activations::{MemoryPlan, Purpose, Recompute};
use forward::{Attend, Pass, attention_shape};
pub use generate::{Generation, ObserveCount, ObserveToken, TextCache};
pub use initialize::initialize;
use rotary::RotaryTables;
pub use sampling::{RandomSampling, Sampling};
pub use timings::{Part, Timings};
use weights::ModelWeights;

use crate::batch::Batch;
pub use crate::compute::ComputeType;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::machine;

/// How large batches may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Tokens.
    pub tokens: usize,
    /// Documents: what some operations take for a moment on a GPU grows with their number.
    pub documents: usize,
}

/// Fewer gradients than this, 32 MiB, are not sent by themselves while others are computed; of a small model an eighth.
const LEAST_BUCKET: usize = 8 << 20;

/// Gradients to add to, and where they are handed over when they are final.
pub type Sums<'a, 'g> = (GradientsMut<'g>, Option<&'a mut OverlappedReduceScatter<'g>>);

/// A transformer's structure and working memory. It holds no weights: they are passed to every call.
#[derive(Debug)]
pub struct Transformer<T: Real> {
    config: ModelConfig,
    device: Device,
    places: ModelWeights,
    max_tokens: usize,
    purpose: Purpose,
    rotary: RotaryTables,
    activations: Activations<T>,
    batch: BatchBuffers,
    workspace: Workspace<T>,
    timings: Timings,
}

impl<T: Real> Transformer<T> {
    /// Memory for training on batches of up to `max_tokens` tokens. What `recompute` says is not kept, but computed again
    /// in the backward: less memory, up to a third more time, the same bits.
    ///
    /// # Errors
    /// Memory that cannot be had, heads that the device cannot take.
    pub fn new(
        config: &ModelConfig,
        device: &Device,
        max_tokens: usize,
        recompute: Recompute,
    ) -> Result<Self> {
        Self::for_purpose(config, device, max_tokens, Purpose::Training { recompute })
    }

    /// Memory for losses, logits and generation only, one layer's worth; no prompt may be longer than
    /// `max_tokens`.
    ///
    /// # Errors
    /// Memory that cannot be had, heads that the device cannot take.
    pub fn for_inference(config: &ModelConfig, device: &Device, max_tokens: usize) -> Result<Self> {
        Self::for_purpose(config, device, max_tokens, Purpose::Inference)
    }

    fn for_purpose(
        config: &ModelConfig,
        device: &Device,
        max_tokens: usize,
        purpose: Purpose,
    ) -> Result<Self> {
        check_heads(config, device)?;
        let max_tokens = max_tokens.max(1);
        Ok(Self {
            config: config.clone(),
            device: device.clone(),
            places: ModelWeights::new(config)?,
            max_tokens,
            purpose,
            rotary: RotaryTables::new(config, device, max_tokens)?,
            activations: Activations::new(config, device, max_tokens, purpose)?,
            batch: BatchBuffers::new(device, max_tokens)?,
            workspace: Workspace::new(device, &head_shape(config, max_tokens))?,
            timings: Timings::new(),
        })
    }

    /// Bytes per part that a transformer for batches within `limits` allocates, and that its passes take
    /// for a moment: weights, gradients and moments are not its own and not counted. Allocates nothing on the device.
    /// What does not fit the machine in any case is not looked at as closely.
    ///
    /// # Errors
    /// A model whose size overflows, or whose heads the device cannot take.
    pub fn memory_plan(
        config: &ModelConfig,
        device: &Device,
        limits: BatchLimits,
        purpose: Purpose,
    ) -> Result<MemoryPlan> {
        check_heads(config, device)?;
        let max_tokens = limits.tokens;
        let mut plan = Activations::<T>::plan(config, device, max_tokens, purpose)?;
        plan.parts.push(("head and loss", Workspace::<T>::bytes(device, &head_shape(config, max_tokens))));
        let inputs = BatchBuffers::bytes(max_tokens) + RotaryTables::bytes(config, max_tokens);
        plan.parts.push(("batch and positions", inputs));
        let planned = plan.parts.iter().fold(0, |sum: usize, (_, bytes)| sum.saturating_add(*bytes));
        let available = device.memory_bytes().or_else(machine::memory_bytes).unwrap_or(u64::MAX);
        if let (Device::Cpu(cpu), Some(sizes)) = (device, config.delta_net()) {
            let (shape, trains) = (delta_net::rule_shape(&sizes), purpose != Purpose::Inference);
            let bytes = gated_delta_rule::temporary_bytes(&shape, max_tokens, trains, cpu.threads());
            plan.parts.push(("temporary buffers", bytes));
        }
        if let Purpose::Training { recompute } = purpose
            && matches!(device, Device::Gpu(_))
            && planned as u64 <= available
        {
            let bytes = temporary::bytes::<T>(config, device, limits, recompute)?;
            plan.parts.push(("temporary buffers", bytes));
        }
        Ok(plan)
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Whether it computes on a CPU.
    pub(crate) fn is_on_cpu(&self) -> bool {
        matches!(self.device, Device::Cpu(_))
    }

    /// Most tokens of a batch.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Where the time went, summed over all calls since the last [`Timings::reset`].
    pub fn timings(&mut self) -> &mut Timings {
        &mut self.timings
    }

    /// The negative log-likelihood in nats of every position's target, 0 where it has none.
    ///
    /// # Errors
    /// A batch that is larger than planned or malformed, a token outside the vocabulary.
    pub fn loss(&mut self, weights: View<'_, T>, batch: &Batch) -> Result<Vec<f32>> {
        let device = self.device.clone();
        device.scope(|| self.loss_in_scope(weights, batch))
    }

    fn loss_in_scope(&mut self, weights: View<'_, T>, batch: &Batch) -> Result<Vec<f32>> {
        let Some(documents) = self.load(weights, batch)? else { return Ok(Vec::new()) };
        self.run_forward(weights, &documents, false)?;
        let shape = head_shape(&self.config, batch.tokens.len());
        let inputs = cross_entropy::Inputs {
            hidden: self.activations.scratch.normed.slice(0..shape.rows * shape.hidden),
            head: weights.slice(self.places.head.clone()),
            targets: self.batch.targets.slice(0..shape.rows),
        };
        let losses = self.batch.losses.slice_mut(0..shape.rows);
        cross_entropy::forward(&self.device, &shape, inputs, &mut self.workspace, losses)?;
        self.timings.lap(Part::Head);
        Ok(self.batch.losses.slice(0..shape.rows).to_vec()?)
    }

    /// Adds the gradients of `scale` times the summed loss of the batch to `gradients` (flat, in the
    /// weights' layout, in f32 or bf16), and writes to `losses` `[N]` every position's negative log-likelihood in nats, 0
    /// where it has no target. On a GPU all of it is queued, nothing waited for.
    ///
    /// A step of several batches calls this for each, with `scale` one over the supervised tokens of
    /// all: then 4 batches of 2 rows give the gradient of one batch of 8.
    ///
    /// # Errors
    /// As [`Transformer::loss`]; a transformer made for inference.
    pub fn loss_and_gradients<'g>(
        &mut self,
        weights: View<'_, T>,
        batch: &Batch,
        scale: f32,
        gradients: impl Into<GradientsMut<'g>>,
        losses: ViewMut<'_, f32>,
    ) -> Result<()> {
        self.loss_and_sums(weights, batch, scale, (gradients.into(), None), losses)
    }

    /// [`Transformer::loss_and_gradients`]. Where there is somebody to hand them to, the gradients are final after it, and are
    /// summed over ranks in [buckets](Transformer::gradient_buckets) while others are still computed.
    ///
    /// # Errors
    /// As that, and [`OverlappedReduceScatter::send_from`].
    pub fn loss_and_sums<'g>(
        &mut self,
        weights: View<'_, T>,
        batch: &Batch,
        scale: f32,
        sums: Sums<'_, 'g>,
        losses: ViewMut<'_, f32>,
    ) -> Result<()> {
        let device = self.device.clone();
        device.scope(|| self.loss_and_sums_in_scope(weights, batch, scale, sums, losses))
    }

    /// What of the gradients is final together, in the order of the layout; the backward pass comes to the last first.
    pub fn gradient_buckets(&self) -> Vec<Range<usize>> {
        self.places.buckets(LEAST_BUCKET.min(self.places.length / 8))
    }

    fn loss_and_sums_in_scope<'g>(
        &mut self,
        weights: View<'_, T>,
        batch: &Batch,
        scale: f32,
        (mut gradients, sums): Sums<'_, 'g>,
        losses: ViewMut<'_, f32>,
    ) -> Result<()> {
        if self.purpose == Purpose::Inference {
            return Err(Error::Job(
                "a transformer made for inference has no memory for gradients".to_owned(),
            ));
        }
        self.check_length("gradients", gradients.len())?;
        let Some(documents) = self.load(weights, batch)? else {
            return Ok(sums.map_or(Ok(()), |sums| sums.send_from(&mut gradients, 0))?);
        };
        self.run_forward(weights, &documents, true)?;

        let shape = head_shape(&self.config, batch.tokens.len());
        let scratch = &mut self.activations.scratch;
        let elements = shape.rows * shape.hidden;
        let inputs = cross_entropy::Inputs {
            hidden: scratch.normed.slice(0..elements),
            head: weights.slice(self.places.head.clone()),
            targets: self.batch.targets.slice(0..shape.rows),
        };
        let (d_hidden, workspace) = (scratch.delta.slice_mut(0..elements), &mut self.workspace);
        gradients.add(&self.device, self.places.head.clone(), |d_head| {
            let into = cross_entropy::Gradients { d_hidden, d_head };
            cross_entropy::forward_backward(&self.device, &shape, inputs, scale, workspace, losses, into)
        })?;
        self.timings.lap(Part::Head);

        let (pass, activations, timings) = self.pass(weights, shape.rows);
        pass.backward(activations, &documents, gradients, sums, timings)
    }

    /// The logits of every position `[N, V]`. Holds all of them: for tests and looking into a model.
    ///
    /// # Errors
    /// As [`Transformer::loss`].
    pub fn logits(&mut self, weights: View<'_, T>, batch: &Batch) -> Result<Vec<f32>> {
        let Some(documents) = self.load(weights, batch)? else { return Ok(Vec::new()) };
        self.run_forward(weights, &documents, false)?;
        let rows = batch.tokens.len();
        let hidden = self.activations.scratch.normed.slice(0..rows * self.config.hidden);
        let mut logits = Buffer::zeros(&self.device, rows * self.config.vocabulary)?;
        self.project(weights, hidden, logits.view_mut())?;
        Ok(logits.to_vec()?)
    }

    /// `logits` `[rows, V]` of `hidden` `[rows, C]`.
    fn project(&self, weights: View<'_, T>, hidden: View<'_, T>, mut logits: ViewMut<'_, f32>) -> Result<()> {
        let (inputs, outputs) = (self.config.hidden, self.config.vocabulary);
        let shape = linear::Shape { rows: hidden.len() / inputs, inputs, outputs };
        let head = weights.slice(self.places.head.clone());
        linear::forward_unrounded(&self.device, &shape, hidden, head, logits.reborrow())?;
        match self.config.logit_softcap {
            Some(cap) => Ok(softcap::in_place(&self.device, cap, logits)?),
            None => Ok(()),
        }
    }

    fn run_forward(&mut self, weights: View<'_, T>, documents: &Documents, keep: bool) -> Result<()> {
        let (pass, activations, timings) = self.pass(weights, documents.tokens());
        pass.forward(activations, &mut Attend::Documents(documents), keep, timings)
    }

    /// The pass over the first `rows` loaded tokens, and what it works in.
    fn pass<'a>(
        &'a mut self,
        weights: View<'a, T>,
        rows: usize,
    ) -> (Pass<'a, T>, &'a mut Activations<T>, &'a mut Timings) {
        let pass = Pass {
            device: &self.device,
            config: &self.config,
            places: &self.places,
            weights,
            rotary: &self.rotary,
            tokens: self.batch.tokens.slice(0..rows),
            rotary_rows: self.batch.rotary_rows.slice(0..rows),
        };
        (pass, &mut self.activations, &mut self.timings)
    }

    /// Checks the batch and brings it to the device; `None` when it is empty.
    fn load(&mut self, weights: View<'_, T>, batch: &Batch) -> Result<Option<Documents>> {
        self.check_length("weights", weights.len())?;
        let rows = batch.tokens.len();
        if rows > self.max_tokens {
            let planned = self.max_tokens;
            return Err(Error::Job(format!("a batch of {rows} tokens is larger than the {planned} planned")));
        }
        let documents = Documents::new(&batch.document_starts)?;
        if documents.tokens() != rows || batch.targets.len() != rows {
            return Err(Error::Job(format!(
                "a batch of {rows} tokens has {} targets and documents of {} tokens",
                batch.targets.len(),
                documents.tokens()
            )));
        }
        let document = |bounds: &[usize]| {
            let tokens = bounds[1] - bounds[0];
            self.rotary.rows(0..tokens, tokens)
        };
        let rotary_rows: Vec<u32> = batch.document_starts.windows(2).flat_map(document).collect();
        self.load_tokens(&batch.tokens, &rotary_rows)?;
        self.batch.targets.set(&batch.targets)?;
        Ok((rows > 0).then_some(documents))
    }

    /// Brings tokens to the device, with the rows of the rotary tables for their positions.
    fn load_tokens(&mut self, tokens: &[u32], rotary_rows: &[u32]) -> Result<()> {
        self.batch.tokens.set(tokens)?;
        Ok(self.batch.rotary_rows.set(rotary_rows)?)
    }

    fn check_length(&self, name: &str, length: usize) -> Result<()> {
        let expected = self.places.length;
        if length == expected {
            return Ok(());
        }
        Err(Error::Job(format!("{name} of {length} elements do not fit the model's layout of {expected}")))
    }
}

/// Fails where there are no kernels for the model's layers on the device.
fn check_heads(config: &ModelConfig, device: &Device) -> Result<()> {
    let check = || -> cpift_engine::Result<()> {
        if let Some(sizes) = config.delta_net() {
            causal_conv1d::check_device(device, &delta_net::convolution_shape(&sizes))?;
            gated_delta_rule::check_device(device, &delta_net::rule_shape(&sizes))?;
        }
        attention::check_device(device, &attention_shape(config, 0))
    };
    check().map_err(|error| Error::setting("--device", format!("{error}; use `--device cpu`")))
}

fn head_shape(config: &ModelConfig, rows: usize) -> cross_entropy::Shape {
    cross_entropy::Shape {
        rows,
        hidden: config.hidden,
        vocabulary: config.vocabulary,
        softcap: config.logit_softcap,
    }
}
