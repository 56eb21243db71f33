//! The way back: a delta applied to its base is the model again.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use blake3::Hasher;
use cpift_engine::{CpuDevice, Device};
use serde::Serialize;

use super::changes::{Bytes, chunks, in_type};
use super::delta::places;
use super::description::{
    DESCRIPTION_FILE, DescribedFile, DescribedTensor, Description, Form, VALUES_FILE, index_type,
    indices_name, mask_name, values_name,
};
use super::watch::{ExportProgress, Watch};
use crate::checkpoint::{Dtype, SINGLE_FILE, SMALL_FILES, TensorFile, TensorFolder, WeightType};
use crate::error::{Error, Result, clip};
use crate::files::{AtomicFolder, FileWriter, hash_file, read_input_json, require_empty, require_free_space};
use crate::merge::{How, OutputFiles, Shard, TensorPlan, files_beside_weights, shards};

/// A delta and its base, opened; nothing is written yet.
#[derive(Debug)]
pub struct Application {
    folder: PathBuf,
    description: Description,
    values: TensorFile,
    base: TensorFolder,
    tensors: Vec<TensorPlan>,
    shards: Vec<Shard>,
    files: OutputFiles,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ApplyReport {
    /// Elements of the model.
    pub parameters: u64,
    /// Those that are not the base's.
    pub changed: u64,
    /// Bytes of the model's files of weights.
    pub bytes: u64,
    /// Time from the first byte to the last.
    pub seconds: f64,
}

impl Application {
    /// Opens a delta and the base that it is for.
    ///
    /// # Errors
    /// It is no delta, or damaged; the base's tensors are others than those that it was made from, which their content shows
    /// only in [`Application::run`].
    pub fn new(delta: &Path, base: &Path, shard_bytes: u64) -> Result<Self> {
        let description = Description::read(delta)?;
        let base = TensorFolder::open(base)?;
        let values = TensorFile::open(&delta.join(VALUES_FILE))?;
        let described = delta.join(DESCRIPTION_FILE);
        let mut names = BTreeSet::new();
        let mut tensors = Vec::with_capacity(description.tensors.len());
        for tensor in &description.tensors {
            require_same(tensor, &base, &description)?;
            if !names.insert(&tensor.name) {
                return Err(Error::format(&described, format!("`{}` stands there twice", tensor.name)));
            }
            tensors.push(TensorPlan {
                name: tensor.name.clone(),
                shape: tensor.shape.clone(),
                dtype: tensor.dtype,
                sources: Vec::new(),
                rows: None,
                how: How::Same,
            });
        }
        let shards = shards(&mut tensors, shard_bytes, SINGLE_FILE)?;
        let config = delta.join("config.json");
        if !config.is_file() {
            return Err(Error::format(&config, "is missing"));
        }
        require_hash(&config, &description.config_blake3, DAMAGED)?;
        let config = read_input_json(&config)?.ok_or_else(|| Error::format(&config, "is missing"))?;
        let files = OutputFiles::new(config, described_files(delta, &base, &description)?);
        Ok(Self { folder: delta.to_owned(), description, values, base, tensors, shards, files })
    }

    /// Elements of the model.
    pub fn parameters(&self) -> u64 {
        self.description.parameters
    }

    /// Writes the model into a folder, which appears whole or not at all.
    ///
    /// # Errors
    /// The folder exists and is not empty; too little space; the base's content is not what the delta was made from; the
    /// delta is damaged; a stop; the system's.
    pub fn run(
        &self,
        device: &Device,
        out: &Path,
        stop: &AtomicBool,
        observer: &mut (dyn FnMut(ExportProgress) + Send),
    ) -> Result<ApplyReport> {
        let Device::Cpu(cpu) = device else {
            return Err(Error::Job("deltas are applied on the CPU".to_owned()));
        };
        let began = Instant::now();
        require_empty(out)?;
        let bytes = self.shards.iter().map(|shard| shard.bytes(&self.tensors)).sum::<u64>();
        require_free_space(out, bytes + self.files.bytes() + SMALL_FILES)?;
        cpu.run(|| require_hash(self.values.path(), &self.description.values_blake3, DAMAGED))?;
        let described: HashMap<&str, &DescribedTensor> =
            self.description.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        let base_bytes = |tensor: &DescribedTensor| elements(tensor) * (tensor.base_dtype.bitsize() / 8);
        let total = self.description.tensors.iter().map(base_bytes).sum::<usize>() as u64;
        let mut watch = Watch::new(stop, observer, total);
        let mut writing = AtomicFolder::create(out)?;
        for shard in &self.shards {
            writing.write(&shard.name, |file| {
                file.put(&shard.header)?;
                self.tensors[shard.tensors.clone()].iter().try_for_each(|plan| {
                    self.write_tensor(cpu, described[plan.name.as_str()], file, &mut watch)
                })
            })?;
        }
        for (name, text) in self.files.texts(&self.shards, &self.tensors)? {
            writing.write_bytes(name, text.as_bytes())?;
        }
        self.files.copied().iter().try_for_each(|(path, name)| writing.copy(path, name))?;
        writing.commit()?;
        let Description { parameters, changed, .. } = self.description;
        Ok(ApplyReport { parameters, changed, bytes, seconds: began.elapsed().as_secs_f64() })
    }

