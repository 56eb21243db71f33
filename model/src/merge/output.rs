//! The files of a merged model beside its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::plan::{Shard, TensorPlan};
use super::vocabulary::{TokenizerFiles, Tokens};
use crate::chat_template::TEMPLATE_FOLDER;
use crate::checkpoint::{
    INDEX_FILE, SMALL_FILES, TensorFolder, WeightType, copied_files, is_copied, is_legal,
};
use crate::error::{Error, FileAction, Result};
use crate::files::{ResumableFolder, json_text, open_input, read_input_json};

/// Files that a model needs which also takes images or sound, copied through beside those that every model has.
const PROCESSORS: [&str; 4] = [
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "audio_config.json",
];

/// Keys of a configuration that say how many layers there are, and of what sort each is.
pub(super) const LAYER_COUNTS: [&str; 4] = ["num_hidden_layers", "n_layer", "num_layers", "n_layers"];
const LAYER_LISTS: [&str; 3] = ["layer_types", "no_rope_layers", "mlp_layer_types"];

/// Names of files with settings of a tokenizer and with its chat template.
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const CHAT_TEMPLATE: &str = "chat_template.jinja";

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
    /// Name and content of those that are in place of copies.
    made: Vec<(String, String)>,
}

impl OutputFiles {
    /// For a model with this configuration and copies of these files: path and name.
    pub fn new(config: Value, copied: Vec<(PathBuf, String)>) -> Self {
        Self { config, copied, made: Vec::new() }
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
        Ok(Self { config, copied: files_beside_weights(first.folder())?, made: Vec::new() })
    }

    /// Says of a model put together of slices how many layers it has, and of what sort each is; `origins` are the numbers of
    /// the models and layers that they were.
    pub fn set_layers(&mut self, models: &[TensorFolder], origins: &[(usize, usize)]) {
        let mut configs: Vec<&Value> = models.iter().map(TensorFolder::config).collect();
        let mut target = &mut self.config;
        // Of a model with several parts it is said in that of the texts.
        if target.get("text_config").is_some_and(Value::is_object) {
            configs.iter_mut().for_each(|config| *config = config.get("text_config").unwrap_or(config));
            target = &mut target["text_config"];
        }
        for key in LAYER_LISTS.into_iter().filter(|key| configs[0].get(*key).is_some_and(Value::is_array)) {
            let entry = |(model, layer): &(usize, usize)| configs[*model].get(key)?.get(*layer).cloned();
            if let Some(list) = origins.iter().map(entry).collect::<Option<Vec<_>>>() {
                target[key] = Value::Array(list);
            }
        }
        let is_there = |key: &&&str| target.get(**key).is_some();
        let key = LAYER_COUNTS.iter().find(is_there).unwrap_or(&LAYER_COUNTS[0]);
        target[*key] = json!(origins.len());
    }

    /// Says how many rows the embedding has, and puts the files of a tokenizer in the place of the model's.
    pub(super) fn set_tokens(&mut self, tokens: Tokens) -> Result<()> {
        let is_inside = self.config.get("text_config").is_some_and(|inner| inner.get("vocab_size").is_some());
        let config = if is_inside { &mut self.config["text_config"] } else { &mut self.config };
        config["vocab_size"] = json!(tokens.rows);
        let TokenizerFiles { folder, left_out, made } = tokens.files;
        if let Some(folder) = folder {
            self.copied.retain(|(_, name)| !is_of_tokenizer(name));
            self.copied.extend(copied_files(&folder)?.into_iter().filter(|(_, name)| is_of_tokenizer(name)));
        }
        let is_made = |name: &str| made.iter().any(|(made, _)| made == name);
        self.copied.retain(|(_, name)| !left_out.contains(&name.as_str()) && !is_made(name));
        self.made.extend(made);
        Ok(())
    }

    /// Puts a chat template in the place of the model's.
    pub fn set_chat_template(&mut self, template: &str) -> Result<()> {
        self.copied.retain(|(_, name)| !is_template(name));
        let made = self.made.iter().position(|(name, _)| name == TOKENIZER_CONFIG);
        let copied = self.copied.iter().position(|(_, name)| name == TOKENIZER_CONFIG);
        let settings: Option<Value> = match (made, copied) {
            (Some(made), _) => serde_json::from_str(&self.made[made].1).ok(),
            (None, Some(copied)) => read_input_json(&self.copied[copied].0)?,
            (None, None) => None,
        };
        // A template in there would come first.
        if let Some(Value::Object(mut settings)) = settings
            && settings.remove("chat_template").is_some()
        {
            let text = json_text(TOKENIZER_CONFIG.as_ref(), &settings)?;
            self.made.retain(|(name, _)| name != TOKENIZER_CONFIG);
            self.copied.retain(|(_, name)| name != TOKENIZER_CONFIG);
            self.made.push((TOKENIZER_CONFIG.to_owned(), text));
        }
        self.made.push((CHAT_TEMPLATE.to_owned(), template.to_owned()));
        Ok(())
    }

    /// Adds a file.
    pub(super) fn add(&mut self, name: &str, text: String) {
        self.made.push((name.to_owned(), text));
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
        let made = self.made.iter().map(|(_, text)| text.len() as u64);
        self.copied.iter().map(length).chain(made).sum::<u64>() + SMALL_FILES
    }

    /// What their content follows from.
    pub fn identity(&self) -> String {
        let names = self.copied.iter().map(|(path, name)| {
            let found = std::fs::metadata(path).ok().map(|found| (found.len(), found.modified().ok()));
            format!("{name} {found:?}")
        });
        let made = self.made.iter().map(|(name, text)| format!("{name} {}", blake3::hash(text.as_bytes())));
        std::iter::once(self.config.to_string()).chain(names).chain(made).collect::<Vec<_>>().join("\n")
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
        for (name, text) in &self.made {
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

/// Whether a file belongs to the tokenizer, of those that are copied.
fn is_of_tokenizer(name: &str) -> bool {
    is_copied(name) && !is_legal(name) && name != "generation_config.json"
}

/// Whether a file has a chat template.
fn is_template(name: &str) -> bool {
    name == CHAT_TEMPLATE || name == "chat_template.json" || Path::new(name).starts_with(TEMPLATE_FOLDER)
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
