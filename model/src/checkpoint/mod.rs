//! Model folders as `transformers` has them: `config.json` and safetensors, single or sharded.
//!
//! [`Checkpoint::open`] checks all that can be checked without reading the weights;
//! [`Checkpoint::load_into`] streams them, converted to f32, into the flat parameters. [`write_model`]
//! writes such a folder whole or not at all. [`TensorFile`] and [`write_tensors`] are the same for named
//! tensors in general: masks, moments, importance.

mod export;
mod header;
mod load;
mod save;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cpift_engine::{Layout, View, ViewMut};
use serde::Deserialize;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::files::require_plain_name;
pub(crate) use export::COPIED_FILES;
pub use export::{ModelFiles, add_model, write_model};
pub use header::TensorFile;
use load::Load;
pub use load::staging_bytes;
pub use safetensors::Dtype;
pub(crate) use save::too_large_for;
pub use save::{NamedTensor, TensorData, WeightType, layout_tensors, write_tensors};

/// Name of the weights where they are in one file.
const SINGLE_FILE: &str = "model.safetensors";

/// Name of the file that says which shard holds which tensor.
const INDEX_FILE: &str = "model.safetensors.index.json";

/// Name of the head, which a tied model may store beside the embedding.
const HEAD: &str = "lm_head.weight";

/// Name of the token embedding.
const EMBEDDING: &str = "model.embed_tokens.weight";

/// Names listed in one message; the rest are counted.
const NAMES_LISTED: usize = 4;

/// A model folder, opened and checked; its weights are still on the disk.
#[derive(Debug)]
pub struct Checkpoint {
    config: ModelConfig,
    layout: Layout,
    /// The safetensors files: one, or the shards by name.
    files: Vec<TensorFile>,
    /// For each segment of the layout, the file that holds it.
    file_of_segment: Vec<usize>,
    /// The file that holds a tied model's head, if one does.
    tied_head: Option<usize>,
}

impl Checkpoint {
    /// Opens a folder and checks configuration, files, names, shapes, types and lengths.
    ///
    /// # Errors
    /// Whatever is missing, damaged, superfluous or of the wrong shape or type, by name.
    pub fn open(folder: &Path) -> Result<Self> {
        let config = ModelConfig::read(&folder.join("config.json"))?;
        let layout = config.layout()?;
        let (weights, files) = open_files(folder)?;
        let file_of_name = locate(&weights, &files)?;
        let file_of_segment = check_tensors(&weights, &layout, &files, &file_of_name)?;
        let tied_head = file_of_name.get(HEAD).copied().filter(|_| config.tied);
        Ok(Self { config, layout, files, file_of_segment, tied_head })
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The layout of its flat parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The safetensors files, in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(TensorFile::path)
    }

    /// Reads all weights into the flat parameters ([`Layout::len`] elements; padding is left as it is),
    /// in parallel on the current rayon pool.
    ///
    /// # Errors
    /// A file cannot be read, or a weight is NaN or infinite: tensor and index are named.
    pub fn load_into(&self, weights: ViewMut<'_, f32>) -> Result<()> {
        check_layout_length(&self.layout, weights.len())?;
        let mut weights = weights;
        let mut loads = Vec::with_capacity(self.file_of_segment.len());
        let mut rest = weights.reborrow();
        let mut start = 0;
        for (segment, &file) in self.layout.segments().iter().zip(&self.file_of_segment) {
            let (_, at_segment) = rest.split_at(segment.offset - start);
            let (target, after) = at_segment.split_at(segment.length);
            loads.push(Load { file: &self.files[file], name: &segment.name, target });
            (rest, start) = (after, segment.offset + segment.length);
        }
        load::run(loads)?;
        self.check_tied_head(weights.as_view())
    }

    /// A tied model that also stores a head must store the embedding there: `transformers` would take
    /// differing weights for an untied model.
    fn check_tied_head(&self, weights: View<'_, f32>) -> Result<()> {
        let (Some(file), Some(embedding)) = (self.tied_head, self.layout.find(EMBEDDING)) else {
            return Ok(());
        };
        let file = &self.files[file];
        if load::equals(file, HEAD, weights.slice(self.layout.segment(embedding).range()))? {
            return Ok(());
        }
        let reason = format!(
            "`{HEAD}` differs from `{EMBEDDING}`, but config.json says they are tied; \
             set `tie_word_embeddings` to false to keep both"
        );
        Err(Error::format(file.path(), reason))
    }
}

