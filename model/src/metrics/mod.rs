//! `metrics.jsonl`: one line per optimizer step, in the run folder; and the same for TensorBoard.

mod tensorboard;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, FileAction, Result};
use crate::files::{self, RecordedSteps, write_error};
use crate::progress::{StepReport, TrainingStage};
use tensorboard::TensorBoard;

/// Name of the file in the run folder.
pub const METRICS: &str = "metrics.jsonl";

/// Appends step reports to `metrics.jsonl`, and to the event files where they are asked for.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    /// The hash of every line, by training, in the order of the file.
    lines: BTreeMap<String, Vec<blake3::Hash>>,
    tensorboard: Option<TensorBoard>,
}

impl Metrics {
    /// Opens or makes the file of a run. What a crash left of lines at the end is removed. With `tensorboard` the
    /// event files are made to say what the file says, and go on with it.
    ///
    /// # Errors
    /// When a file cannot be opened, or a line before the last step is damaged.
    pub fn open(run: &Path, tensorboard: bool) -> Result<Self> {
        let path = run.join(METRICS);
        if path.exists() {
            // Opening a pipe to append to it would wait for a reader.
            files::open_input(&path)?;
        }
        let tensorboard = tensorboard.then(|| TensorBoard::new(run));
        let mut metrics = Self { file: append(&path)?, path, lines: BTreeMap::new(), tensorboard };
        metrics.retain(|_| true)?;
        metrics.rebuild_events(None)?;
        Ok(metrics)
    }

    /// Steps on record, of all trainings.
    pub fn steps(&self) -> u64 {
        self.lines.values().map(|lines| lines.len() as u64).sum()
    }

    /// The lines of one training, as a checkpoint or a stage keeps them.
    pub fn recorded(&self, training: &str) -> RecordedSteps {
        let lines = self.lines.get(training).map_or(&[][..], Vec::as_slice);
        RecordedSteps { lines: lines.len() as u64, blake3: hash_of(lines) }
    }

    /// What became of lines of a training that a checkpoint or a stage says were there; none when they are there.
    pub fn loss(&self, training: &str, kept: &RecordedSteps) -> Option<String> {
        let lines = self.lines.get(training).map_or(&[][..], Vec::as_slice);
        let path = self.path.display();
        match usize::try_from(kept.lines).ok().and_then(|count| lines.get(..count)) {
            None => Some(format!(
                "{path}: {} of the {} steps of {training} are missing; the models are whole, but reports and the \
                 count of steps go without them",
                kept.lines - lines.len() as u64,
                kept.lines
            )),
            Some(first) if hash_of(first) != kept.blake3 => Some(format!(
                "{path}: the steps of {training} are not those that were recorded; the models are whole, but \
                 reports show what the file says"
            )),
            Some(_) => None,
        }
    }

    /// Flushes the lines to the disk: a checkpoint or a stage that is on the disk says that they are there.
    ///
    /// # Errors
    /// The system's, naming the file.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(write_error(&self.path, FileAction::Write))
    }

    /// Forgets the steps after `step` of one training: they will be made again.
    ///
    /// # Errors
    /// When the file cannot be read or replaced.
    pub fn rewind(&mut self, stage: TrainingStage, part: &str, step: u64) -> Result<()> {
        let of_training = |report: &StepReport| report.stage == stage && report.part == part;
        if self.retain(|report| !of_training(report) || report.number <= step)? {
            self.rebuild_events(Some(&stage.training(part)))?;
        }
        Ok(())
    }

    /// Puts the steps that the run folder `from` has of one training in the place of those that are here.
    ///
    /// # Errors
    /// A file cannot be read or written, or a line before the last step is damaged.
    pub fn take_over(&mut self, from: &Path, stage: TrainingStage, part: &str) -> Result<()> {
        self.rewind(stage, part, 0)?;
        // Cuts what a crash left at its end.
        let theirs = Self::open(from, false)?;
        let (mut text, mut hashes) = (String::new(), Vec::new());
        for line in files::read_text(&theirs.path)?.split_inclusive('\n') {
            let step: StepReport =
                serde_json::from_str(line).map_err(|error| Error::format(&theirs.path, error.to_string()))?;
            if step.stage == stage && step.part == part {
                text.push_str(line);
                hashes.push(blake3::hash(line.as_bytes()));
            }
        }
        self.file.write_all(text.as_bytes()).map_err(write_error(&self.path, FileAction::Write))?;
        self.sync()?;
        let training = stage.training(part);
        self.lines.entry(training.clone()).or_default().extend(hashes);
        self.rebuild_events(Some(&training))
    }

    /// Writes the event files anew, of one training or of all.
    fn rebuild_events(&mut self, training: Option<&str>) -> Result<()> {
        match &mut self.tensorboard {
            Some(events) => events.rebuild(&read(&self.path)?, training),
            None => Ok(()),
        }
    }

    /// Keeps the lines that `wanted` says; says whether any went. What follows the last whole line goes too: a
    /// crash left it.
    fn retain(&mut self, wanted: impl Fn(&StepReport) -> bool) -> Result<bool> {
        let mut bytes = Vec::new();
        files::open_input(&self.path)?
            .read_to_end(&mut bytes)
            .map_err(Error::file(&self.path, FileAction::Read))?;
        let (mut kept, mut damaged) = (Vec::with_capacity(bytes.len()), None);
        self.lines.clear();
        for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            // A line without an end was cut off, whatever it says.
            let parsed = line.strip_suffix(b"\n").map(serde_json::from_slice::<StepReport>);
            let report = match parsed {
                Some(Ok(report)) => report,
                Some(Err(error)) => {
                    damaged = damaged.or(Some((index + 1, error)));
                    continue;
                }
                None => continue,
            };
            if let Some((line, error)) = damaged {
                let reason = format!(
                    "is damaged ({error}): put back what it was, or remove the line to go on without it"
                );
                return Err(Error::line(&self.path, line, reason));
            }
            if wanted(&report) {
                kept.extend(line);
                let training = report.stage.training(&report.part);
                self.lines.entry(training).or_default().push(blake3::hash(line));
            }
        }
        let dropped = kept.len() < bytes.len();
        if dropped {
            files::write_bytes_atomically(&self.path, &kept)?;
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
        self.file.write_all(line.as_bytes()).map_err(write_error(&self.path, FileAction::Write))?;
        let training = report.stage.training(&report.part);
        self.lines.entry(training).or_default().push(blake3::hash(line.as_bytes()));
        self.tensorboard.as_mut().map_or(Ok(()), |events| events.append(report))
    }
}

/// One hash of the hashes of lines, in hexadecimal.
fn hash_of(lines: &[blake3::Hash]) -> String {
    let mut hasher = blake3::Hasher::new();
    for line in lines {
        hasher.update(line.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
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
    OpenOptions::new().create(true).append(true).open(path).map_err(write_error(path, FileAction::Write))
}
