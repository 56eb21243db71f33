//! A job at work: what all its stages share.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use cpift_engine::ops::adamw::ImportanceKind as Accumulate;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::inputs::{Task, sampler};
use super::plan::{has_probes, purpose};
use super::state::Checkpoints;
use super::{Job, record};
use crate::checkpoint::{Checkpoint, ModelFiles, WeightType, write_model};
use crate::data::{CacheUse, Dataset, Sampler, Source};
use crate::error::{Error, Result};
use crate::files::{self, FolderLock, Manifest, Verify};
use crate::metrics::Metrics;
use crate::model::Model;
use crate::progress::{Event, JobReport, Observer, Score, TaskScores};
use crate::settings::{ImportanceKind, SaveDtype, Stage, TrainSettings};
use crate::trainer::Trainer;
use crate::transformer::Purpose;

/// The run folder's record of what was measured: column of the table → task → score.
pub(super) type Scores = BTreeMap<String, BTreeMap<String, Score>>;

/// What of a run is kept from one process to the next, beside its stages.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct RunProgress {
    /// Seconds that processes have worked on it.
    pub(super) seconds: f64,
    /// Frozen coordinates found unchanged at the end of the parts of stage 4.
    pub(super) frozen_verified: u64,
}

/// What the stages of a running job share.
pub struct Session<'a> {
    pub job: &'a Job,
    pub observer: &'a mut dyn Observer,
    /// Holds the base's weights when the session begins.
    pub trainer: Trainer,
    pub metrics: Metrics,
    pub checkpoints: Checkpoints,
    scores: Scores,
    started: Instant,
    /// As it was when this process began, but for the frozen coordinates.
    progress: RunProgress,
    _lock: FolderLock,
}

impl<'a> Session<'a> {
    /// Allocates everything training needs, reads the base model into it, and only then makes or reopens the
    /// run folder: weights that cannot be used leave none behind.
    ///
    /// # Errors
    /// Memory runs out, a model cannot be read, or the folder is in use.
    pub fn open(job: &'a Job, observer: &'a mut dyn Observer) -> Result<Self> {
        let started = Instant::now();
        let trainer = open_trainer(job)?;
        files::require_writable(&job.out)?;
        let lock = FolderLock::take(&job.out)?;
        files::remove_partial(&job.out)?;
        job.device.scope(|| record::write(&job.out, &job.recipe, &job.inputs))?;
        files::write_bytes_atomically(&job.out.join(RECIPE), job.recipe_text.as_bytes())?;
        record::add_process(&job.out, &job.plan, &job.device)?;
        Ok(Self {
            job,
            observer,
            trainer,
            metrics: Metrics::open(&job.out, job.recipe.metrics.tensorboard)?,
            checkpoints: Checkpoints::new(&job.out, job.recipe.checkpoint.keep),
            scores: read_scores(job)?,
            started,
            progress: read_json(&job.out.join(PROGRESS))?.unwrap_or_default(),
            _lock: lock,
        })
    }

    /// Whether a stage's folder is there, whole; its path is relative to the run folder, or absolute. A damaged one is an error: it would be taken for the result.
    ///
    /// # Errors
    /// Naming the damaged file.
    pub fn is_complete(&self, folder: impl AsRef<Path>) -> Result<bool> {
        let folder = self.job.out.join(folder);
        if !folder.exists() {
            return Ok(false);
        }
        Manifest::verify(&folder, Verify::Contents)?;
        Ok(true)
    }

    /// Puts the base model's weights into the trainer.
    ///
    /// # Errors
    /// As [`super::inputs::Base::load_into`].
    pub fn load_base(&mut self) -> Result<()> {
        let weights = self.trainer.model.weights_mut();
        self.job.device.scope(|| self.job.inputs.base.load_into(weights))
    }

    /// A sampler over `sources` with this job's seed and lengths.
    ///
    /// # Errors
    /// As [`Sampler::new`].
    pub fn sampler(&self, settings: &TrainSettings, sources: Vec<Source>, purpose: &str) -> Result<Sampler> {
        sampler(&self.job.recipe, settings, sources, purpose)
    }

