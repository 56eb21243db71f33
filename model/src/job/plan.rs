//! What a job will do, worked out before it begins: steps, tokens, memory, disk.

use std::path::Path;

use cpift_engine::Device;

use super::disk::{StageDisk, probe_disk, stage_disk};
use super::inputs::{Evaluated, Inputs, Task, sampler};
use super::memory::{Saving, plan_memory};
use super::names::{FINAL, FUSED, REMOVED_PROBES};
use super::trainings::{has_probes, trainings_settings, trains_plainly};
use crate::data::{Dataset, Source};
use crate::error::{Error, Result};
use crate::evaluation::most_tokens;
use crate::files;
use crate::progress::{
    Column, MeasurePlan, Plan, StageEvaluation, StageKind, StagePlan, TaskPlan, TrainingKind, TrainingPlan,
};
use crate::recipe::{KeepProbes, Method, Recipe, TrainSettings};
use crate::transformer::ComputeType;

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

/// `steps` in parts proportional to `shares`, whose parts come to `steps` together: rounding goes by the running total. Each
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
    saving: Saving,
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
    let memory = plan_memory(recipe, inputs, device, compute, saving, max_tokens)?;
    let keep_probes = recipe.checkpoint.keep_probes;
    let disk = stage_disk(recipe, inputs, saving.state, keep_probes != KeepProbes::Never);
    let disk_bytes = most_of(&disk);
    let without_probes = most_of(&stage_disk(recipe, inputs, saving.state, false));
    Ok(Plan {
        evaluations,
        evaluation_flops: flops_per_evaluated * evaluated_tokens as f64,
        flops_per_evaluation: flops_per_evaluated * tokens_at_once as f64,
        stage_evaluations: plan_stage_evaluations(inputs, recipe.method, flops_per_evaluated),
        method: recipe.method,
        device: format!("{}, in {}", device.describe(), compute.name()),
        architecture: config.family.model_type.to_owned(),
        parameters: inputs.layout.parameters() as u64,
        tasks: inputs.tasks.iter().map(plan_task).collect(),
        measures: inputs.measures.iter().map(plan_measure).collect(),
        training_flops: flops_per_token * tokens as f64,
        trainings,
        stages: plan_stages(&memory.stages, &disk),
        state: saving.state,
        recompute: saving.recompute,
        too_large: Vec::new(),
        disk_bytes,
        disk_bytes_without_probes: Some(without_probes)
            .filter(|&least| keep_probes == KeepProbes::Auto && least < disk_bytes),
        notices: inputs.model_notices().cloned().collect(),
        rank_bytes: match saving.ranks {
            0 | 1 => Vec::new(),
            ranks => {
                let first = memory.parts.iter().map(|part| part.bytes).sum();
                std::iter::once(first).chain(vec![memory.other_rank; ranks - 1]).collect()
            }
        },
        memory: memory.parts,
    })
}

/// Evaluations while models are trained.
#[derive(Debug, Clone, Copy, Default)]
struct Evaluations {
    /// How many.
    count: u64,
    /// Tokens that they take at most.
    tokens: u64,
    /// Tokens that one of all tasks and measures takes at most.
    tokens_at_once: u64,
}

fn plan_evaluations(recipe: &Recipe, inputs: &Inputs, trainings: &[TrainingPlan]) -> Evaluations {
    let settings = &recipe.evaluate;
    if settings.every == 0 {
        return Evaluations::default();
    }
    let [of_tasks, of_measures] = sampled_tokens(recipe, inputs);
    let of_all = of_tasks + of_measures;
    let of_one = of_tasks.div_ceil(inputs.tasks.len().max(1) as u64);
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

/// Tokens that the samples of all tasks take at most, and those of all measures.
fn sampled_tokens(recipe: &Recipe, inputs: &Inputs) -> [u64; 2] {
    let tokens = |Evaluated { rows, sample, answers, .. }: &Evaluated| {
        let answers = answers.as_ref().filter(|_| recipe.evaluate.answers);
        most_tokens(rows, sample, answers, inputs.base.config.max_positions)
    };
    let tasks = inputs.tasks.iter().filter_map(|task| task.evaluated.as_ref());
    [tasks.map(tokens).sum(), inputs.measures.iter().map(tokens).sum()]
}

/// What is measured between the stages of a method: every task by each of its models, and every measure but by the probes.
fn plan_stage_evaluations(inputs: &Inputs, method: Method, flops_per_token: f64) -> Vec<StageEvaluation> {
    let tasks = inputs.all_tasks();
    let plan = |column: &Column| {
        let measures = if *column == Column::Probe { &[] } else { inputs.measures.as_slice() };
        let evaluated = inputs.evaluated_of(&tasks).chain(measures);
        plan_stage_evaluation(inputs, column, evaluated, flops_per_token)
    };
    measured_columns(method).iter().filter_map(plan).collect()
}

/// What a model is measured on; none where that is nothing.
fn plan_stage_evaluation<'a>(
    inputs: &Inputs,
    column: &Column,
    evaluated: impl Iterator<Item = &'a Evaluated>,
    flops_per_token: f64,
) -> Option<StageEvaluation> {
    let (mut measured, mut losses, mut answered, mut tokens) = (0, 0, 0, 0);
    for Evaluated { rows: eval, answers, .. } in evaluated {
        let rows: Vec<usize> = (0..eval.len()).collect();
        measured += 1;
        losses += rows.len() as u64;
        answered += answers.as_ref().map_or(0, |_| rows.len() as u64);
        tokens += most_tokens(eval, &rows, answers.as_ref(), inputs.base.config.max_positions);
    }
    let flops = flops_per_token * tokens as f64;
    let column = column.clone();
    (measured > 0).then_some(StageEvaluation { column, tasks: measured, losses, answers: answered, flops })
}

