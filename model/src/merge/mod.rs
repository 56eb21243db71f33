//! Merging model folders of any architecture, out of core.
//!
//! A [`MergeRequest`] says what is asked for: by options, or by a configuration of mergekit (`configuration.rs`). Tensors are
//! matched by name and never are in memory all at once. A [`Merge`] says what is written and from what (`plan.rs`,
//! `matching.rs`, `layers.rs` for models put together of slices, `vocabulary/` for other tokens). Threads read ahead blocks
//! with the same elements of all sources (`reader.rs`), the device's threads combine them tile by tile (`run.rs`,
//! `kernel.rs`), and a thread writes behind (`writer.rs`). A method that must know something of a whole tensor first, an
//! angle or a threshold, looks at it before: in memory where it is small enough, from the disk once more where it is not. So
//! memory depends neither on the models' size nor on their number; the fusion of training (`cpift.rs`) holds three copies of
//! a tensor besides.

mod clock;
mod configuration;
mod convert;
mod cpift;
mod della;
mod gram;
mod kernel;
mod layers;
mod matching;
mod method;
mod options;
mod output;
mod plan;
mod reader;
mod rows;
mod run;
mod sce;
mod settings;
mod sources;
mod tally;
mod tile;
mod updates;
mod vocabulary;
mod writer;
mod yaml;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use cpift_engine::{CpuDevice, Device};
use serde::Serialize;

