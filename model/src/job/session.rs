//! A job at work: what all its stages share.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use super::identity::RunIdentity;
use super::inputs::{Evaluated, sampler};
use super::measured::{ANSWERS_KEPT, KeptAnswers, Scores, read_scores};
use super::models::RunModels;
use super::names::{
    ANSWERS, CHECKPOINTS, FINAL, PROGRESS, RECIPE, REPORT, RESULT, RESULT_TEXT, SCORES, origin_of,
};
use super::record::{FinalReport, RunProgress};
use super::state::Checkpoints;
use super::weights::{open_trainer, weight_type};
use super::{Job, card, identity, ranks, record, seal};
use crate::checkpoint::{Checkpoint, ModelFiles, WeightType, add_model};
use crate::data::{CacheUse, Dataset, Sampler, Source};
use crate::error::{Error, FileAction, Result};
use crate::evaluation::{Request, RowScores};
use crate::files::{
    self, AtomicFolder, Manifest, Origin, RecordedSteps, Verify, hash_texts, read_json, require_free_space,
};
use crate::metrics::Metrics;
use crate::progress::{Column, Event, JobReport, Measured, Observer, TaskScores};
use crate::recipe::{Stage, TrainSettings};
use crate::stages::models::TaskModels;
use crate::trainer::Trainer;

/// What the stages of a running job share.
pub struct Session<'a> {
    pub job: &'a Job,
    pub observer: &'a mut dyn Observer,
    /// Holds the base's weights when the session begins.
    pub trainer: Trainer,
    pub metrics: Metrics,
    pub checkpoints: Checkpoints,
    pub(super) scores: Scores,
    pub(super) answers: KeptAnswers,
    /// What everything in the run follows from.
    identity: String,
    /// Digests of what is there of the run, by name in its folder: what later stages are made from.
    digests: BTreeMap<String, String>,
    started: Instant,
    /// As it was when this process began.
    pub(super) progress: RunProgress,
    frozen_verified: u64,
}

impl<'a> Session<'a> {
    /// Allocates everything training needs, reads the base model into it, and only then makes or reopens the
    /// run folder: weights that cannot be used leave none behind.
    ///
    /// # Errors
    /// Memory runs out, a model cannot be read, or the folder is in use.
    pub fn open(job: &'a Job, observer: &'a mut dyn Observer) -> Result<Self> {
        let started = Instant::now();
        let run = job.out.as_path();
        // Before anything is read that they are to vouch for.
        let inputs = job.files()?;
        let trainer = open_trainer(job)?;
        job.enter_folder()?;
        job.check_locked_folder()?;
        files::remove_partial(run)?;
        let identity = identity::of_run(&job.identity, inputs);
        let before = RunIdentity::read(run)?;
        let is_new = before.is_none() && !run.join(RECIPE).exists();
        let mut scores = read_scores(job, &identity)?;
        let answers = seal::read(&run.join(ANSWERS), &origin_of(&identity, ANSWERS))?;
        let mut answers: KeptAnswers = answers.map(|(answers, _)| answers).unwrap_or_default();
        let has_other_type = before.is_some_and(|before| before.dtype != job.identity.dtype);
        if has_other_type && scores.remove(&Column::Final).is_some() {
            // A final model that is written with another type has to be measured itself. Written before the record
            // of the type: from there on nothing says that it was another.
            seal::write(&run.join(SCORES), &origin_of(&identity, SCORES), &scores)?;
            if answers.remove(&Column::Final).is_some() {
                seal::write(&run.join(ANSWERS), &origin_of(&identity, ANSWERS), &answers)?;
            }
        }
        let progress = seal::read(&run.join(PROGRESS), &origin_of(&identity, PROGRESS))?;
        // First, since it makes the folder that of a run.
        job.identity.write(run)?;
        let metrics = Metrics::open(run, job.recipe.metrics.tensorboard)?;
        record::write(run, inputs)?;
        files::write_bytes_atomically(&run.join(RECIPE), job.recipe_text.as_bytes())?;
        let hub = record::hub_sources(&job.recipe, &job.inputs);
        let probe = job.probe_run.as_ref().map(|probe| probe.name.as_str());
        let other = record::add_process(run, &job.plan, &job.device, job.ranks.size(), hub, probe)?;
        if let Some(text) = other.and_then(|before| ranks::other_processes(job, before)) {
            observer.event(Event::Notice(&text));
        }
        if job.resume && is_new && probe.is_none() {
            let text = format!("{}: there is no run to continue: a new one is begun", run.display());
            observer.event(Event::Notice(&text));
        }
        let not_by_all = trainer.not_seen_by_all(&run.join(CHECKPOINTS))?;
        if let Some(reason) = &not_by_all {
            let text = format!("{}: {reason}: rank 0 writes checkpoints alone", run.display());
            observer.event(Event::Notice(&text));
        }
        let keep = job.recipe.checkpoint.keep;
        Ok(Self {
            job,
            observer,
            trainer,
            metrics,
            checkpoints: Checkpoints::new(run, keep, &job.device, not_by_all.is_none()),
            scores,
            answers,
            identity,
            digests: BTreeMap::new(),
            started,
            progress: progress.map(|(progress, _)| progress).unwrap_or_default(),
            frozen_verified: 0,
        })
    }

