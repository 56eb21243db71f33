//! What was measured: `scores.json` and `answers.json` of the run folder.

use std::collections::BTreeMap;

use super::identity::RunIdentity;
use super::names::{ANSWERS, SCORES, origin_of};
use super::session::Session;
use super::{Job, identity, record, seal};
use crate::error::{Error, Result};
use crate::evaluation::Answer;
use crate::progress::{Column, Score};

/// Answers of each task that are kept for every column.
pub const ANSWERS_KEPT: usize = 8;

/// Column of the table → task → some answers, the same rows in every column.
pub type KeptAnswers = BTreeMap<Column, BTreeMap<String, Vec<Answer>>>;

/// Column of the table → task → score.
pub type Scores = BTreeMap<Column, BTreeMap<String, Score>>;

/// What was measured before: in this run, and of base and probes in the run they are taken from.
///
/// # Errors
/// A file cannot be read, was edited, or belongs to another run; or the other run measured on other files.
pub fn read_scores(job: &Job, identity: &str) -> Result<Scores> {
    let found = seal::read(&job.out.join(SCORES), &origin_of(identity, SCORES))?;
    let mut scores: Scores = found.map(|(scores, _)| scores).unwrap_or_default();
    if let Some(run) = &job.inputs.probes {
        let inputs = record::read(run)?;
        record::check_measured(run, &inputs, job.files()?)?;
        let settings = RunIdentity::read(run)?
            .ok_or_else(|| Error::format(run, "has no identity.json: its probes cannot be taken over"))?;
        let path = run.join(SCORES);
        let origin = origin_of(&identity::of_run(&settings, &inputs), SCORES);
        let (mut theirs, _): (Scores, String) = seal::read(&path, &origin)?
            .ok_or_else(|| Error::format(&path, "is missing: that run has no scores"))?;
        for column in [Column::Base, Column::Probe] {
            // Where that run did not measure while training, this one measures the samples itself.
            let sampled = column.sample(&job.recipe.evaluate);
            if let Some(of_column) = theirs.remove(&sampled) {
                scores.insert(sampled, of_column);
            }
            let of_column = theirs.remove(&column).unwrap_or_default();
            scores.insert(column, of_column);
        }
    }
    Ok(scores)
}

impl Session<'_> {
    /// What was measured of a task or measure for a column.
    pub(super) fn score(&self, column: &Column, task: &str) -> Option<Score> {
        self.scores.get(column).and_then(|scores| scores.get(task)).copied()
    }

    /// Remembers what was measured, in the run folder too.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn keep_score(&mut self, column: &Column, task: &str, score: Score) -> Result<()> {
        self.scores.entry(column.clone()).or_default().insert(task.to_owned(), score);
        self.save_scores()
    }

    /// Whether a column of the table has this task's score.
    pub fn has_score(&self, column: &Column, task: &str) -> bool {
        self.scores.get(column).is_some_and(|scores| scores.contains_key(task))
    }

    pub(super) fn save_scores(&self) -> Result<()> {
        let path = self.job.out.join(SCORES);
        seal::write(&path, &origin_of(self.identity(), SCORES), &self.scores).map(drop)
    }

    pub(super) fn save_answers(&self) -> Result<()> {
        let path = self.job.out.join(ANSWERS);
        seal::write(&path, &origin_of(self.identity(), ANSWERS), &self.answers).map(drop)
    }

    /// Forgets what was measured of the final model.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn forget_final(&mut self) -> Result<()> {
        if self.answers.remove(&Column::Final).is_some() {
            self.save_answers()?;
        }
        if self.scores.remove(&Column::Final).is_some() {
            self.save_scores()?;
        }
        Ok(())
    }
}
