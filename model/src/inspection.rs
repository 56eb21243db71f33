//! What a model folder holds, and what it takes to train it: looked at without reading the weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cpift_engine::ops::adamw::ImportanceKind;
use cpift_engine::{Device, Placement, bf16};
use serde::Serialize;
use serde_json::json;

use crate::checkpoint::{Checkpoint, TensorFile};
use crate::config::{DeltaNet, ModelConfig, Part, Rope, RopeScaling};
use crate::data::{PromptMaker, PromptSettings};
use crate::error::Result;
use crate::state_type::StateType;
use crate::tokenizer::{SpecialToken, Tokenizer};
use crate::transformer::{BatchLimits, ComputeType, Purpose, Recompute, Transformer};

/// Tokens of the batch that memory is planned for, or the model's context where that is shorter.
const PLANNED_TOKENS: usize = 2048;

/// What a model folder holds.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The folder.
    pub folder: PathBuf,
    /// `model_type` of its configuration.
    pub family: &'static str,
    /// Class of `transformers` for it.
    pub class: &'static str,
    /// Parameters by part of the model; those of a tied head once.
    pub parameters: Vec<PartParameters>,
    /// Layers.
    pub layers: usize,
    /// Width of the residual stream (C).
    pub hidden: usize,
    /// Width inside the gated MLP.
    pub intermediate: usize,
    /// Query heads (H).
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head (D).
    pub head_dim: usize,
    /// Sizes of the gated DeltaNets, where layers have one.
    pub delta_net: Option<DeltaNet>,
    /// The head shares the embedding's weights.
    pub tied: bool,
    /// Longest text.
    pub max_positions: usize,
    /// Rotary embeddings, in words, with the number of layers that have each.
    pub rotary: Vec<LayersWith>,
    /// Windows in tokens, likewise; layers without one are left out.
    pub windows: Vec<LayersWith>,
    /// How the weights are stored.
    pub stored: Vec<StoredTensors>,
    /// Files of weights.
    pub files: usize,
    /// Rows of the embedding (V).
    pub vocabulary: usize,
    /// Tokens of the tokenizer; further rows of the embedding are padding.
    pub tokens: usize,
    /// Special tokens by what they are called.
    pub special_tokens: Vec<SpecialToken>,
    /// Ids at which generation stops.
    pub stop_tokens: Vec<u32>,
    /// What the chat template makes of a short conversation; none without a template.
    pub chat: Option<ChatSample>,
    /// Memory of a training step.
    pub memory: Vec<TrainingMemory>,
    /// Tokens of the step that the memory is for.
    pub memory_tokens: usize,
    /// Fields of `config.json` that are not read, as `transformers` does not read them.
    pub ignored_fields: Vec<String>,
    /// What a person should know about the folder.
    pub notices: Vec<String>,
}

/// Parameters of a part of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PartParameters {
    /// The part.
    pub part: &'static str,
    /// Its parameters in all layers.
    pub parameters: u64,
}

/// A property of some layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayersWith {
    /// In words.
    pub what: String,
    /// Layers that have it.
    pub layers: usize,
}

/// Tensors of one type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoredTensors {
    /// The type, as safetensors names it.
    pub dtype: String,
    /// Their number.
    pub tensors: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// What the chat template writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatSample {
    /// The prompt of a user's `Hello!`, up to where the answer begins.
    Prompt(String),
    /// Why it cannot be used.
    Unusable(String),
}

/// Memory of a training step of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrainingMemory {
    /// What is computed in.
    pub precision: &'static str,
    /// How the optimizer's state is kept (`train.memory`).
    pub memory: StateType,
    /// What is computed again in the backward pass (`train.recompute`).
    pub recompute: Recompute,
    /// Bytes of weights, gradients and moments on the device.
    pub state_bytes: u64,
    /// The same in the memory of a GPU's host.
    pub host_bytes: u64,
    /// Bytes of activations.
    pub activation_bytes: u64,
}

impl Inspection {
    /// Looks at a model folder.
    ///
    /// # Errors
    /// What is missing, damaged or not supported in it.
    pub fn of(folder: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(folder)?;
        let config = checkpoint.config();
        let tokenizer = Tokenizer::from_folder(folder)?;
        tokenizer.check_vocabulary(folder, config.vocabulary)?;
        let files = checkpoint.tensor_files();
        let tokens = PLANNED_TOKENS.min(config.max_positions);
        let mut notices = checkpoint.notices().to_vec();
        Ok(Self {
            folder: folder.to_owned(),
            family: config.family.model_type,
            class: config.family.class,
            parameters: parameters(config),
            layers: config.layers,
            hidden: config.hidden,
            intermediate: config.intermediate,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            delta_net: config.delta_net(),
            tied: config.tied,
            max_positions: config.max_positions,
            rotary: rotary(config),
            windows: windows(config),
            stored: stored(files),
            files: files.len(),
            vocabulary: config.vocabulary,
            tokens: tokenizer.vocabulary_size(),
            special_tokens: tokenizer.special_tokens(),
            stop_tokens: tokenizer.stop_tokens().to_vec(),
            chat: chat_sample(&tokenizer, &mut notices),
            memory: memory(config, tokens)?,
            memory_tokens: tokens,
            ignored_fields: config.ignored_fields().to_vec(),
            notices,
        })
    }

    /// Parameters of the whole model.
    pub fn total_parameters(&self) -> u64 {
        self.parameters.iter().map(|part| part.parameters).sum()
    }
}

