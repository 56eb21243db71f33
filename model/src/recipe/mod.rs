//! The recipe: every choice of a job, with its default, its TOML form and its checks.
//!
//! [`Recipe::load`] reads a file, [`Recipe::to_toml`] writes one. `[probe]` and `[integrate]` inherit what they do
//! not set from `[train]`; that is resolved while reading, so a [`Recipe`] holds every value it means.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::hub::HubSource;

mod checkpoint;
mod differences;
mod edit;
mod evaluate;
mod fault;
mod fuse;
mod hub;
mod measure;
mod mixture;
mod numbers;
mod origins;
mod overrides;
mod precision;
mod read;
mod rows;
mod shape;
mod task;
#[cfg(test)]
mod tests;
mod train;
mod values;

pub use checkpoint::{CheckpointSettings, KeepProbes};
pub use differences::{Difference, differences};
pub use edit::Edit;
pub use evaluate::{EvaluateSettings, Keep};
pub(crate) use fault::nearest;
pub use fuse::{Backbone, Conflict, FoldWeight, FuseSettings, Interpolation, SlerpSpace};
pub use hub::RecipeParts;
pub use measure::MeasureSettings;
pub use mixture::{MixtureOrder, MixtureSettings, MixtureShares};
pub use precision::Precision;
pub use read::Source;
pub use rows::{Columns, Learn};
pub use shape::section_of;
pub use task::{DataFiles, SpecialTokens, TaskSettings};
pub use train::{RecomputeSetting, Schedule, StateMemory, TrainSettings};
pub(crate) use values::MOST_STEPS;
pub use values::{MOST_NEW_TOKENS, MOST_SHOTS};

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

impl Method {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::Cpift, Self::Joint, Self::Sequential, Self::Staged, Self::Replay, Self::Half];

    /// Lower-case name, as in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpift => "cpift",
            Self::Joint => "joint",
            Self::Sequential => "sequential",
            Self::Staged => "staged",
            Self::Replay => "replay",
            Self::Half => "half",
        }
    }
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
    /// All, in order.
    pub const ALL: [Self; 5] = [Self::Probe, Self::Core, Self::Group, Self::Fuse, Self::Integrate];

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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipe {
    /// Seed of everything random: order of rows, samples, initial weights.
    pub seed: u64,
    /// How the tasks are brought into one model.
    pub method: Method,
    /// The base model.
    pub model: ModelSettings,
    /// Settings of plain training, and what `[probe]` and `[integrate]` inherit.
    pub train: TrainSettings,
    /// How the rows of several tasks are mixed.
    pub mixture: MixtureSettings,
    /// Stage 1.
    pub probe: ProbeSettings,
    /// Stage 1b.
    pub core: CoreSettings,
    /// Stage 2.
    pub group: GroupSettings,
    /// Stage 3.
    pub fuse: FuseSettings,
    /// Stage 4.
    pub integrate: IntegrateSettings,
    /// The method `replay`.
    pub replay: ReplaySettings,
    /// The method `half`.
    pub half: HalfSettings,
    /// Measuring while a model is trained.
    pub evaluate: EvaluateSettings,
    /// When the state inside a stage is saved.
    pub checkpoint: CheckpointSettings,
    /// How the steps are recorded.
    pub metrics: MetricsSettings,
    /// The tasks, in order.
    pub task: Vec<TaskSettings>,
    /// What is measured and never trained, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub measure: Vec<MeasureSettings>,
    /// What of it was named by its name on the hub; the paths are those of the cache. No key of a recipe.
    #[serde(skip)]
    pub hub: Vec<HubSource>,
}

