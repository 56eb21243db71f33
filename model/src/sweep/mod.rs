//! One number of a merge tried at several values: which makes the model that does best on rows?

mod values;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_engine::Device;
use serde::{Deserialize, Serialize};

use crate::config::ModelConfig;
use crate::counts::counted;
use crate::error::{Error, FileAction, Result};
use crate::evaluation::{Evaluator, FileSettings, load_rows};
use crate::files::{
    FolderLock, create_folders, hash_file, hash_texts, json_text, publish_folder, read_json, remove_folder,
    remove_partial, require_empty, unfinished_sibling, write_json_atomically,
};
use crate::merge::{Merge, MergeProgress, MergeRequest};
use crate::progress::EvaluationProgress;
use crate::recipe::TaskSettings;
use crate::tokenizer::Tokenizer;
use crate::transformer::ComputeType;
pub use values::{Sweep, SweepKey};

/// Name of what was found, in the folder of the merged model.
pub const SWEEP_FILE: &str = "sweep.json";

/// Names of what is known of a sweep under way, and of its models, in its own folder.
const STATE: &str = "state.json";
const TRIED: &str = "tried";
const BEST: &str = "best";

/// How the name of the folder of a sweep under way ends; it begins with a dot.
const UNFINISHED: &str = ".sweep";

/// What a sweep found, as `sweep.json` holds it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepReport {
    /// The number that was tried.
    pub key: SweepKey,
    /// Whether the share of right answers chose, or else the loss.
    pub by_score: bool,
    /// Number of the best among the points.
    pub best: usize,
    /// Each value, in order.
    pub points: Vec<SweepPoint>,
    /// What a person should know about the models and the rows, a line each.
    pub notices: Vec<String>,
}

/// A merged model, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepPoint {
    /// The number's value.
    pub value: f64,
    /// Mean over the files of their losses.
    pub loss: f64,
    /// The same of their scores, where answers were asked for.
    pub score: Option<f64>,
    /// What each file says.
    pub files: Vec<SweepScore>,
}

/// How a merged model does on one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SweepScore {
    /// The file.
    pub path: PathBuf,
    /// Rows that were measured.
    pub rows: usize,
    /// Mean negative log-likelihood per supervised token, in nats.
    pub loss: f64,
    /// Share of rows answered right.
    pub score: Option<f64>,
}

/// What merged models are measured with.
#[derive(Debug)]
pub struct Measurement<'a> {
    /// Where they are computed.
    pub device: &'a Device,
    /// What they are computed in.
    pub compute: ComputeType,
    /// Files of rows, one a task.
    pub data: &'a [PathBuf],
    /// How they are read and answers are judged.
    pub task: &'a TaskSettings,
    /// Whether models are to answer.
    pub generate: bool,
}

/// Where the merged model comes to be.
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// Where it is merged: a CPU.
    pub device: &'a Device,
    /// The folder, which must not exist or be empty.
    pub folder: &'a Path,
    /// Whether to go on behind the values that an interrupted sweep of the same has measured.
    pub resume: bool,
}

