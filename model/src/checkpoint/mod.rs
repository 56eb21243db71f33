//! Model folders as `transformers` has them: `config.json` and safetensors, single or sharded.
//!
//! [`Checkpoint::open`] checks all that can be checked without reading the weights;
//! [`Checkpoint::load_into`] streams them, converted to f32, into the flat parameters. [`write_model`]
//! writes such a folder whole or not at all. [`TensorFile`] and [`write_tensors`] are the same for named
//! tensors in general: masks, moments, importance.

mod adapted;
mod adapted_tensors;
mod export;
mod folder;
mod header;
mod load;
mod low_rank;
mod names;
mod save;
mod tensors;

use std::ops::Range;
use std::path::Path;

use cpift_engine::{Layout, ViewMut};

use crate::adapter::is_adapter;
use crate::config::ModelConfig;
use crate::error::{Error, Result};
pub use export::{ModelFiles, add_model, write_model};
pub(crate) use export::{SHARD_BYTES, SMALL_FILES, copied_files, is_copied, is_legal, is_licence, split};
use folder::Weights;
pub(crate) use folder::{DELTA_FILE, OtherWeights, read_index};
pub use header::TensorFile;
use load::Load;
pub use load::staging_bytes;
use low_rank::LowRank;
pub(crate) use low_rank::transposed;
pub(crate) use names::{is_embedding, is_head, is_head_bias, is_stored_table, plain_name};
pub use safetensors::Dtype;
pub use save::{NamedTensor, TensorData, WeightType, layout_tensors, write_tensors};
pub(crate) use save::{TensorWriter, first_too_large_for, header_of, too_large_for};
pub(crate) use tensors::TensorFolder;

/// Name of the weights where they are in one file.
pub(crate) const SINGLE_FILE: &str = "model.safetensors";

/// Name of the file that says which shard holds which tensor.
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Name of the head, which a tied model may store beside the embedding.
const HEAD: &str = "lm_head.weight";

/// Name of the token embedding.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// A model folder, opened and checked; its weights are still on the disk.
#[derive(Debug)]
pub struct Checkpoint {
    config: ModelConfig,
    layout: Layout,
    weights: Weights,
    /// Where each segment of the layout is stored.
    segments: Vec<Place>,
    /// Where the head is stored of a model that is to be used as a tied one: it must equal the embedding.
    tied_head: Option<Place>,
    notices: Vec<String>,
}

/// Where a tensor is stored.
#[derive(Debug, Clone)]
struct Place {
    /// Number of the file.
    file: usize,
    /// Name in that file.
    name: String,
    /// What an adapter adds to it.
    addition: Option<LowRank>,
}

impl Checkpoint {
    /// Opens a folder and checks configuration, files, names, shapes, types and lengths. Of an adapter's folder it is its
    /// base's model with the adapter's changes.
    ///
    /// # Errors
    /// Whatever is missing, damaged, superfluous or of the wrong shape or type, by name; a folder that holds
    /// something else than a model.
    pub fn open(folder: &Path) -> Result<Self> {
        if is_adapter(folder) {
            return adapted::open(folder);
        }
        folder::require_model(folder)?;
        let mut config = ModelConfig::read(&folder.join("config.json"))?;
        let mut layout = config.layout()?;
        let weights = folder::open_weights(folder, |name| layout.find(name).is_some())?;
        let mut found = names::find(&weights, &layout, config.tied)?;
        let mut notices = config.notices().to_vec();
        if !found.head_is_embedding(&weights, &layout)? {
            config = config.with_tied(false);
            layout = config.layout()?;
            found = names::find(&weights, &layout, false)?;
            notices.push(format!(
                "{}: `{HEAD}` differs from `{EMBEDDING}`: the model is taken as one whose head is not tied, as in \
                 transformers, though config.json says it is",
                weights.listing.display()
            ));
        }
        notices.extend(found.notice);
        let segments = found.segments;
        Ok(Self { config, layout, weights, segments, tied_head: None, notices })
    }