fn parameters(config: &ModelConfig) -> Vec<PartParameters> {
    let matrix = (config.vocabulary * config.hidden) as u64;
    let (mut attention, mut delta_net, mut mlp, mut norms) = (0, 0, 0, config.hidden);
    for layer in 0..config.layers {
        let mixer = if config.attention[layer].delta_net.is_some() { &mut delta_net } else { &mut attention };
        for part in config.parts(layer) {
            match part {
                Part::Norm { width, .. } => norms += width,
                Part::Linear { tensor, outputs, inputs, bias, .. } => {
                    let elements = outputs * (inputs + usize::from(bias));
                    if tensor.starts_with("mlp.") { mlp += elements } else { *mixer += elements }
                }
                Part::Convolution { channels, taps, .. } => *mixer += channels * taps,
                Part::Vector { width, .. } => *mixer += width,
            }
        }
    }
    let part = |part, parameters| PartParameters { part, parameters };
    let mut parts = vec![
        part(if config.tied { "embedding and head" } else { "embedding" }, matrix),
        part("attention", attention as u64),
        part("MLP", mlp as u64),
        part("norms", norms as u64),
    ];
    if delta_net > 0 {
        parts.insert(2, part("gated DeltaNet", delta_net as u64));
    }
    if !config.tied {
        parts.push(part("head", matrix));
    }
    parts
}

/// Groups the layers by what is said of each.
fn layers_with(config: &ModelConfig, what: impl Fn(usize) -> Option<String>) -> Vec<LayersWith> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for what in (0..config.layers).filter_map(what) {
        *counts.entry(what).or_default() += 1;
    }
    counts.into_iter().map(|(what, layers)| LayersWith { what, layers }).collect()
}

fn windows(config: &ModelConfig) -> Vec<LayersWith> {
    layers_with(config, |layer| config.attention[layer].window.map(|window| format!("{window} tokens")))
}

fn rotary(config: &ModelConfig) -> Vec<LayersWith> {
    layers_with(config, |layer| {
        Some(match config.attention[layer].rope {
            Some(rope) => describe_rope(&config.ropes[rope], config.head_dim),
            None if config.attention[layer].delta_net.is_some() => "none (gated DeltaNet)".to_owned(),
            None => "none".to_owned(),
        })
    })
}

fn describe_rope(rope: &Rope, head_dim: usize) -> String {
    let scaling = match &rope.scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Linear { factor } => format!(", linear by {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!(", llama3 by {factor}"),
        RopeScaling::Yarn { factor, .. } => format!(", yarn by {factor}"),
        RopeScaling::LongRope { original, .. } => format!(", longrope from {} tokens on", original + 1),
        RopeScaling::Proportional { .. } => ", proportional".to_owned(),
    };
    let part = if rope.rotary_dim == head_dim {
        String::new()
    } else {
        format!(", {} of {head_dim} elements of a head", rope.rotary_dim)
    };
    format!("base {}{scaling}{part}", rope.theta)
}

fn stored(files: &[TensorFile]) -> Vec<StoredTensors> {
    let mut types: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    for file in files {
        for tensor in file.names().iter().filter_map(|name| file.find(name)) {
            let (tensors, bytes) = types.entry(format!("{:?}", tensor.dtype)).or_default();
            *tensors += 1;
            *bytes += (tensor.data_offsets.1 - tensor.data_offsets.0) as u64;
        }
    }
    types.into_iter().map(|(dtype, (tensors, bytes))| StoredTensors { dtype, tensors, bytes }).collect()
}

fn chat_sample(tokenizer: &Tokenizer, notices: &mut Vec<String>) -> Option<ChatSample> {
    if !tokenizer.has_chat_template() {
        return None;
    }
    let messages = vec![json!({"role": "user", "content": "Hello!"})];
    let settings = PromptSettings { chat: true, system: None };
    let mut noticed = Vec::new();
    let prompt = PromptMaker::new(tokenizer, settings)
        .map_err(|error| error.to_string())
        .and_then(|maker| maker.of_messages(messages, &mut noticed));
    notices.extend(noticed.iter().map(ToString::to_string));
    Some(prompt.map_or_else(ChatSample::Unusable, |prompt| ChatSample::Prompt(prompt.text)))
}

fn memory(config: &ModelConfig, tokens: usize) -> Result<Vec<TrainingMemory>> {
    let (device, layout) = (Device::cpu(None)?, config.layout()?);
    let limits = BatchLimits { tokens, documents: 1 };
    let mut lines = Vec::new();
    let kinds = [ComputeType::F32, ComputeType::Bf16]
        .into_iter()
        .flat_map(|compute| StateType::ALL.map(|memory| (compute, memory)));
    for (compute, memory) in kinds {
        let parts = memory.parts(&layout, compute, ImportanceKind::None);
        let on = |placement: Placement| -> u64 {
            parts.iter().filter(|part| part.placement == placement).map(|part| part.bytes as u64).sum()
        };
        for recompute in Recompute::ALL {
            let purpose = Purpose::Training { recompute };
            let activations = match compute {
                ComputeType::F32 => Transformer::<f32>::memory_plan(config, &device, limits, purpose),
                ComputeType::Bf16 => Transformer::<bf16>::memory_plan(config, &device, limits, purpose),
            };
            lines.push(TrainingMemory {
                precision: compute.name(),
                memory,
                recompute,
                state_bytes: on(Placement::Device),
                host_bytes: on(Placement::Host),
                activation_bytes: activations?.total() as u64,
            });
        }
    }
    Ok(lines)
}