/// Opens the safetensors files of a folder. Also returns the file that lists the tensors, for messages.
fn open_files(folder: &Path) -> Result<(PathBuf, Vec<TensorFile>)> {
    let single = folder.join(SINGLE_FILE);
    if single.is_file() {
        let file = TensorFile::open(&single)?;
        return Ok((single, vec![file]));
    }
    let index = folder.join(INDEX_FILE);
    if !index.is_file() {
        let reason = if folder.join("pytorch_model.bin").is_file() {
            "there is only pytorch_model.bin; save the model again as safetensors".to_owned()
        } else {
            format!("there is neither {SINGLE_FILE} nor {INDEX_FILE}")
        };
        return Err(Error::format(folder, reason));
    }
    let shards = read_index(&index)?;
    let open = |(shard, names): (&String, &Vec<String>)| {
        let path = folder.join(shard);
        if !path.is_file() {
            let reason = format!("the shard {shard}, which should hold `{}`, is missing", names[0]);
            return Err(Error::format(&index, reason));
        }
        let file = TensorFile::open(&path)?;
        match names.iter().find(|name| file.find(name).is_none()) {
            Some(name) => {
                Err(Error::format(&index, format!("`{name}` is not in {shard}, where it should be")))
            }
            None => Ok(file),
        }
    };
    let files = shards.iter().map(open).collect::<Result<Vec<_>>>()?;
    Ok((index, files))
}

/// The index of a sharded model; other fields are for people.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards of an index, by name, with the tensors each should hold.
fn read_index(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let text = std::fs::read_to_string(path).map_err(Error::file(path, "read"))?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|error| Error::format(path, format!("not an index of shards: {error}")))?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, shard) in index.weight_map {
        require_plain_name(path, &shard)?;
        shards.entry(shard).or_default().push(name);
    }
    if shards.is_empty() {
        return Err(Error::format(path, "the index names no shard"));
    }
    Ok(shards)
}

/// The file that holds each tensor, by name.
fn locate(weights: &Path, files: &[TensorFile]) -> Result<BTreeMap<String, usize>> {
    let mut file_of_name: BTreeMap<String, usize> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        for name in file.names() {
            if let Some(other) = file_of_name.insert(name.clone(), index) {
                let (one, two) = (files[other].path().display(), file.path().display());
                let reason = format!("`{name}` is in two shards, {one} and {two}");
                return Err(Error::format(weights, reason));
            }
        }
    }
    Ok(file_of_name)
}

/// Compares what is stored with what the layout asks for; returns the file of every segment.
fn check_tensors(
    weights: &Path,
    layout: &Layout,
    files: &[TensorFile],
    file_of_name: &BTreeMap<String, usize>,
) -> Result<Vec<usize>> {
    let is_missing = |name: &&str| !file_of_name.contains_key(*name);
    let wanted = layout.segments().iter().map(|segment| segment.name.as_str());
    if let Some(names) = list_names(wanted.filter(is_missing)) {
        let reason = format!("missing, though config.json asks for it: {names}");
        return Err(Error::format(weights, reason));
    }
    let is_extra = |name: &&str| layout.find(name).is_none() && *name != HEAD && !is_rotary_table(name);
    if let Some(names) = list_names(file_of_name.keys().map(String::as_str).filter(is_extra)) {
        let reason = format!("not a part of the model config.json describes: {names}");
        return Err(Error::format(weights, reason));
    }
    let file_of_segment = |segment: &cpift_engine::Segment| {
        let file = file_of_name[segment.name.as_str()];
        files[file].require_floats(&segment.name, &segment.shape)?;
        Ok(file)
    };
    if let (Some(&file), Some(embedding)) = (file_of_name.get(HEAD), layout.find(EMBEDDING)) {
        files[file].require_floats(HEAD, &layout.segment(embedding).shape)?;
    }
    layout.segments().iter().map(file_of_segment).collect()
}

/// Frequencies that old releases stored with the weights; they follow from the configuration.
fn is_rotary_table(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}

/// The first few names and how many more there are; `None` when there is none.
fn list_names<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<String> {
    let listed: Vec<_> = names.by_ref().take(NAMES_LISTED).map(|name| format!("`{name}`")).collect();
    let more = names.count();
    let listed = (!listed.is_empty()).then(|| listed.join(", "))?;
    Some(if more == 0 { listed } else { format!("{listed} and {more} more") })
}

fn check_layout_length(layout: &Layout, length: usize) -> Result<()> {
    if length == layout.len() {
        return Ok(());
    }
    Err(cpift_engine::Error::Length {
        op: "checkpoint",
        name: "weights",
        expected: layout.len(),
        actual: length,
    }
    .into())
}
