//! A whole training step, timed: random weights, random tokens, every token supervised.

use std::path::Path;
use std::time::Instant;

use cpift_engine::ops::adamw::{AdamW, Hyper, ImportanceKind};
use cpift_engine::ops::norm::Clip;
use cpift_engine::{Buffer, Device, Mask, Placement, bf16};
use cpift_model::recipe;
use cpift_model::state_type::StateType;
use cpift_model::transformer::{BatchLimits, ComputeType, Purpose, Recompute, Transformer, initialize};
use cpift_model::{Batch, Error, Model, ModelConfig, Result, Scaling, machine};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::Serialize;

use crate::kernels::best_matrix_rate;

/// Steps before the first that counts.
pub const WARM_UP: usize = 2;

/// Of weights and tokens.
const SEED: u64 = 17;

/// What to time.
#[derive(Debug, Clone, Copy)]
pub struct StepOptions<'a> {
    /// A `config.json`.
    pub config: &'a Path,
    /// Sequences (B).
    pub batch: usize,
    /// Tokens in each (T).
    pub length: usize,
    /// Steps that count, after two that do not.
    pub steps: usize,
    /// Accumulate `net` importance and freeze 1 % of the parameters, as CPI-FT does.
    pub importance: bool,
    /// What is computed in.
    pub compute: ComputeType,
    /// How the optimizer's state is kept.
    pub state: StateType,
}

impl StepOptions<'_> {
    /// What the optimizer accumulates.
    fn accumulated(&self) -> ImportanceKind {
        match self.importance {
            true => self.state.accumulated(recipe::ImportanceKind::Net),
            false => ImportanceKind::None,
        }
    }
}

/// Time of a whole step: forward, backward, clipping, AdamW.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepBench {
    /// Tokens of a step over its median time.
    pub tokens_per_second: f64,
    /// Median time of a step in milliseconds.
    pub step_ms: f64,
    /// Number of parameters.
    pub parameters: u64,
    /// Most memory that was taken, in bytes: the device's where it has its own, else the process's; 0 where the
    /// system does not tell.
    pub peak_memory_bytes: u64,
    /// Floating-point operations of a step, over its median time. They are those of
    /// [`ModelConfig::flops_per_token`]: 6·N + 6·layers·(heads·head_dim)·T per token, N without an embedding that is
    /// only looked up. Norms, gates, softmax, the optimizer and what recomputation repeats do not count.
    pub flops_per_second: f64,
    /// The best rate of large square matrix products on the device, in the precision of the step.
    pub matrix_flops_per_second: f64,
    /// Model FLOPs utilisation: the share of that rate which the step reaches.
    pub mfu: f64,
    /// Median milliseconds of each part, in order.
    pub parts: Vec<(String, f64)>,
}

/// Bytes a [`TrainStep`] takes: the flat weights, gradients and moments, importance where there is any, and the
/// transformer's own.
fn memory(device: &Device, options: &StepOptions<'_>, config: &ModelConfig, tokens: usize) -> Result<u64> {
    let layout = config.layout()?;
    let purpose = Purpose::Training { recompute: Recompute::Nothing };
    let limits = BatchLimits { tokens, documents: options.batch };
    let plan = match options.compute {
        ComputeType::F32 => Transformer::<f32>::memory_plan(config, device, limits, purpose)?,
        ComputeType::Bf16 => Transformer::<bf16>::memory_plan(config, device, limits, purpose)?,
    };
    let of_state = options.state.parts(&layout, options.compute, options.accumulated()).into_iter();
    let flat =
        of_state.filter(|part| part.placement == Placement::Device).map(|part| part.bytes as u64).sum();
    Ok(plan.parts.iter().fold(flat, |sum, (_, bytes)| sum.saturating_add(*bytes as u64)))
}

/// Everything of a training step, ready to be run again and again: forward, backward, clipping to norm 1,
/// AdamW.
pub struct TrainStep {
    device: Device,
    model: Model,
    losses: Buffer<f32>,
    clip: Clip,
    optimizer: AdamW,
    frozen: Option<Mask>,
    batch: usize,
    length: usize,
    steps_made: u64,
}

impl TrainStep {
    /// Reads the configuration, allocates everything and makes random weights.
    ///
    /// # Errors
    /// A configuration that cannot be read, sizes of zero, or memory that cannot be had.
    pub fn new(device: &Device, options: &StepOptions<'_>) -> Result<Self> {
        let config = ModelConfig::read(options.config)?;
        let tokens = options.batch.checked_mul(options.length);
        let tokens = tokens.filter(|tokens| *tokens > 0 && options.length > 1 && options.steps > 0);
        let tokens = tokens.ok_or_else(|| {
            Error::setting("bench step", "needs --batch and --steps of at least 1, --length of at least 2")
        })?;
        if options.length > config.max_positions {
            let reason =
                format!("is {}, and the model was made for {}", options.length, config.max_positions);
            return Err(Error::setting("--length", reason));
        }
        if options.state == StateType::Offload && matches!(device, Device::Cpu(_)) {
            let reason = "offload keeps the state in the host's memory beside a GPU: use compact on the CPU";
            return Err(Error::setting("--memory", reason));
        }
        let layout = config.layout()?;
        machine::require_memory(
            device,
            "--batch",
            memory(device, options, &config, tokens)?,
            "lower --batch or --length",
        )?;
        let storage = options.state.storage();
        let mut model = Model::new(&config, device, options.compute, tokens, Recompute::Nothing, storage)?;
        model.timings().wait_for(device);
        initialize(&config, &layout, SEED, model.weights_mut()?)?;
        model.prepare()?;
        Ok(Self {
            device: device.clone(),
            model,
            losses: Buffer::zeros(device, tokens)?,
            clip: Clip::new(device, layout.len())?,
            optimizer: AdamW::with_storage(device, layout.len(), options.accumulated(), storage)?,
            frozen: options.importance.then(|| one_percent(layout.len())),
            batch: options.batch,
            length: options.length,
            steps_made: 0,
        })
    }

