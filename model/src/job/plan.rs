//! What a job will do, worked out before it begins: steps, tokens, memory, disk.

use std::path::Path;

use cpift_engine::{Device, Real, bf16};

use super::inputs::{Inputs, Task, sampler};
use crate::checkpoint::{ModelFiles, staging_bytes};
use crate::data::{Dataset, Row, Source};
use crate::error::{Error, Result};
use crate::evaluation::{generation_bytes, most_tokens};
use crate::files;
use crate::machine;
use crate::model::Model;
use crate::progress::{Column, MemoryPart, Plan, StageEvaluation, TaskPlan, TrainingKind, TrainingPlan};
use crate::recipe::{Backbone, Conflict, Method, Recipe, TrainSettings};
use crate::score::Scoring;
use crate::stages::merge::Merge;
use crate::transformer::{BatchLimits, ComputeType, MemoryPlan, Purpose, Transformer};

/// Optimizer steps of every fine-tune of the job.
#[derive(Debug, Clone, PartialEq)]
pub struct Steps {
    /// Of each probe; the same for all.
    pub probe: u64,
    /// Of stage 4 over all its parts.
    pub integrate: u64,
    /// Of `joint` and `half`: all; of `sequential`, `staged` and `replay`: each task's share.
    pub per_task: Vec<u64>,
}

impl Steps {
    /// Counts steps: as the recipe says, or from epochs over the data. Probes all take the mean of what the
    /// tasks' epochs ask for (same number for every task: docs/algorithm.md, stage 1). `train.steps` is the total of a
    /// method, shared equally between tasks.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn count(recipe: &Recipe, inputs: &Inputs) -> Result<Self> {
        let tasks = inputs.all_tasks();
        let epochs_of = |settings: &TrainSettings, sources: Vec<Source>| -> Result<u64> {
            let mut sampler = sampler(recipe, settings, sources, "count")?;
            Ok(sampler.steps_for_epochs(settings.epochs.unwrap_or(1.0)))
        };
        let each = |settings: &TrainSettings| -> Result<Vec<u64>> {
            tasks.iter().map(|&task| epochs_of(settings, inputs.whole(&[task], settings))).collect()
        };
        let probe = match recipe.probe.training.steps {
            Some(steps) => steps,
            None => {
                let steps = each(&recipe.probe.training)?;
                steps.iter().sum::<u64>().div_ceil(steps.len() as u64)
            }
        };
        let integrate = match recipe.integrate.training.steps {
            Some(steps) => steps,
            None => epochs_of(&recipe.integrate.training, inputs.sampled(&tasks, recipe, |_| 1.0))?,
        };
        let per_task = match (recipe.method, recipe.train.steps) {
            (Method::Joint | Method::Half, Some(steps)) => vec![steps],
            (Method::Joint | Method::Half, None) => {
                vec![epochs_of(&recipe.train, inputs.whole(&tasks, &recipe.train))?]
            }
            // Every task is trained on, if only for a step.
            (_, Some(steps)) => split_evenly(steps.max(tasks.len() as u64), &vec![1; tasks.len()]),
            (_, None) => each(&recipe.train)?,
        };
        Ok(Self { probe, integrate, per_task })
    }
}

/// `steps` in parts proportional to `shares`, which come to `steps` together: rounding goes by the running total. Each
/// is at least 1 where there are as many steps as parts; where there are fewer, some are 0.
pub fn split_evenly(steps: u64, shares: &[u64]) -> Vec<u64> {
    let total: u64 = shares.iter().sum::<u64>().max(1);
    let least = u64::from(steps >= shares.len() as u64);
    let mut before = 0;
    let mut given = 0;
    let part = |(index, share): (usize, &u64)| {
        before += share;
        let end = (u128::from(steps) * u128::from(before) / u128::from(total)) as u64;
        // What the parts behind it have to get at least is left for them.
        let most = steps - given - least * (shares.len() - index - 1) as u64;
        let part = end.saturating_sub(given).max(least).min(most);
        given += part;
        part
    };
    shares.iter().enumerate().map(part).collect()
}

