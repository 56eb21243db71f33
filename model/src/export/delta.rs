//! A delta: the values that a fine-tune changed, and where.

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use cpift_engine::Device;
use safetensors::Dtype;
use serde::Serialize;

use super::changes::{self, BITS_FILE, Bytes, CHUNK, Change, chunks};
use super::core_masks::CoreMasks;
use super::description::{
    DESCRIPTION_FILE, DescribedFile, DescribedTensor, Description, FORMAT, Form, VALUES_FILE, index_type,
    indices_name, mask_name, values_name,
};
use super::pair::{Pair, Tensor};
use super::watch::{ExportProgress, Watch};
use crate::checkpoint::{SMALL_FILES, TensorFile, header_of};
use crate::cores::{Cores, CoresRequest};
use crate::error::{Error, Result};
use crate::files::{AtomicFolder, FileWriter, hash_file, json_text, require_empty, require_free_space};
use crate::recipe::{CoreScope, CoreSettings};
use crate::stages::masks::mask_file;

/// Name of the core that is found for a delta.
const CORE: &str = "core";

/// Indices that are handed to the file at once.
const INDICES: usize = 1 << 16;

/// How much of an update a delta has.
#[derive(Debug, Clone, PartialEq)]
pub enum Extent {
    /// All that changed.
    Whole,
    /// This share of the parameters, those that moved furthest.
    Fraction(f64),
    /// The core in a file of bits, or in a folder with one such file.
    Core(PathBuf),
}

/// A delta whose models are opened and matched; nothing is written yet.
#[derive(Debug)]
pub struct Delta {
    pair: Pair,
    base_name: String,
    extent: Extent,
    /// What finds the core.
    search: Option<Cores>,
    core: Option<CoreMasks>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DeltaReport {
    /// Elements of the model.
    pub parameters: u64,
    /// Those in the delta.
    pub changed: u64,
    /// Tensors of the model, and those with changed elements.
    pub tensors: usize,
    /// Tensors with changed elements.
    pub changed_tensors: usize,
    /// Bytes of the file with the values.
    pub bytes: u64,
    /// Bytes of the model's tensors.
    pub model_bytes: u64,
}

impl Delta {
    /// Opens a base and a fine-tune of it. `base_name` is what the delta says of the base, for people.
    ///
    /// # Errors
    /// A folder that is no model's, or damaged; tensors that do not match, by name; a share outside (0, 1]; a core that
    /// cannot be read.
    pub fn new(base: &Path, model: &Path, extent: Extent, base_name: String) -> Result<Self> {
        let search = match extent {
            Extent::Fraction(fraction) => Some(Cores::new(&CoresRequest {
                base: base.to_owned(),
                models: vec![(CORE.to_owned(), model.to_owned())],
                settings: CoreSettings { fraction, scope: CoreScope::Global, exclude: Vec::new() },
                threshold: 1.0,
            })?),
            _ => None,
        };
        let core = match &extent {
            Extent::Core(path) => Some(CoreMasks::open(path)?),
            _ => None,
        };
        let pair = Pair::open(base, model)?;
        if let Some(core) = &core {
            pair.tensors.iter().try_for_each(|tensor| core.read(tensor).map(drop))?;
        }
        Ok(Self { pair, base_name, extent, search, core })
    }

    /// What a person should know about the models, a line each.
    pub fn notices(&self) -> &[String] {
        &self.pair.notices
    }

    /// Elements of the model.
    pub fn parameters(&self) -> u64 {
        self.pair.parameters()
    }

