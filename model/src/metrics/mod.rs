//! `metrics.jsonl`: one line per optimizer step, in the run folder; and the same for TensorBoard.

mod tensorboard;

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;
use crate::job::checkpoint_key;
use crate::progress::StepReport;
use tensorboard::TensorBoard;

/// Name of the file in the run folder.
pub const METRICS: &str = "metrics.jsonl";

/// Appends step reports to `metrics.jsonl`, and to the event files where they are asked for.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    steps: u64,
    tensorboard: Option<TensorBoard>,
}

impl Metrics {
    /// Opens or makes the file of a run. A line cut short by a crash is removed. With `tensorboard` the event
    /// files are made to say what the file says, and go on with it.
    ///
    /// # Errors
    /// When a file cannot be opened.
    pub fn open(run: &Path, tensorboard: bool) -> Result<Self> {
        let path = run.join(METRICS);
        let tensorboard = tensorboard.then(|| TensorBoard::new(run));
        let mut metrics = Self { file: append(&path)?, path, steps: 0, tensorboard };
        metrics.retain(|_| true)?;
        metrics.rebuild_events(None)?;
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
        let of_training = |report: &StepReport| report.stage == stage && report.part == part;
        if self.retain(|report| !of_training(report) || report.step <= step)? {
            self.rebuild_events(Some(&checkpoint_key(stage, part)))?;
        }
        Ok(())
    }

    /// Writes the event files anew, of one training or of all.
    fn rebuild_events(&mut self, training: Option<&str>) -> Result<()> {
        match &mut self.tensorboard {
            Some(events) => events.rebuild(&read(&self.path)?, training),
            None => Ok(()),
        }
    }

    /// Keeps the whole lines that `wanted` says, and counts them; says whether any went.
    fn retain(&mut self, wanted: impl Fn(&StepReport) -> bool) -> Result<bool> {
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
        Ok(dropped)
    }

    /// Adds one step.
    ///
    /// # Errors
    /// When the line cannot be written.
    pub fn append(&mut self, report: &StepReport) -> Result<()> {
        let mut line = serde_json::to_string(report).map_err(|error| Error::Job(error.to_string()))?;
        line.push('\n');
        self.steps += 1;
        self.file.write_all(line.as_bytes()).map_err(Error::file(&self.path, "write"))?;
        self.tensorboard.as_mut().map_or(Ok(()), |events| events.append(report))
    }
}

/// Reads the steps on record. A last line without an end, which a process is writing or was killed over, is left
/// out.
///
/// # Errors
/// When the file cannot be read, or naming the first line that is not a step.
pub fn read(path: &Path) -> Result<Vec<StepReport>> {
    let text = files::read_text(path)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(index, line): (usize, &str)| {
        let step = serde_json::from_str::<StepReport>(line);
        step.map_err(|error| Error::line(path, index + 1, format!("is not an optimizer step: {error}")))
    };
    whole.lines().enumerate().map(parse).collect()
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(path).map_err(Error::file(path, "write"))
}