/// Most tokens of any micro-batch of the job, training and evaluation.
///
/// # Errors
/// As [`Sampler::new`].
pub fn max_tokens(recipe: &Recipe, inputs: &Inputs) -> Result<usize> {
    let tasks = inputs.all_tasks();
    let mut most = inputs.longest_eval_row();
    for settings in trainings_settings(recipe) {
        let sampler = sampler(recipe, settings, inputs.whole(&tasks, settings), "count")?;
        most = most.max(sampler.max_micro_batch_tokens());
    }
    Ok(most)
}

/// Documents of a batch of up to `max_tokens` tokens, if the shortest ones came together: rows that are trained on or
/// measured, and prompts that are answered.
fn most_documents(recipe: &Recipe, inputs: &Inputs, max_tokens: usize) -> usize {
    let batch_size = |settings: &TrainSettings| settings.batch_size;
    let together = trainings_settings(recipe).into_iter().map(batch_size).max().unwrap_or(1);
    let packs = trainings_settings(recipe).iter().any(|settings| settings.pack);
    let trained = inputs.tasks.iter().filter(|_| packs).flat_map(|task| task.train.rows());
    let packed = count_repeated(trained.map(|row| row.tokens.len()), max_tokens);
    let measured = inputs.tasks.iter().filter_map(|task| task.eval.as_deref()).flat_map(Dataset::rows);
    let measured = count_shortest(measured.map(|row| row.tokens.len()).collect(), max_tokens);
    let prompt_length = |row: &Row| row.prompt().len();
    let evaluations =
        inputs.tasks.iter().filter_map(|task| Some((task.eval.as_deref()?, task.answers.as_ref()?)));
    let prompts = evaluations.clone().flat_map(|(eval, _)| eval.rows());
    let prompts = count_shortest(prompts.map(prompt_length).collect(), max_tokens);
    // Each option of a row is a document, which the prompt begins.
    let chosen = evaluations.filter(|(_, answers)| answers.scoring == Scoring::Choice);
    let options = count_repeated(chosen.flat_map(|(eval, _)| eval.rows()).map(prompt_length), max_tokens);
    together.max(packed).max(measured).max(prompts).max(options)
}

/// How many documents come to `limit` at most, where each of these lengths may occur any number of times.
fn count_repeated(lengths: impl Iterator<Item = usize>, limit: usize) -> usize {
    lengths.min().map_or(0, |shortest| limit / shortest.max(1))
}

/// How many of these lengths, the shortest first, come to `limit` at most.
fn count_shortest(mut lengths: Vec<usize>, limit: usize) -> usize {
    lengths.sort_unstable();
    let sums = lengths.iter().scan(0_usize, |sum, &length| {
        *sum = sum.saturating_add(length);
        Some(*sum)
    });
    sums.take_while(|&sum| sum <= limit).count()
}

/// Whether the method begins with probes.
pub fn has_probes(method: Method) -> bool {
    matches!(method, Method::Cpift | Method::Staged)
}

/// Rounds of the method `half`, each with a half of its own frozen.
pub fn half_rounds(recipe: &Recipe) -> u64 {
    recipe.half.rounds.unwrap_or(recipe.task.len() as u64)
}

/// True when `[train]` itself is trained with: by the baselines, and for a staged backbone.
pub fn trains_plainly(recipe: &Recipe) -> bool {
    recipe.method != Method::Cpift || recipe.fuse.backbone == Backbone::Staged
}

fn trainings_settings(recipe: &Recipe) -> Vec<&TrainSettings> {
    let mut settings = Vec::new();
    if has_probes(recipe.method) {
        settings.push(&recipe.probe.training);
    }
    if trains_plainly(recipe) {
        settings.push(&recipe.train);
    }
    if recipe.method == Method::Cpift {
        settings.push(&recipe.integrate.training);
    }
    settings
}

