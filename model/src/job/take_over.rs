//! Probes that other processes have made apart (`probe_run.rs`), taken over by the run when it is gone on with.
//!
//! What was recorded of a probe comes first: its steps, what was measured, its processes and their time. Then its folder is
//! renamed into the run's. Killed in between, a run does all of it again, to the same records.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cpift_engine::Device;

use super::measured::{KeptAnswers, Scores};
use super::names::{ANSWERS, CHECKPOINTS, PROBE_RUNS, PROGRESS, SCORES, origin_of, probe_place};
use super::probe_run::{made_folder, require_whole, task_folder, work_folders};
use super::record::{self, RunProgress};
use super::seal;
use super::session::Session;
use super::state::newest_step;
use crate::counts::counted;
use crate::error::Result;
use crate::files;
use crate::progress::{Column, Event, TrainingStage};

impl Session<'_> {
    /// Takes over every probe that was made apart from this run, and the newest checkpoint of every one that was begun.
    ///
    /// # Errors
    /// A probe is damaged or another run's, naming it; or the system refuses.
    pub(super) fn take_over_probe_runs(&mut self) -> Result<()> {
        let job = self.job;
        let all = job.out.join(PROBE_RUNS);
        if !all.is_dir() {
            return Ok(());
        }
        for task in job.inputs.all_tasks().into_iter().filter(|&task| job.inputs.trains_probe(task)) {
            let folder = task_folder(&job.out, &job.inputs.tasks[task].name);
            if folder.is_dir() {
                self.take_over_probe(task, &folder)?;
                files::remove_folder(&folder)?;
            }
        }
        // Refused where there are others; an empty folder that stays does no harm.
        let _ = fs::remove_dir(&all);
        Ok(())
    }

    fn take_over_probe(&mut self, task: usize, folder: &Path) -> Result<()> {
        let job = self.job;
        let name = &job.inputs.tasks[task].name;
        let place = probe_place(name);
        let probe = job.out.join(&place);
        let origin = self.probe_origin(task)?;
        if probe.exists() {
            // Taken over before, or made by the run itself.
            return require_whole(&probe, &origin);
        }
        // Its process may have ended when the probe was whole and not yet measured.
        let mut all = std::iter::once(made_folder(folder)).chain(work_folders(folder)?);
        if let Some(from) = all.find(|from| from.join(&place).exists()) {
            require_whole(&from.join(&place), &origin)?;
            self.take_over_records(name, &from)?;
            return files::move_folder(&from.join(&place), &probe).map(drop);
        }
        let training = format!("{CHECKPOINTS}/{}", TrainingStage::Probe.training(name));
        let checkpoint = job.out.join(&training);
        let (mut newest, mut begun) = (newest_step(&checkpoint)?, None);
        for work in work_folders(folder)? {
            let step = newest_step(&work.join(&training))?;
            if step > newest {
                (newest, begun) = (step, Some(work));
            }
        }
        let Some(work) = begun else { return Ok(()) };
        self.take_over_records(name, &work)?;
        if checkpoint.exists() {
            files::remove_folder(&checkpoint)?;
        }
        files::move_folder(&work.join(&training), &checkpoint).map(drop)
    }

    /// Takes over what the run folder `from` has on record about a task's probe.
    fn take_over_records(&mut self, task: &str, from: &Path) -> Result<()> {
        let identity = self.identity().to_owned();
        let origin = |file: &str| origin_of(&identity, file);
        self.metrics.take_over(from, TrainingStage::Probe, task)?;
        let scores = seal::read::<Scores>(&from.join(SCORES), &origin(SCORES))?;
        add_missing(&mut self.scores, scores.map(|(scores, _)| scores).unwrap_or_default());
        self.save_scores()?;
        let answers = seal::read::<KeptAnswers>(&from.join(ANSWERS), &origin(ANSWERS))?;
        add_missing(&mut self.answers, answers.map(|(answers, _)| answers).unwrap_or_default());
        self.save_answers()?;
        if let Some((progress, _)) = seal::read::<RunProgress>(&from.join(PROGRESS), &origin(PROGRESS))? {
            let before = self.progress.probes.insert(task.to_owned(), progress.seconds);
            self.progress.seconds += progress.seconds - before.unwrap_or(0.0);
            self.save_progress()?;
        }
        let processes = record::take_over_processes(&self.job.out, from, task)?;
        // Not of ranks: that those which share the probes train together afterwards is what was asked for.
        let own = self.job.device.threads() as u64;
        let other = processes.iter().map(|process| process.threads).find(|other| *other != own);
        if let (Some(other), Device::Cpu(_)) = (other, &self.job.device) {
            let text = format!(
                "the probe of {task} was worked on with {}, the run goes on with {}: results may differ in the last bits from \
                 those of one number",
                counted(other, "thread"),
                counted(own, "thread")
            );
            self.observer.event(Event::Notice(&text));
        }
        Ok(())
    }
}

type ByColumnAndTask<T> = BTreeMap<Column, BTreeMap<String, T>>;

fn add_missing<T>(own: &mut ByColumnAndTask<T>, theirs: ByColumnAndTask<T>) {
    for (column, of_tasks) in theirs {
        let own = own.entry(column).or_default();
        for (task, value) in of_tasks {
            own.entry(task).or_insert(value);
        }
    }
}
