//! From the outcomes of all units to the whole comparison.

use std::path::Path;

use cpift_engine::Mask;

use super::differences::most_often;
use super::family::Family;
use super::folder::{ComparisonFolder, UnitResult};
use super::probe_lengths;
use super::results::{
    BudgetSteps, Comparison, Forgetting, ForgettingMethod, ImportanceOverlap, Interval, MeasureSummary,
    MethodResult, Origin, Overlaps, PairRun, RESULTS_VERSIONS, Reference, SeedCores, SeedRun, SeedsOverlap,
    Summary, TaskSummary,
};
use super::rows::Row;
use crate::checkpoint::TensorFile;
use crate::error::{Error, Result};
use crate::files::read_json;
use crate::job::names::{CORE, GROUPS, REPORT};
use crate::job::{PairMethod, ProbeLengths, SavedCores};
use crate::progress::{Column, JobReport, Score};
use crate::recipe::{Edit, ImportanceKind, Recipe};
use crate::stages::masks::mask_file;

/// What a comparison consists of: units by name, one for each seed, in the order of the seeds.
#[derive(Debug)]
pub struct Collection {
    /// How the figures were obtained.
    pub origin: Origin,
    /// Names of the tasks.
    pub tasks: Vec<String>,
    /// Names of what is measured and never trained.
    pub measures: Vec<String>,
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Steps of the budgets.
    pub steps: BudgetSteps,
    /// Name of the row that others are compared with.
    pub against: String,
    /// The specialists.
    pub specialists: Vec<String>,
    /// Every row with its units.
    pub rows: Vec<(Row, Vec<String>)>,
    /// Specialists whose cores go by another importance.
    pub importance: Vec<(ImportanceKind, Vec<String>)>,
    /// Pairs of tasks, by how the second is trained.
    pub pairs: Vec<(PairMethod, Vec<String>)>,
    /// Probes at several lengths.
    pub probe_lengths: Option<(ProbeLengths, Vec<String>)>,
}

impl Collection {
    /// A collection without units.
    pub fn new(origin: Origin, recipe: Recipe, seeds: Vec<u64>, steps: BudgetSteps, against: String) -> Self {
        let (specialists, rows, importance, pairs, probe_lengths) = Default::default();
        let tasks = recipe.task.into_iter().map(|task| task.name).collect();
        let measures = recipe.measure.into_iter().map(|measure| measure.name).collect();
        Self {
            origin,
            tasks,
            measures,
            seeds,
            steps,
            against,
            specialists,
            rows,
            importance,
            pairs,
            probe_lengths,
        }
    }
}

/// Reads all outcomes.
///
/// # Errors
/// Naming the first that is missing, or a score that a report lacks.
pub fn collect(folder: &ComparisonFolder, collection: Collection) -> Result<Comparison> {
    let references = collection
        .specialists
        .iter()
        .zip(&collection.seeds)
        .map(|(id, &seed)| reference(folder, id, seed, &collection))
        .collect::<Result<Vec<_>>>()?;
    let methods = collection
        .rows
        .iter()
        .map(|(row, units)| method(folder, row, units, &collection, &references))
        .collect::<Result<Vec<_>>>()?;
    let cores = collection.specialists.iter().zip(&collection.seeds);
    let cores = cores.map(|(id, &seed)| seed_cores(folder, id, seed)).collect::<Result<Vec<_>>>()?;
    let overlaps = overlaps(folder, &collection, cores.first().map_or(0.0, |first| first.groups.chance))?;
    let forgetting = forgetting(folder, &collection)?;
    let probe_lengths = collection
        .probe_lengths
        .as_ref()
        .map(|(lengths, units)| {
            let runs: Vec<_> = units.iter().map(|id| folder.run(id)).collect();
            probe_lengths::collect(&runs, lengths, &collection.tasks, &references)
        })
        .transpose()?;
    let Collection { origin, tasks, measures, seeds, steps, against, .. } = collection;
    let version = if measures.is_empty() { *RESULTS_VERSIONS.start() } else { *RESULTS_VERSIONS.end() };
    Ok(Comparison {
        version,
        origin,
        tasks,
        measures,
        seeds,
        steps,
        against,
        references,
        methods,
        cores,
        overlaps,
        forgetting,
        probe_lengths,
    })
}