/// Describes the whole job before it begins.
///
/// # Errors
/// When a size overflows, or as [`Sampler::new`].
pub fn plan(
    recipe: &Recipe,
    inputs: &Inputs,
    steps: &Steps,
    device: &Device,
    compute: ComputeType,
    max_tokens: usize,
) -> Result<Plan> {
    let config = &inputs.base.config;
    let trainings = plan_trainings(recipe, inputs, steps)?;
    let tokens: u64 = trainings.iter().map(|training| training.tokens).sum();
    let mean_length = mean_row_length(inputs);
    let flops_per_token = config.flops_per_token(mean_length);
    let Evaluations { count: evaluations, tokens: evaluated_tokens, tokens_at_once } =
        plan_evaluations(recipe, inputs, &trainings);
    // A third of a training step is its forward pass.
    let flops_per_evaluated = flops_per_token / 3.0;
    Ok(Plan {
        evaluations,
        evaluation_flops: flops_per_evaluated * evaluated_tokens as f64,
        flops_per_evaluation: flops_per_evaluated * tokens_at_once as f64,
        stage_evaluations: plan_stage_evaluations(recipe, inputs, flops_per_evaluated),
        method: recipe.method,
        device: format!("{}, in {}", device.describe(), compute.name()),
        architecture: config.family.model_type.to_owned(),
        parameters: inputs.layout.parameters() as u64,
        tasks: inputs.tasks.iter().map(plan_task).collect(),
        training_flops: flops_per_token * tokens as f64,
        trainings,
        memory: plan_memory(recipe, inputs, device, compute, max_tokens)?,
        disk_bytes: disk_bytes(recipe, inputs),
        notices: inputs.model_notices().cloned().collect(),
    })
}

/// Evaluations while models are trained.
#[derive(Debug, Clone, Copy, Default)]
struct Evaluations {
    /// How many.
    count: u64,
    /// Tokens that they take at most.
    tokens: u64,
    /// Tokens that one of all tasks takes at most.
    tokens_at_once: u64,
}

fn plan_evaluations(recipe: &Recipe, inputs: &Inputs, trainings: &[TrainingPlan]) -> Evaluations {
    let settings = &recipe.evaluate;
    if settings.every == 0 {
        return Evaluations::default();
    }
    let tokens_of = |task: &Task| -> u64 {
        let Some(eval) = &task.eval else { return 0 };
        let answers = task.answers.as_ref().filter(|_| settings.answers);
        most_tokens(eval, &task.evaluation_sample, answers, inputs.base.config.max_positions)
    };
    let of_all: u64 = inputs.tasks.iter().map(tokens_of).sum();
    let of_one = of_all.div_ceil(inputs.tasks.len().max(1) as u64);
    // What base and probes reach on the samples is taken from what the closing table measures.
    let mut evaluations = Evaluations { tokens_at_once: of_all, ..Evaluations::default() };
    for training in trainings {
        let times = training.steps.div_ceil(settings.every);
        let once = if training.kind == TrainingKind::Probe { of_one } else { of_all };
        evaluations.count += times;
        evaluations.tokens += times * once;
    }
    evaluations
}

/// What a run measures between its stages that takes nothing over: every task by the base, its probe, and the models
/// after it.
fn plan_stage_evaluations(recipe: &Recipe, inputs: &Inputs, flops_per_token: f64) -> Vec<StageEvaluation> {
    let (mut tasks, mut losses, mut answers, mut tokens) = (0, 0, 0, 0);
    for task in &inputs.tasks {
        let Some(eval) = &task.eval else { continue };
        let rows: Vec<usize> = (0..eval.len()).collect();
        tasks += 1;
        losses += rows.len() as u64;
        answers += task.answers.as_ref().map_or(0, |_| rows.len() as u64);
        tokens += most_tokens(eval, &rows, task.answers.as_ref(), inputs.base.config.max_positions);
    }
    let columns: &[Column] = match recipe.method {
        _ if tasks == 0 => &[],
        Method::Cpift => &[Column::Base, Column::Probe, Column::Fused, Column::Final],
        Method::Staged => &[Column::Base, Column::Probe, Column::Final],
        Method::Joint | Method::Sequential | Method::Replay | Method::Half => &[Column::Base, Column::Final],
    };
    let flops = flops_per_token * tokens as f64;
    let of = |column: &Column| StageEvaluation { column: column.clone(), tasks, losses, answers, flops };
    columns.iter().map(of).collect()
}

