//! What a running job tells: events for whoever shows them, and the reports they carry.
//!
//! The reports are plain data that serialise to the JSON files of the run folder.

mod column;
mod score;
mod step;
mod table;
mod training;

use serde::{Deserialize, Serialize};

pub use crate::counts::{counted, grouped};
use crate::data::Summary;
use crate::hub::HubSource;
use crate::recipe::{Method, Stage};
use crate::state_type::{LargerState, StateType};
use crate::transformer::Recompute;
pub use column::{Column, Measured, UnknownColumn};
pub use score::{SampleScore, Score, perplexity_text};
pub use step::{Communication, StepReport, TaskShare};
pub use table::{JobReport, TaskScores, measures_table};
pub use training::{TrainingStage, UnknownStage};

/// Receives the events of a job. Implemented by the command line and by programs that embed the job.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, event: Event<'_>);

    /// Asked after every optimizer step: true ends the job after a checkpoint.
    fn stop_requested(&self) -> bool {
        false
    }
}

/// An observer that looks away.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _event: Event<'_>) {}
}

/// One thing that happened in a job.
#[derive(Debug)]
pub enum Event<'a> {
    /// All checks passed and work begins.
    Started(&'a Plan),
    /// One row of a task as the model will see it: supervised text is marked.
    Sample {
        /// The task.
        task: &'a str,
        /// Decoded row.
        text: &'a str,
    },
    /// Something a person should know, in one line.
    Notice(&'a str),
    /// A fine-tune, or the part of one, begins. `step` of `steps` are already done (after a resume).
    TrainingStarted {
        /// What is trained: `probe reverse`, `integrate part 1/3 (reverse, sort)`.
        title: &'a str,
        /// Optimizer steps already done.
        step: u64,
        /// Optimizer steps in all.
        steps: u64,
    },
    /// An optimizer step was made.
    Step(&'a StepReport),
    /// A fine-tune, or the part of one, is complete.
    TrainingFinished {
        /// As in [`Event::TrainingStarted`].
        title: &'a str,
    },
    /// Evaluation of one model on one task begins.
    EvaluationStarted {
        /// Which model.
        column: &'a Column,
        /// The task.
        task: &'a str,
    },
    /// How far the evaluation of one model on one task is.
    EvaluationProgress {
        /// Which model.
        model: Measured<'a>,
        /// The task.
        task: &'a str,
        /// How far.
        progress: EvaluationProgress,
    },
    /// Evaluation of one model on one task is complete.
    Evaluated {
        /// Which model.
        column: &'a Column,
        /// The task.
        task: &'a str,
        /// What came out.
        score: &'a Score,
    },
    /// A stage that was complete before is taken over as it is (after a resume).
    StageReused {
        /// The stage.
        stage: Stage,
        /// The probe's task; empty for other stages.
        part: &'a str,
    },
    /// Stage 1b is complete.
    Cores(&'a CoreReport),
    /// Stage 2 is complete.
    Groups(&'a GroupReport),
    /// Stage 3 is complete.
    Fused(&'a FusionReport),
    /// A checkpoint was written.
    Checkpoint {
        /// Optimizer steps it contains.
        step: u64,
    },
    /// The job is complete.
    Finished(&'a JobReport),
}

/// How far an evaluation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvaluationProgress {
    /// What is measured.
    pub phase: EvaluationPhase,
    /// Rows of which it is.
    pub done: usize,
    /// Rows in all.
    pub rows: usize,
}

/// What an evaluation measures, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EvaluationPhase {
    /// The loss of every row.
    Losses,
    /// The answers to the prompts.
    Answers,
    /// The losses of the options of every row.
    Options,
}

/// What a job will do, known before it begins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The method.
    pub method: Method,
    /// Device as it describes itself.
    pub device: String,
    /// Architecture's name, as in `config.json`.
    pub architecture: String,
    /// Number of parameters (D).
    pub parameters: u64,
    /// Each task's data.
    pub tasks: Vec<TaskPlan>,
    /// What is measured and never trained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<MeasurePlan>,
    /// Each fine-tune in order.
    pub trainings: Vec<TrainingPlan>,
    /// Memory by part, in bytes, at the peak.
    pub memory: Vec<MemoryPart>,
    /// How the optimizer's state is kept.
    #[serde(default)]
    pub state: StateType,
    /// What the backward pass computes again.
    #[serde(default)]
    pub recompute: Recompute,
    /// Kinds of state with which the job would take more than there is, so that `auto` took another.
    #[serde(default)]
    pub too_large: Vec<LargerState>,
    /// Bytes the run folder will take at most.
    pub disk_bytes: u64,
    /// The same where the disk has no room for probes to stay, and the recipe leaves that open.
    #[serde(default)]
    pub disk_bytes_without_probes: Option<u64>,
    /// What each stage takes, in their order; none in records of earlier versions.
    #[serde(default)]
    pub stages: Vec<StagePlan>,
    /// Floating-point operations of all training steps.
    pub training_flops: f64,
    /// Evaluations while models are trained.
    #[serde(default)]
    pub evaluations: u64,
    /// Floating-point operations of these at most: answers are taken to be as long as they may be.
    #[serde(default)]
    pub evaluation_flops: f64,
    /// The same of one evaluation of all tasks and measures.
    #[serde(default)]
    pub flops_per_evaluation: f64,
    /// Evaluations of all rows between the stages, by the model that is measured: what the closing table is made of.
    #[serde(default)]
    pub stage_evaluations: Vec<StageEvaluation>,
    /// What a person should know about the models.
    pub notices: Vec<String>,
    /// Bytes that each rank takes at its peak, where several train together. The parts are those of rank 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rank_bytes: Vec<u64>,
}

impl Plan {
    /// Sum of the memory parts in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.iter().map(|part| part.bytes).sum()
    }

    /// Optimizer steps of all trainings.
    pub fn steps(&self) -> u64 {
        self.trainings.iter().map(|training| training.steps).sum()
    }
}

/// What a stage of the job takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePlan {
    /// The stage.
    pub stage: StageKind,
    /// Bytes of memory at its peak, on the device and on the host.
    pub memory_bytes: u64,
    /// Bytes of the run folder at its peak.
    pub disk_bytes: u64,
    /// Bytes of the run folder when it is complete.
    pub disk_bytes_after: u64,
}

/// A stage of a job of any method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StageKind {
    /// Stage 1: a fine-tune of each task.
    Probe,
    /// Stage 1b: the core of each task.
    Core,
    /// Stage 2: groups of tasks.
    Group,
    /// Stage 3: one model from all.
    Fuse,
    /// Stage 4: the mixed fine-tune.
    Integrate,
    /// All of a baseline's training.
    Train,
}