impl Recipe {
    /// Reads the recipe at `path` and applies `overrides` (`section.key=value`, in order). Paths in the file are
    /// relative to the file's folder, paths in overrides to the current folder. Names of the hub stay names: see
    /// [`Source::resolve`].
    ///
    /// # Errors
    /// One line naming the file and line, or the override, and what to do.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        Source::read(path, overrides)?.recipe(&[])
    }

    /// The recipe as TOML that reads back as the same recipe: every default filled in, every path as it is.
    ///
    /// # Errors
    /// A path is not UTF-8, or the seed is beyond TOML's integers.
    pub fn to_toml(&self) -> Result<String> {
        let text = toml::to_string(self)
            .map_err(|error| Error::Job(format!("the resolved recipe cannot be written as TOML: {error}")))?;
        // `memory` is one for all trainings: where it stood in each, it could not be changed by `--set train.memory`.
        let mut inherits = false;
        let lines = text.split_inclusive('\n').filter(|line| {
            if line.starts_with('[') {
                inherits = matches!(line.trim_end(), "[probe]" | "[integrate]");
            }
            !(inherits && line.starts_with("memory = "))
        });
        Ok(lines.collect())
    }
}

/// `[model]`: where training starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelSettings {
    /// Hugging Face folder of the base model; until [`Source::resolve`], `hf://org/name` of a model on the hub.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// A `config.json` to start from random weights; the tokenizer is taken from its folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
    /// Longest row and longest packed sequence, in tokens.
    pub max_length: usize,
    /// Cut rows longer than `max_length` instead of leaving them out.
    pub truncate: bool,
    /// Number type of the final model's file.
    pub dtype: SaveDtype,
    /// Number type that is computed in; master weights are f32, moments as `train.memory` says.
    pub precision: Precision,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            base: None,
            config: None,
            max_length: 512,
            truncate: false,
            dtype: SaveDtype::F32,
            precision: Precision::Auto,
        }
    }
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

impl SaveDtype {
    /// As recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }
}

/// What importance a probe measures (docs/algorithm.md, stage 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImportanceKind {
    /// |θi − θ0|, the paper's.
    #[default]
    Net,
    /// Σ|Δθ|, the length of the path.
    Path,
    /// Σg².
    Fisher,
    /// |θi − θ0|·√v, with AdamW's second moment at the end of the probe: the movement weighted by the Fisher information.
    FisherNet,
    /// A random choice: control.
    Random,
    /// The k least by `net`: control.
    Inverse,
}

impl ImportanceKind {
    /// Lower-case name, as in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Path => "path",
            Self::Fisher => "fisher",
            Self::FisherNet => "fisher-net",
            Self::Random => "random",
            Self::Inverse => "inverse",
        }
    }
}

/// `[probe]`: stage 1.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProbeSettings {
    /// Training of each probe; `weight_decay` is not inherited from `[train]`.
    #[serde(flatten)]
    pub training: TrainSettings,
    /// What makes a parameter important.
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

impl CoreSettings {
    /// Whether a tensor of this name is never in a core.
    pub fn excludes(&self, name: &str) -> bool {
        self.exclude.iter().any(|part| name.contains(part))
    }
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
#[serde(default)]
pub struct IntegrateSettings {
    /// Training over all parts together.
    #[serde(flatten)]
    pub training: TrainSettings,
    /// Share of the data in the balanced sample.
    pub sample: f64,
    /// Data of each part.
    pub data: IntegrateData,
    /// Weight of the part's own group in `mixed` data.
    pub emphasis: f64,
    /// What is frozen: cores, or random halves.
    pub frozen: Frozen,
    /// Start schedule and moments anew in every part.
    pub restart: bool,
}

impl Default for IntegrateSettings {
    fn default() -> Self {
        Self {
            training: TrainSettings::default(),
            sample: 0.1,
            data: IntegrateData::Mixed,
            emphasis: 1.0,
            frozen: Frozen::Prior,
            restart: false,
        }
    }
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

/// `[metrics]`: how the steps are recorded, beside metrics.jsonl.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsSettings {
    /// Write TensorBoard's event files too.
    pub tensorboard: bool,
}