/// The score of one task or measure in one column of a report: there is no comparison without it.
fn score(id: &str, report: &JobReport, column: &Column, task: &str) -> Result<Score> {
    let index = report.columns.iter().position(|other| other == column);
    let row = report.tasks.iter().chain(&report.measures).find(|row| row.task == task);
    let score = index.zip(row).and_then(|(index, row)| row.scores.get(index).copied().flatten());
    score.ok_or_else(|| Error::Job(format!("the run {id} has no score of `{task}` in the column `{column}`")))
}

fn column_scores(id: &str, report: &JobReport, column: &Column, tasks: &[String]) -> Result<Vec<Score>> {
    tasks.iter().map(|task| score(id, report, column, task)).collect()
}

fn reference(folder: &ComparisonFolder, id: &str, seed: u64, collection: &Collection) -> Result<Reference> {
    let Collection { tasks, measures, .. } = collection;
    let UnitResult { report, peak_memory_bytes, .. } = folder.read_result(id)?;
    Ok(Reference {
        seed,
        base: column_scores(id, &report, &Column::Base, tasks)?,
        specialist: column_scores(id, &report, &Column::Probe, tasks)?,
        measures: column_scores(id, &report, &Column::Base, measures)?,
        seconds: report.seconds,
        peak_memory_bytes,
    })
}

fn method(
    folder: &ComparisonFolder,
    row: &Row,
    units: &[String],
    collection: &Collection,
    references: &[Reference],
) -> Result<MethodResult> {
    let run = |(id, reference): (&String, &Reference)| -> Result<SeedRun> {
        let UnitResult { report, peak_memory_bytes, .. } = folder.read_result(id)?;
        let scores = column_scores(id, &report, &row.column(), &collection.tasks)?;
        let measures = column_scores(id, &report, &row.column(), &collection.measures)?;
        let run = seed_run(reference, scores, report.seconds, peak_memory_bytes, format!("runs/{id}"));
        Ok(SeedRun { measures, ..run })
    };
    let runs = units.iter().zip(references).map(run).collect::<Result<Vec<_>>>()?;
    let no_seed = || Error::Job("a comparison needs at least one seed".to_owned());
    let measures = (0..collection.measures.len()).map(|measure| measure_summary(&runs, references, measure));
    let measures = measures.collect::<Option<Vec<_>>>().ok_or_else(no_seed)?;
    let summary = summarise(&runs, collection.tasks.len()).ok_or_else(no_seed)?;
    let summary = Summary { measures, ..summary };
    Ok(MethodResult {
        name: row.name.clone(),
        title: row.title.clone(),
        kind: row.kind,
        family: row.family.map_or("", Family::name).to_owned(),
        budgets: row.budgets.clone(),
        specialist_steps: row.specialist_steps,
        steps: row.steps,
        settings: row.edits.iter().map(Edit::to_string).collect(),
        runs,
        summary,
    })
}

fn seed_run(
    reference: &Reference,
    scores: Vec<Score>,
    seconds: f64,
    peak_memory_bytes: Option<u64>,
    folder: String,
) -> SeedRun {
    let references = reference.base.iter().zip(&reference.specialist);
    let normalised: Vec<Option<f64>> =
        scores.iter().zip(references).map(|(score, (base, best))| score.normalised(base, best)).collect();
    // The worst of some tasks would pass for the worst of all.
    let all = normalised.iter().copied().collect::<Option<Vec<f64>>>();
    let mean = all.as_deref().and_then(Interval::of).map(|interval| interval.mean);
    let worst = all.and_then(|all| all.into_iter().enumerate().min_by(|a, b| a.1.total_cmp(&b.1)));
    SeedRun {
        seed: reference.seed,
        scores,
        measures: Vec::new(),
        mean_normalised: mean,
        normalised,
        worst_task: worst.map(|(task, _)| task),
        worst_normalised: worst.map(|(_, value)| value),
        seconds,
        peak_memory_bytes,
        folder,
    }
}

/// What a method costs on what is measured only, against the base model of the same seed; none without runs.
fn measure_summary(runs: &[SeedRun], references: &[Reference], measure: usize) -> Option<MeasureSummary> {
    let pairs = || {
        let base = references.iter().map(|reference| &reference.measures[measure]);
        runs.iter().map(|run| &run.measures[measure]).zip(base)
    };
    Some(MeasureSummary {
        loss_change: Interval::of_all(pairs().map(|(now, base)| Some(now.loss - base.loss)))?,
        score_change: Interval::of_all(pairs().map(|(now, base)| Some(now.share()? - base.share()?))),
    })
}