impl StageKind {
    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Core => "core",
            Self::Group => "group",
            Self::Fuse => "fuse",
            Self::Integrate => "integrate",
            Self::Train => "train",
        }
    }
}

/// One task's data as it will be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskPlan {
    /// The task.
    pub name: String,
    /// Rows to train on.
    pub train_rows: u64,
    /// Tokens in them.
    pub train_tokens: u64,
    /// Tokens in them that the loss is taken on.
    pub supervised_tokens: u64,
    /// Rows left out or cut because they are longer than `max_length`.
    pub long_rows: u64,
    /// Rows to evaluate on; none without an evaluation file.
    pub eval_rows: Option<u64>,
    /// The rows to train on in numbers; none in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<Summary>,
    /// Those to evaluate on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval: Option<Summary>,
    /// What a person should know about the rows of its files, a line each.
    #[serde(default)]
    pub notices: Vec<String>,
}

/// The rows of a `[[measure]]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasurePlan {
    /// The measure.
    pub name: String,
    /// Its rows in numbers.
    pub rows: Summary,
    /// What a person should know about them, a line each.
    pub notices: Vec<String>,
}

/// One fine-tune of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingPlan {
    /// What the fine-tune is for. Records of earlier versions do not say it: `method`.
    #[serde(default)]
    pub kind: TrainingKind,
    /// What is trained, for a person.
    pub title: String,
    /// Optimizer steps.
    pub steps: u64,
    /// The epochs that the steps come from; none where the recipe gives the steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Tokens of all steps together (estimated from the first epoch's average).
    pub tokens: u64,
}

/// What is measured of one model between the stages; of the probes, each on its own task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageEvaluation {
    /// The model.
    pub column: Column,
    /// Tasks and measures that it is measured on.
    pub tasks: u64,
    /// Rows whose loss is measured.
    pub losses: u64,
    /// Rows that are answered.
    pub answers: u64,
    /// Floating-point operations at most: answers are taken to be as long as they may be.
    pub flops: f64,
}