    /// The same model for use beside models with a tied head: one whose head is not tied must store the
    /// embedding there, which reading the weights checks. A model with a tied head is left as it is.
    ///
    /// # Errors
    /// When the layout's size overflows.
    pub fn into_tied(mut self) -> Result<Self> {
        if self.config.tied {
            return Ok(self);
        }
        self.tied_head = self.position(HEAD).map(|head| self.segments.remove(head));
        self.config = self.config.with_tied(true);
        self.layout = self.config.layout()?;
        Ok(self)
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The layout of its flat parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// What a person should know about the folder, a line each.
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    /// The safetensors files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.weights.files.iter().map(TensorFile::path)
    }

    /// The same, opened.
    pub(crate) fn tensor_files(&self) -> &[TensorFile] {
        &self.weights.files
    }

    /// Reads all weights into the flat parameters ([`Layout::len`] elements; padding is left as it is),
    /// in parallel on the current rayon pool.
    ///
    /// # Errors
    /// A file cannot be read, or a weight is NaN or infinite: tensor and index are named. A tied head is
    /// stored that differs from the embedding.
    pub fn load_into(&self, weights: ViewMut<'_, f32>) -> Result<()> {
        check_layout_length(&self.layout, weights.len())?;
        self.load_range(0..self.layout.len(), weights)?;
        self.check_tied_head()
    }

    /// Reads the weights of a range of the flat parameters (padding is left as it is), in parallel on the current rayon
    /// pool. A tied head that is stored is not compared with the embedding.
    ///
    /// # Errors
    /// As [`Checkpoint::load_into`]; `weights` is not as long as the range, or the range not inside the layout.
    pub fn load_range(&self, range: Range<usize>, weights: ViewMut<'_, f32>) -> Result<()> {
        check_length(range.len(), weights.len())?;
        check_length(range.end.min(self.layout.len()), range.end)?;
        let mut loads = Vec::with_capacity(self.segments.len());
        let (mut rest, mut done) = (weights, range.start);
        for (segment, place) in self.layout.segments().iter().zip(&self.segments) {
            let of_segment = segment.range();
            let wanted = of_segment.start.max(range.start)..of_segment.end.min(range.end);
            if wanted.is_empty() {
                continue;
            }
            let (_, at_segment) = rest.split_at(wanted.start - done);
            let (target, after) = at_segment.split_at(wanted.len());
            let in_tensor = wanted.start - of_segment.start..wanted.end - of_segment.start;
            let stored = self.weights.stored(place);
            loads.push(Load { stored, elements: segment.length, range: in_tensor, target });
            (rest, done) = (after, wanted.end);
        }
        load::run(loads)
    }

    /// Reads all weights, a piece at a time, and keeps none: finds what [`Checkpoint::load_into`] would.
    ///
    /// # Errors
    /// As [`Checkpoint::load_into`].
    pub fn check_weights(&self) -> Result<()> {
        load::check(self.segments.iter().map(|place| self.weights.stored(place)).collect())?;
        self.check_tied_head()
    }

    /// Number of a tensor among the layout's segments.
    fn position(&self, name: &str) -> Option<usize> {
        self.layout.segments().iter().position(|segment| segment.name == name)
    }

    /// Where a tensor of the layout is stored.
    fn place(&self, name: &str) -> Option<&Place> {
        self.position(name).map(|position| &self.segments[position])
    }

    /// The head of a model that is used as a tied one must be its embedding.
    fn check_tied_head(&self) -> Result<()> {
        let (Some(head), Some(embedding)) = (&self.tied_head, self.place(EMBEDDING)) else { return Ok(()) };
        let (head, embedding) = (self.weights.stored(head), self.weights.stored(embedding));
        if load::are_equal(head, embedding)? {
            return Ok(());
        }
        let reason = format!(
            "`{}` differs from `{}`, but the base's are tied, so a model whose head was trained apart cannot be \
             combined with it",
            head.name, embedding.name
        );
        Err(Error::format(head.file.path(), reason))
    }
}

fn check_layout_length(layout: &Layout, length: usize) -> Result<()> {
    check_length(layout.len(), length)
}

fn check_length(expected: usize, actual: usize) -> Result<()> {
    if actual == expected {
        return Ok(());
    }
    Err(cpift_engine::Error::Length { op: "checkpoint", name: "weights", expected, actual }.into())
}
