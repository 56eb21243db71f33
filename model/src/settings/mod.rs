//! The recipe: every choice of a job, with its default.
//!
//! The TOML form (sections, relative paths, `--set`) is the command line's; here are the types it is
//! read into. `[probe]` and `[integrate]` inherit what they do not set from `[train]`:
//! [`Recipe::inherited_keys`] says which, and the reader copies them before the sections are read.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

mod check;
mod precision;

pub use check::{KEYS, TRAIN_KEYS};
pub use precision::Precision;

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
}

/// Course of the learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine down to zero.
    #[default]
    Cosine,
    /// A line down to zero.
    Linear,
    /// No change.
    Constant,
}

/// `[train]`: one fine-tune.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSettings {
    /// Passes over the data; exclusive with `steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Optimizer steps; exclusive with `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Sequences in a micro-batch.
    #[serde(default = "defaults::batch_size")]
    pub batch_size: usize,
    /// Micro-batches in an optimizer step.
    #[serde(default = "defaults::accumulate")]
    pub accumulate: usize,
    /// Peak learning rate.
    #[serde(default = "defaults::learning_rate")]
    pub learning_rate: f64,
    /// Course of the learning rate after the warm-up.
    #[serde(default)]
    pub schedule: Schedule,
    /// Warm-up: a share of the steps below 1, a number of steps from 1 on.
    #[serde(default = "defaults::warmup")]
    pub warmup: f64,
    /// Decoupled weight decay.
    #[serde(default)]
    pub weight_decay: f64,
    /// AdamW's β1.
    #[serde(default = "defaults::beta1")]
    pub beta1: f64,
    /// AdamW's β2.
    #[serde(default = "defaults::beta2")]
    pub beta2: f64,
    /// AdamW's ε, outside the root.
    #[serde(default = "defaults::eps")]
    pub eps: f64,
    /// Largest gradient norm; 0 switches clipping off.
    #[serde(default = "defaults::one")]
    pub clip: f64,
    /// Shuffle the rows anew every epoch.
    #[serde(default = "defaults::yes")]
    pub shuffle: bool,
    /// Put several rows into one sequence (they do not see each other).
    #[serde(default = "defaults::yes")]
    pub pack: bool,
    /// Compute activations a second time in the backward pass instead of keeping them.
    #[serde(default)]
    pub recompute: bool,
}

/// What importance a probe measures (ALGORITHM: stage 1).
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

/// What non-core coordinates start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backbone {
    /// The SLERP fold over all task models.
    #[default]
    Mean,
    /// The base model.
    Base,
    /// The last task's model.
    Last,
    /// A model fine-tuned through the groups one after the other.
    Staged,
    /// θ0 and the mean of all updates: plain averaging of the task models.
    Average,
    /// θ0 and `scale` times the sum of all updates (task arithmetic, arXiv 2212.04089).
    Arithmetic,
    /// Of every tensor of every update the `density` largest; of these, where signs differ, those with the
    /// sign of the sum; `scale` times their mean (TIES, arXiv 2306.01708).
    Ties,
    /// Of every update a random share `density`, scaled up by 1/density; `scale` times the sum (DARE,
    /// arXiv 2311.03099).
    Dare,
    /// The same, joined as TIES does.
    #[serde(rename = "dare-ties")]
    DareTies,
}

/// How the fold joins two models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// Along the arc between them.
    #[default]
    Slerp,
    /// Along the line between them.
    Lerp,
}

/// Space in which SLERP turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SlerpSpace {
    /// The weights themselves.
    #[default]
    Weights,
    /// The differences from the base.
    Delta,
}

/// Weight of task i in the SLERP fold.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"running\" or a number from 0 to 1")]
pub enum FoldWeight {
    /// 1/i: the running mean.
    #[default]
    #[serde(with = "running")]
    Running,
    /// The same for every task, from 0 to 1.
    Constant(f64),
}

/// What a coordinate in several cores becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conflict {
    /// The task whose importance, divided by that task's threshold, is largest.
    #[default]
    Max,
    /// The last task.
    Last,
    /// The mean of the tasks.
    Mean,
    /// The mean of those that agree with the majority's sign.
    Sign,
}

/// `[fuse]`: stage 3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FuseSettings {
    /// What non-core coordinates start from.
    pub backbone: Backbone,
    /// Space of the SLERP.
    pub space: SlerpSpace,
    /// Weight of each task in the fold: `"running"` or a number.
    pub weight: FoldWeight,
    /// What a coordinate in several cores becomes.
    pub conflict: Conflict,
    /// Angle (radians) under which SLERP becomes LERP.
    pub epsilon: f64,
    /// How the fold joins two models.
    pub interpolation: Interpolation,
    /// Take the coordinates of cores from their task's model; otherwise the backbone is all there is.
    pub transplant: bool,
    /// λ of the backbones `arithmetic`, `ties`, `dare` and `dare-ties`.
    pub scale: f64,
    /// Share of every update that `ties`, `dare` and `dare-ties` keep.
    pub density: f64,
}

impl Default for FuseSettings {
    fn default() -> Self {
        Self {
            backbone: Backbone::Mean,
            space: SlerpSpace::Weights,
            weight: FoldWeight::Running,
            conflict: Conflict::Max,
            epsilon: 1e-6,
            interpolation: Interpolation::Slerp,
            transplant: true,
            scale: 1.0,
            density: 0.2,
        }
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

/// Which cores are frozen in a part of stage 4.
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
    /// Which cores are frozen.
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

/// `"running"` as the string form of [`FoldWeight::Running`].
mod running {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("running")
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "running" => Ok(()),
            other => Err(D::Error::custom(format!("expected `running` or a number, found `{other}`"))),
        }
    }
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

impl TrainSettings {
    /// Learning rate of `step` (from 0) out of `steps`: linear warm-up from 0 to the peak, reached after
    /// the warm-up's last step, then the schedule, which would reach 0 one step after the last.
    pub fn learning_rate_at(&self, step: u64, steps: u64) -> f64 {
        let warmup =
            if self.warmup < 1.0 { (self.warmup * steps as f64).floor() } else { self.warmup.floor() };
        let step = step as f64;
        if step < warmup {
            return self.learning_rate * (step + 1.0) / (warmup + 1.0);
        }
        let progress = ((step - warmup) / (steps as f64 - warmup).max(1.0)).clamp(0.0, 1.0);
        let factor = match self.schedule {
            Schedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Schedule::Linear => 1.0 - progress,
            Schedule::Constant => 1.0,
        };
        self.learning_rate * factor
    }
}