pub(crate) use self::convert::{narrow, widen, widen_finite};
use self::layers::LayerName;
use self::matching::Matched;
pub(crate) use self::matching::{Sizes, match_tensors};
pub(crate) use self::output::{OutputFiles, files_beside_weights};
pub(crate) use self::plan::{Shard, TensorPlan, shards};
use self::rows::{Choice, TokenRows};
use self::vocabulary::Tokens;
use crate::checkpoint::{SHARD_BYTES, SINGLE_FILE, TensorFolder, WeightType, is_embedding};
use crate::error::{Error, Result};
use crate::files::{ResumableFolder, hash_texts, require_free_space};
pub(crate) use method::How;
pub use method::{Method, Rescale};
pub use options::{
    BREADCRUMBS, DENSITY, DOT_THRESHOLD, EPSILON, FRACTION, InputSlice, MergeRequest, OutputSlice,
};
pub use settings::{Condition, Interpolate, Parameters, Setting};
pub use vocabulary::Vocabulary;

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
        let open = |(number, folder): (usize, &PathBuf)| {
            TensorFolder::open(folder).map_err(|error| request.locate_model(number, error))
        };
        let models: Vec<TensorFolder> = request.models.iter().enumerate().map(open).collect::<Result<_>>()?;
        let is_sliced =
            request.slices.iter().flat_map(|slice| &slice.sources).any(|source| source.layers.is_some());
        let decided = vocabulary::decide(&models, request)?;
        let tokens = decided.tokens.as_ref();
        let sizes = if tokens.is_some() { Sizes::ButTokens } else { Sizes::All };
        let matches = match is_sliced {
            true => layers::match_slices(&models, &request.slices, sizes)
                .map_err(|error| request.locate(error))?,
            false => match_tensors(&models, sizes)?.into_sources(&request.slices),
        };
        let mut notices = request.notices.clone();
        notices.extend(matches.head_notice);
        notices.extend(matches.notices);
        notices.extend(decided.notices);
        notices.extend(output::differences(&models));
        let plans = matches.tensors.into_iter().map(|matched| plan(request, &models, tokens, matched));
        let mut tensors = plans.collect::<Result<Vec<_>>>()?;
        if tokens.is_some() {
            require_order(&models[0], &tensors)?;
        }
        let shards = plan::shards(&mut tensors, request.shard_bytes, SINGLE_FILE)?;
        let mut files = OutputFiles::of(&models[0], &tensors, matches.tied)?;
        if let Some(origins) = &matches.origins {
            files.set_layers(&models, origins);
        }
        if let Some(tokens) = decided.tokens {
            files.set_tokens(tokens)?;
        }
        if let Some(template) = &request.chat_template {
            files.set_chat_template(template)?;
        }
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

    /// Adds a file to those of the merged model.
    pub(crate) fn add_file(&mut self, name: &str, text: String) {
        self.files.add(name, text);
    }

    /// Hash of all that the merged model follows from: what is done with which tensors, the copied files, and of the
    /// weights' files length and time.
    pub(crate) fn identity(&self) -> Result<String> {
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

/// How one tensor is made.
fn plan(
    request: &MergeRequest,
    models: &[TensorFolder],
    tokens: Option<&Tokens>,
    matched: Matched,
) -> Result<TensorPlan> {
    let is_float = WeightType::of(matched.dtype).is_some();
    let slice = &request.slices[matched.slice];
    let (how, sources) = match is_float {
        true => request.how(slice, &matched)?,
        false => (method::How::Same, (0..slice.sources.len()).collect()),
    };
    let source = |source: usize| (slice.sources[source].model, matched.names[source].clone());
    let sources: Vec<(usize, String)> = sources.into_iter().map(source).collect();
    let tokens = tokens.filter(|_| is_float && matching::has_token_rows(&matched.name));
    let rows = match tokens {
        Some(tokens) => order_rows((slice, models), &matched, &sources, tokens)?,
        None => None,
    };
    let mut shape = matched.shape;
    if let (Some(_), Some(tokens), Some(count)) = (&rows, tokens, shape.first_mut()) {
        *count = tokens.rows;
    }
    Ok(TensorPlan {
        dtype: request.dtype.filter(|_| is_float).map_or(matched.dtype, WeightType::dtype),
        sources,
        name: matched.name,
        shape,
        how,
        rows,
    })
}

/// Where the rows of a tensor with a row for every token come from; none of a single number, and of one that is only named
/// so and has fewer rows in all models.
///
/// # Errors
/// It has fewer rows than there are tokens in some of the models, or another number in each.
fn order_rows(
    (slice, models): (&OutputSlice, &[TensorFolder]),
    matched: &Matched,
    sources: &[(usize, String)],
    tokens: &Tokens,
) -> Result<Option<TokenRows>> {
    let [first, inside @ ..] = matched.shape.as_slice() else { return Ok(None) };
    let (mut short, mut is_other) = (Vec::new(), false);
    for (model, name) in sources {
        let (file, info) = models[*model].require(name)?;
        let (rows, needed) = (info.shape.first().copied().unwrap_or(0), tokens.needed[*model]);
        is_other |= rows != *first;
        if rows < needed {
            short.push((
                file,
                format!("`{name}` has {rows} rows, and tokens have numbers up to {}", needed - 1),
            ));
        }
    }
    match short.first() {
        Some(_) if short.len() == sources.len() && !is_other => return Ok(None),
        Some((file, reason)) => return Err(Error::format(file.path(), reason)),
        None => {}
    }
    let preferred = slice.preferred.and_then(|model| {
        let of_source = sources.iter().find(|(number, _)| *number == model);
        let own = || Some((model, matching::token_rows(&models[model], &matched.name)?.to_owned()));
        of_source.cloned().or_else(own)
    });
    let choice = Choice {
        width: inside.iter().product(),
        rows: tokens.rows,
        sources: sources.to_vec(),
        of_models: &tokens.of_models,
        preferred,
    };
    Ok(Some(TokenRows::choose(choice, models)))
}

/// Fails where rows of tokens would stay in the order in which the models have them.
fn require_order(first: &TensorFolder, tensors: &[TensorPlan]) -> Result<()> {
    let is_ordered = |tensor: &&TensorPlan| tensor.rows.is_some() && is_embedding(&tensor.name);
    let Some(embedding) = tensors.iter().find(is_ordered) else {
        let reason = "has no tensor that is known as the embedding of its tokens, whose rows could be put in their order";
        return Err(Error::format(first.listing(), reason));
    };
    let rows = vocabulary::rows_of(first.config());
    // Where tokens are as many as there are coordinates, the number of rows says nothing.
    if embedding.shape.get(1) == Some(&rows) {
        return Ok(());
    }
    let is_left = |tensor: &&TensorPlan| {
        let is_outside = tensor.float().is_some() && LayerName::of(&tensor.name).is_none();
        is_outside && tensor.rows.is_none() && tensor.shape.first() == Some(&rows)
    };
    match tensors.iter().find(is_left) {
        None => Ok(()),
        Some(tensor) => {
            let reason = format!(
                "`{}` has {rows} rows, as many as there are tokens, and is not known as one whose rows are put in their order",
                tensor.name
            );
            Err(Error::format(first.listing(), reason))
        }
    }
}
