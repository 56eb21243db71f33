//! The cores in the run folder: a file of bits for each task, and a report.

use std::path::PathBuf;

use cpift_engine::{Layout, Mask, Segment};
use serde::{Deserialize, Serialize};

use super::Job;
use super::names::{CORE, REPORT};
use crate::checkpoint::{NamedTensor, TensorData, TensorFile, write_tensors};
use crate::error::{Error, Result};
use crate::files::{AtomicFolder, read_json};
use crate::progress::CoreReport;
use crate::stages::fuse::{Core, Cores};
use crate::stages::masks::{MASK_FORMAT, mask_file};
use crate::stages::pieces::LayoutPart;

/// What `core/report.json` holds, beside the masks' own files.
#[derive(Serialize, Deserialize)]
pub struct SavedCores {
    pub report: CoreReport,
    /// For each task the threshold of every tensor, in the layout's order.
    thresholds: Vec<Vec<f32>>,
}

/// Writes a core over `layout` into the folder under construction.
///
/// # Errors
/// When its file cannot be written.
pub fn write(writing: &mut AtomicFolder, layout: &Layout, core: &Core) -> Result<()> {
    // One tensor of bit words for each of the model's: bit j of a tensor is bit j%64 of word j/64.
    let words = |segment: &Segment| {
        &core.mask.words()[segment.offset / 64..(segment.offset + segment.length).div_ceil(64)]
    };
    let tensors: Vec<NamedTensor<'_>> = layout
        .segments()
        .iter()
        .map(|segment| NamedTensor {
            name: segment.name.clone(),
            shape: vec![words(segment).len()],
            data: TensorData::U64(words(segment)),
        })
        .collect();
    writing.write(&mask_file(&core.task), |file| write_tensors(file, &tensors, Some(MASK_FORMAT)))
}

/// Writes what is said of all cores, with each task's thresholds, into the folder under construction.
///
/// # Errors
/// When the file cannot be written.
pub fn write_report(writing: &mut AtomicFolder, report: CoreReport, thresholds: Vec<Vec<f32>>) -> Result<()> {
    writing.write_json(REPORT, &SavedCores { report, thresholds })
}

/// The cores of a run, read from their folder one at a time. Each must stay what it was.
pub struct RunCores<'a> {
    job: &'a Job,
    folder: PathBuf,
    saved: SavedCores,
}

impl<'a> RunCores<'a> {
    /// The cores in the job's run folder, where they are complete.
    ///
    /// # Errors
    /// What is said of them cannot be read.
    pub fn open(job: &'a Job) -> Result<Self> {
        let folder = job.out.join(CORE);
        let path = folder.join(REPORT);
        let saved = read_json(&path)?.ok_or_else(|| Error::format(&path, "is missing"))?;
        Ok(Self { job, folder, saved })
    }

    /// What is said of them.
    pub fn report(&self) -> &CoreReport {
        &self.saved.report
    }

    /// The coordinates that are in the core of any of these tasks; none where there are no tasks.
    ///
    /// # Errors
    /// As [`Cores::read`].
    pub fn union(&self, tasks: &[usize]) -> Result<Option<Mask>> {
        let mut union: Option<Mask> = None;
        for &task in tasks {
            let core = self.read(task)?.mask;
            match &mut union {
                Some(union) => union.union_with(&core)?,
                None => union = Some(core),
            }
        }
        Ok(union)
    }
}

impl Cores for RunCores<'_> {
    fn count(&self) -> usize {
        self.saved.report.tasks.len()
    }

    fn task(&self, index: usize) -> &str {
        &self.saved.report.tasks[index].task
    }

    fn read(&self, index: usize) -> Result<Core> {
        self.read_part(index, &LayoutPart::whole(&self.job.inputs.layout))
    }

    /// A file that is missing, cannot be read, has changed or does not fit the layout is an error.
    fn read_part(&self, index: usize, part: &LayoutPart) -> Result<Core> {
        let task = self.task(index).to_owned();
        let file = TensorFile::open(&self.folder.join(mask_file(&task)))?;
        let mut words = vec![0; part.layout.len().div_ceil(64)];
        for segment in part.layout.segments() {
            let stored = file.read_u64(&segment.name)?;
            let start = segment.offset / 64;
            words
                .get_mut(start..start + stored.len())
                .ok_or_else(|| Error::format(file.path(), format!("`{}` is too long", segment.name)))?
                .copy_from_slice(&stored);
        }
        self.job.device.scope(|| self.job.known.check(file.path()))?;
        let thresholds = self.saved.thresholds.get(index).and_then(|all| all.get(part.segments.clone()));
        let thresholds = thresholds.unwrap_or_default().to_vec();
        Ok(Core { task, mask: Mask::from_words(part.layout.len(), words)?, thresholds })
    }
}
