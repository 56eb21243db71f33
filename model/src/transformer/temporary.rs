//! Buffers that operations of a training step allocate on a GPU while they run: sums of split-K products, partial
//! sums of norms' gradients, lists of documents, and what a recording keeps of it for the next.

use cpift_engine::{Buffer, Device, LaunchLog, Placement, Real};

use super::{BatchLimits, Recompute, Transformer};
use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::error::Result;

/// Batches that are tried: of the largest size and of parts of it, since what a product is cut into depends on it.
const SIZES: usize = 8;

/// Bytes that training steps on batches within `limits` take at most beside a transformer's planned
/// memory. Goes through steps on a device of the same kind that runs nothing and only counts; 0 on the CPU.
pub fn bytes<T: Real>(
    config: &ModelConfig,
    device: &Device,
    limits: BatchLimits,
    recompute: Recompute,
) -> Result<usize> {
    let Device::Gpu(gpu) = device else { return Ok(0) };
    let max_tokens = limits.tokens.max(1);
    let log = LaunchLog::like(gpu);
    let device = Device::logging(&log);
    let length = config.layout()?.len();
    let mut transformer = Transformer::<T>::new(config, &device, max_tokens, recompute)?;
    let weights = Buffer::<T>::zeros(&device, length)?;
    let mut gradients = Buffer::<f32>::zeros(&device, length)?;
    let mut losses = Buffer::<f32>::zeros(&device, max_tokens)?;
    let planned = device.peak_memory_bytes(Placement::Device).unwrap_or(0);
    let longest = config.max_positions;
    let parts = (1..=SIZES).rev().map(|part| batch_of((max_tokens * part).div_ceil(SIZES), 1, longest));
    for batch in parts.chain([batch_of(max_tokens, limits.documents, longest)]) {
        let batch = batch?;
        let (gradients, losses) = (gradients.view_mut(), losses.slice_mut(0..batch.tokens.len()));
        device.record(|| transformer.loss_and_gradients(weights.view(), &batch, 1.0, gradients, losses))?;
        log.take();
    }
    Ok(device.peak_memory_bytes(Placement::Device).unwrap_or(0).saturating_sub(planned) as usize)
}

/// So many tokens, all of them supervised, in at least so many documents: those as short as they may be, the others as
/// long.
fn batch_of(tokens: usize, documents: usize, longest: usize) -> Result<Batch> {
    let mut batch = Batch::new();
    let short = documents.saturating_sub(1).min(tokens - 1);
    for _ in 0..short {
        batch.push(&[0], &[true])?;
    }
    let mut left = tokens - short;
    while left > 0 {
        let length = left.min(longest.max(1));
        batch.push(&vec![0; length], &vec![true; length])?;
        left -= length;
    }
    Ok(batch)
}
