//! What a comparison found: the content of `results.json` in its folder.
//!
//! One [`Comparison`] holds everything a table or a report needs. A value that was not measured is `null`,
//! never 0. Lists over tasks are in the order of [`Comparison::tasks`], lists over seeds in that of
//! [`Comparison::seeds`], lists over what is measured only in that of [`Comparison::measures`].

use serde::{Deserialize, Serialize};

pub use super::differences::WorstLossChange;
pub use super::probe_lengths::{Agreement, LengthResults, SaliencyAtLength};
use crate::progress::{CoreReport, GroupReport, Score};
use crate::score::ScoreKind;

/// Versions of this form that are read: from 2 on with what is measured only, of which 1 has nothing.
pub const RESULTS_VERSIONS: std::ops::RangeInclusive<u32> = 1..=2;

/// A whole comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Version of this form, one of [`RESULTS_VERSIONS`]: the first that can say what it says.
    pub version: u32,
    /// How every figure was obtained.
    pub origin: Origin,
    /// Names of the tasks.
    pub tasks: Vec<String>,
    /// Names of what is measured and never trained.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<String>,
    /// Seeds of the repetitions.
    pub seeds: Vec<u64>,
    /// Optimizer steps of the two budgets.
    pub steps: BudgetSteps,
    /// Name of the row that all others are compared with.
    #[serde(default = "default_against", skip_serializing_if = "is_default")]
    pub against: String,
    /// What scores are normalised by, one for each seed.
    pub references: Vec<Reference>,
    /// One for each method and each ablation, in the order of the table.
    pub methods: Vec<MethodResult>,
    /// Cores and their overlaps, one for each seed.
    pub cores: Vec<SeedCores>,
    /// Overlaps between two kinds of importance and between two seeds of one task; none when not asked for.
    pub overlaps: Option<Overlaps>,
    /// Two tasks one after the other; none when not asked for.
    pub forgetting: Option<Forgetting>,
    /// Importance after probes of several lengths; none when not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe_lengths: Option<LengthResults>,
}

impl Comparison {
    /// How the answers of each task were judged; none for a task without prompts.
    pub fn score_kinds(&self) -> Vec<Option<ScoreKind>> {
        let of_task = |task: usize| {
            let mut bases = self.references.iter().filter_map(|reference| reference.base.get(task));
            bases.find(|score| score.share().is_some()).map(|score| score.score_kind)
        };
        (0..self.tasks.len()).map(of_task).collect()
    }

    /// What the scores of all tasks together are called: their kind where all have the same.
    pub fn score_title(&self) -> &'static str {
        ScoreKind::common(self.score_kinds().into_iter().flatten()).map_or("score", ScoreKind::name)
    }

    /// Names of the tasks, each with how it is scored where tasks differ in that.
    pub fn task_titles(&self) -> Vec<String> {
        let kinds = self.score_kinds();
        let is_common = ScoreKind::common(kinds.iter().copied().flatten()).is_some();
        let title = |(name, kind): (&String, Option<ScoreKind>)| match kind {
            Some(kind) if !is_common => format!("{name} ({})", kind.name()),
            _ => name.clone(),
        };
        self.tasks.iter().zip(kinds).map(title).collect()
    }

    /// The row that all others are compared with unless another is asked for.
    pub const DEFAULT: &str = "cpift";
}

fn default_against() -> String {
    Comparison::DEFAULT.to_owned()
}

fn is_default(against: &str) -> bool {
    against == Comparison::DEFAULT
}

/// How the figures were obtained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Name and version of the program.
    pub program: String,
    /// The command that makes the comparison.
    pub command: String,
    /// The resolved recipe, as TOML.
    pub recipe: String,
    /// BLAKE3 hash, in hexadecimal, of every file the comparison reads.
    pub inputs: Vec<InputHash>,
    /// The device, as it describes itself.
    pub device: String,
    /// Threads of every run.
    pub threads: usize,
    /// Runs side by side.
    pub jobs: usize,
    /// Operating system and architecture.
    pub system: String,
    /// Name of the processor, where the system says it.
    pub processor: Option<String>,
    /// Number of parameters of the model (D).
    pub parameters: u64,
}

/// A file the comparison reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputHash {
    /// The file, relative to the recipe where it lies beside it.
    pub file: String,
    /// BLAKE3 hash of its content, in hexadecimal.
    pub blake3: String,
}

