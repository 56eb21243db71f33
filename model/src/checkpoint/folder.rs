//! A model folder's files: which hold the weights, and what a folder looks like that has none.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::header::TensorFile;
use super::load::Stored;
use super::low_rank::{Addition, LowRank};
use super::{INDEX_FILE, Place, SINGLE_FILE};
use crate::error::{Error, FileAction, Result};
use crate::files::{open_input, read_input_text, require_plain_name};
use crate::hub_names::ModelName;

/// Name of the file that says what the folder of a delta, as `export` writes it, is of.
pub(crate) const DELTA_FILE: &str = "delta.json";

/// Bytes of a file that say what it is.
const BEGINNING: u64 = 16;

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
        let addition = |low_rank: &'a LowRank| Addition { file: &self.files[low_rank.file], low_rank };
        Stored {
            file: &self.files[place.file],
            name: &place.name,
            addition: place.addition.as_ref().map(addition),
        }
    }
}

/// Fails when a folder is none, or holds something else than a model, saying what it looks like.
pub(super) fn require_model(folder: &Path) -> Result<()> {
    if folder.is_file() {
        return Err(Error::format(folder, describe_file(folder)));
    }
    let config = folder.join("config.json");
    if !folder.is_dir() {
        let missing = io::Error::new(ErrorKind::NotFound, describe_missing(folder));
        return Err(Error::file(&config, FileAction::Read)(missing));
    }
    if config.exists() {
        return Ok(());
    }
    match describe_without_config(folder) {
        Some(reason) => Err(Error::format(folder, reason)),
        None => Ok(()),
    }
}

/// What a file is that stands in the place of a folder.
fn describe_file(path: &Path) -> String {
    let mut beginning = Vec::new();
    let read = open_input(path).map(|file| file.take(BEGINNING).read_to_end(&mut beginning));
    let known = [b"GGUF".as_slice(), b"PK\x03\x04", b"\x80\x02"];
    match known.iter().position(|known| beginning.starts_with(known)).filter(|_| read.is_ok()) {
        Some(0) => "is a GGUF model, which is not read: give the folder with the safetensors that it was made from",
        Some(_) => {
            "is a file of PyTorch's (pickle), which is not read: save the model as safetensors \
             (`AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)` in Python), and give that folder"
        }
        None => "is a file; give the folder that holds the model's config.json",
    }
    .to_owned()
}

/// What to do about a folder that does not exist.
fn describe_missing(folder: &Path) -> String {
    match meant_name(folder) {
        Some(name) => format!(
            "there is no such folder; if a model of the Hugging Face Hub is meant, write `{name}` and nothing around it"
        ),
        None => "there is no such folder".to_owned(),
    }
}

/// The name on the hub that a path may be meant as: `./org/name`, `org/name/` or the address of the model's page.
fn meant_name(folder: &Path) -> Option<String> {
    let parts: Vec<&str> = folder.components().filter_map(|part| part.as_os_str().to_str()).collect();
    let site = parts.iter().position(|part| ["huggingface.co", "hf.co"].contains(part));
    let (owner, name) = match site {
        Some(site) => (parts.get(site + 1)?, parts.get(site + 2)?),
        None => {
            let is_there = |parent: &Path| parent.as_os_str().is_empty() || parent.is_dir();
            let [.., owner, name] = parts.as_slice() else { return None };
            if folder.parent().is_none_or(is_there) {
                return None;
            }
            (owner, name)
        }
    };
    let name = format!("{owner}/{name}");
    ModelName::parse(&name).map(|_| name)
}

/// What a folder without a configuration looks like.
fn describe_without_config(folder: &Path) -> Option<String> {
    if folder.join("recipe.toml").is_file() && folder.join("final/config.json").is_file() {
        return Some("looks like a run folder: its model is in the folder `final` inside".to_owned());
    }
    let names = file_names(folder);
    let other = OtherWeights::find(&names);
    if let Some(OtherWeights::Gguf(_) | OtherWeights::Publisher(_)) = other {
        return other.map(OtherWeights::describe);
    }
    if let Some(inside) = names.iter().find(|name| folder.join(name).join("config.json").is_file()) {
        return Some(format!("has no config.json; the folder `{inside}` inside it has one: give that"));
    }
    // Where there are safetensors as well, nothing but the configuration is missing.
    let has_weights = names.iter().any(|name| [SINGLE_FILE, INDEX_FILE].contains(&name.as_str()));
    other.filter(|_| !has_weights).map(OtherWeights::describe)
}

/// Opens the safetensors files of a folder. What an index says of a tensor that is needed must be so.
pub(super) fn open_weights(folder: &Path, is_needed: impl Fn(&str) -> bool) -> Result<Weights> {
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
        let is_lost = |name: &&String| is_needed(name) && file.find(name).is_none();
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
    if folder.join(DELTA_FILE).is_file() {
        return "is the folder of a delta: make a model of it and its base with `cpift-engine apply`, and give that"
            .to_owned();
    }
    match OtherWeights::find(&file_names(folder)) {
        Some(other) => other.describe(),
        None => format!("there is neither {SINGLE_FILE} nor {INDEX_FILE}"),
    }
}

/// Names of what is in a folder, sorted.
fn file_names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().into_iter().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Weights in a form that is not read, by the name of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtherWeights<'a> {
    /// As PyTorch pickles them.
    Pickled(&'a str),
    /// Of llama.cpp.
    Gguf(&'a str),
    /// In the form of the model's publisher.
    Publisher(&'a str),
}

impl<'a> OtherWeights<'a> {
    /// Those among the names of files beside a configuration.
    pub fn find(names: &'a [String]) -> Option<Self> {
        let find = |is: fn(&str) -> bool| names.iter().map(String::as_str).find(|name| is(name));
        let pickled = find(|name| name.starts_with("pytorch_model") && name.contains(".bin"));
        let gguf = || find(|name| name.ends_with(".gguf"));
        let publisher = || find(|name| name == "params.json" || name.starts_with("consolidated"));
        pickled
            .map(Self::Pickled)
            .or_else(|| gguf().map(Self::Gguf))
            .or_else(|| publisher().map(Self::Publisher))
    }

    /// What they are and what to do, of a folder.
    fn describe(self) -> String {
        match self {
            Self::Pickled(name) => format!(
                "there is only {name}; save the model again as safetensors: in Python, \
                 `AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)`"
            ),
            Self::Gguf(name) => format!(
                "looks like a GGUF model ({name}), which is not read: give the folder with the model's safetensors"
            ),
            Self::Publisher(name) => format!(
                "looks like a model in its publisher's own format ({name}): give the folder that `transformers` loads"
            ),
        }
    }
}

/// The index of a sharded model; other fields are for people.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards of an index, by name, with the tensors each should hold: at least one, each a file beside the index.
///
/// # Errors
/// It cannot be read, is no such index, or names something else.
pub(crate) fn read_index(path: &Path) -> Result<BTreeMap<String, Vec<String>>> {
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