    /// What a stage of this run is: its name in the run folder, and the names of those it is made from, which are
    /// there.
    pub fn origin(&self, place: &str, made_from: &[&str]) -> Origin {
        let digests = made_from.iter().map(|name| self.digests.get(*name).map_or("", String::as_str));
        let made_from = hash_texts(digests);
        Origin { made_from, ..origin_of(&self.identity, place) }
    }

    /// What the probe of a task is, in this run or in another that has the same.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn probe_origin(&self, task: usize) -> Result<Origin> {
        self.job.probe_origin(task)
    }

    /// The same with the lines of metrics about the training that made it, which are flushed to the disk first.
    ///
    /// # Errors
    /// When they cannot be flushed.
    pub fn with_metrics(&self, origin: Origin, training: &str) -> Result<Origin> {
        self.metrics.sync()?;
        Ok(Origin { metrics: Some(self.metrics.recorded(training)), ..origin })
    }

    /// Remembers what is there of the run, for the stages that are made from it.
    pub fn remember(&mut self, place: &str, digest: String) {
        self.digests.insert(place.to_owned(), digest);
    }

    /// The digest of what is there of the run at a place.
    pub fn digest(&self, place: &str) -> Option<&str> {
        self.digests.get(place).map(String::as_str)
    }

    /// What everything in the run follows from.
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Gives a folder under construction its name, as the stage of that origin.
    ///
    /// # Errors
    /// The system's; the folder is then removed.
    pub fn commit(&mut self, writing: AtomicFolder, origin: Origin) -> Result<()> {
        let (folder, place) = (writing.destination().to_owned(), origin.place.clone());
        let manifest = writing.commit_as(origin)?;
        self.know(&folder, &manifest)?;
        self.remember(&place, manifest.digest());
        Ok(())
    }

    /// From here on the files of a finished folder must stay what they are.
    fn know(&self, folder: &Path, manifest: &Manifest) -> Result<()> {
        let known =
            |file: &files::ManifestEntry| self.job.known.add_hashed(&folder.join(&file.name), &file.blake3);
        manifest.files.iter().try_for_each(known)
    }

    /// Whether a stage is there, whole; `folder` is its path with the run folder's in it. A damaged one, or one of
    /// another run or place, is an error: it would be taken for the result.
    ///
    /// # Errors
    /// Naming the damaged file or the folder.
    pub fn is_complete(&mut self, folder: &Path, origin: &Origin) -> Result<bool> {
        if !folder.exists() {
            return Ok(false);
        }
        let verified = self.job.device.scope(|| Manifest::verify(folder, Verify::Contents));
        let manifest = verified.map_err(|error| self.say_how_to_mend(folder, error))?;
        origin.require(folder, manifest.origin.as_ref())?;
        self.know(folder, &manifest)?;
        self.remember(&origin.place, manifest.digest());
        Ok(true)
    }

    /// What to do about the folder of a stage that is damaged or not complete.
    fn say_how_to_mend(&self, folder: &Path, error: Error) -> Error {
        let remedy = match folder.starts_with(&self.job.out) {
            true => "remove the folder to make it again with --resume",
            false => "remove the folder to make it again in the run it is taken from",
        };
        match error {
            Error::Format { path, reason } => Error::Format { path, reason: format!("{reason}; {remedy}") },
            Error::File { path, action: FileAction::Read, source } => {
                Error::Format { path, reason: format!("cannot be read: {source}; {remedy}") }
            }
            other => other,
        }
    }

    /// Says so where lines of metrics.jsonl are not there that a checkpoint or stage was written with.
    pub fn tell_lost_metrics(&mut self, training: &str, recorded: Option<&RecordedSteps>) {
        if let Some(text) = recorded.and_then(|recorded| self.metrics.loss(training, recorded)) {
            self.observer.event(Event::Notice(&text));
        }
    }

    /// [`Session::tell_lost_metrics`] for a stage of this run that is there.
    ///
    /// # Errors
    /// When its manifest cannot be read.
    pub fn tell_lost_metrics_of(&mut self, folder: &Path, training: &str) -> Result<()> {
        let manifest = Manifest::verify(folder, Verify::Lengths)?;
        let recorded = manifest.origin.and_then(|origin| origin.metrics);
        self.tell_lost_metrics(training, recorded.as_ref());
        Ok(())
    }

    /// Puts the base model's weights into the trainer.
    ///
    /// # Errors
    /// As [`super::inputs::Base::load_into`].
    pub fn load_base(&mut self) -> Result<()> {
        RunModels::new(self.job).read_base(self.trainer.weights_mut()?)
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
    pub fn evaluate(&mut self, column: &Column, tasks: &[usize]) -> Result<()> {
        self.job.inputs.evaluated_of(tasks).try_for_each(|evaluated| self.evaluate_on(column, evaluated))
    }

    /// Evaluates on all tasks and measures.
    ///
    /// # Errors
    /// As [`Session::evaluate`].
    pub fn evaluate_all(&mut self, column: &Column) -> Result<()> {
        self.job.inputs.evaluated().try_for_each(|evaluated| self.evaluate_on(column, evaluated))
    }

    fn evaluate_on(&mut self, column: &Column, evaluated: &Evaluated) -> Result<()> {
        let Evaluated { name, rows, answers, .. } = evaluated;
        if self.has_score(column, name) {
            return Ok(());
        }
        self.check_stop(&format!("before evaluating {column} on {name}"))?;
        self.observer.event(Event::EvaluationStarted { column, task: name });
        let tokenizer = &self.job.inputs.tokenizer;
        let request = Request { dataset: rows, tokenizer, rows: None, answers: answers.as_ref() };
        let scored = self.measure(Measured::Column(column), name, &request).inspect_err(|error| {
            if matches!(error, Error::Interrupted { .. }) {
                // The stop stands, whether or not the time is recorded.
                let _ = self.save_progress();
            }
        })?;
        let score = scored.score();
        self.observer.event(Event::Evaluated { column, task: name, score: &score });
        if let Some(answers) = &scored.answers {
            let sample = answers.sample(ANSWERS_KEPT);
            self.answers.entry(column.clone()).or_default().insert(name.clone(), sample);
            self.save_answers()?;
        }
        self.keep_score(column, name, score)?;
        if matches!(column, Column::Base | Column::Probe) {
            self.keep_sample(column, evaluated, &scored)?;
        }
        Ok(())
    }

    /// Measures the trainer's weights; `measured` and `task` say to the observer what.
    ///
    /// # Errors
    /// The evaluation fails, or a stop was asked for.
    pub(super) fn measure(
        &mut self,
        measured: Measured<'_>,
        task: &str,
        request: &Request<'_>,
    ) -> Result<RowScores> {
        let (trainer, observer) = (&mut self.trainer, &mut *self.observer);
        let mut observe = |progress| {
            observer.event(Event::EvaluationProgress { model: measured, task, progress });
            if observer.stop_requested() {
                return Err(Error::Interrupted {
                    position: format!("while evaluating {measured} on {task}"),
                });
            }
            Ok(())
        };
        trainer.evaluate(request, &mut observe)
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

    /// One row of every task and measure as the model sees it, and what a person should know about its files.
    pub fn show_samples(&mut self) {
        self.job.plan.notices.iter().for_each(|text| self.observer.event(Event::Notice(text)));
        for task in self.job.worked_on() {
            let task = &self.job.inputs.tasks[task];
            self.show_sample(&task.name, &task.train);
            self.tell_notices(&task.train);
            if let Some(eval) = task.eval() {
                self.tell_notices(eval);
            }
        }
        // One that makes a probe alone measures none of these.
        let measures = self.job.inputs.measures.iter().filter(|_| self.job.probe_run.is_none());
        for Evaluated { name, rows, .. } in measures {
            self.show_sample(name, rows);
            self.tell_notices(rows);
        }
    }

    fn show_sample(&mut self, name: &str, dataset: &Dataset) {
        if let Some(text) = dataset.masked_sample(0, &self.job.inputs.tokenizer) {
            self.observer.event(Event::Sample { task: name, text: &text });
        }
    }

    fn tell_notices(&mut self, dataset: &Dataset) {
        for text in dataset.described_notices() {
            self.observer.event(Event::Notice(&text));
        }
        if let CacheUse::NotWritten(reason) = dataset.cache() {
            let text = format!("{}: tokens were not cached: {reason}", dataset.name().display());
            self.observer.event(Event::Notice(&text));
        }
    }

    fn final_origin(&self, made_from: &[&str]) -> Origin {
        let origin = self.origin(FINAL, made_from);
        let dtype = weight_type(self.job).config_name();
        Origin { made_from: hash_texts([origin.made_from.as_str(), dtype]), ..origin }
    }

    /// Reads the final model, which `training` made from these stages, into the trainer if it is there, whole; says
    /// whether it is.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn reuse_final(&mut self, training: &str, made_from: &[&str]) -> Result<bool> {
        let folder = self.job.out.join(FINAL);
        if !self.is_complete(&folder, &self.final_origin(made_from))? {
            return Ok(false);
        }
        self.tell_lost_metrics_of(&folder, training)?;
        self.observer.event(Event::StageReused { stage: Stage::Integrate, part: "" });
        let finished = Checkpoint::open(&folder)?;
        let weights = self.trainer.weights_mut()?;
        self.job.device.scope(|| finished.load_into(weights))?;
        let report: Option<FinalReport> = read_json(&folder.join(REPORT))?;
        self.frozen_verified = report.unwrap_or_default().frozen_verified;
        Ok(true)
    }

    /// Writes the trainer's weights as the run's final model, which `training` made from these stages.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save_final(&mut self, frozen_verified: u64, training: &str, made_from: &[&str]) -> Result<()> {
        let job = self.job;
        self.frozen_verified = frozen_verified;
        self.save_progress()?;
        // It was measured on a model that is no longer there.
        self.forget_final()?;
        let dtype = weight_type(job);
        let files = ModelFiles { dtype, ..self.model_files() };
        let folder = job.out.join(FINAL);
        self.make_room(training, files.bytes())?;
        require_free_space(&folder, files.bytes())?;
        let mut writing = AtomicFolder::create(&folder)?;
        self.add_model(&mut writing, &files)?;
        writing.write_json(REPORT, &FinalReport { frozen_verified })?;
        let origin = self.with_metrics(self.final_origin(made_from), training)?;
        self.commit(writing, origin)?;
        if dtype != WeightType::F32 {
            // What is evaluated is what was written, rounding included.
            let finished = Checkpoint::open(&folder)?;
            let weights = self.trainer.weights_mut()?;
            job.device.scope(|| finished.load_into(weights))?;
        }
        Ok(())
    }

    /// What the models of stages are written from, in f32.
    pub fn model_files(&self) -> ModelFiles<'a> {
        let base = &self.job.inputs.base;
        ModelFiles::new(&base.config, Some(&base.folder))
    }

    /// Adds the trainer's weights, with the base's other files, to a stage under construction.
    ///
    /// # Errors
    /// When a file cannot be written, or one of the base's is not what it was when the run was begun.
    pub fn add_model(&mut self, writing: &mut AtomicFolder, files: &ModelFiles<'_>) -> Result<()> {
        add_model(writing, files, self.trainer.weights()?)?;
        record::check_copies(writing, &self.job.inputs.base.folder, self.job.files()?)
    }

    /// The closing table, written to the run folder, and the card of the final model.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(&mut self, columns: &[Column]) -> Result<JobReport> {
        let mut report = self.report(columns)?;
        report.model = Some(self.job.out.join(FINAL));
        files::write_json_atomically(&self.job.out.join(RESULT), &report)?;
        files::write_bytes_atomically(&self.job.out.join(RESULT_TEXT), report.markdown().as_bytes())?;
        card::write(self.job, &report)?;
        Ok(report)
    }

    /// The closing table as far as it is filled.
    ///
    /// # Errors
    /// When the elapsed time cannot be saved.
    pub fn report(&mut self, columns: &[Column]) -> Result<JobReport> {
        let seconds = self.save_progress()?;
        let row = |name: &String| TaskScores {
            task: name.clone(),
            scores: columns.iter().map(|column| self.score(column, name)).collect(),
        };
        let inputs = &self.job.inputs;
        Ok(JobReport {
            method: self.job.recipe.method,
            columns: columns.to_vec(),
            tasks: inputs.tasks.iter().map(|task| row(&task.name)).collect(),
            measures: inputs.measures.iter().map(|measure| row(&measure.name)).collect(),
            frozen_verified: self.frozen_verified,
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
        let progress = RunProgress { seconds, ..self.progress.clone() };
        seal::write(&self.job.out.join(PROGRESS), &origin_of(&self.identity, PROGRESS), &progress)?;
        Ok(seconds)
    }
}