fn mean_row_length(inputs: &Inputs) -> usize {
    let rows: usize = inputs.tasks.iter().map(|task| task.train.len()).sum();
    let tokens: usize = inputs.tasks.iter().map(|task| task.train.tokens()).sum();
    tokens.div_ceil(rows.max(1))
}

fn plan_task(task: &Task) -> TaskPlan {
    let counts = |dataset: &Dataset| (dataset.counts().too_long + dataset.counts().truncated) as u64;
    TaskPlan {
        name: task.name.clone(),
        train_rows: task.train.len() as u64,
        train_tokens: task.train.tokens() as u64,
        supervised_tokens: task.train.supervised_tokens() as u64,
        long_rows: counts(&task.train) + task.eval.as_deref().map_or(0, counts),
        eval_rows: task.eval.as_ref().map(|eval| eval.len() as u64),
        train: Some(task.train.summary()),
        eval: task.eval.as_ref().map(|eval| eval.summary()),
        notices: [Some(&task.train), task.eval.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|dataset| dataset.described_notices())
            .collect(),
    }
}

fn plan_trainings(recipe: &Recipe, inputs: &Inputs, steps: &Steps) -> Result<Vec<TrainingPlan>> {
    let all = inputs.all_tasks();
    let mut trainings = Vec::new();
    let mut add = |kind, title: &str, settings: &TrainSettings, sources: Vec<Source>, steps| -> Result<()> {
        let tokens = tokens_of_steps(recipe, settings, sources, steps)?;
        let epochs = settings.epochs.filter(|_| settings.steps.is_none());
        trainings.push(TrainingPlan { kind, title: title.to_owned(), steps, epochs, tokens });
        Ok(())
    };
    if has_probes(recipe.method) {
        for task in all.iter().copied().filter(|&task| inputs.trains_probe(task)) {
            let title = format!("probe {}", inputs.tasks[task].name);
            let settings = &recipe.probe.training;
            add(TrainingKind::Probe, &title, settings, inputs.whole(&[task], settings), steps.probe)?;
        }
    }
    if trains_plainly(recipe) {
        let title = if recipe.method == Method::Cpift { "staged backbone" } else { recipe.method.name() };
        let total = steps.per_task.iter().sum();
        add(TrainingKind::Method, title, &recipe.train, inputs.whole(&all, &recipe.train), total)?;
    }
    if recipe.method == Method::Cpift {
        let (settings, sources) = (&recipe.integrate.training, inputs.sampled(&all, recipe, |_| 1.0));
        add(TrainingKind::Integrate, "integrate", settings, sources, steps.integrate)?;
    }
    Ok(trainings)
}

/// Tokens of so many steps, from the average of the first epoch.
fn tokens_of_steps(
    recipe: &Recipe,
    settings: &TrainSettings,
    sources: Vec<Source>,
    steps: u64,
) -> Result<u64> {
    let mut sampler = sampler(recipe, settings, sources, "count")?;
    let tokens_per_sequence = sampler.tokens_per_epoch() / sampler.sequences_per_epoch() as f64;
    let tokens_per_step = tokens_per_sequence * (settings.batch_size * settings.accumulate) as f64;
    Ok((tokens_per_step * steps as f64).round() as u64)
}

/// Bytes of the program itself: its code as far as it runs, threads, names, lists, and what the allocator keeps. Without
/// those of CUDA's driver. A run of SmolLM2-135M took 68 MiB beside the other parts.
const PROGRAM: u64 = 72 << 20;