/// Models that a run measures which takes nothing over: the base, the probes, each on its task, and those after them.
fn measured_columns(method: Method) -> &'static [Column] {
    match method {
        Method::Cpift => &[Column::Base, Column::Probe, Column::Fused, Column::Final],
        Method::Staged => &[Column::Base, Column::Probe, Column::Final],
        Method::Joint | Method::Sequential | Method::Replay | Method::Half => &[Column::Base, Column::Final],
    }
}

/// Of the plan of a whole run what concerns a process that makes the probe of one task.
pub fn plan_of_probe(plan: &Plan, recipe: &Recipe, inputs: &Inputs, task: usize) -> Plan {
    let tokens = |trainings: &[TrainingPlan]| trainings.iter().map(|training| training.tokens).sum::<u64>();
    let flops_per_token = plan.training_flops / tokens(&plan.trainings).max(1) as f64;
    let title = probe_title(inputs, task);
    let is_its = |training: &&TrainingPlan| training.kind == TrainingKind::Probe && training.title == title;
    let trainings: Vec<TrainingPlan> = plan.trainings.iter().filter(is_its).cloned().collect();
    let every = recipe.evaluate.every;
    let times = |training: &TrainingPlan| if every == 0 { 0 } else { training.steps.div_ceil(every) };
    let evaluations = trainings.iter().map(times).sum();
    let [of_tasks, of_measures] = sampled_tokens(recipe, inputs);
    let share_of_tasks = of_tasks as f64 / (of_tasks + of_measures).max(1) as f64;
    let flops_per_evaluation = plan.flops_per_evaluation * share_of_tasks / inputs.tasks.len().max(1) as f64;
    let measured =
        |column| plan_stage_evaluation(inputs, &column, inputs.evaluated_of(&[task]), flops_per_token / 3.0);
    let disk = probe_disk(recipe, inputs, plan.state);
    let stages = plan.stages.iter().filter(|of| of.stage == StageKind::Probe);
    Plan {
        tasks: vec![plan.tasks[task].clone()],
        measures: Vec::new(),
        training_flops: flops_per_token * tokens(&trainings) as f64,
        trainings,
        evaluations,
        evaluation_flops: flops_per_evaluation * evaluations as f64,
        flops_per_evaluation,
        stage_evaluations: [Column::Base, Column::Probe].into_iter().filter_map(measured).collect(),
        stages: stages
            .map(|of| StagePlan { disk_bytes: disk.most, disk_bytes_after: disk.after, ..of.clone() })
            .collect(),
        disk_bytes: disk.most,
        disk_bytes_without_probes: None,
        ..plan.clone()
    }
}

fn probe_title(inputs: &Inputs, task: usize) -> String {
    format!("probe {}", inputs.tasks[task].name)
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
        long_rows: counts(&task.train) + task.eval().map_or(0, |eval| counts(eval)),
        eval_rows: task.eval().map(|eval| eval.len() as u64),
        train: Some(task.train.summary()),
        eval: task.eval().map(|eval| eval.summary()),
        notices: [Some(&task.train), task.eval()]
            .into_iter()
            .flatten()
            .flat_map(|dataset| dataset.described_notices())
            .collect(),
    }
}