    /// Evaluates the trainer's weights on some tasks, as a column of the closing table. What was measured
    /// before is not measured again.
    ///
    /// # Errors
    /// When evaluation fails or the scores cannot be saved.
    pub fn evaluate(&mut self, column: &str, tasks: &[usize]) -> Result<()> {
        let job = self.job;
        for &index in tasks {
            let task = &job.inputs.tasks[index];
            let Some(eval) = &task.eval else { continue };
            if self.has_score(column, &task.name) {
                continue;
            }
            self.check_stop(&format!("before evaluating {column} on {}", task.name))?;
            self.observer.event(Event::EvaluationStarted { column, task: &task.name });
            let score = self.score(eval)?;
            self.observer.event(Event::Evaluated { column, task: &task.name, score: &score });
            self.scores.entry(column.to_owned()).or_default().insert(task.name.clone(), score);
            files::write_json_atomically(&job.out.join(SCORES), &self.scores)?;
        }
        Ok(())
    }

    fn score(&mut self, dataset: &Dataset) -> Result<Score> {
        let model = &mut self.trainer.model;
        let tokenizer = &self.job.inputs.tokenizer;
        let generate = dataset.has_prompts();
        let scored = self.job.device.scope(|| model.evaluate(dataset, tokenizer, generate))?;
        Ok(scored.score())
    }

    /// Evaluates on all tasks.
    ///
    /// # Errors
    /// As [`Session::evaluate`].
    pub fn evaluate_all(&mut self, column: &str) -> Result<()> {
        self.evaluate(column, &self.job.inputs.all_tasks())
    }

    /// Carries out a stop that was asked for between fine-tunes, where everything made so far is saved.
    ///
    /// # Errors
    /// [`Error::Interrupted`].
    pub fn check_stop(&self, position: &str) -> Result<()> {
        if self.observer.stop_requested() {
            self.save_progress()?;
            return Err(Error::Interrupted { position: position.to_owned() });
        }
        Ok(())
    }

    /// Whether a column of the table has this task's score.
    pub fn has_score(&self, column: &str, task: &str) -> bool {
        self.scores.get(column).is_some_and(|scores| scores.contains_key(task))
    }

    /// One row of every task as the model sees it, and what a person should know about its files.
    pub fn show_samples(&mut self) {
        self.job.inputs.model_notices().for_each(|text| self.observer.event(Event::Notice(text)));
        for task in &self.job.inputs.tasks {
            if let Some(text) = task.train.masked_sample(0, &self.job.inputs.tokenizer) {
                self.observer.event(Event::Sample { task: &task.name, text: &text });
            }
            for dataset in [Some(&task.train), task.eval.as_ref()].into_iter().flatten() {
                for text in dataset.described_notices() {
                    self.observer.event(Event::Notice(&text));
                }
                if let CacheUse::NotWritten(reason) = dataset.cache() {
                    let text = format!("{}: tokens were not cached: {reason}", dataset.path().display());
                    self.observer.event(Event::Notice(&text));
                }
            }
        }
    }

