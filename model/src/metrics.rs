//! `metrics.jsonl`: one line per optimizer step, in the run folder.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;
use crate::progress::StepReport;

/// Appends step reports to `metrics.jsonl`.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    steps: u64,
}

impl Metrics {
    /// Opens or makes the file. A line cut short by a crash is removed.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let mut metrics = Self { path: path.to_owned(), file: append(path)?, steps: 0 };
        metrics.retain(|_| true)?;
        Ok(metrics)
    }

    /// Steps on record, of all trainings.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Forgets the steps after `step` of one training: they will be made again.
    ///
    /// # Errors
    /// When the file cannot be read or replaced.
    pub fn rewind(&mut self, stage: &str, part: &str, step: u64) -> Result<()> {
        self.retain(|report| report.stage != stage || report.part != part || report.step <= step)
    }

    /// Keeps the whole lines that `wanted` says, and counts them.
    fn retain(&mut self, wanted: impl Fn(&StepReport) -> bool) -> Result<()> {
        let file = File::open(&self.path).map_err(Error::file(&self.path, "read"))?;
        let (mut kept, mut dropped) = (String::new(), false);
        self.steps = 0;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(Error::file(&self.path, "read"))?;
            let keep = serde_json::from_str::<StepReport>(&line).is_ok_and(|report| wanted(&report));
            if keep {
                kept.push_str(&line);
                kept.push('\n');
            }
            self.steps += u64::from(keep);
            dropped |= !keep;
        }
        if dropped {
            files::write_bytes_atomically(&self.path, kept.as_bytes())?;
            self.file = append(&self.path)?;
        }
        Ok(())
    }

    /// Adds one step.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn append(&mut self, report: &StepReport) -> Result<()> {
        let mut line = serde_json::to_string(report).map_err(|error| Error::Job(error.to_string()))?;
        line.push('\n');
        self.steps += 1;
        self.file.write_all(line.as_bytes()).map_err(Error::file(&self.path, "write"))
    }
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).map_err(Error::file(path, "write"))
}
