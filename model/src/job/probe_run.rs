//! A process that makes the probe of one task, beside processes that make others of the same run.
//!
//! Such processes share a file system and nothing else. Each works in a run folder of its own inside the run's:
//!
//! ```text
//! probe-runs/<task>/work-<unique>/   of a process that is at work, or was stopped or killed
//! probe-runs/<task>/made/            the same, once its probe is whole
//! ```
//!
//! What decides is the creation of a file or the renaming of a folder, at which one process alone succeeds. The first
//! process makes the records of what the run is, the others are compared with them. What a stopped process has left, the
//! next one for the task renames to its own. Locks only tell early of another process: where they do nothing, two processes
//! may make the same probe, each in its own folder, and the one that is done first is kept. `take_over.rs` has how the run
//! itself goes on from there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::measured::Scores;
use super::names::{
    IDENTITY, INPUTS, PROBE_RUNS, RECIPE, REMOVED_PROBES, RUN, SCORES, origin_of, probe_place,
};
use super::record::{self, RunProgress};
use super::session::Session;
use super::trainings::has_probes;
use super::{Job, check_earlier, identity, names, require_run_or_unused, require_state, seal};
use crate::error::{Error, FileAction, Result};
use crate::files::{
    self, FolderLock, MANIFEST, Manifest, Origin, Verify, create_folders, create_json_atomically,
    require_free_space, require_writable, unique_suffix,
};
use crate::metrics::METRICS;
use crate::progress::{Column, Event, JobReport, Observer, Plan, RunRecord, TaskScores};
use crate::recipe::{Recipe, Stage};

/// Name of the folder of a process whose probe is whole.
const MADE: &str = "made";
/// How the folders of other processes begin.
const WORK: &str = "work-";

/// The making of one task's probe apart from the run that it is of.
pub struct ProbeRun {
    /// The run folder.
    pub run: PathBuf,
    /// The task.
    pub task: usize,
    /// Its name.
    pub name: String,
    /// Where this process works.
    pub work: PathBuf,
    /// Keeps processes away that work on the run itself.
    run_lock: OnceLock<FolderLock>,
    /// Keeps processes away that make the same probe.
    task_lock: OnceLock<FolderLock>,
}

impl ProbeRun {
    /// For the task of this name, in the run folder `run`; nothing is written yet.
    ///
    /// # Errors
    /// The run has no such probe to train.
    pub fn new(recipe: &Recipe, run: &Path, name: &str) -> Result<Self> {
        let refused = |reason: String| Error::setting("--probe", reason);
        if !has_probes(recipe.method) {
            return Err(refused(format!(
                "the method `{}` trains no probes: leave it out",
                recipe.method.name()
            )));
        }
        let Some(task) = recipe.task.iter().position(|task| task.name == name) else {
            let names: Vec<&str> = recipe.task.iter().map(|task| task.name.as_str()).collect();
            return Err(refused(format!("there is no task `{name}`: the tasks are {}", names.join(", "))));
        };
        if recipe.task[task].model.is_some() {
            let reason = format!("task `{name}` brings a model (task.model): it has no probe to train");
            return Err(refused(reason));
        }
        let work = task_folder(run, name).join(format!("{WORK}{}", unique_suffix()));
        Ok(Self {
            run: run.to_owned(),
            task,
            name: name.to_owned(),
            work,
            run_lock: OnceLock::new(),
            task_lock: OnceLock::new(),
        })
    }

    /// Takes the locks that have been taken before: another process is told of before anything is read.
    ///
    /// # Errors
    /// Another process works on the run itself or on this probe.
    pub fn lock_again(&self) -> Result<()> {
        if FolderLock::was_locked(&self.run) {
            self.lock_run()?;
        }
        if FolderLock::was_locked(&task_folder(&self.run, &self.name)) {
            self.lock_task()?;
        }
        Ok(())
    }

    fn lock_run(&self) -> Result<()> {
        if self.run_lock.get().is_none() {
            // Nobody else sets it in between.
            let _ = self.run_lock.set(FolderLock::share(&self.run)?);
        }
        Ok(())
    }

    fn lock_task(&self) -> Result<()> {
        if self.task_lock.get().is_some() {
            return Ok(());
        }
        let Some(lock) = FolderLock::try_take(&task_folder(&self.run, &self.name))? else {
            let reason = format!(
                "another process is making the probe of `{}` in this folder; wait for it or stop it",
                self.name
            );
            return Err(Error::format(&self.run, reason));
        };
        // As above.
        let _ = self.task_lock.set(lock);
        Ok(())
    }

