//! Writing a comparison, and reading it back.

use std::path::Path;

use super::results::{Comparison, Forgetting, MethodResult, RESULTS_VERSIONS, Reference, SeedRun};
use crate::error::{Error, Result};
use crate::files;

/// Name of the file in the comparison's folder.
pub const RESULTS: &str = "results.json";

impl Comparison {
    /// Writes the results into a comparison's folder.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write_json_atomically(&folder.join(RESULTS), self)
    }

    /// Reads the results in a comparison's folder.
    ///
    /// # Errors
    /// The file cannot be read, is of another version, or has lists that do not fit its tasks and seeds.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(RESULTS);
        let refuse = |reason: String| Error::format(&path, reason);
        let text = files::read_text(&path)?;
        let comparison: Self = serde_json::from_str(&text)
            .map_err(|error| refuse(format!("is not the results of a comparison: {error}")))?;
        if !RESULTS_VERSIONS.contains(&comparison.version) {
            let (first, last) = (RESULTS_VERSIONS.start(), RESULTS_VERSIONS.end());
            let reason =
                format!("is of version {}, this program reads {first} to {last}", comparison.version);
            return Err(refuse(reason));
        }
        match comparison.misfit() {
            Some(what) => Err(refuse(format!("{what} does not fit its tasks and seeds; undo the change"))),
            None => Ok(comparison),
        }
    }

    /// The first thing whose lengths or indices are not those of the tasks and seeds.
    fn misfit(&self) -> Option<String> {
        let (tasks, measures) = (self.tasks.len(), self.measures.len());
        let mut references = self.references.iter();
        let fits = |seed: &Reference| {
            (seed.base.len(), seed.specialist.len(), seed.measures.len()) == (tasks, tasks, measures)
        };
        if references.any(|seed| !fits(seed)) {
            return Some("a reference".to_owned());
        }
        let broken = self.methods.iter().find(|method| !method.fits(tasks, measures));
        if let Some(method) = broken {
            return Some(format!("`{}`", method.name));
        }
        let square =
            |matrix: &[Vec<f64>]| matrix.len() == tasks && matrix.iter().all(|row| row.len() == tasks);
        if self.cores.iter().any(|seed| !square(&seed.groups.jaccard)) {
            return Some("an overlap of cores".to_owned());
        }
        if let Some(overlaps) = &self.overlaps {
            let indices = overlaps.importance.iter().map(|overlap| overlap.task);
            if indices.chain(overlaps.seeds.iter().map(|overlap| overlap.task)).any(|task| task >= tasks) {
                return Some("an overlap".to_owned());
            }
        }
        if self.probe_lengths.as_ref().is_some_and(|lengths| !lengths.fits()) {
            return Some("`probe_lengths`".to_owned());
        }
        let forgetting = self.forgetting.iter().find(|forgetting| !forgetting.fits(tasks));
        forgetting.map(|_| "`forgetting`".to_owned())
    }
}

impl MethodResult {
    fn fits(&self, tasks: usize, measures: usize) -> bool {
        let of_run = |run: &SeedRun| {
            (run.scores.len(), run.normalised.len(), run.measures.len()) == (tasks, tasks, measures)
        };
        let summary = &self.summary;
        let worst = summary.worst_task.is_none_or(|task| task < tasks);
        let fits = (summary.tasks.len(), summary.measures.len()) == (tasks, measures);
        fits && worst && self.runs.iter().all(of_run)
    }
}

impl Forgetting {
    fn fits(&self, tasks: usize) -> bool {
        self.methods.iter().all(|method| {
            let square = method.change.len() == tasks && method.change.iter().all(|row| row.len() == tasks);
            square && method.pairs.iter().all(|pair| pair.first < tasks && pair.second < tasks)
        })
    }
}