    /// Tokens of a step.
    pub fn tokens(&self) -> usize {
        self.batch * self.length
    }

    /// Floating-point operations of a step, by the formula of [`ModelConfig::flops_per_token`].
    pub fn flops(&self) -> f64 {
        self.model.config().flops_per_token(self.length) * self.tokens() as f64
    }

    /// Makes one step on fresh random tokens; returns the seconds of the whole step, and of clipping and AdamW
    /// alone. [`Model::timings`] then has the other parts of this step.
    ///
    /// # Errors
    /// The engine's; there are none for a step that was made before.
    pub fn run(&mut self) -> Result<(f64, f64)> {
        let batch = random_batch(self.model.config(), self.batch, self.length, self.steps_made)?;
        self.steps_made += 1;
        let scale = 1.0 / batch.supervised_tokens() as f32;
        let hyper = Hyper { learning_rate: 1e-4, ..Hyper::default() };
        self.model.timings().reset();
        let started = Instant::now();
        let device = self.device.clone();
        let optimizer_seconds = device.scope(|| -> Result<f64> {
            self.model.clear_gradients()?;
            self.model.loss_and_gradients(&batch, scale, 0, self.losses.view_mut())?;
            device.synchronize()?;
            let optimizer_started = Instant::now();
            let frozen = self.frozen.as_ref();
            self.clip.measure(self.model.gradients(), frozen, 1.0)?;
            let scaling = Scaling { clip: Some(&self.clip), frozen };
            self.model.step(&mut self.optimizer, scaling, &hyper)?;
            device.synchronize()?;
            Ok(optimizer_started.elapsed().as_secs_f64())
        })?;
        Ok((started.elapsed().as_secs_f64(), optimizer_seconds))
    }
}

/// What [`step`] does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepProgress {
    /// A step is made, the number of those before it; the first do not count.
    Step {
        /// Steps made.
        done: usize,
        /// Steps in all, with those that do not count.
        steps: usize,
    },
    /// The best rate of matrix products is measured.
    Products,
}

/// Times whole training steps, and tells `watch` what comes next.
///
/// # Errors
/// As [`TrainStep::new`].
pub fn step(
    device: &Device,
    options: &StepOptions<'_>,
    watch: &mut dyn FnMut(StepProgress),
) -> Result<StepBench> {
    let mut train_step = TrainStep::new(device, options)?;
    let steps = WARM_UP + options.steps;
    for done in 0..WARM_UP {
        watch(StepProgress::Step { done, steps });
        train_step.run()?;
    }
    let mut times = Vec::new();
    let mut parts: Vec<(&str, Vec<f64>)> = Vec::new();
    for done in WARM_UP..steps {
        watch(StepProgress::Step { done, steps });
        let (seconds, optimizer_seconds) = train_step.run()?;
        times.push(seconds);
        let timings = train_step.model.timings().parts().chain([("optimizer", optimizer_seconds)]);
        for (index, (name, seconds)) in timings.enumerate() {
            match parts.get_mut(index) {
                Some((_, all)) => all.push(seconds),
                None => parts.push((name, vec![seconds])),
            }
        }
    }
    let seconds = median(times);
    let (tokens, flops) = (train_step.tokens() as f64, train_step.flops());
    let parameters = train_step.model.config().parameters() as u64;
    // The peak of the step, whose memory the products below then have.
    let peak_memory_bytes =
        device.peak_memory_bytes(Placement::Device).or_else(machine::peak_memory_bytes).unwrap_or(0);
    drop(train_step);
    watch(StepProgress::Products);
    let matrix = best_matrix_rate(device, options.compute)?;
    Ok(StepBench {
        tokens_per_second: tokens / seconds,
        step_ms: 1e3 * seconds,
        parameters,
        peak_memory_bytes,
        flops_per_second: flops / seconds,
        matrix_flops_per_second: matrix,
        mfu: flops / seconds / matrix,
        parts: parts.into_iter().map(|(name, all)| (name.to_owned(), 1e3 * median(all))).collect(),
    })
}

fn random_batch(config: &ModelConfig, batch: usize, length: usize, number: u64) -> Result<Batch> {
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    random.set_stream(number);
    let mut result = Batch::new();
    for _ in 0..batch {
        let tokens: Vec<u32> = (0..length).map(|_| random.next_u32() % config.vocabulary as u32).collect();
        result.push(&tokens, &vec![true; length])?;
    }
    Ok(result)
}

/// Every hundredth coordinate.
fn one_percent(length: usize) -> Mask {
    let mut mask = Mask::zeros(length);
    (0..length).step_by(100).for_each(|index| mask.set(index, true));
    mask
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
