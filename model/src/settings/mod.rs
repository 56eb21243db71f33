//! The recipe: every choice of a job, with its default.
//!
//! The TOML form (sections, relative paths, `--set`) is the command line's; here are the types it is
//! read into. `[probe]` and `[integrate]` inherit what they do not set from `[train]`:
//! [`Recipe::inherited_keys`] says which, and the reader copies them before the sections are read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod check;
mod fuse;
mod precision;
mod train;

pub use check::{KEYS, TRAIN_KEYS};
pub use fuse::{Backbone, Conflict, FoldWeight, FuseSettings, Interpolation, SlerpSpace};
pub use precision::Precision;
pub use train::{Schedule, TrainSettings};

/// How the tasks are brought into one model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Probe, core selection, grouping, fusion, integration with frozen cores (the paper).
    #[default]
    Cpift,
    /// One fine-tune on all tasks mixed.
    Joint,
    /// One task after the other.
    Sequential,
    /// One group of tasks after the other, without freezing; groups from probes as in `cpift`.
    Staged,
    /// Dual-stage mixing: first all tasks but some, then these with a share of the rows of the first.
    Replay,
    /// Half fine-tuning: all tasks mixed, in rounds, in each of which another random half of every tensor
    /// is frozen.
    Half,
}

/// A stage of the `cpift` method, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Stage 1: one fine-tune per task.
    Probe,
    /// Stage 1b: core selection.
    Core,
    /// Stage 2: grouping by overlap.
    Group,
    /// Stage 3: fusion.
    Fuse,
    /// Stage 4: integrated fine-tuning with frozen cores; for the baselines their whole training.
    Integrate,
}

impl Stage {
    /// Lower-case name, as in the run folder and `--until`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Core => "core",
            Self::Group => "group",
            Self::Fuse => "fuse",
            Self::Integrate => "integrate",
        }
    }
}

/// The whole recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Seed of everything random: order of rows, samples, initial weights.
    #[serde(default)]
    pub seed: u64,
    /// How the tasks are brought into one model.
    #[serde(default)]
    pub method: Method,
    /// The base model.
    pub model: ModelSettings,
    /// Settings of plain training, and what `[probe]` and `[integrate]` inherit.
    pub train: TrainSettings,
    /// Stage 1.
    pub probe: ProbeSettings,
    /// Stage 1b.
    #[serde(default)]
    pub core: CoreSettings,
    /// Stage 2.
    #[serde(default)]
    pub group: GroupSettings,
    /// Stage 3.
    #[serde(default)]
    pub fuse: FuseSettings,
    /// Stage 4.
    pub integrate: IntegrateSettings,
    /// The method `replay`.
    #[serde(default)]
    pub replay: ReplaySettings,
    /// The method `half`.
    #[serde(default)]
    pub half: HalfSettings,
    /// When the state inside a stage is saved.
    #[serde(default)]
    pub checkpoint: CheckpointSettings,
    /// How the steps are recorded.
    #[serde(default)]
    pub metrics: MetricsSettings,
    /// The tasks, in order.
    pub task: Vec<TaskSettings>,
}

/// `[model]`: where training starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelSettings {
    /// Hugging Face folder of the base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// A `config.json` to start from random weights; the tokenizer is taken from its folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Longest row and longest packed sequence, in tokens.
    #[serde(default = "defaults::max_length")]
    pub max_length: usize,
    /// Cut rows longer than `max_length` instead of leaving them out.
    #[serde(default)]
    pub truncate: bool,
    /// Number type of the final model's file.
    #[serde(default)]
    pub dtype: SaveDtype,
    /// Number type that is computed in; master weights and everything the optimizer keeps are f32.
    #[serde(default)]
    pub precision: Precision,
}

/// Number type weights are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SaveDtype {
    /// 32-bit floats: the master weights, bit for bit.
    #[default]
    F32,
    /// 16-bit brain floats.
    Bf16,
    /// 16-bit IEEE floats.
    F16,
}

/// `[[task]]`: one task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskSettings {
    /// Name, used in reports and as a folder's name.
    pub name: String,
    /// JSONL to train on.
    pub train: PathBuf,
    /// JSONL to evaluate on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<PathBuf>,
    /// Share of this task's rows in mixed training, relative to the other tasks'.
    #[serde(default = "defaults::one")]
    pub weight: f64,
    /// An existing fine-tune of the same base: its probe is skipped, importance is the difference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<PathBuf>,
    /// What control strings in this task's texts are.
    #[serde(default)]
    pub special_tokens: SpecialTokens,
}

/// What a string that stands for a control token is (`<|im_end|>`, `<s>`), where a file has it in `text`,
/// `prompt`, `completion`, `instruction`, `input` or `output`. In `messages` it is always text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SpecialTokens {
    /// The control token, as in data that a chat template was already applied to.
    #[default]
    Parse,
    /// Text like any other.
    Escape,
}

