//! A model folder's files: which hold the weights, and what a folder looks like that has none.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use cpift_engine::Layout;
use serde::Deserialize;

use super::header::TensorFile;
use super::load::Stored;
use super::{INDEX_FILE, Place, SINGLE_FILE};
use crate::error::{Error, FileAction, Result};
use crate::files::{read_input_text, require_plain_name};

/// Name of the configuration of an adapter: weights that are added to a model's.
const ADAPTER: &str = "adapter_config.json";

/// The safetensors files of a folder.
#[derive(Debug)]
pub(super) struct Weights {
    /// The file that lists the tensors, for messages.
    pub listing: PathBuf,
    /// One, or the shards by name.
    pub files: Vec<TensorFile>,
}

impl Weights {
    /// The tensor at a place.
    pub fn stored<'a>(&'a self, place: &'a Place) -> Stored<'a> {
        Stored { file: &self.files[place.file], name: &place.name }
    }
}

/// Fails when a folder is none, or holds something else than a model, saying what it looks like.
pub(super) fn require_model(folder: &Path) -> Result<()> {
    if folder.is_file() {
        return Err(Error::format(folder, "is a file; give the folder that holds the model's config.json"));
    }
    let config = folder.join("config.json");
    if !folder.is_dir() {
        let missing = io::Error::new(ErrorKind::NotFound, describe_missing(folder));
        return Err(Error::file(&config, FileAction::Read)(missing));
    }
    let has = |name: &str| folder.join(name).is_file();
    let has_weights = has(SINGLE_FILE) || has(INDEX_FILE);
    let has_adapter = has("adapter_model.safetensors") || has("adapter_model.bin");
    if has(ADAPTER) && (has_adapter || !has_weights) {
        return Err(Error::format(
            folder,
            format!(
                "looks like an adapter ({ADAPTER}), not a whole model: merge it into its base (in PEFT: \
                 `merge_and_unload()`), save that, and give its folder"
            ),
        ));
    }
    if config.exists() {
        return Ok(());
    }
    match describe_without_config(folder) {
        Some(reason) => Err(Error::format(folder, reason)),
        None => Ok(()),
    }
}

/// What to do about a folder that does not exist.
fn describe_missing(folder: &Path) -> String {
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    let names = (parent.and_then(Path::file_name), folder.file_name());
    match (parent, names) {
        (Some(parent), (Some(owner), Some(name))) if !parent.is_dir() => {
            let id = format!("{}/{}", owner.to_string_lossy(), name.to_string_lossy());
            format!(
                "there is no such folder; if `{id}` is a model of the Hugging Face Hub, download it first \
                 (`hf download {id} --local-dir FOLDER`) and give that folder"
            )
        }
        _ => "there is no such folder".to_owned(),
    }
}

/// What a folder without a configuration looks like.
fn describe_without_config(folder: &Path) -> Option<String> {
    if folder.join("recipe.toml").is_file() && folder.join("final/config.json").is_file() {
        return Some("looks like a run folder: its model is in the folder `final` inside".to_owned());
    }
    let mut names: Vec<String> = folder
        .read_dir()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    if let Some(name) = names.iter().find(|name| name.ends_with(".gguf")) {
        return Some(format!(
            "looks like a GGUF model ({name}), which is not read: give the folder with the model's safetensors"
        ));
    }
    if names.iter().any(|name| name == "params.json" || name == "consolidated.00.pth") {
        return Some(
            "looks like a model in its publisher's own format: give the folder that `transformers` loads"
                .to_owned(),
        );
    }
    let inside = names.iter().find(|name| folder.join(name).join("config.json").is_file())?;
    Some(format!("has no config.json; the folder `{inside}` inside it has one: give that"))
}

/// Opens the safetensors files of a folder. What an index says of a tensor of the layout must be so.
pub(super) fn open_weights(folder: &Path, layout: &Layout) -> Result<Weights> {
    let single = folder.join(SINGLE_FILE);
    // Whatever has the name is opened, so that a message says what it is instead.
    if single.exists() {
        let file = TensorFile::open(&single)?;
        return Ok(Weights { listing: single, files: vec![file] });
    }
    let index = folder.join(INDEX_FILE);
    if !index.exists() {
        return Err(Error::format(folder, describe_without_weights(folder)));
    }
    let open = |(shard, names): (&String, &Vec<String>)| {
        let path = folder.join(shard);
        if !path.exists() {
            let reason = format!("the shard {shard}, which should hold `{}`, is missing", names[0]);
            return Err(Error::format(&index, reason));
        }
        let file = TensorFile::open(&path)?;
        let is_lost = |name: &&String| layout.find(name).is_some() && file.find(name).is_none();
        match names.iter().find(is_lost) {
            Some(name) => {
                Err(Error::format(&index, format!("`{name}` is not in {shard}, where it should be")))
            }
            None => Ok(file),
        }
    };
    let files = read_index(&index)?.iter().map(open).collect::<Result<Vec<_>>>()?;
    Ok(Weights { listing: index, files })
}

fn describe_without_weights(folder: &Path) -> String {
    let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
    match pickled.into_iter().find(|name| folder.join(name).is_file()) {
        Some(name) => format!(
            "there is only {name}; save the model again as safetensors: in Python, \
             `AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)`"
        ),
        None => format!("there is neither {SINGLE_FILE} nor {INDEX_FILE}"),
    }
}

/// The index of a sharded model; other fields are for people.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards of an index, by name, with the tensors each should hold.
fn read_index(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let index: Index = serde_json::from_str(&read_input_text(path)?)
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