    /// Where the probe is, if it is there and whole.
    ///
    /// # Errors
    /// It is damaged, or another run's, or nothing needs it any more.
    pub fn find(&self, origin: &Origin) -> Result<Option<PathBuf>> {
        if self.run.join(REMOVED_PROBES).is_file() {
            let reason = "its probes were removed once all was made of them (checkpoint.keep_probes): go on without --probe, \
                          with --resume";
            return Err(Error::format(&self.run, reason));
        }
        match places(&self.run, &self.name).into_iter().find(|(_, folder)| folder.exists()) {
            Some((_, folder)) => require_whole(&folder, origin).map(|()| Some(folder)),
            None => Ok(None),
        }
    }

    /// Fails unless the run folder can be written and has room for the probe.
    ///
    /// # Errors
    /// Naming the folder.
    pub fn check_folder(&self, plan: &Plan) -> Result<()> {
        let of_task = task_folder(&self.run, &self.name);
        let there = if of_task.is_dir() { files::folder_bytes(&of_task)? } else { 0 };
        require_free_space(&self.run, plan.disk_bytes.saturating_sub(there))?;
        require_writable(&self.run)
    }

    /// Makes or checks the records of the run, and begins to work in a folder of this process.
    ///
    /// # Errors
    /// The run is another, or another process works on it.
    pub fn enter(&self, job: &Job, run_plan: &Plan) -> Result<()> {
        self.lock_run()?;
        require_run_or_unused(&self.run)?;
        self.record_run(job, run_plan)?;
        create_folders(&task_folder(&self.run, &self.name))?;
        self.lock_task()?;
        // What is left where its probe was removed, as messages advise about a damaged one.
        let made = made_folder(&task_folder(&self.run, &self.name));
        if made.is_dir() && !made.join(probe_place(&self.name)).exists() {
            files::remove_folder(&made)?;
        }
        self.take_folder()
    }

    /// Of several processes that begin a run at the same time, the first says what it is.
    fn record_run(&self, job: &Job, plan: &Plan) -> Result<()> {
        let (run, inputs) = (self.run.as_path(), job.files()?);
        create_json_atomically(&run.join(IDENTITY), &job.identity)?;
        check_earlier(run, &job.recipe_text, &job.identity)?;
        require_state(run, &job.identity)?;
        create_json_atomically(&run.join(INPUTS), &inputs)?;
        record::check(run, inputs)?;
        files::create_atomically(&run.join(RECIPE), job.recipe_text.as_bytes())?;
        let hub = record::hub_sources(&job.recipe, &job.inputs);
        // The processes of the run follow when it is gone on with.
        let record = RunRecord { plan: plan.clone(), processes: Vec::new(), hub };
        create_json_atomically(&run.join(RUN), &record).map(drop)
    }

    /// Renames to its own what a stopped process has left, or begins anew.
    fn take_folder(&self) -> Result<()> {
        for left in work_folders(&task_folder(&self.run, &self.name))? {
            if files::move_folder(&left, &self.work)? {
                // Should its process be at work all the same, what it adds to the file is not added to this one.
                let metrics = self.work.join(METRICS);
                if metrics.is_file() {
                    files::write_bytes_atomically(&metrics, files::read_text(&metrics)?.as_bytes())?;
                }
                return Ok(());
            }
        }
        create_folders(&self.work)
    }

    /// Says that the probe in the folder of this process is whole. One that another process has made meanwhile stays.
    ///
    /// # Errors
    /// Another process has taken over the folder of this one, or the system refuses.
    pub fn publish(&self) -> Result<()> {
        let made = made_folder(&task_folder(&self.run, &self.name));
        if has_begun(&self.work) && files::move_folder(&self.work, &made)? {
            return Ok(());
        }
        if self.work.is_dir() {
            files::remove_folder(&self.work)?;
        }
        if made.join(probe_place(&self.name)).exists() {
            return Ok(());
        }
        let reason = format!(
            "{}: another process makes the probe of `{}` too, and has taken over what this one had: leave it to that one",
            self.run.display(),
            self.name
        );
        Err(Error::Job(reason))
    }

    /// What was measured of the probe that is there, as the report of a job that has nothing left to do.
    ///
    /// # Errors
    /// A file cannot be read, or is another run's.
    pub fn report(&self, job: &Job) -> Result<JobReport> {
        let identity = identity::of_run(&job.identity, job.files()?);
        let there = places(&self.run, &self.name).into_iter().find(|(_, folder)| folder.exists());
        let run = there.map_or_else(|| self.run.clone(), |(run, _)| run);
        let scores = seal::read::<Scores>(&run.join(SCORES), &origin_of(&identity, SCORES))?;
        let scores = scores.map(|(scores, _)| scores).unwrap_or_default();
        let progress =
            seal::read::<RunProgress>(&run.join(names::PROGRESS), &origin_of(&identity, names::PROGRESS))?;
        let score = |column: &Column| scores.get(column)?.get(&self.name).copied();
        Ok(JobReport {
            method: job.recipe.method,
            columns: COLUMNS.to_vec(),
            tasks: vec![TaskScores { task: self.name.clone(), scores: COLUMNS.iter().map(score).collect() }],
            measures: Vec::new(),
            frozen_verified: 0,
            seconds: progress.map_or(0.0, |(progress, _)| progress.seconds),
            steps: 0,
            model: None,
        })
    }
}