    /// Writes the delta into a folder, which appears whole or not at all.
    ///
    /// # Errors
    /// The folder exists and is not empty; too little space; nothing changed; with a share, NaN or infinity; a stop; the
    /// system's.
    pub fn write(
        &self,
        device: &Device,
        out: &Path,
        stop: &AtomicBool,
        observer: &mut (dyn FnMut(ExportProgress) + Send),
    ) -> Result<DeltaReport> {
        let Device::Cpu(cpu) = device else {
            return Err(Error::Job("deltas are written on the CPU".to_owned()));
        };
        require_empty(out)?;
        let bits: u64 =
            self.pair.tensors.iter().map(|tensor| tensor.elements().div_ceil(64) as u64 * 8).sum();
        let of_search = self.search.as_ref().map_or(0, Cores::mask_bytes);
        require_free_space(out, bits + of_search + SMALL_FILES)?;
        // Beside the delta, never to appear: bits of the core and of what changed.
        let mut scratch = AtomicFolder::create(out)?;
        let (model_bytes, base_bytes) = self.pair.bytes();
        let searched = self.search.as_ref().map_or(0, Cores::bytes);
        let total = searched + base_bytes + 2 * model_bytes;
        let mut watch = Watch::new(stop, observer, total);
        let found = self.search.as_ref().map(|search| -> Result<CoreMasks> {
            let mut before = 0;
            let mut stopped = Ok(());
            search.write_masks(cpu, &mut scratch, stop, &mut |progress| {
                stopped = watch.add(progress.done.saturating_sub(before));
                before = before.max(progress.done);
            })?;
            stopped?;
            CoreMasks::open(&scratch.path_of(&mask_file(CORE)))
        });
        let found = found.transpose()?;
        let core = found.as_ref().or(self.core.as_ref());
        let changes = changes::find(cpu, &self.pair, core, &mut scratch, &mut watch)?;
        let mut writing = AtomicFolder::create(out)?;
        let report = self.fill(&mut writing, &scratch, &changes, &mut watch)?;
        writing.commit()?;
        Ok(report)
    }

    fn fill(
        &self,
        writing: &mut AtomicFolder,
        scratch: &AtomicFolder,
        changes: &[Change],
        watch: &mut Watch<'_>,
    ) -> Result<DeltaReport> {
        let is_core = self.extent != Extent::Whole;
        let described: Vec<_> = self
            .pair
            .tensors
            .iter()
            .zip(changes)
            .map(|(tensor, change)| describe(tensor, change, is_core))
            .collect();
        let mut description = Description::new(self.base_name.clone(), described);
        if description.changed == 0 {
            let reason = "is bit for bit its base: there is nothing to export";
            return Err(Error::format(self.pair.model().folder(), reason));
        }
        description.is_whole = !is_core;
        if let Extent::Fraction(fraction) = self.extent {
            description.fraction = Some(fraction);
        }
        let entries = entries(&description.tensors);
        let header =
            header_of(entries.iter().map(|entry| (&entry.name, entry.dtype, &entry.shape)), Some(FORMAT))
                .map_err(Error::Job)?;
        let bytes = header.len() as u64 + entries.iter().map(Entry::bytes).sum::<u64>();
        require_free_space(writing.destination(), bytes + SMALL_FILES)?;
        let bits = TensorFile::open(&scratch.path_of(BITS_FILE))?;
        writing.write(VALUES_FILE, |file| {
            file.put(&header)?;
            entries.iter().try_for_each(|entry| {
                let tensor = &self.pair.tensors[entry.tensor];
                self.write_entry(entry, tensor, bits.read_u64(&tensor.name)?, file, watch)
            })
        })?;
        description.values_blake3 = writing.hash_of(VALUES_FILE).unwrap_or_default().to_owned();
        self.write_files(writing, &mut description)?;
        writing.write_json(DESCRIPTION_FILE, &description)?;
        Ok(DeltaReport {
            parameters: description.parameters,
            changed: description.changed,
            tensors: changes.len(),
            changed_tensors: changes.iter().filter(|change| change.changed > 0).count(),
            bytes,
            model_bytes: self.pair.bytes().0,
        })
    }

    /// The configuration, and of the other files those that are not the base's.
    fn write_files(&self, writing: &mut AtomicFolder, description: &mut Description) -> Result<()> {
        let files = self.pair.files()?;
        let config = json_text("config.json".as_ref(), files.config())?;
        description.config_blake3 = blake3::hash(config.as_bytes()).to_hex().to_string();
        writing.write_bytes("config.json", config.as_bytes())?;
        for (path, name) in files.copied() {
            let of_base = self.pair.base().folder().join(name);
            let hash = hash_file(path)?;
            if !of_base.is_file() || hash != hash_file(&of_base)? {
                writing.copy(path, name)?;
            }
            description.files.push(DescribedFile { name: name.clone(), blake3: hash.to_hex().to_string() });
        }
        Ok(())
    }