/// What a fine-tune is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrainingKind {
    /// Stage 1 for one task.
    Probe,
    /// All there is of a baseline; for `cpift`, a backbone of its own.
    #[default]
    Method,
    /// Stage 4.
    Integrate,
}

/// A part of the memory in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryPart {
    /// What it holds.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Whether it is in the host's memory, whatever the device.
    #[serde(default)]
    pub on_host: bool,
}

/// Stage 1b: what the cores look like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CoreReport {
    /// Per task.
    pub tasks: Vec<TaskCore>,
    /// All parameters of the model by layer, in the order of [`TaskCore::by_layer`].
    #[serde(default)]
    pub model_by_layer: Vec<(String, u64)>,
    /// All parameters of the model by kind of tensor, in the order of [`TaskCore::by_kind`].
    #[serde(default)]
    pub model_by_kind: Vec<(String, u64)>,
}

/// One task's core.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskCore {
    /// The task.
    pub task: String,
    /// Parameters in the core: exactly k.
    pub size: u64,
    /// The least importance in the core.
    pub threshold: f64,
    /// ‖θi − θ0‖ / ‖θ0‖: how small a move the task is.
    pub relative_move: f64,
    /// Parameters of the core by layer (`embedding`, `layer 0`, …, `head`), in order.
    pub by_layer: Vec<(String, u64)>,
    /// Parameters of the core by kind of tensor (`q_proj`, `norm`, …), in order.
    pub by_kind: Vec<(String, u64)>,
}

/// A run's first file: what was to be done, and which processes worked on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    /// What the job does, as its first process planned it.
    pub plan: Plan,
    /// The processes in order: more than one where the run was continued.
    pub processes: Vec<ProcessRecord>,
    /// Models and data of the hub, with their commits. A run is continued with the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hub: Vec<HubSource>,
}

impl RunRecord {
    /// The first process that worked on the run itself, or else on one of its probes.
    pub fn first_process(&self) -> Option<&ProcessRecord> {
        let of_run = self.processes.iter().find(|process| process.probe.is_none());
        of_run.or(self.processes.first())
    }
}

/// One process that worked on a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// Version of cpift-engine.
    pub version: String,
    /// Device as it describes itself.
    pub device: String,
    /// Threads of the CPU.
    pub threads: u64,
    /// Operating system and architecture: `linux x86_64`.
    pub system: String,
    /// Memory of the machine in bytes, where the system says.
    pub memory_bytes: Option<u64>,
    /// When it began, in UTC: `2026-01-31T12:00:00Z`.
    pub began: String,
    /// The task whose probe it made apart from the run; none where it worked on the run itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
    /// Processes that worked together, of which this was rank 0.
    #[serde(default = "one")]
    pub ranks: u64,
}

fn one() -> u64 {
    1
}

/// Stage 2: overlaps and groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupReport {
    /// Names of the tasks: rows and columns of the matrices.
    pub tasks: Vec<String>,
    /// |Ci∩Cj| / |Ci∪Cj|.
    pub jaccard: Vec<Vec<f64>>,
    /// The overlap that chance would give: fraction / (2 − fraction).
    pub chance: f64,
    /// Over the shared coordinates of two tasks, how often both moved to the same side; none where nothing
    /// is shared.
    pub sign_agreement: Vec<Vec<Option<f64>>>,
    /// Least overlap of an edge.
    pub threshold: f64,
    /// Groups in the order they are trained: indices into `tasks`.
    pub groups: Vec<Vec<usize>>,
}

/// Stage 3: what fusion did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FusionReport {
    /// The backbone's name.
    pub backbone: String,
    /// Every tensor of every fold step; empty when the backbone is not a fold.
    pub slerps: Vec<SlerpReport>,
    /// Coordinates in exactly one core.
    pub transplanted: u64,
    /// Coordinates in several cores.
    pub conflicts: u64,
    /// Of these, how many have updates of different sign.
    pub sign_conflicts: u64,
}

/// SLERP of one tensor with one task's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlerpReport {
    /// The task folded in.
    pub task: String,
    /// The tensor.
    pub tensor: String,
    /// Angle between the non-core parts, in radians.
    pub angle: f64,
    /// Why LERP was used instead: `small angle`, `zero norm`, `antipodal`, `asked for`; none for SLERP.
    pub fallback: Option<String>,
}