/// What is measured where a probe is made.
const COLUMNS: [Column; 2] = [Column::Base, Column::Probe];

impl Session<'_> {
    /// Measures the base on one task, and makes and measures its probe.
    pub(super) fn run_one_probe(&mut self, task: usize) -> Result<JobReport> {
        self.evaluate(&Column::Base, &[task])?;
        self.evaluate_samples(&Column::Base, &[task])?;
        self.probe(&[task])?;
        let report = self.report(&COLUMNS)?;
        let name = &self.job.inputs.tasks[task].name;
        let tasks = report.tasks.into_iter().filter(|row| row.task == *name).collect();
        Ok(JobReport { tasks, measures: Vec::new(), ..report })
    }
}

impl Job {
    /// Where the probe is that the job is to make, if it is there already: the job has nothing left to do.
    ///
    /// # Errors
    /// It is damaged, or another run's, or nothing needs it any more.
    pub fn made_probe(&self) -> Result<Option<PathBuf>> {
        let Some(probe) = &self.probe_run else { return Ok(None) };
        probe.find(&self.probe_origin(probe.task)?)
    }

    /// Tasks whose probes are to be trained and are not there: those that [`JobOptions::probe`](super::JobOptions::probe)
    /// can name.
    pub fn missing_probes(&self) -> Vec<String> {
        let run = self.run_folder();
        let is_there =
            |name: &str| places(run, name).iter().any(|(_, folder)| folder.join(MANIFEST).is_file());
        let tasks = self.inputs.all_tasks().into_iter().filter(|&task| self.inputs.trains_probe(task));
        let names = tasks.map(|task| &self.inputs.tasks[task].name);
        names.filter(|name| !is_there(name)).cloned().collect()
    }

    /// Says what the probe of a job is that has nothing left to do.
    pub(super) fn report_made_probe(
        &self,
        probe: &ProbeRun,
        observer: &mut dyn Observer,
    ) -> Result<JobReport> {
        observer.event(Event::StageReused { stage: Stage::Probe, part: &probe.name });
        let report = probe.report(self)?;
        observer.event(Event::Finished(&report));
        Ok(report)
    }
}

/// The folder of what processes have made of a task's probe alone.
pub fn task_folder(run: &Path, task: &str) -> PathBuf {
    run.join(PROBE_RUNS).join(task)
}

/// The run folders that a task's whole probe may be in, with its own folder there.
fn places(run: &Path, task: &str) -> [(PathBuf, PathBuf); 2] {
    [run.to_owned(), made_folder(&task_folder(run, task))].map(|run| {
        let folder = run.join(probe_place(task));
        (run, folder)
    })
}

/// The run folder with a whole probe in the folder of a task.
pub fn made_folder(of_task: &Path) -> PathBuf {
    of_task.join(MADE)
}

/// Whether a process has begun to work in a run folder. One that another process has taken over, and that its own went on
/// to write into, lacks what is written at the beginning.
fn has_begun(work: &Path) -> bool {
    work.join(IDENTITY).is_file()
}

/// The run folders in the folder of a task whose probes are not whole: one, but where locks do nothing.
///
/// # Errors
/// The system's, naming the folder.
pub fn work_folders(of_task: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(of_task).map_err(Error::file(of_task, FileAction::Read))? {
        let entry = entry.map_err(Error::file(of_task, FileAction::Read))?;
        if entry.file_name().to_string_lossy().starts_with(WORK) && has_begun(&entry.path()) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Fails unless a probe's folder is whole, by names and lengths, and of this run.
///
/// # Errors
/// Naming what is not as it was written, and what to do.
pub fn require_whole(folder: &Path, origin: &Origin) -> Result<()> {
    let verified = Manifest::verify(folder, Verify::Lengths).map_err(|error| match error {
        Error::Format { path, reason } => {
            Error::Format { path, reason: format!("{reason}; remove {} to make it again", folder.display()) }
        }
        Error::File { path, action: FileAction::Read, source } => Error::Format {
            path,
            reason: format!("cannot be read: {source}; remove {} to make it again", folder.display()),
        },
        other => other,
    });
    origin.require(folder, verified?.origin.as_ref())
}
