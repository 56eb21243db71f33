//! What was measured: `scores.json` and `answers.json` of the run folder.

use std::collections::BTreeMap;

use super::identity::RunIdentity;
use super::names::{SCORES, origin_of};
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
