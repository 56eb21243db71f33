//! Merging model folders of any architecture, out of core.
//!
//! Tensors are matched by name and never are in memory all at once. A [`Merge`] says what is written and from what
//! (`plan.rs`, `matching.rs`). Threads read ahead blocks with the same elements of all sources (`reader.rs`), the device's
//! threads combine them tile by tile (`run.rs`, `kernel.rs`), and a thread writes behind (`writer.rs`). A method that must
//! know something of a whole tensor first, an angle or a threshold, looks at it before: in memory where it is small enough,
//! from the disk once more where it is not. So memory depends neither on the models' size nor on their number; the fusion of
//! training (`cpift.rs`) holds three copies of a tensor besides.

mod clock;
mod convert;
mod cpift;
mod della;
mod gram;
mod kernel;
mod matching;
mod method;
mod options;
mod output;
mod plan;
mod reader;
mod run;
mod sce;
mod sources;
mod tally;
mod tile;
mod updates;
mod vocabulary;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use cpift_engine::{CpuDevice, Device};
use serde::Serialize;

pub(crate) use self::convert::{narrow, widen, widen_finite};
use self::matching::Matched;
pub(crate) use self::matching::match_tensors;
pub(crate) use self::output::{OutputFiles, files_beside_weights};
pub(crate) use self::plan::{Shard, TensorPlan, shards};
use crate::checkpoint::{SHARD_BYTES, SINGLE_FILE, TensorFolder, WeightType};
use crate::error::{Error, Result};
use crate::files::{ResumableFolder, hash_texts, require_free_space};
pub(crate) use method::How;
pub use method::{Method, Rescale};
pub use options::{BREADCRUMBS, DENSITY, DOT_THRESHOLD, EPSILON, FRACTION, MergeRequest, Parameters};

/// Bytes above which the weights are split into shards, as `transformers` does.
pub const DEFAULT_SHARD_BYTES: u64 = SHARD_BYTES;

/// A merge whose inputs are opened and checked; nothing is written yet.
#[derive(Debug)]
pub struct Merge {
    models: Vec<TensorFolder>,
    tensors: Vec<TensorPlan>,
    shards: Vec<Shard>,
    files: OutputFiles,
    notices: Vec<String>,
}

/// How far a merge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MergeProgress {
    /// Bytes of the merged model that are made, of those that this process makes.
    pub done: u64,
    /// All of them.
    pub total: u64,
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct MergeReport {
    /// Tensors of the merged model.
    pub tensors: usize,
    /// Bytes that were read by this process.
    pub read: u64,
    /// Bytes of the merged weights that this process wrote.
    pub written: u64,
    /// Time from the first byte to the last, flushed to the disk.
    pub seconds: f64,
    /// How much of it at least one thread waited for the system to read, write or flush.
    pub disk_seconds: f64,
    /// Spherical interpolations.
    pub interpolations: u64,
    /// Those among them that were linear.
    pub linear: u64,
    /// Coordinates in the core of one model, which are that model's.
    pub transplanted: u64,
    /// Coordinates in the cores of several.
    pub conflicts: u64,
}

impl Merge {
    /// Opens the models and checks that they can be merged.
    ///
    /// # Errors
    /// Numbers that do not fit the method; a folder that is no model's, or damaged; tensors that do not match, by name.
    pub fn new(request: &MergeRequest) -> Result<Self> {
        request.check()?;
        let models: Vec<TensorFolder> =
            request.folders().iter().map(|folder| TensorFolder::open(folder)).collect::<Result<_>>()?;
        let matches = match_tensors(&models)?;
        vocabulary::require_same(&models)?;
        let plan = |matched: Matched| {
            let is_float = WeightType::of(matched.dtype).is_some();
            let (how, sources) = match is_float {
                true => request.how(&matched.name),
                false => (method::How::Same, (0..models.len()).collect()),
            };
            let source = |model: usize| (model, matched.names[model].clone());
            TensorPlan {
                dtype: request.dtype.filter(|_| is_float).map_or(matched.dtype, WeightType::dtype),
                sources: sources.into_iter().map(source).collect(),
                name: matched.name,
                shape: matched.shape,
                how,
            }
        };
        let mut tensors: Vec<TensorPlan> = matches.tensors.into_iter().map(plan).collect();
        let shards = shards(&mut tensors, request.shard_bytes, SINGLE_FILE)?;
        let mut notices: Vec<String> = matches.head_notice.into_iter().chain(matches.notices).collect();
        notices.extend(output::differences(&models));
        let files = OutputFiles::of(&models[0], &tensors, matches.tied)?;
        Ok(Self { models, tensors, shards, files, notices })
    }

