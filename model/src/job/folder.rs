//! What a run folder says, read back: for reports, and for programs that look at runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cores::SavedCores;
use super::identity::RunIdentity;
use super::measured::{KeptAnswers, Scores};
use super::names::{
    ANSWERS, CORE, FINAL, FUSED, GROUPS, IDENTITY, INPUTS, PROBE_RUNS, PROBES, PROGRESS, RECIPE, REPORT,
    RESULT, RUN, SCORES,
};
use super::probe_run::{made_folder, work_folders};
use super::record::{FinalReport, InputFile, RunProgress};
use super::seal;
use crate::error::{Error, FileAction, Result};
use crate::evaluation::Answer;
use crate::files::{self, read_json};
use crate::metrics::{self, METRICS};
use crate::progress::{
    Column, CoreReport, FusionReport, GroupReport, JobReport, RunRecord, Score, StepReport,
};

/// Everything a run has recorded so far. What it has not come to, or what its method does not have, is none or empty.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunFolder {
    /// The folder.
    pub path: PathBuf,
    /// The recipe with every default filled in, as TOML.
    pub recipe: String,
    /// What was planned and who worked on it; none in runs of versions before it was recorded.
    pub record: Option<RunRecord>,
    /// The files the run reads.
    pub inputs: Vec<InputFile>,
    /// Every optimizer step, in order.
    pub steps: Vec<StepReport>,
    /// Stage 1b.
    pub cores: Option<CoreReport>,
    /// Stage 2.
    pub groups: Option<GroupReport>,
    /// Stage 3.
    pub fusion: Option<FusionReport>,
    /// What was measured: column → task → score.
    pub scores: BTreeMap<Column, BTreeMap<String, Score>>,
    /// Some of the answers: column → task → the same rows in every column.
    pub answers: BTreeMap<Column, BTreeMap<String, Vec<Answer>>>,
    /// The closing table; none until the run is complete.
    pub result: Option<JobReport>,
    /// Seconds that processes have worked on it.
    pub seconds: f64,
    /// Frozen parameters found unchanged, summed over the parts of stage 4.
    pub frozen_verified: u64,
}

/// Whether a folder is that of a run: one of the records that every run has from its beginning can be read. Files of these
/// names say nothing, which others use as well.
pub(super) fn holds_a_run(folder: &Path) -> bool {
    fn reads<T: DeserializeOwned>(path: &Path) -> bool {
        matches!(read_json::<T>(path), Ok(Some(_)))
    }
    reads::<RunIdentity>(&folder.join(IDENTITY))
        || reads::<RunRecord>(&folder.join(RUN))
        || reads::<Vec<InputFile>>(&folder.join(INPUTS))
}

/// The run folders of probes that are made apart from a run, of each task one that has begun: the probe that is made, else
/// the first.
fn probe_runs(run: &Path) -> Result<Vec<PathBuf>> {
    let all = run.join(PROBE_RUNS);
    let mut found = Vec::new();
    if !all.is_dir() {
        return Ok(found);
    }
    for entry in fs::read_dir(&all).map_err(Error::file(&all, FileAction::Read))? {
        let of_task = entry.map_err(Error::file(&all, FileAction::Read))?.path();
        if of_task.file_name().is_some_and(|task| run.join(PROBES).join(task).exists()) {
            // Taken over, but for what is left of it.
            continue;
        }
        let made = made_folder(&of_task);
        let begun = if of_task.is_dir() { work_folders(&of_task)? } else { Vec::new() };
        let has_begun = |folder: &PathBuf| folder.join(RECIPE).is_file();
        found.extend([made].into_iter().chain(begun).find(has_begun));
    }
    found.sort();
    Ok(found)
}

impl RunFolder {
    /// Reads a run folder, finished or not.
    ///
    /// # Errors
    /// The folder is not one, or naming the file that cannot be read or is not what this version writes.
    pub fn read(path: &Path) -> Result<Self> {
        let recipe = path.join(RECIPE);
        if !recipe.is_file() {
            let reason = match path.is_dir() {
                true => {
                    format!("is not a run folder: it holds no {RECIPE}; give the folder that `train` wrote")
                }
                false if path.exists() => "is not a folder; give the folder that `train` wrote".to_owned(),
                false => "there is no such folder; give the folder that `train` wrote".to_owned(),
            };
            return Err(Error::format(path, reason));
        }
        let metrics = path.join(METRICS);
        let scores: Option<Scores> = seal::read_unchecked(&path.join(SCORES))?;
        let answers: Option<KeptAnswers> = seal::read_unchecked(&path.join(ANSWERS))?;
        let cores: Option<SavedCores> = read_json(&path.join(CORE).join(REPORT))?;
        let progress: RunProgress = read_json(&path.join(PROGRESS))?.unwrap_or_default();
        let finished: FinalReport = read_json(&path.join(FINAL).join(REPORT))?.unwrap_or_default();
        let mut folder = Self {
            path: path.to_owned(),
            recipe: files::read_text(&recipe)?,
            record: read_json(&path.join(RUN))?,
            inputs: read_json(&path.join(INPUTS))?.unwrap_or_default(),
            steps: if metrics.exists() { metrics::read(&metrics)? } else { Vec::new() },
            cores: cores.map(|saved| saved.report),
            groups: read_json(&path.join(GROUPS))?,
            fusion: read_json(&path.join(FUSED).join(REPORT))?,
            scores: scores.unwrap_or_default(),
            answers: answers.unwrap_or_default(),
            result: read_json(&path.join(RESULT))?,
            seconds: progress.seconds,
            frozen_verified: finished.frozen_verified,
        };
        folder.check()?;
        for probe in probe_runs(path)? {
            folder.add(Self::read(&probe)?);
        }
        Ok(folder)
    }

    /// Adds what has been made of a probe apart, until the run takes it over.
    fn add(&mut self, probe: Self) {
        self.steps.extend(probe.steps);
        self.seconds += probe.seconds;
        for (column, of_tasks) in probe.scores {
            self.scores.entry(column).or_default().extend(of_tasks);
        }
        for (column, of_tasks) in probe.answers {
            self.answers.entry(column).or_default().extend(of_tasks);
        }
        let processes = probe.record.into_iter().flat_map(|record| record.processes);
        if let Some(record) = &mut self.record {
            record.processes.extend(processes);
            record.processes.sort_by(|one, other| one.began.cmp(&other.began));
        }
    }

    /// Checks what the types leave open: the sizes of matrices and the indices of groups.
    fn check(&self) -> Result<()> {
        if let Some(groups) = &self.groups {
            let tasks = groups.tasks.len();
            let square = groups.jaccard.len() == tasks
                && groups.jaccard.iter().all(|row| row.len() == tasks)
                && groups.sign_agreement.len() == tasks
                && groups.sign_agreement.iter().all(|row| row.len() == tasks);
            if !square || groups.groups.iter().flatten().any(|&task| task >= tasks) {
                let reason = format!("its matrices or groups do not fit its {tasks} tasks; undo the change");
                return Err(Error::format(&self.path.join(GROUPS), reason));
            }
        }
        if let Some(result) = &self.result
            && let Some(task) = result
                .tasks
                .iter()
                .chain(&result.measures)
                .find(|task| task.scores.len() != result.columns.len())
        {
            let reason = format!("`{}` has not one score per column; undo the change", task.task);
            return Err(Error::format(&self.path.join(RESULT), reason));
        }
        Ok(())
    }
}