fn plan_measure(Evaluated { name, rows, .. }: &Evaluated) -> MeasurePlan {
    MeasurePlan { name: name.clone(), rows: rows.summary(), notices: rows.described_notices().collect() }
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
            let title = probe_title(inputs, task);
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

/// What each stage takes. Memory and disk have the same stages.
fn plan_stages(memory: &[(StageKind, u64)], disk: &[StageDisk]) -> Vec<StagePlan> {
    let stage = |(&(stage, memory_bytes), disk): (&(StageKind, u64), &StageDisk)| StagePlan {
        stage,
        memory_bytes,
        disk_bytes: disk.most,
        disk_bytes_after: disk.after,
    };
    memory.iter().zip(disk).map(stage).collect()
}

/// Fails unless the run folder can be written and has room for what of the run is not there yet. `without_probes` is what
/// the whole run would take if it removed them.
///
/// # Errors
/// Naming the folder, and what would need less room.
pub fn check_run_folder(folder: &Path, plan: &Plan, without_probes: u64) -> Result<()> {
    files::require_free_space(folder, missing_bytes(folder, plan)?)
        .map_err(|error| advise_without_probes(error, plan.disk_bytes, without_probes))?;
    files::require_writable(folder)
}

/// Whether probes stay. Where the recipe leaves that open and the disk has no room for the run with them, the plan becomes
/// that of a run without, and says so.
///
/// # Errors
/// The system does not tell what is free.
pub fn decide_on_probes(recipe: &Recipe, inputs: &Inputs, folder: &Path, plan: &mut Plan) -> Result<bool> {
    if recipe.checkpoint.keep_probes != KeepProbes::Auto {
        return Ok(recipe.checkpoint.keep_probes == KeepProbes::Always);
    }
    let (free, missing) = (files::free_space(folder)?, missing_bytes(folder, plan)?);
    let has_room = free >= missing || plan.disk_bytes_without_probes.is_none();
    if !has_room {
        plan_without_probes(plan, &stage_disk(recipe, inputs, plan.state, false), free);
    }
    Ok(has_room)
}

fn plan_without_probes(plan: &mut Plan, stages: &[StageDisk], free: u64) {
    plan.notices.push(format!(
        "probes are removed once all is made of them: with them the run would take {}, and {} of the disk are free",
        files::human_bytes(plan.disk_bytes),
        files::human_bytes(free)
    ));
    (plan.disk_bytes, plan.disk_bytes_without_probes) = (most_of(stages), None);
    for (stage, disk) in plan.stages.iter_mut().zip(stages) {
        (stage.disk_bytes, stage.disk_bytes_after) = (disk.most, disk.after);
    }
}

/// Bytes of the run that are not in its folder yet.
fn missing_bytes(folder: &Path, plan: &Plan) -> Result<u64> {
    let there = if folder.is_dir() { files::folder_bytes(folder)? } else { 0 };
    Ok(bytes_to_come(folder, plan).saturating_sub(there))
}

/// What the run folder takes at most.
pub fn most_of(stages: &[StageDisk]) -> u64 {
    stages.iter().map(|of| of.most).max().unwrap_or(0)
}

fn advise_without_probes(error: Error, bytes: u64, without_probes: u64) -> Error {
    match error {
        Error::Format { path, reason } if without_probes < bytes => {
            let less = files::human_bytes(without_probes);
            let reason = format!(
                "{reason}, or set checkpoint.keep_probes = false, with which a run takes {less} in all"
            );
            Error::Format { path, reason }
        }
        other => other,
    }
}

/// What the run folder takes at most in the stages that are not complete.
fn bytes_to_come(folder: &Path, plan: &Plan) -> u64 {
    let is_there = |name: &str| folder.join(name).join(files::MANIFEST).is_file();
    let is_done = |stage: StageKind| match stage {
        StageKind::Integrate | StageKind::Train => is_there(FINAL),
        // What comes before goes with them, and probes are not made again once they were removed.
        _ => is_there(FUSED) || is_there(FINAL) || folder.join(REMOVED_PROBES).is_file(),
    };
    let to_come = plan.stages.iter().filter(|of| !is_done(of.stage));
    to_come.map(|of| of.disk_bytes).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::memory::tests::empty_plan;
    use super::{StageDisk, advise_without_probes, plan_without_probes, split_evenly};
    use crate::Error;
    use crate::progress::{Plan, StageKind, StagePlan};

    #[test]
    fn a_plan_without_probes_says_so() {
        let stages = [(StageKind::Probe, 90, 60), (StageKind::Fuse, 80, 20)];
        let stage = |(stage, most, after)| StageDisk { stage, most, after };
        let kept = |(stage, most, after)| StagePlan {
            stage,
            memory_bytes: 1,
            disk_bytes: 2 * most,
            disk_bytes_after: 2 * after,
        };
        let mut plan = Plan {
            disk_bytes: 180,
            disk_bytes_without_probes: Some(90),
            stages: stages.map(kept).into(),
            ..empty_plan()
        };
        plan_without_probes(&mut plan, &stages.map(stage), 100);
        assert_eq!((plan.disk_bytes, plan.disk_bytes_without_probes), (90, None));
        let disk: Vec<_> =
            plan.stages.iter().map(|of| (of.stage, of.disk_bytes, of.disk_bytes_after)).collect();
        assert_eq!(disk, stages);
        assert!(
            plan.notices[0].contains("would take 180 bytes, and 100 bytes of the disk are free"),
            "{:?}",
            plan.notices
        );
    }

    #[test]
    fn removing_probes_is_advised_where_it_helps() {
        let short = || Error::format(Path::new("run"), "3 GiB are needed");
        let advised = advise_without_probes(short(), 3 << 30, 2 << 30).to_string();
        assert!(advised.contains("keep_probes = false") && advised.contains("2.0 GiB"), "{advised}");
        assert_eq!(advise_without_probes(short(), 3 << 30, 3 << 30).to_string(), short().to_string());
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