fn plan_memory(
    recipe: &Recipe,
    inputs: &Inputs,
    device: &Device,
    compute: ComputeType,
    max_tokens: usize,
) -> Result<Vec<MemoryPart>> {
    let flat = inputs.layout.len() as u64 * size_of::<f32>() as u64;
    let part = |name: &str, bytes: u64| MemoryPart { name: name.to_owned(), bytes, on_host: false };
    let host_part = |name: &str, bytes: u64| MemoryPart { on_host: true, ..part(name, bytes) };
    let mut parts = vec![part("weights", flat), part("gradients", flat), part("moments", 2 * flat)];
    if has_probes(recipe.method) {
        parts.push(part("importance", flat));
        // Each task's core with its two sides while grouping, and what fusion makes of all.
        parts.push(part("core masks", (3 * inputs.tasks.len() as u64 + 5) * flat / 32));
    }
    if recipe.method == Method::Half {
        parts.push(part("halves", half_rounds(recipe) * flat / 32));
    }
    let copy = Model::copy_bytes(compute, inputs.layout.len());
    if copy > 0 {
        parts.push(part("weights in bf16", copy as u64));
    }
    let limits = BatchLimits { tokens: max_tokens, documents: most_documents(recipe, inputs, max_tokens) };
    let (transformer, generation) = match compute {
        ComputeType::F32 => plan_passes::<f32>(inputs, device, limits, purpose(recipe))?,
        ComputeType::Bf16 => plan_passes::<bf16>(inputs, device, limits, purpose(recipe))?,
    };
    parts.extend(transformer.parts.iter().map(|(name, bytes)| part(name, *bytes as u64)));
    // Answers are generated, or models fused; never both at once.
    let brings_model = inputs.tasks.iter().any(|task| task.model.is_some());
    let ranks_by_importance = recipe.method == Method::Cpift && recipe.fuse.conflict == Conflict::Max;
    let importance = if brings_model && ranks_by_importance { flat } else { 0 };
    let counts = if Merge::of(&recipe.fuse).is_some_and(|merge| merge.counts()) {
        // And which coordinates of every update take part.
        flat + inputs.tasks.len() as u64 * flat / 32
    } else {
        0
    };
    let fusion = if recipe.method == Method::Cpift { importance.max(counts) } else { 0 };
    parts.push(part("answers or fusion", fusion.max(generation as u64)));
    parts.push(host_part("program", PROGRAM));
    let staging = staging_bytes(&inputs.layout, device.threads());
    parts.push(host_part("reading and writing", staging as u64));
    // A row's two lists are allocations of their own, each with a header of the allocator's; and its hash.
    let row_bytes = |dataset: &Dataset| {
        let lists = dataset.tokens() * (size_of::<u32>() + size_of::<bool>());
        (lists + dataset.len() * (size_of::<Row>() + 48)) as u64
    };
    let data =
        inputs.tasks.iter().map(|task| row_bytes(&task.train) + task.eval.as_deref().map_or(0, row_bytes));
    parts.push(host_part("tokenised data", data.sum()));
    Ok(parts)
}

/// What a transformer takes that computes in `T`, and what answering the longest evaluation takes beyond it.
fn plan_passes<T: Real>(
    inputs: &Inputs,
    device: &Device,
    limits: BatchLimits,
    purpose: Purpose,
) -> Result<(MemoryPlan, usize)> {
    let config = &inputs.base.config;
    let bytes = inputs.tasks.iter().filter_map(|task| {
        let (eval, answers) = (task.eval.as_deref()?, task.answers.as_ref()?);
        Some(generation_bytes::<T>(config, device, limits.tokens, eval, &task.evaluation_sample, answers))
    });
    let transformer = Transformer::<T>::memory_plan(config, device, limits, purpose)?;
    Ok((transformer, bytes.max().unwrap_or(0)))
}

/// How the job's transformer is used: recomputing when any of its fine-tunes asks for it.
pub fn purpose(recipe: &Recipe) -> Purpose {
    let recompute = trainings_settings(recipe).iter().any(|settings| settings.recompute);
    Purpose::Training { recompute }
}

/// Bytes the run folder takes at most: models, importance, masks and checkpoints.
fn disk_bytes(recipe: &Recipe, inputs: &Inputs) -> u64 {
    let model = ModelFiles::new(&inputs.base.config, None).bytes();
    let flat = inputs.layout.len() as u64 * size_of::<f32>() as u64;
    let probed = inputs.all_tasks().into_iter().filter(|&task| inputs.trains_probe(task)).count() as u64;
    let probes = if has_probes(recipe.method) { probed * (model + flat) } else { 0 };
    let fused = if recipe.method == Method::Cpift { model } else { 0 };
    // One more than is kept while a new one is written.
    let checkpoints = (recipe.checkpoint.keep as u64 + 1) * 4 * flat;
    // The best weights: a new one, that of the last checkpoint, and one to be removed.
    let best = if recipe.evaluate.decides() { 3 * flat } else { 0 };
    probes + fused + model + checkpoints + best
}

