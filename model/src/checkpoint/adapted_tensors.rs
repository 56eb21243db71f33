//! The tensors of an adapter's base with what the adapter adds or replaces, whatever its architecture.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use cpift_engine::ViewMut;
use half::{bf16, f16};
use safetensors::tensor::TensorInfo;
use serde_json::Value;

use super::adapted::{Change, find_changes, open_weights};
use super::header::TensorFile;
use super::load::first_not_finite;
use super::low_rank::{Addition, LowRank, Product};
use super::names::{is_embedding, is_head, plain_name};
use super::save::WeightType;
use super::tensors::TensorFolder;
use super::{HEAD, Place};
use crate::adapter::{AdapterConfig, stores_by_inputs};
use crate::error::{Error, Result};

/// Elements that a product is added to at once.
const PIECE: usize = 1 << 14;

/// Elements read at once.
const READ: usize = 1 << 20;

/// Products in memory, by tensor: of the few tensors that are read at a time.
const KEPT: usize = 4;

/// The last products that were read.
#[derive(Debug, Default)]
pub(super) struct Products(Mutex<Vec<(String, Arc<Product>)>>);

/// Opens an adapter on its base, or on another model that is named.
///
/// # Errors
/// As [`TensorFolder::open`], of the base; a tensor of the adapter that belongs to nothing of it, or does not fit; an adapter
/// of another kind.
pub(super) fn open(folder: &Path, base: Option<&Path>) -> Result<TensorFolder> {
    let config = AdapterConfig::read(folder)?;
    let is_named = base.is_some();
    let base = match base {
        Some(base) => base.to_owned(),
        None => config.base_folder(folder)?,
    };
    let file = open_weights(folder)?;
    let mut model = TensorFolder::open(&base)?;
    let mut changes = changes_by_name(&file, &model)?;
    untie(&mut model, &config, &mut changes);
    let number = model.files.len();
    for (tensor, change) in &changes {
        apply(change, tensor, &mut model, (&config, &file, number))?;
    }
    model.files.push(file);
    // Files beside the weights are the adapter's or else its base's; of a model that is named beside it they are that one's.
    if !is_named {
        model.folder = folder.to_owned();
    }
    Ok(model)
}

/// [`find_changes`] of a model of any architecture.
fn changes_by_name(file: &TensorFile, model: &TensorFolder) -> Result<BTreeMap<String, Change>> {
    let known: BTreeMap<String, &String> =
        model.names().iter().map(|name| (plain_name(name), name)).collect();
    find_changes(file, |tensor| {
        let other = known.get(&plain_name(tensor)).map(|known| known.as_str());
        let other = other.or_else(|| inner_name(tensor).filter(|inner| model.find(inner).is_some()));
        let tensor = match other {
            Some(other) if model.find(tensor).is_none() => other,
            _ => tensor,
        };
        let is_known = is_head(tensor) || model.find(tensor).is_some();
        is_known.then(|| (tensor.to_owned(), is_embedding(tensor)))
    })
}

/// A name without its first part: some folders, as that of GPT-2, store the model without what is around it.
fn inner_name(tensor: &str) -> Option<&str> {
    tensor.split_once('.').map(|(_, inner)| inner)
}

/// Gives a model whose head is its embedding one of its own, where the adapter changes one of them or both apart. Where it
/// shares them, the change is the embedding's.
fn untie(model: &mut TensorFolder, config: &AdapterConfig, changes: &mut BTreeMap<String, Change>) {
    if model.names().iter().any(|name| is_head(name)) {
        return;
    }
    let Some(embedding) = model.names().iter().find(|name| is_embedding(name)).cloned() else { return };
    let head = changes.keys().find(|name| is_head(name)).cloned();
    let of_head = head.as_ref().and_then(|head| changes.get(head));
    let is_shared = changes.get(&embedding).or(of_head).is_none_or(|change| change.is_shared(config));
    let is_apart = changes.contains_key(&embedding) && of_head.is_some() && !config.keeps_tied;
    if is_shared && !is_apart {
        if let Some(change) = head.and_then(|head| changes.remove(&head)) {
            changes.entry(embedding).or_insert(change);
        }
        return;
    }
    let name = head.unwrap_or_else(|| HEAD.to_owned());
    let place = model.places.get(&embedding).cloned();
    model.places.extend(place.map(|place| (name.clone(), place)));
    model.names.push(name);
    model.config["tie_word_embeddings"] = Value::Bool(false);
}