/// None without runs.
fn summarise(runs: &[SeedRun], tasks: usize) -> Option<Summary> {
    let over_runs = |value: &dyn Fn(&SeedRun) -> Option<f64>| Interval::of_all(runs.iter().map(value));
    let task = |task: usize| {
        Some(TaskSummary {
            loss: over_runs(&|run| Some(run.scores[task].loss))?,
            score: over_runs(&|run| run.scores[task].share()),
            score_kind: runs.first().map(|run| run.scores[task].score_kind).unwrap_or_default(),
            exact_match: over_runs(&|run| run.scores[task].exact_match),
            normalised: over_runs(&|run| run.normalised[task]),
        })
    };
    let mean = |run: &SeedRun, value: fn(&Score) -> Option<f64>| {
        Interval::of_all(run.scores.iter().map(value)).map(|interval| interval.mean)
    };
    let worst_task = most_often(tasks, runs.iter().filter_map(|run| run.worst_task));
    Some(Summary {
        tasks: (0..tasks).map(task).collect::<Option<Vec<_>>>()?,
        measures: Vec::new(),
        mean_score: over_runs(&|run| mean(run, Score::share)),
        mean_exact_match: over_runs(&|run| mean(run, |score| score.exact_match)),
        mean_normalised: over_runs(&|run| run.mean_normalised),
        worst_normalised: over_runs(&|run| run.worst_normalised),
        worst_task,
        seconds: over_runs(&|run| Some(run.seconds))?,
        peak_memory_bytes: runs.iter().filter_map(|run| run.peak_memory_bytes).max(),
    })
}

fn seed_cores(folder: &ComparisonFolder, id: &str, seed: u64) -> Result<SeedCores> {
    let run = folder.run(id);
    let (cores, groups) = (run.join(CORE).join(REPORT), run.join(GROUPS));
    let missing = |path: &Path| Error::format(path, "is missing: run the comparison with --resume");
    let cores = read_json::<SavedCores>(&cores)?.ok_or_else(|| missing(&cores))?.report;
    let groups = read_json(&groups)?.ok_or_else(|| missing(&groups))?;
    Ok(SeedCores { seed, cores, groups })
}

fn overlaps(folder: &ComparisonFolder, collection: &Collection, chance: f64) -> Result<Option<Overlaps>> {
    let (tasks, seeds) = (&collection.tasks, &collection.seeds);
    let masks = |ids: &[String]| -> Result<Vec<Vec<Mask>>> {
        let of_run = |id: &String| {
            let run = folder.run(id).join(CORE);
            tasks.iter().map(|task| read_mask(&run.join(mask_file(task)))).collect::<Result<Vec<_>>>()
        };
        ids.iter().map(of_run).collect()
    };
    let net = masks(&collection.specialists)?;
    let mut importance = Vec::new();
    for (kind, ids) in &collection.importance {
        let name = kind.name();
        for ((&seed, net), other) in seeds.iter().zip(&net).zip(masks(ids)?) {
            for (task, (net, other)) in net.iter().zip(&other).enumerate() {
                let jaccard = net.jaccard(other)?;
                importance.push(ImportanceOverlap { seed, task, importance: name.to_owned(), jaccard });
            }
        }
    }
    let mut between = Vec::new();
    for (first, second) in (0..seeds.len()).flat_map(|i| (i + 1..seeds.len()).map(move |j| (i, j))) {
        for (task, (one, other)) in net[first].iter().zip(&net[second]).enumerate() {
            let jaccard = one.jaccard(other)?;
            between.push(SeedsOverlap { task, seeds: [seeds[first], seeds[second]], jaccard });
        }
    }
    let is_empty = importance.is_empty() && between.is_empty();
    Ok((!is_empty).then_some(Overlaps { chance, importance, seeds: between }))
}

/// A core's bits, tensor after tensor.
fn read_mask(path: &Path) -> Result<Mask> {
    let file = TensorFile::open(path)?;
    let mut words = Vec::new();
    for name in file.names() {
        words.extend(file.read_u64(&name)?);
    }
    Ok(Mask::from_words(words.len() * cpift_engine::WORD_BITS, words)?)
}

