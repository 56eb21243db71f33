//! Event files that TensorBoard reads: `tensorboard/<training>/events.out.tfevents.<time>.cpift-engine`.
//!
//! A file is a row of TFRecords (length, masked CRC-32C of the length, content, masked CRC-32C of the content), each
//! an `Event` of TensorFlow's `event.proto`: two messages with six fields, written here field by field, which is
//! less than a library of Protocol Buffers and its build step.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, FileAction, Result};
use crate::files;
use crate::machine;
use crate::progress::StepReport;

/// Name of the folder in the run folder.
const FOLDER: &str = "tensorboard";

/// First content of every event file.
const FILE_VERSION: &str = "brain.Event:2";

/// The event files of a run.
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    /// The training being written, its file's path and the file.
    open: Option<(String, PathBuf, File)>,
}

impl TensorBoard {
    /// Event files in the run folder `run`; nothing is written yet.
    pub fn new(run: &Path) -> Self {
        Self { folder: run.join(FOLDER), open: None }
    }

    /// Writes the event files anew, of one training or of all, so that they hold the steps of `reports` once: after a
    /// resume. A new file has a new name, so that a TensorBoard at work sees it and lets go of the old one's steps.
    ///
    /// # Errors
    /// When a file cannot be written or an old one removed.
    pub fn rebuild(&mut self, reports: &[StepReport], only: Option<&str>) -> Result<()> {
        self.open = None;
        let mut trainings: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        // What is left of trainings whose steps are all to be made again goes too.
        for training in self.trainings()?.into_iter().filter(|name| only.is_none_or(|only| name == only)) {
            trainings.insert(training, Vec::new());
        }
        for report in reports {
            let training = training_of(report);
            if only.is_none_or(|only| training == only) {
                let events = trainings.entry(training).or_default();
                if events.is_empty() {
                    *events = first_record(report.time);
                }
                events.extend(record(&step_event(report)));
            }
        }
        for (training, events) in trainings {
            let folder = self.folder.join(training);
            let mut old = event_files(&folder)?;
            if !events.is_empty() {
                let path = folder.join(file_name());
                files::write_bytes_atomically(&path, &events)?;
                old.retain(|file| *file != path);
            }
            for file in old {
                fs::remove_file(&file).map_err(Error::file(&file, FileAction::Remove))?;
            }
        }
        Ok(())
    }

    /// Trainings that have a folder.
    fn trainings(&self) -> Result<Vec<String>> {
        if !self.folder.exists() {
            return Ok(Vec::new());
        }
        let entries = fs::read_dir(&self.folder).map_err(Error::file(&self.folder, FileAction::Read))?;
        let mut found = Vec::new();
        for entry in entries {
            let path = entry.map_err(Error::file(&self.folder, FileAction::Read))?.path();
            if path.is_dir() {
                found.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
            }
        }
        Ok(found)
    }

    /// Adds one step.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn append(&mut self, report: &StepReport) -> Result<()> {
        let training = training_of(report);
        if self.open.as_ref().is_none_or(|(open, ..)| *open != training) {
            let folder = self.folder.join(&training);
            let path = match event_files(&folder)?.pop() {
                Some(path) => path,
                None => {
                    let path = folder.join(file_name());
                    files::write_bytes_atomically(&path, &first_record(report.time))?;
                    path
                }
            };
            let file = OpenOptions::new()
                .append(true)
                .open(&path)
                .map_err(files::write_error(&path, FileAction::Write))?;
            self.open = Some((training, path, file));
        }
        let Some((_, path, file)) = &mut self.open else { return Ok(()) };
        // One write: whoever is killed leaves whole records, or one cut short that the next process replaces.
        file.write_all(&record(&step_event(report))).map_err(files::write_error(path, FileAction::Write))
    }
}

/// The folder of a step's training: TensorBoard shows each as a run of its own.
fn training_of(report: &StepReport) -> String {
    report.stage.training(&report.part)
}

/// TensorBoard reads files whose names contain `tfevents`, in the order of their names.
fn file_name() -> String {
    format!("events.out.tfevents.{:010}.cpift-engine", machine::unix_seconds() as u64)
}

/// The event files of a folder in the order of their names.
fn event_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).map_err(Error::file(folder, FileAction::Read))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(Error::file(folder, FileAction::Read))?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("events.out.tfevents.")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn first_record(time: f64) -> Vec<u8> {
    let mut event = Message::default();
    event.double(1, time);
    event.bytes(3, FILE_VERSION.as_bytes());
    record(&event.0)
}

/// `Event { wall_time = 1, step = 2, summary = 5 }` with a scalar for every number of the step.
fn step_event(report: &StepReport) -> Vec<u8> {
    let mut summary = Message::default();
    let mut scalar = |tag: &str, value: f64| {
        // Summary.Value { tag = 1, simple_value = 2 }
        let mut entry = Message::default();
        entry.bytes(1, tag.as_bytes());
        entry.float(2, value as f32);
        summary.bytes(1, &entry.0);
    };
    scalar("loss", report.loss);
    for (task, loss) in &report.task_losses {
        scalar(&format!("task_loss/{task}"), *loss);
    }
    for sample in report.evaluation.iter().chain(&report.measures) {
        scalar(&format!("evaluation_loss/{}", sample.task), sample.score.loss);
        if let Some(share) = sample.score.share() {
            scalar(&format!("evaluation_score/{}", sample.task), share);
        }
    }
    scalar("learning_rate", report.learning_rate);
    scalar("gradient_norm", report.gradient_norm);
    scalar("frozen_parameters", report.frozen as f64);
    scalar("tokens_per_second", report.tokens as f64 / report.seconds.max(1e-9));
    let mut event = Message::default();
    event.double(1, report.time);
    event.integer(2, report.number);
    event.bytes(5, &summary.0);
    event.0
}

/// A TFRecord; all numbers are little-endian.
fn record(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(content.len() + 16);
    record.extend(length);
    record.extend(masked_crc(&length).to_le_bytes());
    record.extend(content);
    record.extend(masked_crc(content).to_le_bytes());
    record
}

/// The checksum of TFRecords: CRC-32C, rotated right by 15 bits, plus a constant.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// A message of Protocol Buffers under construction: its fields one after the other.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    /// Every field begins with its number and how its content is laid out.
    fn key(&mut self, field: u64, wire_type: u64) {
        self.varint(field << 3 | wire_type);
    }

    fn integer(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn double(&mut self, field: u64, value: f64) {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.key(field, 2);
        self.varint(value.len() as u64);
        self.0.extend(value);
    }

    fn float(&mut self, field: u64, value: f32) {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tensorboard.summary.writer.record_writer.RecordWriter` (2.21) writes for
    /// `Event(wall_time=1.5, file_version="brain.Event:2")`.
    #[test]
    fn the_first_record_is_tensorboards() {
        let hex: String = first_record(1.5).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c");
    }

    /// RFC 3720, appendix B.4: 32 bytes of zeros have the CRC-32C 8a9136aa.
    #[test]
    fn checksums_are_masked() {
        assert_eq!(crc32c::crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(masked_crc(&[0; 32]), 0x0fd7_fffa);
    }

    #[test]
    fn long_numbers_take_several_bytes() {
        let mut message = Message::default();
        message.integer(2, 300);
        assert_eq!(message.0, [0x10, 0xac, 0x02]);
    }
}