    fn write_entry(
        &self,
        entry: &Entry,
        tensor: &Tensor,
        words: Vec<u64>,
        file: &mut FileWriter,
        watch: &mut Watch<'_>,
    ) -> Result<()> {
        match entry.kind {
            Kind::Mask => file.put(bytemuck::cast_slice(&words)),
            Kind::Indices => write_indices(&words, entry.dtype, file),
            Kind::Values { is_whole } => {
                for elements in chunks(tensor.elements()) {
                    let words = &words[elements.start / 64..elements.end.div_ceil(64)];
                    if !is_whole && words.iter().all(|&word| word == 0) {
                        continue;
                    }
                    let mut stored = Bytes::new(elements.len() * tensor.width());
                    self.pair.model().read(&tensor.name, elements.start, stored.bytes_mut())?;
                    watch.add(stored.bytes().len() as u64)?;
                    match is_whole {
                        true => file.put(stored.bytes())?,
                        false => file.put(&of_words(words, stored.bytes(), tensor.width()))?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// A tensor of the file of values.
struct Entry {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    /// Number of the model's tensor.
    tensor: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Indices,
    Mask,
    Values { is_whole: bool },
}

impl Entry {
    fn bytes(&self) -> u64 {
        (self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8) as u64
    }
}

fn describe(tensor: &Tensor, change: &Change, is_core: bool) -> DescribedTensor {
    DescribedTensor {
        name: tensor.name.clone(),
        base_name: (tensor.base_name != tensor.name).then(|| tensor.base_name.clone()),
        shape: tensor.shape.clone(),
        dtype: tensor.dtype,
        base_dtype: tensor.base_dtype,
        changed: change.changed,
        form: Form::least(change.changed, tensor.elements() as u64, tensor.width() as u64, is_core),
        base_blake3: change.base_hash.to_hex().to_string(),
        blake3: change.hash.to_hex().to_string(),
    }
}

/// The tensors of the file of values, wide types first, so that each starts at a multiple of its element's size.
fn entries(tensors: &[DescribedTensor]) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (number, tensor) in tensors.iter().enumerate() {
        let elements = tensor.shape.iter().product::<usize>();
        let changed = vec![tensor.changed as usize];
        let mut add = |name: String, dtype: Dtype, shape: Vec<usize>, kind: Kind| {
            entries.push(Entry { name, dtype, shape, tensor: number, kind });
        };
        match tensor.form {
            Form::Unchanged => continue,
            Form::Indices => {
                add(indices_name(&tensor.name), index_type(elements as u64), changed.clone(), Kind::Indices);
            }
            Form::Mask => add(mask_name(&tensor.name), Dtype::U64, vec![elements.div_ceil(64)], Kind::Mask),
            Form::Whole => {}
        }
        let is_whole = tensor.form == Form::Whole;
        let shape = if is_whole { tensor.shape.clone() } else { changed };
        add(values_name(&tensor.name), tensor.dtype, shape, Kind::Values { is_whole });
    }
    entries.sort_by_key(|entry| Reverse(entry.dtype));
    entries
}

/// Places of the bits that are set, ascending.
pub(super) fn places(words: &[u64]) -> impl Iterator<Item = usize> + '_ {
    words.iter().enumerate().flat_map(|(index, &word)| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let lane = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(index * 64 + lane)
        })
    })
}

fn write_indices(words: &[u64], dtype: Dtype, file: &mut FileWriter) -> Result<()> {
    let mut buffer: Vec<u8> = Vec::with_capacity(INDICES * 8);
    for place in places(words) {
        match dtype {
            Dtype::U32 => buffer.extend((place as u32).to_le_bytes()),
            _ => buffer.extend((place as u64).to_le_bytes()),
        }
        if buffer.len() >= INDICES * 4 {
            file.put(&buffer)?;
            buffer.clear();
        }
    }
    file.put(&buffer)
}

/// The elements whose bits are set.
fn of_words(words: &[u64], stored: &[u8], width: usize) -> Vec<u8> {
    let mut values = Vec::new();
    places(words).for_each(|place| values.extend_from_slice(&stored[place * width..][..width]));
    values
}

const _: () = assert!(CHUNK.is_multiple_of(64));