/// How far a sweep is. The number is that of the value among those of the sweep.
#[derive(Debug, Clone, Copy)]
pub enum SweepProgress<'a> {
    /// Nothing is wrong with what was given: what is known of the models, a line each.
    Begin(&'a [String]),
    /// A merge with a value that is to be measured.
    Merging(usize, MergeProgress),
    /// An evaluation of what came out, on a file by its number.
    Measuring(usize, usize, EvaluationProgress),
    /// A value that has been measured, also before an interruption.
    Measured(usize, &'a SweepPoint),
    /// The merge with the best value.
    MergingBest(usize, MergeProgress),
}

/// What shows progress.
type Observer<'a> = &'a mut (dyn FnMut(SweepProgress<'_>) + Send);

/// Merges with every value, measures each model, and merges once more with the best value, into a folder that appears whole
/// or not at all. One merged model is on the disk at a time. The best has the highest mean score over the files, or where no
/// answers were asked for or as many are right, the lowest mean loss; of equals it is the first.
///
/// # Errors
/// As those of [`Merge`] and [`Evaluator`]; what is wrong with numbers, architecture and rows before the first merge;
/// [`Error::Interrupted`] where `stop` becomes true.
pub fn run(
    sweep: &Sweep,
    request: &MergeRequest,
    measurement: &Measurement<'_>,
    output: Output<'_>,
    stop: &AtomicBool,
    observer: Observer<'_>,
) -> Result<SweepReport> {
    require_empty(output.folder)?;
    let trials = trials(sweep, request)?;
    let first = Merge::new(&trials[0].request)?;
    if let Some(folder) = first.folders().next() {
        measurement.check(&folder)?;
    }
    let mut unfinished = Unfinished::open(&output, measurement)?;
    // Another process may have been faster.
    require_empty(output.folder)?;
    observer(SweepProgress::Begin(first.notices()));
    drop(first);
    let outcome = unfinished.measure_all(sweep.key, &trials, measurement, &output, stop, observer);
    let outcome =
        outcome.and_then(|points| unfinished.keep_best(sweep.key, points, &trials, &output, stop, observer));
    if outcome.is_ok() || unfinished.known.points.is_empty() {
        unfinished.discard();
    }
    outcome
}

/// A merge with one value.
struct Trial {
    value: f64,
    request: MergeRequest,
    /// Hash of all that the merged model follows from.
    identity: String,
}

/// The merge with every value; all that is wrong with one of them is found here. None stays open: each has its files.
fn trials(sweep: &Sweep, request: &MergeRequest) -> Result<Vec<Trial>> {
    let key = sweep.key.name();
    let mut trials: Vec<Trial> = Vec::with_capacity(sweep.values.len());
    for &value in &sweep.values {
        let request = with_value(sweep.key, request, value)?;
        let merge = Merge::new(&request).map_err(|error| match error {
            Error::Setting { key: of, reason } if of == format!("--{key}") => {
                Error::setting("--sweep", format!("tries {key} {value}, which {reason}"))
            }
            error => error,
        })?;
        let identity = merge.identity()?;
        if let Some(same) = trials.iter().find(|trial| trial.identity == identity) {
            let reason = format!("tries {key}, but {} and {value} make the same model", same.value);
            return Err(Error::setting("--sweep", reason));
        }
        trials.push(Trial { value, request, identity });
    }
    match trials.is_empty() {
        true => Err(Error::setting("--sweep", "has no value")),
        false => Ok(trials),
    }
}

/// The request with one value of the number that is tried.
fn with_value(key: SweepKey, request: &MergeRequest, value: f64) -> Result<MergeRequest> {
    let mut request = request.clone();
    let name = key.name();
    // What a configuration says of a slice or a model goes before what it says of all.
    let inner = request.slices.iter_mut().flat_map(|slice| {
        let of_sources = slice.sources.iter_mut().map(|source| &mut source.parameters);
        std::iter::once(&mut slice.parameters).chain(of_sources)
    });
    if inner.into_iter().any(|parameters| key.of(parameters).is_some()) {
        let reason = format!("tries {name}, which the configuration sets for a slice or a model");
        return Err(Error::setting("--sweep", reason));
    }
    let place = key.of(&mut request.parameters);
    if place.is_some() && request.configuration.is_none() {
        return Err(Error::setting("--sweep", format!("tries {name}: leave out --{name}")));
    }
    *place = Some(value.into());
    Ok(request)
}

impl Measurement<'_> {
    /// Fails where a model like this one cannot be computed, or the rows cannot be measured with its tokenizer: before hours
    /// of work, not after.
    fn check(&self, folder: &Path) -> Result<()> {
        let mut seen = Vec::with_capacity(self.data.len());
        for path in self.data {
            let whole = path.canonicalize().map_err(Error::file(path, FileAction::Read))?;
            if seen.contains(&whole) {
                return Err(Error::format(path, "is given twice: it would count twice"));
            }
            seen.push(whole);
        }
        let config = ModelConfig::read(folder)?;
        let tokenizer = Tokenizer::from_folder(folder)?;
        let settings = FileSettings::of_task(self.task, self.generate, &tokenizer);
        self.data
            .iter()
            .try_for_each(|path| load_rows((self.device, &config, &tokenizer), path, &settings).map(drop))
    }

    /// Hash of all that measurements follow from beside the model.
    fn identity(&self) -> Result<String> {
        let Self { device, compute, data, task, generate } = self;
        let mut texts = vec![format!("{} {compute:?} {generate} {task:?}", device.name())];
        for path in *data {
            texts.push(hash_file(path)?.to_string());
        }
        Ok(hash_texts(texts.iter().map(String::as_str)))
    }

    /// Measures a merged model on every file, and tells the number of the file with how far that is; also what a person should
    /// know about model and files.
    fn measure(
        &self,
        value: f64,
        model: &Path,
        observe: &mut dyn FnMut(usize, EvaluationProgress) -> Result<()>,
    ) -> Result<(SweepPoint, Vec<String>)> {
        let mut evaluator = Evaluator::open(self.device, model, self.compute)?;
        let settings = FileSettings::of_task(self.task, self.generate, evaluator.tokenizer());
        let mut notices = evaluator.notices().to_vec();
        let mut files = Vec::with_capacity(self.data.len());
        for (number, path) in self.data.iter().enumerate() {
            let found = evaluator.evaluate(path, &settings, &mut |progress| observe(number, progress))?;
            notices.extend(found.notices);
            let rows = found.rows.len();
            files.push(SweepScore { path: path.clone(), rows, loss: found.loss, score: found.score });
        }
        let count = files.len().max(1) as f64;
        let loss = files.iter().map(|file| file.loss).sum::<f64>() / count;
        let scores: Option<Vec<f64>> = files.iter().map(|file| file.score).collect();
        let score = scores.map(|scores| scores.iter().sum::<f64>() / count);
        Ok((SweepPoint { value, loss, score, files }, notices))
    }
}

/// What is known of a sweep under way.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    /// Hash of all that measurements follow from beside the models.
    identity: String,
    /// What was measured, by the hash of all that the model follows from.
    points: BTreeMap<String, SweepPoint>,
    notices: Vec<String>,
}

/// A sweep under way, in a folder beside its destination, under a name that follows from it: `.NAME.sweep`.
struct Unfinished {
    folder: PathBuf,
    known: Known,
    /// Held as long as this process works on it.
    _lock: FolderLock,
}

impl Unfinished {
    /// Begins a sweep, or goes on with what was measured by one with the same rows.
    fn open(output: &Output<'_>, measurement: &Measurement<'_>) -> Result<Self> {
        let folder = unfinished_sibling(output.folder, UNFINISHED)?;
        let identity = measurement.identity()?;
        create_folders(&folder)?;
        let lock = FolderLock::take(&folder)?;
        remove_partial(&folder)?;
        let found = read_json::<Known>(&folder.join(STATE))?.filter(|known| !known.points.is_empty());
        let refuse = |reason: &str| Err(Error::format(&folder, reason));
        let known = match found {
            Some(known) if !output.resume => {
                let count = counted(known.points.len() as u64, "value");
                return refuse(&format!(
                    "has {count} that an unfinished sweep has measured: go on with --resume, or remove the folder"
                ));
            }
            Some(known) if known.identity != identity => {
                return refuse("is of a sweep with other rows or settings: remove the folder to begin anew");
            }
            Some(known) => known,
            None => Known { identity, ..Known::default() },
        };
        Ok(Self { folder, known, _lock: lock })
    }

    /// Measures the values that are not measured yet; gives all of them, in order.
    fn measure_all(
        &mut self,
        key: SweepKey,
        trials: &[Trial],
        measurement: &Measurement<'_>,
        output: &Output<'_>,
        stop: &AtomicBool,
        observer: Observer<'_>,
    ) -> Result<Vec<SweepPoint>> {
        let mut points = Vec::with_capacity(trials.len());
        let merged = self.folder.join(TRIED);
        for (number, trial) in trials.iter().enumerate() {
            let point = match self.known.points.get(&trial.identity) {
                Some(known) => of_files(known, measurement.data),
                None => {
                    let stopped = || Error::Interrupted {
                        position: format!(
                            "with {} of {} values measured",
                            self.known.points.len(),
                            trials.len()
                        ),
                    };
                    let merging = |progress| observer(SweepProgress::Merging(number, progress));
                    merge_into(&merged, &Merge::new(&trial.request)?, output, stop, merging)
                        .map_err(|error| if is_stop(&error) { stopped() } else { error })?;
                    let mut observe = |file, progress| {
                        observer(SweepProgress::Measuring(number, file, progress));
                        if stop.load(Ordering::Relaxed) { Err(stopped()) } else { Ok(()) }
                    };
                    let measured = measurement.measure(trial.value, &merged, &mut observe);
                    let (point, notices) = measured.map_err(|error| match error {
                        Error::Job(reason) => Error::Job(format!("{} {}: {reason}", key.name(), trial.value)),
                        error => error,
                    })?;
                    self.note(notices, &merged, output.folder);
                    self.known.points.insert(trial.identity.clone(), point.clone());
                    write_json_atomically(&self.folder.join(STATE), &self.known)?;
                    point
                }
            };
            observer(SweepProgress::Measured(number, &point));
            points.push(point);
        }
        remove_merged(&merged)?;
        Ok(points)
    }

    /// Remembers what is not known yet, of the model where it will be.
    fn note(&mut self, notices: Vec<String>, merged: &Path, destination: &Path) {
        let (merged, destination) = (merged.display().to_string(), destination.display().to_string());
        for notice in notices.into_iter().map(|notice| notice.replace(&merged, &destination)) {
            if !self.known.notices.contains(&notice) {
                self.known.notices.push(notice);
            }
        }
    }

    /// Makes the best model appear, with what was measured.
    fn keep_best(
        &self,
        key: SweepKey,
        points: Vec<SweepPoint>,
        trials: &[Trial],
        output: &Output<'_>,
        stop: &AtomicBool,
        observer: Observer<'_>,
    ) -> Result<SweepReport> {
        let better = |best: usize, number: usize| match points[number].is_better_than(&points[best]) {
            true => number,
            false => best,
        };
        let best = (0..points.len()).fold(0, better);
        let by_score = points.iter().all(|point| point.score.is_some());
        let report = SweepReport { key, by_score, best, points, notices: self.known.notices.clone() };
        let mut merge = Merge::new(&trials[best].request)?;
        merge.add_file(SWEEP_FILE, json_text(Path::new(SWEEP_FILE), &report)?);
        let folder = self.folder.join(BEST);
        let merging = |progress| observer(SweepProgress::MergingBest(best, progress));
        merge_into(&folder, &merge, output, stop, merging).map_err(|error| match is_stop(&error) {
            true => Error::Interrupted { position: "with all values measured".to_owned() },
            false => error,
        })?;
        publish_folder(&folder, output.folder)?;
        Ok(report)
    }

    fn discard(&self) {
        // A failure leaves a folder that the next sweep to the same destination begins anew in.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// What was measured of files, which may have been named otherwise then.
fn of_files(known: &SweepPoint, data: &[PathBuf]) -> SweepPoint {
    let mut point = known.clone();
    for (file, path) in point.files.iter_mut().zip(data) {
        file.path.clone_from(path);
    }
    point
}

/// Merges into a folder of the sweep's own, in the place of what is there.
fn merge_into(
    folder: &Path,
    merge: &Merge,
    output: &Output<'_>,
    stop: &AtomicBool,
    mut observer: impl FnMut(MergeProgress) + Send,
) -> Result<()> {
    remove_merged(folder)?;
    merge.run(output.device, folder, false, stop, &mut observer).map(drop)
}

fn is_stop(error: &Error) -> bool {
    matches!(error, Error::Interrupted { .. })
}

fn remove_merged(folder: &Path) -> Result<()> {
    if folder.exists() { remove_folder(folder) } else { Ok(()) }
}

impl SweepPoint {
    /// More right answers, or as many and a lower loss.
    fn is_better_than(&self, other: &Self) -> bool {
        match (self.score, other.score) {
            (Some(own), Some(others)) if own != others => own > others,
            _ => self.loss < other.loss,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_go_before_losses() {
        let point = |loss, score| SweepPoint { value: 0.0, loss, score, files: Vec::new() };
        assert!(point(2.0, Some(0.5)).is_better_than(&point(1.0, Some(0.4))));
        assert!(point(1.0, Some(0.5)).is_better_than(&point(2.0, Some(0.5))));
        assert!(point(1.0, None).is_better_than(&point(2.0, None)));
        assert!(!point(1.0, None).is_better_than(&point(1.0, None)));
    }
}
