//! The cores in the run folder: a file of bits for each task, and a report.

use std::path::Path;

use cpift_engine::{Layout, Mask, Segment};
use serde::{Deserialize, Serialize};

use super::names::{REPORT, mask_file};
use crate::checkpoint::{NamedTensor, TensorData, TensorFile, write_tensors};
use crate::error::{Error, Result};
use crate::files::{AtomicFolder, read_json};
use crate::progress::{CoreReport, TaskCore};
use crate::stages::fuse::Core;

/// What `core/report.json` holds, beside the masks' own files.
#[derive(Serialize, Deserialize)]
pub struct SavedCores {
    pub report: CoreReport,
    /// For each task the threshold of every tensor, in the layout's order.
    thresholds: Vec<Vec<f32>>,
}

/// Writes cores over `layout` into the folder under construction.
///
/// # Errors
/// When a file cannot be written.
pub fn write(writing: &mut AtomicFolder, layout: &Layout, cores: &[Core], report: &CoreReport) -> Result<()> {
    for core in cores {
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
        let format = Some("bits: element j of a tensor is bit j % 64 of word j / 64");
        writing.write(&mask_file(&core.task), |file| write_tensors(file, &tensors, format))?;
    }
    let thresholds = cores.iter().map(|core| core.thresholds.clone()).collect();
    writing.write_json(REPORT, &SavedCores { report: report.clone(), thresholds }).map(drop)
}

/// Reads the cores over `layout` from their folder.
///
/// # Errors
/// A file is missing, cannot be read, or does not fit the layout.
pub fn read(folder: &Path, layout: &Layout) -> Result<(Vec<Core>, CoreReport)> {
    let path = folder.join(REPORT);
    let saved: SavedCores = read_json(&path)?.ok_or_else(|| Error::format(&path, "is missing"))?;
    let read = |(task, thresholds): (&TaskCore, Vec<f32>)| -> Result<Core> {
        let file = TensorFile::open(&folder.join(mask_file(&task.task)))?;
        let mut words = vec![0; layout.len().div_ceil(64)];
        for segment in layout.segments() {
            let part = file.read_u64(&segment.name)?;
            let start = segment.offset / 64;
            words
                .get_mut(start..start + part.len())
                .ok_or_else(|| Error::format(file.path(), format!("`{}` is too long", segment.name)))?
                .copy_from_slice(&part);
        }
        Ok(Core { task: task.task.clone(), mask: Mask::from_words(layout.len(), words)?, thresholds })
    };
    let cores = saved.report.tasks.iter().zip(saved.thresholds).map(read).collect::<Result<Vec<_>>>()?;
    Ok((cores, saved.report))
}
