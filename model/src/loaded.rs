//! A model folder, loaded to compute with its weights as they are.

use std::path::Path;

use cpift_engine::ops::round;
use cpift_engine::{Buffer, Device, bf16};

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::error::Result;
use crate::tokenizer::Tokenizer;
use crate::transformer::ComputeType;

/// Tokens of a batch where nothing else sets them.
pub(crate) const BATCH_TOKENS: usize = 2048;

/// A model folder's configuration, tokenizer and weights.
pub(crate) struct LoadedModel {
    pub device: Device,
    pub config: ModelConfig,
    /// What a person should know about the model, a line each.
    pub notices: Vec<String>,
    pub tokenizer: Tokenizer,
    pub weights: Weights,
}

/// Weights in the type they are computed with.
pub(crate) enum Weights {
    F32(Buffer<f32>),
    Bf16(Buffer<bf16>),
}

impl LoadedModel {
    /// Loads a Hugging Face folder, to compute in this type.
    ///
    /// # Errors
    /// What is missing, damaged or not supported in it.
    pub fn open(device: &Device, folder: &Path, compute: ComputeType) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let tokenizer = Tokenizer::from_folder(folder)?;
        tokenizer.check_vocabulary(folder, checkpoint.config().vocabulary)?;
        let mut weights = Buffer::zeros(device, checkpoint.layout().len())?;
        device.scope(|| checkpoint.load_into(weights.view_mut()))?;
        let weights = match compute {
            ComputeType::F32 => Weights::F32(weights),
            ComputeType::Bf16 => {
                let mut rounded = Buffer::zeros(device, weights.len())?;
                round::to_bf16(device, weights.view(), rounded.view_mut())?;
                Weights::Bf16(rounded)
            }
        };
        let notices = checkpoint.notices().iter().chain(tokenizer.notice()).cloned().collect();
        Ok(Self { device: device.clone(), config: checkpoint.config().clone(), notices, tokenizer, weights })
    }
}
