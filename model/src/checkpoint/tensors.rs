//! The tensors of a model folder by their stored names, whatever its architecture.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::folder::{open_weights, require_model};
use super::header::TensorFile;
use super::save::WeightType;
use crate::adapter::is_adapter;
use crate::error::{Error, Result};
use crate::files::read_input_json;

/// A model folder whose configuration is read as it stands, and whose tensors are found by name.
#[derive(Debug)]
pub(crate) struct TensorFolder {
    folder: PathBuf,
    listing: PathBuf,
    config: Value,
    files: Vec<TensorFile>,
    /// Names in the order of the files and of the bytes in them.
    names: Vec<String>,
    /// Number of the file of every tensor.
    places: HashMap<String, usize>,
}

impl TensorFolder {
    /// Opens a folder; reads its configuration and the headers of its weights.
    ///
    /// # Errors
    /// It is no model folder, or that of an adapter; a file is missing or damaged; a tensor is stored twice.
    pub fn open(folder: &Path) -> Result<Self> {
        if is_adapter(folder) {
            let reason = "is the folder of an adapter: add it to its base first (in PEFT: `merge_and_unload()`, then \
                          `save_pretrained(FOLDER)`), and give that folder";
            return Err(Error::format(folder, reason));
        }
        require_model(folder)?;
        let path = folder.join("config.json");
        let config = read_input_json(&path)?.filter(Value::is_object);
        let config = config.ok_or_else(|| Error::format(&path, "there is no object of JSON in it"))?;
        let weights = open_weights(folder, |_| true)?;
        let (mut names, mut places) = (Vec::new(), HashMap::new());
        for (number, file) in weights.files.iter().enumerate() {
            for name in file.names() {
                if let Some(other) = places.insert(name.clone(), number) {
                    let (one, two) = (weights.files[other].path().display(), file.path().display());
                    let reason = format!("`{name}` is in two shards, {one} and {two}");
                    return Err(Error::format(&weights.listing, reason));
                }
                names.push(name);
            }
        }
        let (folder, listing) = (folder.to_owned(), weights.listing);
        Ok(Self { folder, listing, config, files: weights.files, names, places })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The file that lists the tensors, for messages.
    pub fn listing(&self) -> &Path {
        &self.listing
    }

    /// What config.json says.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The files with the tensors.
    pub fn files(&self) -> &[TensorFile] {
        &self.files
    }

    /// Names of all tensors, in the order in which they are stored.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A tensor's file, type and shape.
    pub fn find(&self, name: &str) -> Option<(&TensorFile, &TensorInfo)> {
        let file = &self.files[*self.places.get(name)?];
        Some((file, file.find(name)?))
    }

    /// The same of a tensor that must be there.
    ///
    /// # Errors
    /// It is not.
    pub fn require(&self, name: &str) -> Result<(&TensorFile, &TensorInfo)> {
        self.find(name).ok_or_else(|| self.missing(name))
    }

    /// The same of a tensor of floats, with their type.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn require_floats(&self, name: &str) -> Result<(&TensorFile, &TensorInfo, WeightType)> {
        let (file, info) = self.require(name)?;
        Ok((file, info, WeightType::of(info.dtype).ok_or_else(|| self.missing(name))?))
    }

    /// Fills `target` with a tensor's elements from number `start` on, as they are stored.
    ///
    /// # Errors
    /// There is no such tensor; the system's.
    pub fn read(&self, name: &str, start: usize, target: &mut [u8]) -> Result<()> {
        let (file, info) = self.require(name)?;
        file.read_bytes(info, start * info.dtype.bitsize() / 8, target)
    }

    fn missing(&self, name: &str) -> Error {
        Error::format(&self.listing, format!("`{name}` is missing"))
    }
}