    /// Reads the final model into the trainer if it is there, whole; says whether it is.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn reuse_final(&mut self) -> Result<bool> {
        if !self.is_complete(FINAL)? {
            return Ok(false);
        }
        self.observer.event(Event::StageReused { stage: Stage::Integrate, part: "" });
        let finished = Checkpoint::open(&self.job.out.join(FINAL))?;
        let weights = self.trainer.model.weights_mut();
        self.job.device.scope(|| finished.load_into(weights))?;
        Ok(true)
    }

    /// Writes the trainer's weights as the run's final model.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_final(&mut self, frozen_verified: u64) -> Result<()> {
        let job = self.job;
        self.progress.frozen_verified = frozen_verified;
        self.save_progress()?;
        let base = &job.inputs.base;
        let dtype = match job.recipe.model.dtype {
            SaveDtype::F32 => WeightType::F32,
            SaveDtype::Bf16 => WeightType::BF16,
            SaveDtype::F16 => WeightType::F16,
        };
        let files = ModelFiles { dtype, ..ModelFiles::new(&base.config, Some(&base.folder)) };
        let folder = job.out.join(FINAL);
        write_model(&folder, &files, self.trainer.model.weights())?;
        if dtype != WeightType::F32 {
            // What is evaluated is what was written, rounding included.
            let finished = Checkpoint::open(&folder)?;
            let weights = self.trainer.model.weights_mut();
            job.device.scope(|| finished.load_into(weights))?;
        }
        Ok(())
    }

    /// The closing table, written to the run folder.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(&mut self, columns: &[&str]) -> Result<JobReport> {
        let mut report = self.report(columns)?;
        report.model = Some(self.job.out.join(FINAL));
        files::write_json_atomically(&self.job.out.join(RESULT), &report)?;
        files::write_bytes_atomically(&self.job.out.join("report.md"), report.markdown().as_bytes())?;
        Ok(report)
    }

    /// The closing table as far as it is filled.
    ///
    /// # Errors
    /// When the elapsed time cannot be saved.
    pub fn report(&mut self, columns: &[&str]) -> Result<JobReport> {
        let seconds = self.save_progress()?;
        let score =
            |column: &str, task: &str| self.scores.get(column).and_then(|scores| scores.get(task)).copied();
        let row = |task: &Task| TaskScores {
            task: task.name.clone(),
            scores: columns.iter().map(|column| score(column, &task.name)).collect(),
        };
        Ok(JobReport {
            method: self.job.recipe.method,
            columns: columns.iter().map(|&column| column.to_owned()).collect(),
            tasks: self.job.inputs.tasks.iter().map(row).collect(),
            frozen_verified: self.progress.frozen_verified,
            seconds,
            steps: self.metrics.steps(),
            model: None,
        })
    }

    /// Records how long the run has taken so far, over all processes; returns it in seconds.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn save_progress(&self) -> Result<f64> {
        let seconds = self.progress.seconds + self.started.elapsed().as_secs_f64();
        files::write_json_atomically(
            &self.job.out.join(PROGRESS),
            &RunProgress { seconds, ..self.progress },
        )?;
        Ok(seconds)
    }
}

/// Name of the resolved recipe in the run folder.
pub const RECIPE: &str = "recipe.toml";
/// Name of the final model's folder.
const FINAL: &str = "final";
pub(super) const SCORES: &str = "scores.json";
pub(super) const PROGRESS: &str = "progress.json";
pub(super) const RESULT: &str = "report.json";

/// What a job trains with, the base's weights in it. The models that tasks bring are read once, so that a
/// weight that is not a number is found before the first step, not after the probes of other tasks.
fn open_trainer(job: &Job) -> Result<Trainer> {
    let Purpose::Training { recompute } = purpose(&job.recipe) else {
        return Err(Error::Job("a job trains".to_owned()));
    };
    let inputs = &job.inputs;
    let model = Model::new(&inputs.base.config, &job.device, job.compute, job.max_tokens, recompute)?;
    let importance = if has_probes(job.recipe.method) {
        accumulated(job.recipe.probe.importance)
    } else {
        Accumulate::None
    };
    let mut trainer = Trainer::new(&job.device, &inputs.layout, model, importance)?;
    job.device.scope(|| inputs.base.load_into(trainer.model.weights_mut()))?;
    let (_, mut scratch, _) = trainer.between_trainings();
    for model in inputs.tasks.iter().filter_map(|task| task.model.as_ref()) {
        job.device.scope(|| model.load_into(scratch.reborrow()))?;
    }
    Ok(trainer)
}

/// What the optimizer accumulates for a kind of importance; the controls go by `net`.
fn accumulated(kind: ImportanceKind) -> Accumulate {
    match kind {
        ImportanceKind::Net | ImportanceKind::Random | ImportanceKind::Inverse => Accumulate::Net,
        ImportanceKind::Path => Accumulate::Path,
        ImportanceKind::Fisher => Accumulate::Fisher,
    }
}

/// What was measured before: in this run, and of base and probes in the run they are taken from.
fn read_scores(job: &Job) -> Result<Scores> {
    let mut scores: Scores = read_json(&job.out.join(SCORES))?.unwrap_or_default();
    if let Some(run) = &job.inputs.probes {
        let path = run.join(SCORES);
        let theirs: Option<Scores> = read_json(&path)?;
        let mut theirs = theirs.ok_or_else(|| Error::format(&path, "is missing: that run has no scores"))?;
        for column in ["base", "probe"] {
            scores.insert(column.to_owned(), theirs.remove(column).unwrap_or_default());
        }
    }
    Ok(scores)
}

/// Reads a small JSON file of the run folder, if it is there.
///
/// # Errors
/// When it cannot be read, or is not what this version writes.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = files::read_text(path)?;
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Error::format(path, format!("not as this version writes it ({error}); remove the file"))
    })
}