    /// What a person should know about the models, a line each.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// Elements of the merged model.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.elements() as u64).sum()
    }

    /// Files of the merged weights.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Bytes of the merged model.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.bytes(&self.tensors)).sum::<u64>() + self.files.bytes()
    }

    /// Merges into a folder, which appears whole or not at all; with `resume` it goes on with what an interrupted merge of
    /// the same made. Where `stop` becomes true, what is whole stays for that.
    ///
    /// # Errors
    /// The folder exists and is not empty; too little space; NaN or infinity, by tensor and element; what a float type
    /// cannot hold; [`Error::Interrupted`]; the system's.
    pub fn run(
        &self,
        device: &Device,
        out: &Path,
        resume: bool,
        stop: &AtomicBool,
        observer: &mut (dyn FnMut(MergeProgress) + Send),
    ) -> Result<MergeReport> {
        let Device::Cpu(cpu) = device else {
            return Err(Error::Job("models are merged on the CPU".to_owned()));
        };
        let mut folder = ResumableFolder::open(out, &self.identity()?, resume)?;
        let there = folder.bytes();
        let outcome = require_free_space(folder.destination(), self.bytes().saturating_sub(there))
            .and_then(|()| self.fill((device, cpu), &mut folder, stop, observer));
        match outcome {
            Ok(report) => folder.commit().map(|()| report),
            Err(error @ Error::Interrupted { .. }) => Err(error),
            // Files that are whole are still of use once there is room, or the disk is in order again.
            Err(error) if there > 0 || matches!(error, Error::File { .. }) && folder.bytes() > 0 => {
                Err(error)
            }
            Err(error) => {
                folder.discard();
                Err(error)
            }
        }
    }

    fn fill(
        &self,
        (device, cpu): (&Device, &CpuDevice),
        folder: &mut ResumableFolder,
        stop: &AtomicBool,
        observer: &mut (dyn FnMut(MergeProgress) + Send),
    ) -> Result<MergeReport> {
        let work = run::Work {
            device,
            cpu,
            tensors: &self.tensors,
            models: &self.models,
            shards: &self.shards,
            stop,
        };
        let report = work.run(folder, observer)?;
        self.files.write(folder, &self.shards, &self.tensors)?;
        Ok(report)
    }

    /// Hash of all that the merged model follows from: what is done with which tensors, the copied files, and of the
    /// weights' files length and time.
    fn identity(&self) -> Result<String> {
        let mut texts = vec![env!("CARGO_PKG_VERSION").to_owned(), self.files.identity()];
        for model in &self.models {
            for file in model.files() {
                let (length, time) = file.stamp()?;
                texts.push(format!("{length} {time:?}"));
            }
        }
        texts.extend(self.tensors.iter().map(|tensor| format!("{tensor:?}")));
        texts.extend(self.shards.iter().map(|shard| format!("{} {:?}", shard.name, shard.tensors)));
        Ok(hash_texts(texts.iter().map(String::as_str)))
    }

    /// The folders that are read, in the order in which plans number them.
    pub fn folders(&self) -> impl Iterator<Item = PathBuf> {
        self.models.iter().map(|model| model.folder().to_owned())
    }
}