    fn write_tensor(
        &self,
        cpu: &CpuDevice,
        tensor: &DescribedTensor,
        file: &mut FileWriter,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        let mut changed = Changed::read(&self.values, tensor)?;
        let (mut base_hash, mut hash) = (Hasher::new(), Hasher::new());
        for range in chunks(elements(tensor)) {
            let mut stored = Bytes::new(range.len() * tensor.base_dtype.bitsize() / 8);
            self.base.read(tensor.base_name(), range.start, stored.bytes_mut())?;
            let mut result = cpu.run(|| in_type(stored.bytes(), tensor.base_dtype, tensor.dtype));
            changed.put_into(range.start, result.bytes_mut())?;
            cpu.run(|| {
                base_hash.update_rayon(stored.bytes());
                hash.update_rayon(result.bytes());
            });
            file.put(result.bytes())?;
            watch.add(stored.bytes().len() as u64)?;
        }
        if base_hash.finalize().to_hex().as_str() != tensor.base_blake3 {
            return Err(not_the_base(
                &self.base,
                &self.description,
                &format!("`{}` has other values", tensor.base_name()),
            ));
        }
        if hash.finalize().to_hex().as_str() != tensor.blake3 {
            let reason = format!("`{}` does not become what it was made from: damaged", tensor.name);
            return Err(Error::format(&self.folder, reason));
        }
        Ok(())
    }
}

/// What to do about a file of the delta that is not what it was.
const DAMAGED: &str = "is not the file that the delta was written with: damaged; copy or download it again";

/// The files beside weights and configuration: path and name. Those in the delta, and else the base's, which must be the same
/// as when it was made.
fn described_files(
    delta: &Path,
    base: &TensorFolder,
    description: &Description,
) -> Result<Vec<(PathBuf, String)>> {
    let (own, of_base) = (files_beside_weights(delta)?, files_beside_weights(base.folder())?);
    let find = |files: &[(PathBuf, String)], name: &str| {
        files.iter().find(|(_, other)| other == name).map(|(path, _)| path.clone())
    };
    let mut found = Vec::with_capacity(description.files.len());
    for DescribedFile { name, blake3 } in &description.files {
        let (path, reason) = match (find(&own, name), find(&of_base, name)) {
            (Some(path), _) => (path, DAMAGED),
            (None, Some(path)) => (
                path,
                "is not what it was when the delta was made, which has no copy of it: take that version of the base",
            ),
            (None, None) => {
                return Err(not_the_base(base, description, &format!("it has no {}", clip(name))));
            }
        };
        require_hash(&path, blake3, reason)?;
        found.push((path, name.clone()));
    }
    Ok(found)
}

/// Fails with this reason where a file has another hash.
fn require_hash(path: &Path, expected: &str, reason: &str) -> Result<()> {
    match hash_file(path)?.to_hex().as_str() == expected {
        true => Ok(()),
        false => Err(Error::format(path, reason)),
    }
}

fn elements(tensor: &DescribedTensor) -> usize {
    tensor.shape.iter().product()
}

/// Fails where the base has not the tensor that a delta was made from, by name, type and shape.
fn require_same(tensor: &DescribedTensor, base: &TensorFolder, description: &Description) -> Result<()> {
    let name = tensor.base_name();
    let Some((_, info)) = base.find(name) else {
        return Err(not_the_base(base, description, &format!("it has no `{name}`")));
    };
    if info.shape != tensor.shape || info.dtype != tensor.base_dtype {
        let reason = format!(
            "`{name}` is {} of shape {:?}, not {} of shape {:?}",
            info.dtype, info.shape, tensor.base_dtype, tensor.shape
        );
        return Err(not_the_base(base, description, &reason));
    }
    let are_floats = [tensor.dtype, tensor.base_dtype].iter().all(|dtype| WeightType::of(*dtype).is_some());
    if (tensor.dtype != tensor.base_dtype && !are_floats) || !tensor.dtype.bitsize().is_multiple_of(8) {
        let reason = format!("`{name}`: {} cannot become {}", tensor.base_dtype, tensor.dtype);
        return Err(Error::format(Path::new(DESCRIPTION_FILE), reason));
    }
    Ok(())
}

fn not_the_base(base: &TensorFolder, description: &Description, reason: &str) -> Error {
    let name = clip(&description.base);
    Error::format(base.folder(), format!("is not the base that the delta was made from ({name}): {reason}"))
}

/// What a delta has of one tensor: where, and the values, which are read as they are asked for.
struct Changed<'a> {
    file: &'a TensorFile,
    values: String,
    width: usize,
    places: Places,
    /// Values that were read.
    read: usize,
}