/// Changes where a tensor is read from.
fn apply(
    change: &Change,
    tensor: &str,
    model: &mut TensorFolder,
    (config, file, number): (&AdapterConfig, &TensorFile, usize),
) -> Result<()> {
    let model_type = model.config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    let by_inputs = stores_by_inputs(model_type, change.module());
    let Some((_, info)) = model.find(tensor) else { return Ok(()) };
    let shape = info.shape.clone();
    let low_rank = change.low_rank(&shape, config, (file, number), by_inputs)?;
    let whole = change.whole(file, tensor, &shape)?;
    if let Some(place) = model.places.get_mut(tensor) {
        if let Some(name) = whole {
            *place = Place { file: number, name, addition: None };
        }
        place.addition = low_rank.or(place.addition.take());
    }
    Ok(())
}

impl TensorFolder {
    /// Reads a tensor of floats that must have this shape, converted to f32.
    ///
    /// # Errors
    /// As [`TensorFile::read_floats`].
    pub(crate) fn read_floats(
        &self,
        name: &str,
        shape: &[usize],
        mut target: ViewMut<'_, f32>,
    ) -> Result<()> {
        let (file, info) = self.require(name)?;
        let Some(place) = self.places.get(name).filter(|place| place.addition.is_some()) else {
            let stored = self.places.get(name).map_or(name, |place| place.name.as_str());
            return file.read_floats(stored, shape, target);
        };
        file.require_floats(&place.name, shape)?;
        let size = info.dtype.bitsize() / 8;
        let (mut bytes, mut values) = (vec![0; READ * size], vec![0.0; READ]);
        for start in (0..target.len()).step_by(READ) {
            let length = READ.min(target.len() - start);
            let (bytes, values) = (&mut bytes[..length * size], &mut values[..length]);
            self.read(name, start, bytes)?;
            let dtype = WeightType::of(info.dtype).unwrap_or_default();
            values
                .iter_mut()
                .zip(bytes.chunks_exact(size))
                .for_each(|(value, bytes)| *value = widen(bytes, dtype));
            if let Some(index) = first_not_finite(values) {
                let reason = format!("`{name}` has {} at element {}", values[index], start + index);
                return Err(Error::format(file.path(), reason));
            }
            target.reborrow().slice(start..start + length).copy_from_host(values)?;
        }
        Ok(())
    }

    /// Adds to stored elements of a tensor, of which `start` is the first, what an adapter adds; rounded to the type that is
    /// stored, as PEFT does where it merges.
    pub(super) fn add(
        &self,
        (name, info): (&str, &TensorInfo),
        low_rank: &LowRank,
        start: usize,
        target: &mut [u8],
    ) -> Result<()> {
        let product = self.products.get(name, Addition { file: &self.files[low_rank.file], low_rank })?;
        let Some(dtype) = WeightType::of(info.dtype) else { return Ok(()) };
        let mut values = vec![0.0; PIECE];
        for (piece, bytes) in target.chunks_mut(PIECE * dtype.bytes() as usize).enumerate() {
            let values = &mut values[..bytes.len() / dtype.bytes() as usize];
            let elements = values.iter_mut().zip(bytes.chunks_exact(dtype.bytes() as usize));
            elements.for_each(|(value, bytes)| *value = widen(bytes, dtype));
            product.add_to(start + piece * PIECE, values);
            let elements = bytes.chunks_exact_mut(dtype.bytes() as usize).zip(&*values);
            elements.for_each(|(bytes, value)| narrow(*value, dtype, bytes));
        }
        Ok(())
    }
}

fn widen(bytes: &[u8], dtype: WeightType) -> f32 {
    match (dtype, bytes) {
        (WeightType::F32, &[a, b, c, d]) => f32::from_le_bytes([a, b, c, d]),
        (WeightType::F16, &[a, b]) => f16::from_le_bytes([a, b]).to_f32(),
        (WeightType::BF16, &[a, b]) => bf16::from_le_bytes([a, b]).to_f32(),
        _ => f32::NAN,
    }
}

fn narrow(value: f32, dtype: WeightType, bytes: &mut [u8]) {
    match dtype {
        WeightType::F32 => bytes.copy_from_slice(&value.to_le_bytes()),
        WeightType::F16 => bytes.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
        WeightType::BF16 => bytes.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
    }
}

impl Products {
    /// The product for a tensor, from memory or from its file.
    fn get(&self, name: &str, addition: Addition<'_>) -> Result<Arc<Product>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, product)) = lock().iter().find(|(other, _)| other == name) {
            return Ok(product.clone());
        }
        let product = Arc::new(addition.read()?);
        let mut kept = lock();
        kept.retain(|(other, _)| other != name);
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((name.to_owned(), product.clone()));
        Ok(product)
    }
}