/// What is held equal between methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Budget {
    /// All optimizer steps, those of the specialists included.
    Total,
    /// The specialists exist already: only the steps after them count.
    Given,
}

/// Optimizer steps of the two budgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetSteps {
    /// Of one specialist (the probe of one task).
    pub specialist: u64,
    /// Of [`Budget::Total`]: all specialists and what follows them.
    pub total: u64,
    /// Of [`Budget::Given`]: what follows the specialists.
    pub given: u64,
}

/// One seed's base and specialists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// The seed.
    pub seed: u64,
    /// The base model on every task: normalised score 0.
    pub base: Vec<Score>,
    /// Every task's own specialist on it: normalised score 1.
    pub specialist: Vec<Score>,
    /// The base model on what is measured only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<Score>,
    /// Wall time of training and evaluating all specialists, in seconds.
    pub seconds: f64,
    /// Most memory of the process that trained them; none where the system does not say.
    pub peak_memory_bytes: Option<u64>,
}

/// What a row of the table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RowKind {
    /// A method or a baseline.
    Method,
    /// CPI-FT with one choice changed.
    Ablation,
}

/// A method or an ablation over all seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MethodResult {
    /// Short name, unique together with `budgets`: `cpift`, `joint`, `ties`, `fraction=0.05`.
    pub name: String,
    /// For a person, one line: what is done.
    pub title: String,
    /// Method or ablation.
    pub kind: RowKind,
    /// The choice an ablation is about: `cores`, `fusion`, `freezing`, `fraction`, …; empty for methods.
    pub family: String,
    /// Under which budgets the row counts. Methods that begin with the specialists count under both: the
    /// same runs.
    pub budgets: Vec<Budget>,
    /// Optimizer steps of the specialists it needs; 0 for methods that need none.
    pub specialist_steps: u64,
    /// Optimizer steps after the specialists, or in all for methods that need none.
    pub steps: u64,
    /// Settings that differ from the recipe, as `--set` takes them.
    pub settings: Vec<String>,
    /// One for each seed.
    pub runs: Vec<SeedRun>,
    /// Over all seeds.
    pub summary: Summary,
}

/// One method with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedRun {
    /// The seed.
    pub seed: u64,
    /// The final model on every task.
    pub scores: Vec<Score>,
    /// The final model on what is measured only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<Score>,
    /// Every task between base = 0 and its own specialist = 1, by the share answered right where the task has it, else
    /// by loss; none where base and specialist do not differ.
    pub normalised: Vec<Option<f64>>,
    /// Mean of the normalised scores of all tasks; none when one is missing.
    pub mean_normalised: Option<f64>,
    /// The task with the least normalised score, as an index; none when one is missing.
    pub worst_task: Option<usize>,
    /// Its normalised score.
    pub worst_normalised: Option<f64>,
    /// Wall time after the specialists, evaluation included, in seconds.
    pub seconds: f64,
    /// Most memory of the run's process; none where the system does not say.
    pub peak_memory_bytes: Option<u64>,
    /// The run's folder, relative to the comparison's.
    pub folder: String,
}

/// A method over all seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Each task.
    pub tasks: Vec<TaskSummary>,
    /// What is measured only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<MeasureSummary>,
    /// Mean over the tasks of the share answered right, from 0 to 1; none when a task has none, and in records of
    /// earlier versions: see [`Summary::mean_share`].
    #[serde(default)]
    pub mean_score: Option<Interval>,
    /// Mean over the tasks of the exact match, from 0 to 1; none when a task has none.
    pub mean_exact_match: Option<Interval>,
    /// Mean over the tasks of the normalised score.
    pub mean_normalised: Option<Interval>,
    /// Normalised score of each seed's worst task.
    pub worst_normalised: Option<Interval>,
    /// The task that is the worst most often (of several the first), as an index.
    pub worst_task: Option<usize>,
    /// Wall time after the specialists, in seconds.
    pub seconds: Interval,
    /// Most memory over the seeds.
    pub peak_memory_bytes: Option<u64>,
}