/// What importance a probe measures (docs/algorithm.md, stage 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImportanceKind {
    /// |θi − θ0|, the paper's.
    #[default]
    Net,
    /// Σ|Δθ|, the length of the way.
    Path,
    /// Σg².
    Fisher,
    /// A random choice: control.
    Random,
    /// The k least by `net`: control.
    Inverse,
}

/// `[probe]`: stage 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProbeSettings {
    /// Training of each probe; `weight_decay` is not inherited from `[train]`.
    #[serde(flatten)]
    pub training: TrainSettings,
    /// What makes a parameter important.
    #[serde(default)]
    pub importance: ImportanceKind,
}

/// Over what the k most important are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CoreScope {
    /// All parameters at once.
    #[default]
    Global,
    /// Each tensor by itself.
    Tensor,
    /// Each layer by itself.
    Layer,
}

/// `[core]`: stage 1b.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CoreSettings {
    /// Share of all parameters that a task's core holds.
    pub fraction: f64,
    /// Over what it is chosen.
    pub scope: CoreScope,
    /// Tensors never in a core: a name contains one of these.
    pub exclude: Vec<String>,
}

impl Default for CoreSettings {
    fn default() -> Self {
        Self { fraction: 0.01, scope: CoreScope::Global, exclude: Vec::new() }
    }
}

/// How edges become groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Linkage {
    /// Connected components.
    #[default]
    Components,
    /// Every pair of a group must overlap.
    Complete,
}

/// Order in which groups are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupOrder {
    /// By the seed.
    #[default]
    Shuffled,
    /// By each group's first task.
    Given,
}

/// `[group]`: stage 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupSettings {
    /// Least Jaccard overlap of an edge.
    pub threshold: f64,
    /// How edges become groups.
    pub linkage: Linkage,
    /// Order of the groups.
    pub order: GroupOrder,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self { threshold: 0.1, linkage: Linkage::Components, order: GroupOrder::Shuffled }
    }
}

/// Data of a part of stage 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntegrateData {
    /// All tasks' samples, the part's group weighted by `emphasis`.
    #[default]
    Mixed,
    /// The part's group only.
    Group,
}

/// What is frozen in a part of stage 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Frozen {
    /// Those of earlier groups.
    #[default]
    Prior,
    /// Those of all other groups.
    Others,
    /// All.
    All,
    /// None.
    None,
    /// A random half of every tensor, another in every part: half fine-tuning (arXiv 2404.18466) from the
    /// fused model.
    Half,
}

/// `[integrate]`: stage 4.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IntegrateSettings {
    /// Training over all parts together.
    #[serde(flatten)]
    pub training: TrainSettings,
    /// Share of the data in the balanced sample.
    #[serde(default = "defaults::sample")]
    pub sample: f64,
    /// Data of each part.
    #[serde(default)]
    pub data: IntegrateData,
    /// Weight of the part's own group in `mixed` data.
    #[serde(default = "defaults::one")]
    pub emphasis: f64,
    /// What is frozen: cores, or random halves.
    #[serde(default)]
    pub frozen: Frozen,
    /// Start schedule and moments anew in every part.
    #[serde(default)]
    pub restart: bool,
}

/// `[replay]`: the method `replay`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplaySettings {
    /// Tasks of the second stage; the recipe's last task when none is named.
    pub last: Vec<String>,
    /// Share of the second stage's rows that come from the tasks of the first.
    pub share: f64,
}

impl Default for ReplaySettings {
    fn default() -> Self {
        Self { last: Vec::new(), share: 0.1 }
    }
}

/// `[half]`: the method `half`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HalfSettings {
    /// Rounds, each with another half frozen; as many as tasks when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounds: Option<u64>,
}

/// `[checkpoint]`: saving inside a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointSettings {
    /// Steps between checkpoints; 0 saves only between stages and on Ctrl-C.
    pub every: u64,
    /// Newest checkpoints kept per stage.
    pub keep: usize,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { every: 200, keep: 2 }
    }
}

/// `[metrics]`: how the steps are recorded, beside metrics.jsonl.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsSettings {
    /// Write TensorBoard's event files too.
    pub tensorboard: bool,
}

mod defaults {
    pub fn max_length() -> usize {
        512
    }
    pub fn one() -> f64 {
        1.0
    }
    pub fn yes() -> bool {
        true
    }
    pub fn batch_size() -> usize {
        8
    }
    pub fn accumulate() -> usize {
        1
    }
    pub fn learning_rate() -> f64 {
        2e-5
    }
    pub fn warmup() -> f64 {
        0.03
    }
    pub fn beta1() -> f64 {
        0.9
    }
    pub fn beta2() -> f64 {
        0.999
    }
    pub fn eps() -> f64 {
        1e-8
    }
    pub fn sample() -> f64 {
        0.1
    }
}