enum Places {
    None,
    /// Ascending; those that are done are skipped.
    Indices(Vec<u64>),
    Mask(Vec<u64>),
    All,
}

impl<'a> Changed<'a> {
    /// Reads and checks where the changes are.
    fn read(file: &'a TensorFile, tensor: &DescribedTensor) -> Result<Self> {
        let (name, elements) = (&tensor.name, elements(tensor));
        let invalid = |reason: &str| Error::format(file.path(), format!("`{name}`: {reason}"));
        let places = match tensor.form {
            Form::Unchanged => Places::None,
            Form::Indices => {
                let indices = file.read_indices(&indices_name(name), index_type(elements as u64))?;
                let is_ascending = indices.windows(2).all(|pair| pair[0] < pair[1]);
                if !is_ascending || indices.last().is_some_and(|&last| last >= elements as u64) {
                    return Err(invalid("its indices are not ascending ones of its elements"));
                }
                Places::Indices(indices)
            }
            Form::Mask => {
                let words = file.read_u64(&mask_name(name))?;
                let behind = words.len() * 64 - elements.min(words.len() * 64);
                let is_beyond =
                    words.last().is_some_and(|last| behind > 0 && behind < 64 && last >> (64 - behind) != 0);
                if words.len() != elements.div_ceil(64) || is_beyond {
                    return Err(invalid("its mask is of another number of elements"));
                }
                Places::Mask(words)
            }
            Form::Whole => Places::All,
        };
        let count = match &places {
            Places::None => 0,
            Places::Indices(indices) => indices.len(),
            Places::Mask(words) => words.iter().map(|word| word.count_ones() as usize).sum(),
            Places::All => elements,
        };
        let values = values_name(name);
        if count > 0 || tensor.form != Form::Unchanged {
            let found = file.find(&values).ok_or_else(|| invalid("its values are missing"))?;
            let length = found.shape.iter().product::<usize>();
            if found.dtype != tensor.dtype || length != count {
                return Err(invalid("its values are of another type or number"));
            }
        }
        Ok(Self { file, values, width: tensor.dtype.bitsize() / 8, places, read: 0 })
    }

    /// Puts the values in their places among the tensor's elements from number `start` on: chunk after chunk, in order.
    fn put_into(&mut self, start: usize, target: &mut [u8]) -> Result<()> {
        let length = target.len() / self.width;
        let places: Vec<usize> = match &self.places {
            Places::None => return Ok(()),
            Places::All => return self.next_values(target),
            Places::Indices(indices) => {
                let end = indices.partition_point(|&index| index < (start + length) as u64);
                indices[self.read..end].iter().map(|&index| index as usize - start).collect()
            }
            Places::Mask(words) => places(&words[start / 64..(start + length).div_ceil(64)]).collect(),
        };
        let mut values = Bytes::new(places.len() * self.width);
        self.next_values(values.bytes_mut())?;
        for (place, value) in places.into_iter().zip(values.bytes().chunks_exact(self.width)) {
            target[place * self.width..][..self.width].copy_from_slice(value);
        }
        Ok(())
    }

    fn next_values(&mut self, target: &mut [u8]) -> Result<()> {
        let Some(info) = self.file.find(&self.values) else { return Ok(()) };
        self.file.read_bytes(info, self.read * self.width, target)?;
        self.read += target.len() / self.width;
        Ok(())
    }
}

impl TensorFile {
    /// Whole numbers of one of the two types of indices.
    fn read_indices(&self, name: &str, dtype: Dtype) -> Result<Vec<u64>> {
        let missing = || Error::format(self.path(), format!("`{name}` is missing, or no list of {dtype}"));
        if dtype == Dtype::U64 {
            return self.read_u64(name);
        }
        let info = self.find(name).filter(|info| info.dtype == dtype && info.shape.len() == 1);
        let info = info.ok_or_else(missing)?;
        let mut bytes = Bytes::new(info.shape[0] * size_of::<u32>());
        self.read_bytes(info, 0, bytes.bytes_mut())?;
        Ok(bytemuck::cast_slice::<u8, u32>(bytes.bytes()).iter().map(|&index| u64::from(index)).collect())
    }
}