/// None without pairs, and where a task has no prompts to answer.
fn forgetting(folder: &ComparisonFolder, collection: &Collection) -> Result<Option<Forgetting>> {
    let mut methods = Vec::new();
    for (method, units) in &collection.pairs {
        let mut pairs = Vec::new();
        for (id, &seed) in units.iter().zip(&collection.seeds) {
            pairs.extend(seed_pairs(id, &folder.read_result(id)?.report, seed, &collection.tasks)?);
        }
        let Some(method) = forgetting_method(*method, pairs, collection) else { return Ok(None) };
        methods.push(method);
    }
    let steps = collection.steps.specialist;
    Ok((!methods.is_empty()).then_some(Forgetting { first_steps: steps, second_steps: steps, methods }))
}

fn seed_pairs(id: &str, report: &JobReport, seed: u64, tasks: &[String]) -> Result<Vec<PairRun>> {
    let mut pairs = Vec::new();
    for (first, first_name) in tasks.iter().enumerate() {
        for (second, second_name) in tasks.iter().enumerate().filter(|(second, _)| *second != first) {
            let column = Column::Pair { first: first_name.clone(), second: second_name.clone() };
            pairs.push(PairRun {
                seed,
                first,
                second,
                first_before: score(id, report, &Column::Probe, first_name)?,
                first_after: score(id, report, &column, first_name)?,
                second_before: score(id, report, &Column::After(first_name.clone()), second_name)?,
                second_after: score(id, report, &column, second_name)?,
            });
        }
    }
    Ok(pairs)
}

fn forgetting_method(
    method: PairMethod,
    pairs: Vec<PairRun>,
    collection: &Collection,
) -> Option<ForgettingMethod> {
    let change = |after: &Score, before: &Score| Some(after.share()? - before.share()?);
    let on_first = |pair: &PairRun| change(&pair.first_after, &pair.first_before);
    let on_second = |pair: &PairRun| change(&pair.second_after, &pair.second_before);
    let mean = |of: &dyn Fn(&PairRun) -> bool, value: &dyn Fn(&PairRun) -> Option<f64>| {
        Interval::of_all(pairs.iter().filter(|pair| of(pair)).map(value)).map(|interval| interval.mean)
    };
    let over_seeds = |value: &dyn Fn(&PairRun) -> Option<f64>| {
        Interval::of_all(collection.seeds.iter().map(|&seed| mean(&|pair| pair.seed == seed, value)))
    };
    let tasks = collection.tasks.len();
    let of_pair = |i: usize, j: usize| mean(&|pair| (pair.first, pair.second) == (i, j), &on_first);
    Some(ForgettingMethod {
        name: method.name().to_owned(),
        title: method.title().to_owned(),
        first_change: over_seeds(&on_first)?,
        second_change: over_seeds(&on_second)?,
        change: (0..tasks).map(|i| (0..tasks).map(|j| of_pair(i, j)).collect()).collect(),
        pairs,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::ScoreKind;

    fn score(loss: f64, exact_match: Option<f64>) -> Score {
        Score {
            loss,
            score: exact_match,
            score_kind: ScoreKind::Exact,
            exact_match,
            choice_by_loss: None,
            tokens: 10,
            rows: 5,
        }
    }

    #[test]
    fn a_score_that_cannot_be_had_is_missing_and_not_zero() {
        let reference = Reference {
            seed: 1,
            base: vec![score(2.0, Some(0.0)), score(2.0, Some(0.5))],
            specialist: vec![score(1.0, Some(1.0)), score(1.0, Some(0.5))],
            measures: Vec::new(),
            seconds: 1.0,
            peak_memory_bytes: None,
        };
        let scores = vec![score(1.0, Some(0.25)), score(1.0, Some(0.75))];
        let run = seed_run(&reference, scores, 1.0, None, "runs/a".to_owned());
        assert_eq!(run.normalised, [Some(0.25), None]);
        assert_eq!((run.mean_normalised, run.worst_task), (None, None));
        let summary = summarise(&[run.clone(), run], 2).unwrap();
        assert_eq!(summary.mean_normalised, None);
        assert_eq!(summary.worst_normalised, None);
        assert_eq!(summary.mean_exact_match.unwrap().mean, 0.5);
        assert!(summarise(&[], 2).is_none());
    }
}