/// One task under one method over all seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TaskSummary {
    /// Mean negative log-likelihood per supervised token, in nats.
    pub loss: Interval,
    /// Share of rows answered right, from 0 to 1; none where the task has no prompts, and in records of earlier
    /// versions: see [`TaskSummary::share`].
    #[serde(default)]
    pub score: Option<Interval>,
    /// When an answer is right.
    #[serde(default)]
    pub score_kind: ScoreKind,
    /// Share of rows answered exactly, from 0 to 1; none where the task has no prompts.
    pub exact_match: Option<Interval>,
    /// Between base and specialist.
    pub normalised: Option<Interval>,
}

/// What a method costs, or gains, where nothing was trained, over all seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MeasureSummary {
    /// Loss of the final model less the base model's, of the same seed, in nats per supervised token.
    pub loss_change: Interval,
    /// The same of the share of rows answered right, from −1 to 1; none for rows without prompts.
    pub score_change: Option<Interval>,
}

impl Summary {
    /// Mean over the tasks of the share answered right; none when a task has none.
    pub fn mean_share(&self) -> Option<Interval> {
        self.mean_score.or(self.mean_exact_match)
    }
}

impl TaskSummary {
    /// Share of rows answered right, from 0 to 1; none where the task has no prompts.
    pub fn share(&self) -> Option<Interval> {
        self.score.or(self.exact_match)
    }
}

/// A mean over seeds with its 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// The mean.
    pub mean: f64,
    /// Half the width of the interval, mean ± this, by Student's t distribution; none for a single value.
    pub half_width: Option<f64>,
    /// Number of values.
    pub count: usize,
}

/// One seed's cores.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedCores {
    /// The seed.
    pub seed: u64,
    /// Size and place of every task's core.
    pub cores: CoreReport,
    /// Overlaps between tasks, chance, and the groups they make.
    pub groups: GroupReport,
}

/// How far cores agree that ought to: the ceiling for any overlap between tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Overlaps {
    /// The overlap that chance would give.
    pub chance: f64,
    /// Cores by the recipe's importance against cores by another, the same task and seed.
    pub importance: Vec<ImportanceOverlap>,
    /// Cores of one task with two seeds.
    pub seeds: Vec<SeedsOverlap>,
}

/// Jaccard overlap of one task's cores by two kinds of importance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImportanceOverlap {
    /// The seed.
    pub seed: u64,
    /// The task, as an index.
    pub task: usize,
    /// The importance compared with the recipe's.
    pub importance: String,
    /// |C∩C'| / |C∪C'|.
    pub jaccard: f64,
}

/// Jaccard overlap of one task's cores with two seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct SeedsOverlap {
    /// The task, as an index.
    pub task: usize,
    /// The two seeds.
    pub seeds: [u64; 2],
    /// |C∩C'| / |C∪C'|.
    pub jaccard: f64,
}

/// Every ordered pair of tasks trained one after the other: the paper's second table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forgetting {
    /// Optimizer steps on the first task (its specialist).
    pub first_steps: u64,
    /// Optimizer steps on the second task.
    pub second_steps: u64,
    /// One for each way to train the second task.
    pub methods: Vec<ForgettingMethod>,
}

/// One way to train the second task, over all pairs and seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ForgettingMethod {
    /// Short name: `sequential`, `replay`, `half`, `cpift`, `random`.
    pub name: String,
    /// For a person, one line.
    pub title: String,
    /// One for each seed and ordered pair.
    pub pairs: Vec<PairRun>,
    /// Change on the first task while the second is learnt, mean over the pairs, interval over the seeds. It
    /// is the standard backward transfer of two tasks. Share of rows answered right, from −1 to 1.
    pub first_change: Interval,
    /// Change on the second task while it is learnt, likewise.
    pub second_change: Interval,
    /// `change[i][j]`: mean over the seeds of the change on task i while task j is learnt after it; none on the
    /// diagonal.
    pub change: Vec<Vec<Option<f64>>>,
}

/// One ordered pair of tasks with one seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairRun {
    /// The seed.
    pub seed: u64,
    /// The task learnt first, as an index.
    pub first: usize,
    /// The task learnt second, as an index.
    pub second: usize,
    /// The first task after it was learnt.
    pub first_before: Score,
    /// The first task after the second was learnt.
    pub first_after: Score,
    /// The second task before it was learnt.
    pub second_before: Score,
    /// The second task after it was learnt.
    pub second_after: Score,
}
