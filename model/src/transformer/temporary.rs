//! Buffers that operations of a training step allocate on a GPU while they run: sums of split-K products, partial
//! sums of norms' gradients, lists of documents, and what a recording keeps of it for the next.

use cpift_engine::{Buffer, Device, LaunchLog, Real};

use super::Transformer;
use crate::batch::Batch;
use crate::config::ModelConfig;
use crate::error::Result;

/// Batches that are tried: of the largest size and of parts of it, since what a product is cut into depends on it.
const SIZES: usize = 8;

/// Bytes that training steps on batches of up to `max_tokens` tokens take at most beside a transformer's planned
/// memory. Goes through steps on a device of the same kind that runs nothing and only counts; 0 on the CPU.
pub fn bytes<T: Real>(
    config: &ModelConfig,
    device: &Device,
    max_tokens: usize,
    recompute: bool,
) -> Result<usize> {
    let Device::Gpu(gpu) = device else { return Ok(0) };
    let log = LaunchLog::like(gpu);
    let device = Device::logging(&log);
    let length = config.layout()?.len();
    let mut transformer = Transformer::<T>::new(config, &device, max_tokens, recompute)?;
    let weights = Buffer::<T>::zeros(&device, length)?;
    let mut gradients = Buffer::<f32>::zeros(&device, length)?;
    let mut losses = Buffer::<f32>::zeros(&device, max_tokens)?;
    let planned = device.peak_memory_bytes().unwrap_or(0);
    for part in (1..=SIZES).rev() {
        let batch = batch_of((max_tokens * part).div_ceil(SIZES), config.max_positions)?;
        let (gradients, losses) = (gradients.view_mut(), losses.slice_mut(0..batch.tokens.len()));
        device.record(|| transformer.loss_and_gradients(weights.view(), &batch, 1.0, gradients, losses))?;
        log.take();
    }
    Ok(device.peak_memory_bytes().unwrap_or(0).saturating_sub(planned) as usize)
}

/// So many tokens in documents as long as they may be, all of them supervised.
fn batch_of(tokens: usize, longest: usize) -> Result<Batch> {
    let mut batch = Batch::new();
    let mut left = tokens;
    while left > 0 {
        let length = left.min(longest.max(1));
        batch.push(&vec![0; length], &vec![true; length])?;
        left -= length;
    }
    Ok(batch)
}
