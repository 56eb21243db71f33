//! A whole training step, timed: random weights, random tokens, every token supervised.

use std::path::Path;
use std::time::Instant;

use cpift_engine::ops::adamw::{AdamW, Gradient, Hyper, ImportanceKind};
use cpift_engine::ops::norm;
use cpift_engine::{Buffer, Device};
use rand_chacha::rand_core::Rng;
use serde::Serialize;

use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::data::order;
use crate::error::{Error, Result};
use crate::machine;
use crate::transformer::{Transformer, initialize};

/// Steps before the first that counts.
const WARM_UP: usize = 2;

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
    /// Most memory the process held, in bytes; 0 where the system does not tell.
    pub peak_memory_bytes: u64,
    /// Floating-point operations of a step, over its median time.
    pub flops_per_second: f64,
    /// Median milliseconds of each part, in order.
    pub parts: Vec<(String, f64)>,
}

/// Times whole training steps.
///
/// # Errors
/// A configuration that cannot be read, sizes of zero, or memory that cannot be had.
pub fn step(device: &Device, options: &StepOptions<'_>) -> Result<StepBench> {
    let config = ModelConfig::read(options.config)?;
    let tokens = options
        .batch
        .checked_mul(options.length)
        .filter(|tokens| *tokens > 0 && options.length > 1 && options.steps > 0)
        .ok_or_else(|| {
            Error::setting("bench step", "needs --batch and --steps of at least 1, --length of at least 2")
        })?;
    if options.length > config.max_positions {
        let reason = format!("is {}, and the model was made for {}", options.length, config.max_positions);
        return Err(Error::setting("--length", reason));
    }
    let layout = config.layout()?;
    let mut transformer = Transformer::new(&config, device, tokens, false)?;
    let mut weights = Buffer::zeros(device, layout.len())?;
    initialize(&config, &layout, 17, weights.view_mut())?;
    let mut gradients = Buffer::zeros(device, layout.len())?;
    let kind = if options.importance { ImportanceKind::Net } else { ImportanceKind::None };
    let mut optimizer = AdamW::new(device, layout.len(), kind)?;
    let frozen = options.importance.then(|| one_percent(layout.len()));
    let hyper = Hyper { learning_rate: 1e-4, ..Hyper::default() };

    let mut times = Vec::new();
    let mut parts: Vec<(String, Vec<f64>)> = Vec::new();
    for number in 0..WARM_UP + options.steps {
        let batch = random_batch(&config, options.batch, options.length, number as u64)?;
        let scale = 1.0 / batch.supervised_tokens() as f32;
        transformer.timings().reset();
        let started = Instant::now();
        let optimizer_seconds = device.scope(|| -> Result<f64> {
            gradients.view_mut().fill(0.0);
            transformer.loss_and_gradients(weights.view(), &batch, scale, gradients.view_mut())?;
            let optimizer_started = Instant::now();
            let norm = norm::squared_norm(device, gradients.view(), frozen.as_ref())?.sqrt();
            let gradient = Gradient {
                values: gradients.view(),
                scale: norm::clip_factor(norm, 1.0),
                frozen: frozen.as_ref(),
            };
            optimizer.step(weights.view_mut(), gradient, &hyper)?;
            Ok(optimizer_started.elapsed().as_secs_f64())
        })?;
        let seconds = started.elapsed().as_secs_f64();
        if number < WARM_UP {
            continue;
        }
        times.push(seconds);
        let timings = transformer.timings().parts().map(|(name, seconds)| (name.to_owned(), seconds));
        for (index, (name, seconds)) in
            timings.chain([("optimizer".to_owned(), optimizer_seconds)]).enumerate()
        {
            match parts.get_mut(index) {
                Some((_, all)) => all.push(seconds),
                None => parts.push((name, vec![seconds])),
            }
        }
    }
    let seconds = median(times);
    Ok(StepBench {
        tokens_per_second: tokens as f64 / seconds,
        step_ms: 1e3 * seconds,
        parameters: layout.parameters() as u64,
        peak_memory_bytes: machine::peak_memory_bytes().unwrap_or(0),
        flops_per_second: config.flops_per_token(options.length) * tokens as f64 / seconds,
        parts: parts.into_iter().map(|(name, all)| (name, 1e3 * median(all))).collect(),
    })
}

fn random_batch(config: &ModelConfig, batch: usize, length: usize, number: u64) -> Result<Batch> {
    let mut random = order::stream(17, "bench step", 0, number);
    let mut result = Batch::new();
    for _ in 0..batch {
        let tokens: Vec<u32> = (0..length).map(|_| random.next_u32() % config.vocabulary as u32).collect();
        result.push(&tokens, &vec![true; length])?;
    }
    Ok(result)
}

/// Every hundredth coordinate.
fn one_percent(length: usize) -> cpift_engine::Mask {
    let mut mask = cpift_engine::Mask::zeros(length);
    (0..length).step_by(100).for_each(|index| mask.set(index, true));
    mask
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
