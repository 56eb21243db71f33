//! The files of a merged model beside its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::plan::{Shard, TensorPlan};
use crate::checkpoint::{INDEX_FILE, SMALL_FILES, TensorFolder, WeightType, copied_files};
use crate::error::{Error, FileAction, Result};
use crate::files::{ResumableFolder, json_text, open_input};

/// Files that a model needs which also takes images or sound, copied through beside those that every model has.
const PROCESSORS: [&str; 4] = [
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_config.json",
];

/// Keys of a configuration that may differ without a word: they say nothing of what is computed.
const UNIMPORTANT: [&str; 7] = [
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "architectures",
    "tie_word_embeddings",
];

/// Keys named in one notice.
const KEYS_LISTED: usize = 4;

/// What is written beside the weights.
#[derive(Debug)]
pub(crate) struct OutputFiles {
    config: Value,
    /// Path and name.
    copied: Vec<(PathBuf, String)>,
}

impl OutputFiles {
    /// For a model with this configuration and copies of these files: path and name.
    pub fn new(config: Value, copied: Vec<(PathBuf, String)>) -> Self {
        Self { config, copied }
    }

    /// For a model with the configuration, tokenizer and licences of another; `tied` where its head is said to be the
    /// embedding, or not to be.
    pub fn of(first: &TensorFolder, tensors: &[TensorPlan], tied: Option<bool>) -> Result<Self> {
        let mut config = first.config().clone();
        if let Some(dtype) = dtype_of(tensors) {
            set_dtype(&mut config, dtype);
        }
        if let Some(tied) = tied {
            set_everywhere(&mut config, "tie_word_embeddings", &json!(tied));
        }
        Ok(Self { config, copied: files_beside_weights(first.folder())? })
    }

    /// The configuration.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The files that are copied: path and name.
    pub fn copied(&self) -> &[(PathBuf, String)] {
        &self.copied
    }

    /// About how many bytes they take.
    pub fn bytes(&self) -> u64 {
        let length = |(path, _): &(PathBuf, String)| std::fs::metadata(path).map_or(0, |found| found.len());
        self.copied.iter().map(length).sum::<u64>() + SMALL_FILES
    }

    /// What their content follows from.
    pub fn identity(&self) -> String {
        let names = self.copied.iter().map(|(path, name)| {
            let found = std::fs::metadata(path).ok().map(|found| (found.len(), found.modified().ok()));
            format!("{name} {found:?}")
        });
        std::iter::once(self.config.to_string()).chain(names).collect::<Vec<_>>().join("\n")
    }

    /// Writes those that the folder does not have yet.
    pub fn write(
        &self,
        folder: &mut ResumableFolder,
        shards: &[Shard],
        tensors: &[TensorPlan],
    ) -> Result<()> {
        for (name, text) in self.texts(shards, tensors)? {
            if !folder.contains(name) {
                folder.write(name, |file| file.put(text.as_bytes()))?;
            }
        }
        for (path, name) in &self.copied {
            if !folder.contains(name) {
                let mut source = open_input(path)?;
                folder.write(name, |file| {
                    std::io::copy(&mut source, file).map(drop).map_err(Error::file(path, FileAction::Read))
                })?;
            }
        }
        Ok(())
    }

    /// The files that are made, by name: the index, where there are several shards, and the configuration.
    pub fn texts(&self, shards: &[Shard], tensors: &[TensorPlan]) -> Result<Vec<(&'static str, String)>> {
        let mut texts = Vec::new();
        if let [first, _, ..] = shards {
            let in_shard = |shard: &Shard| {
                let names = tensors[shard.tensors.clone()].iter().map(|tensor| tensor.name.clone());
                names.map(|name| (name, shard.name.clone())).collect::<Vec<_>>()
            };
            let weight_map: BTreeMap<String, String> = shards.iter().flat_map(in_shard).collect();
            let total: u64 = tensors.iter().map(TensorPlan::bytes).sum();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
            texts.push((INDEX_FILE, json_text(first.name.as_ref(), &index)?));
        }
        texts.push(("config.json", json_text("config.json".as_ref(), &self.config)?));
        Ok(texts)
    }
}

/// The files of a model folder beside weights and configuration that a model made of it has: path and name.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn files_beside_weights(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut files = copied_files(folder)?;
    let processors = PROCESSORS.map(|name| (folder.join(name), name.to_owned()));
    files.extend(processors.into_iter().filter(|(path, _)| path.is_file()));
    Ok(files)
}

/// The type of all floats, where they have the same.
fn dtype_of(tensors: &[TensorPlan]) -> Option<WeightType> {
    let mut types = tensors.iter().filter_map(TensorPlan::float);
    let first = types.next()?;
    types.all(|other| other == first).then_some(first)
}

/// Says in what the weights are stored under the keys that are there; `torch_dtype` is that of `transformers` before 5.
fn set_dtype(config: &mut Value, dtype: WeightType) {
    let name = json!(dtype.config_name());
    let has_old = config.get("torch_dtype").is_some();
    for key in ["dtype", "torch_dtype"] {
        set_existing(config, key, &name);
    }
    if !has_old && config.get("dtype").is_none() {
        config["torch_dtype"] = name;
    }
}

/// Sets a key where it is, in the configuration or in that of a part of the model.
fn set_existing(config: &mut Value, key: &str, value: &Value) {
    let Some(object) = config.as_object_mut() else { return };
    for (name, inner) in object.iter_mut() {
        if name == key && !inner.is_object() {
            *inner = value.clone();
        } else if inner.is_object() {
            set_existing(inner, key, value);
        }
    }
}

/// Sets a key at the top and wherever it is.
fn set_everywhere(config: &mut Value, key: &str, value: &Value) {
    set_existing(config, key, value);
    config[key] = value.clone();
}

/// What the configurations of the others say that the first's does not, a line each.
pub(super) fn differences(models: &[TensorFolder]) -> Vec<String> {
    let first = &models[0];
    let Some(own) = first.config().as_object() else { return Vec::new() };
    let line = |model: &TensorFolder| {
        let other = model.config().as_object()?;
        let mut keys: Vec<&str> = own
            .keys()
            .chain(other.keys().filter(|key| !own.contains_key(*key)))
            .map(String::as_str)
            .filter(|key| !UNIMPORTANT.contains(key) && own.get(*key) != other.get(*key))
            .collect();
        keys.sort_unstable();
        if keys.is_empty() {
            return None;
        }
        let more = match keys.len().saturating_sub(KEYS_LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let listed: Vec<String> = keys.iter().take(KEYS_LISTED).map(|key| format!("`{key}`")).collect();
        Some(format!(
            "{}: {}{more} are not as in {}, whose configuration the merged model has",
            model.folder().join("config.json").display(),
            listed.join(", "),
            first.folder().display()
        ))
    };
    models[1..].iter().filter_map(line).collect()
}