/// What to do where memory does not suffice.
pub const LESS_MEMORY: &str =
    "lower batch_size or model.max_length, or set recompute = true (`plan` shows the parts)";

/// Fails when the job needs more memory than the device and the host have, before any of it is taken.
///
/// # Errors
/// Saying what to lower.
pub fn check_memory(plan: &Plan, device: &Device) -> Result<()> {
    let sum = |on_host: bool| {
        plan.memory.iter().filter(|part| part.on_host == on_host).map(|part| part.bytes).sum::<u64>()
    };
    match device.memory_bytes() {
        Some(_) => {
            machine::require_memory(device, "train.batch_size", sum(false), LESS_MEMORY)?;
            machine::require_host_memory("train.batch_size", sum(true), LESS_MEMORY)
        }
        None => machine::require_host_memory("train.batch_size", plan.memory_bytes(), LESS_MEMORY),
    }
}

/// Adds to a failure for want of memory what to do: others use the device as well, or memory is in pieces.
pub fn explain_out_of_memory(error: Error) -> Error {
    match error {
        Error::Engine(error @ cpift_engine::Error::OutOfMemory { .. }) => {
            Error::Job(format!("{error}; {LESS_MEMORY}"))
        }
        other => other,
    }
}

/// Fails unless the run folder can be written and has room for what of the run is not there yet.
///
/// # Errors
/// Naming the folder.
pub fn check_run_folder(folder: &Path, plan: &Plan) -> Result<()> {
    let there = if folder.is_dir() { files::folder_bytes(folder)? } else { 0 };
    files::require_free_space(folder, plan.disk_bytes.saturating_sub(there))?;
    files::require_writable(folder)
}

#[cfg(test)]
mod tests {
    use super::{count_repeated, count_shortest, split_evenly};

    #[test]
    fn as_many_documents_as_fit_are_counted_shortest_first() {
        assert_eq!(count_shortest(vec![9, 1, 4, 2], 7), 3);
        assert_eq!(count_shortest(vec![9, 1, 4, 2], 6), 2);
        assert_eq!(count_shortest(vec![9, 10], 3), 0);
        assert_eq!(count_shortest(vec![], 3), 0);
    }

    #[test]
    fn the_shortest_document_may_be_all_that_a_batch_holds() {
        assert_eq!(count_repeated([9, 2, 4].into_iter(), 7), 3);
        assert_eq!(count_repeated([9, 2, 4].into_iter(), 8), 4);
        assert_eq!(count_repeated([9, 10].into_iter(), 3), 0);
        assert_eq!(count_repeated([0].into_iter(), 3), 3, "a document has a token at least");
        assert_eq!(count_repeated([].into_iter(), 3), 0);
    }

    #[test]
    fn steps_are_split_in_proportion_and_none_is_lost() {
        assert_eq!(split_evenly(10, &[1, 1, 1]), [3, 3, 4]);
        assert_eq!(split_evenly(100, &[3, 1]), [75, 25]);
        assert_eq!(split_evenly(2, &[1, 1, 1]), [0, 1, 1]);
        assert_eq!(split_evenly(3, &[8, 1, 1]), [1, 1, 1]);
        assert_eq!(split_evenly(5, &[1, 9]), [1, 4]);
        for steps in 0..40 {
            for shares in [&[5, 1, 1, 1][..], &[1, 1, 1, 5], &[1, 7, 1, 1], &[1, 0, 1]] {
                let parts = split_evenly(steps, shares);
                assert_eq!(parts.iter().sum::<u64>(), steps, "{steps} {shares:?}");
                assert!(steps < shares.len() as u64 || parts.iter().all(|&part| part > 0), "{parts:?}");
            }
        }
        assert_eq!(split_evenly(7, &[1]), [7]);
    }
}
