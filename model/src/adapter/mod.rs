//! Adapters as PEFT saves them: low-rank changes (LoRA) of a model in another folder.
//!
//! This module reads what their configuration says and finds their base; `checkpoint::adapted` adds them to its weights.

mod config;

use std::path::{Path, PathBuf};

pub(crate) use config::AdapterConfig;

use crate::error::{Error, Result};
use crate::hub_cache::cached_model;
use crate::hub_names::{ModelName, Revision};

/// Name of an adapter's configuration.
pub(crate) const CONFIG_FILE: &str = "adapter_config.json";

/// Name of its weights.
pub(crate) const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// What the names of its tensors begin with, before those of the model's modules.
pub(crate) const NAME_PREFIX: &str = "base_model.model.";

/// The same as PyTorch pickles them, which is not read.
pub(crate) const PICKLED_FILE: &str = "adapter_model.bin";

/// Types of models whose linear layers store their weights by inputs, `Conv1D` in `transformers`, and the last parts of the
/// names of those.
const WITH_CONV1D: [&str; 4] = ["gpt2", "openai-gpt", "imagegpt", "decision_transformer"];
const CONV1D: [&str; 4] = ["c_attn", "c_proj", "c_fc", "q_attn"];

/// Whether a linear layer's weight is `[inputs, outputs]`.
pub(crate) fn stores_by_inputs(model_type: &str, module: &str) -> bool {
    let last = module.rsplit('.').next().unwrap_or(module);
    WITH_CONV1D.contains(&model_type) && CONV1D.contains(&last)
}

/// Whether a folder holds an adapter. One that has been merged may keep the configuration beside the whole weights.
pub(crate) fn is_adapter(folder: &Path) -> bool {
    let has = |name: &str| folder.join(name).is_file();
    let is_whole = has("model.safetensors") || has("model.safetensors.index.json");
    has(CONFIG_FILE) && (!is_whole || has(WEIGHTS_FILE) || has(PICKLED_FILE))
}

/// The folder of the model that an adapter is for; none where `folder` holds no adapter.
///
/// # Errors
/// Its configuration cannot be read or used; the base is not there.
pub fn base_folder(folder: &Path) -> Result<Option<PathBuf>> {
    if !is_adapter(folder) {
        return Ok(None);
    }
    AdapterConfig::read(folder)?.base_folder(folder).map(Some)
}

/// The model of the hub that a folder's adapter is for; none for other folders, and where the base is a folder here.
///
/// # Errors
/// The adapter's configuration cannot be read or used.
pub(crate) fn hub_base(folder: &Path) -> Result<Option<ModelName>> {
    if !is_adapter(folder) {
        return Ok(None);
    }
    Ok(AdapterConfig::read(folder)?.hub_base(folder))
}

/// The folders that a model is read from: its own, and of an adapter its base's.
///
/// # Errors
/// As [`base_folder`].
pub(crate) fn folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let base = base_folder(folder)?;
    Ok([folder.to_owned()].into_iter().chain(base).collect())
}

/// The folder that has the tokenizer of a model: an adapter's own, or its base's.
///
/// # Errors
/// As [`base_folder`].
pub(crate) fn tokenizer_folder(folder: &Path) -> Result<PathBuf> {
    if folder.join("tokenizer.json").is_file() {
        return Ok(folder.to_owned());
    }
    Ok(base_folder(folder)?.unwrap_or_else(|| folder.to_owned()))
}

/// A file of a model's folder, or, where an adapter does not have it, of its base's.
///
/// # Errors
/// As [`base_folder`].
pub(crate) fn model_file(folder: &Path, name: &str) -> Result<PathBuf> {
    let own = folder.join(name);
    if own.exists() {
        return Ok(own);
    }
    Ok(base_folder(folder)?.map_or(own, |base| base.join(name)))
}

impl AdapterConfig {
    /// Where the base lies: what the configuration names, seen from the adapter's folder, then from the current one, else
    /// in the cache of the hub.
    ///
    /// # Errors
    /// There is no such folder, or it holds an adapter as well.
    pub fn base_folder(&self, folder: &Path) -> Result<PathBuf> {
        let error = |reason: String| Error::format(&folder.join(CONFIG_FILE), reason);
        let named = self.base.as_str();
        let base = match self.local_base(folder) {
            Some(base) => base,
            None => {
                let cached = self.hub_base(folder).map(|name| cached_model(&name)).transpose()?.flatten();
                // What else is missing is noticed where it is read.
                let has_configuration =
                    |base: &PathBuf| base.join("config.json").is_file() || is_adapter(base);
                cached.filter(has_configuration).ok_or_else(|| error(self.describe_missing_base()))?
            }
        };
        if is_adapter(&base) {
            let reason = format!(
                "`base_model_name_or_path` = \"{named}\" is an adapter itself: merge that into its base first (in \
                 PEFT: `merge_and_unload()`)"
            );
            return Err(error(reason));
        }
        Ok(base)
    }

    /// The base where it is a folder.
    fn local_base(&self, folder: &Path) -> Option<PathBuf> {
        [folder.join(&self.base), PathBuf::from(&self.base)].into_iter().find(|place| place.is_dir())
    }

    /// The base where it is no folder, but may be a model of the hub.
    pub fn hub_base(&self, folder: &Path) -> Option<ModelName> {
        if self.local_base(folder).is_some() {
            return None;
        }
        let name = ModelName::parse(&self.base)?;
        match &self.revision {
            Some(revision) => Some(ModelName { revision: Revision::parse(revision)?, ..name }),
            None => Some(name),
        }
    }

    /// What to do about a base that is not there.
    fn describe_missing_base(&self) -> String {
        let named = &self.base;
        match ModelName::parse(named) {
            Some(_) => format!(
                "the base, `base_model_name_or_path` = \"{named}\", is neither a folder nor in the cache of the hub: \
                 download it (`hf download {named}`), or write there the folder where it is"
            ),
            None => format!(
                "the base, `base_model_name_or_path` = \"{named}\", is no folder, neither from the adapter's folder nor \
                 from the current one: write there where it is"
            ),
        }
    }
}
