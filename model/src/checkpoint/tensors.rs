//! The tensors of a model folder by their stored names, whatever its architecture.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::Place;
use super::adapted_tensors::{self, Products};
use super::folder::{open_weights, require_model};
use super::header::TensorFile;
use super::low_rank::LowRank;
use super::save::WeightType;
use crate::adapter::is_adapter;
use crate::error::{Error, Result};
use crate::files::read_input_json;

/// A model folder whose configuration is read as it stands, and whose tensors are found by name.
#[derive(Debug)]
pub(crate) struct TensorFolder {
    pub(super) folder: PathBuf,
    listing: PathBuf,
    pub(super) config: Value,
    pub(super) files: Vec<TensorFile>,
    /// Names in the order of the files and of the bytes in them.
    pub(super) names: Vec<String>,
    /// Where every tensor is stored.
    pub(super) places: HashMap<String, Place>,
    pub(super) products: Products,
}

impl TensorFolder {
    /// Opens a folder; reads its configuration and the headers of its weights. That of an adapter is its base with what the
    /// adapter adds; `MODEL+ADAPTER`, where there is no folder of that name, is another model with that.
    ///
    /// # Errors
    /// It is no model folder; a file is missing or damaged; a tensor is stored twice; an adapter that does not fit.
    pub fn open(folder: &Path) -> Result<Self> {
        if let Some((model, adapter)) = model_and_adapter(folder) {
            if !is_adapter(&adapter) {
                return Err(Error::format(
                    &adapter,
                    "is not the folder of an adapter, as what stands behind a `+` must be",
                ));
            }
            return adapted_tensors::open(&adapter, Some(&model));
        }
        match is_adapter(folder) {
            true => adapted_tensors::open(folder, None),
            false => Self::open_whole(folder),
        }
    }

    /// Opens a folder that has all weights.
    fn open_whole(folder: &Path) -> Result<Self> {
        require_model(folder)?;
        let path = folder.join("config.json");
        let config = read_input_json(&path)?.filter(Value::is_object);
        let config = config.ok_or_else(|| Error::format(&path, "there is no object of JSON in it"))?;
        let weights = open_weights(folder, |_| true)?;
        let (mut names, mut places): (Vec<String>, HashMap<String, Place>) = Default::default();
        for (number, file) in weights.files.iter().enumerate() {
            for name in file.names() {
                let place = Place { file: number, name: name.clone(), addition: None };
                if let Some(other) = places.insert(name.clone(), place) {
                    let (one, two) = (weights.files[other.file].path().display(), file.path().display());
                    let reason = format!("`{name}` is in two shards, {one} and {two}");
                    return Err(Error::format(&weights.listing, reason));
                }
                names.push(name);
            }
        }
        let (folder, listing) = (folder.to_owned(), weights.listing);
        let products = Products::default();
        Ok(Self { folder, listing, config, files: weights.files, names, places, products })
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
        let place = self.places.get(name)?;
        let file = &self.files[place.file];
        Some((file, file.find(&place.name)?))
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
        file.read_bytes(info, start * info.dtype.bitsize() / 8, target)?;
        match self.addition(name) {
            Some(low_rank) => self.add((name, info), low_rank, start, target),
            None => Ok(()),
        }
    }

    /// What an adapter adds to a tensor.
    pub(super) fn addition(&self, name: &str) -> Option<&LowRank> {
        self.places.get(name)?.addition.as_ref()
    }

    fn missing(&self, name: &str) -> Error {
        Error::format(&self.listing, format!("`{name}` is missing"))
    }
}

/// The model and the adapter in `MODEL+ADAPTER`; none where there is a folder of that name, or no `+`.
fn model_and_adapter(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let (model, adapter) = path.to_str()?.rsplit_once('+')?;
    (!path.exists()).then(|| (PathBuf::from(model), PathBuf::from(adapter)))
}
