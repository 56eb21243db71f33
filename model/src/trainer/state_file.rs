//! The state of a training in files: one of everything, or one for the range of each rank, which all write at the same time.
//!
//! Both have the same tensors: the master weights, and parts of the optimizer's state. A file of a range says in its metadata
//! which of how many parameters it has. Files of any number of ranks are read by any number.

use std::ops::Range;
use std::path::Path;

use bytemuck::Pod;
use cpift_engine::ViewMut;
use cpift_engine::ops::adamw::{MomentType, StateMut, StateView};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::Trainer;
use super::command::Command;
use super::state::{StatePart, own_state};
use crate::checkpoint::{
    NamedTensor, TensorData, TensorFile, TensorWriter, WeightType, first_too_large_for, too_large_for,
};
use crate::error::{Error, Result};
use crate::files::{
    self, AtomicFolder, FileWriter, MANIFEST, Manifest, ManifestEntry, SharedFolder, TestFile,
};

/// Name of the file with everything.
const SINGLE: &str = "state.safetensors";
/// Name of the weights in a file; the other tensors are called as [`StatePart::name`] says.
const WEIGHTS: &str = "weights";
/// What the metadata of a range's file say under this name: `0..640 of 1900`.
const RANGE: &str = "range";

/// Name of the file that a rank writes.
fn name_of(rank: usize, ranks: usize) -> String {
    format!("state-{}-of-{ranks}.safetensors", rank + 1)
}

/// What each rank writes of its range, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RangeOrder {
    folder: SharedFolder,
    parts: Vec<StatePart>,
}

impl Trainer {
    /// Why not all ranks can write into a folder, as words for a message; none where all can.
    ///
    /// # Errors
    /// This rank cannot write into it, or another rank has ended.
    pub fn not_seen_by_all(&self, folder: &Path) -> Result<Option<String>> {
        if self.ranks.is_alone() {
            return Ok(None);
        }
        let asked = files::with_test_file(folder, |file| {
            self.tell(Command::LookFor(file.clone()))?;
            self.look_for(file)
        });
        Ok(match asked? {
            Some(Some(rank)) => {
                Some(format!("rank {rank} does not see this folder, or cannot write into it"))
            }
            Some(None) => None,
            None => Some("the name of this folder is not UTF-8, and other ranks cannot be told".to_owned()),
        })
    }

    /// The first rank that does not see a file.
    pub(super) fn look_for(&self, file: &TestFile) -> Result<Option<usize>> {
        self.first_of(!file.is_seen())
    }

    /// The first rank of which something is so.
    fn first_of(&self, is_so: bool) -> Result<Option<usize>> {
        let mut counts = vec![0_u64; self.ranks.size()];
        counts[self.ranks.rank()] = u64::from(is_so);
        self.ranks.count(&mut counts)?;
        Ok(counts.iter().position(|&count| count > 0))
    }

    /// The first weight that is too large for a number type, as words for a message. Each rank looks at its range where it has
    /// no other: nothing is gathered unless there is one.
    ///
    /// # Errors
    /// The device has failed, or another rank has ended.
    pub fn too_large_for(&mut self, dtype: WeightType) -> Result<Option<String>> {
        if dtype == WeightType::F32 {
            return Ok(None);
        }
        if !self.is_whole {
            self.tell(Command::FindTooLarge(dtype))?;
            if self.find_too_large(dtype)?.is_none() {
                return Ok(None);
            }
        }
        let (device, layout) = (self.device.clone(), self.layout.clone());
        let weights = self.weights()?;
        device.scope(|| too_large_for(dtype, &layout, weights))
    }

    /// The first rank in whose range a weight is too large for a number type.
    pub(super) fn find_too_large(&mut self, dtype: WeightType) -> Result<Option<usize>> {
        let (device, own) = (self.device.clone(), self.ranks.own_range(self.layout.len()));
        let weights = self.model.master_range(own)?;
        let found = device.scope(|| first_too_large_for(dtype, weights))?;
        self.first_of(found.is_some())
    }

    /// Bytes of the weights and these parts of the state in files, without what the files begin with.
    pub fn state_bytes(&self, parts: &[StatePart]) -> u64 {
        let of_part = |&part| {
            let (stored, length) = self.state_form(part);
            length * dtype_of(stored).bitsize() / 8
        };
        let weights = self.layout.len() * size_of::<f32>();
        (weights + parts.iter().map(of_part).sum::<usize>()) as u64
    }

    /// Adds the weights and these parts of the state to a folder under construction. Where all ranks see it (`seen_by_all`), each
    /// writes its range, and nothing is gathered; else rank 0 writes one file.
    ///
    /// # Errors
    /// A file cannot be written: the folder is then gone, the rank that failed says why, and the others end with it. The
    /// device fails, or another rank has ended.
    pub fn write_state(
        &mut self,
        folder: &mut AtomicFolder,
        parts: &[StatePart],
        seen_by_all: bool,
    ) -> Result<()> {
        if self.ranks.is_alone() || !seen_by_all {
            return folder.write(SINGLE, |file| self.write_whole(file, parts));
        }
        // Those that were read are not on the other ranks before the next step.
        self.send_weights()?;
        let order = RangeOrder { folder: folder.shared()?, parts: parts.to_vec() };
        self.tell(Command::WriteRange(order.clone()))?;
        let files = self.write_range(&order, || folder.discard())?;
        files.into_iter().try_for_each(|file| folder.add(file))
    }

    fn write_whole(&mut self, file: &mut FileWriter, parts: &[StatePart]) -> Result<()> {
        let mut heads = vec![head(WEIGHTS, MomentType::F32, self.layout.len())];
        heads.extend(parts.iter().map(|&part| {
            let (stored, length) = self.state_form(part);
            head(part.name(), stored, length)
        }));
        let mut writer = begin(file, &heads, None)?;
        writer.write(&tensor(WEIGHTS, StateView::F32(self.weights()?)))?;
        for &part in parts {
            writer.write(&tensor(part.name(), self.state(part)?))?;
        }
        Ok(())
    }

    /// Writes this rank's range while the other ranks write theirs; returns the files of all. Where a rank cannot, `discard` is
    /// called before that rank says so and ends.
    ///
    /// # Errors
    /// As [`Trainer::write_state`].
    pub(super) fn write_range(
        &mut self,
        order: &RangeOrder,
        discard: impl FnOnce(),
    ) -> Result<Vec<ManifestEntry>> {
        let written = self.write_own_range(order).and_then(|file| numbers_of(&file));
        let mut all = vec![[0; NUMBERS]; self.ranks.size()];
        if let Ok(numbers) = &written {
            all[self.ranks.rank()] = *numbers;
        }
        // Others may take longer: to wait here does not keep a core busy.
        self.ranks.barrier()?;
        self.ranks.count(all.as_flattened_mut())?;
        let Some(failed) = all.iter().position(|numbers| numbers[0] == 0) else {
            let files = all.iter().enumerate();
            return Ok(files.map(|(rank, numbers)| file_of(&name_of(rank, all.len()), numbers)).collect());
        };
        discard();
        self.ranks.barrier()?;
        match written {
            Err(error) if self.ranks.rank() == failed => Err(error),
            _ => {
                // It says why, and ends all. One of several says so.
                self.ranks.barrier()?;
                Err(Error::Job(format!("rank {failed} cannot write its part of a checkpoint")))
            }
        }
    }

    fn write_own_range(&mut self, order: &RangeOrder) -> Result<ManifestEntry> {
        let (length, ranks) = (self.layout.len(), &self.ranks);
        let own = ranks.own_range(length);
        let name = name_of(ranks.rank(), ranks.size());
        let stored = self.optimizer.moment_type();
        let mut heads = vec![head(WEIGHTS, MomentType::F32, own.len())];
        let of_part = |&part: &StatePart| head(part.name(), stored, own_state(&self.optimizer, part).len());
        heads.extend(order.parts.iter().map(of_part));
        let range = format!("{}..{} of {length}", own.start, own.end);
        order.folder.write(&name, |file| {
            let mut writer = begin(file, &heads, Some((RANGE, &range)))?;
            writer.write(&tensor(WEIGHTS, StateView::F32(self.model.master_range(own)?)))?;
            let mut parts = order.parts.iter();
            parts.try_for_each(|&part| writer.write(&tensor(part.name(), own_state(&self.optimizer, part))))
        })
    }

    /// Reads the weights and these parts of the state from a folder, whose files its manifest names; the other ranks have them
    /// with the next step.
    ///
    /// # Errors
    /// Files of ranges that are not those of all parameters, or whose tensors are others; the system's, naming the file.
    pub fn read_state(&mut self, folder: &Path, manifest: &Manifest, parts: &[StatePart]) -> Result<()> {
        let files = StateFiles::open(folder, manifest, self.layout.len())?;
        let device = self.device.clone();
        let weights = StateMut::F32(self.weights_mut()?);
        device.scope(|| files.read(WEIGHTS, weights))?;
        for &part in parts {
            self.set_state(part, |target| device.scope(|| files.read(part.name(), target)))?;
        }
        Ok(())
    }
}

/// The files of a state, each with the range that it has, by ascending range.
struct StateFiles(Vec<(Range<usize>, TensorFile)>);

impl StateFiles {
    /// Opens those of a folder's files that have a range of `length` parameters.
    fn open(folder: &Path, manifest: &Manifest, length: usize) -> Result<Self> {
        let names = manifest.files.iter().map(|file| file.name.as_str());
        let mut files = Vec::new();
        for name in names.filter(|name| name.ends_with(".safetensors")) {
            let file = TensorFile::open(&folder.join(name))?;
            files.push((range_of(&file, length)?, file));
        }
        files.sort_by_key(|(range, _)| (range.start, range.end));
        let mut end = 0;
        for (range, file) in &files {
            if range.start != end {
                let reason = format!(
                    "has the parameters from {} on, and the files before it end at {end}: they do not belong together",
                    range.start
                );
                return Err(Error::format(file.path(), reason));
            }
            end = range.end;
        }
        if end != length {
            let reason = format!("names files with {end} of {length} parameters");
            return Err(Error::format(&folder.join(MANIFEST), reason));
        }
        Ok(Self(files))
    }

    /// Reads a tensor of all parameters, or of none, file by file.
    fn read(&self, name: &str, mut target: StateMut<'_>) -> Result<()> {
        for (range, file) in &self.0 {
            match &mut target {
                StateMut::F32(values) => {
                    let part = part_of(values, range);
                    file.read_floats(name, &[part.len()], part)?;
                }
                StateMut::Bf16(values) => file.read_bf16(name, part_of(values, range))?,
            }
        }
        Ok(())
    }
}

/// The values of a range, where there are any.
fn part_of<'a, T: Pod>(values: &'a mut ViewMut<'_, T>, range: &Range<usize>) -> ViewMut<'a, T> {
    let range = if values.is_empty() { 0..0 } else { range.clone() };
    values.reborrow().slice(range)
}

/// The range that a file has, of `length` parameters: all where it says nothing of it.
fn range_of(file: &TensorFile, length: usize) -> Result<Range<usize>> {
    let Some(text) = file.note(RANGE) else { return Ok(0..length) };
    let range = parse_range(text).filter(|(range, all)| range.start <= range.end && range.end <= *all);
    match range {
        Some((range, all)) if all == length => Ok(range),
        _ => {
            let reason =
                format!("says `{text}` of the parameters that it has: not a range of the {length} there are");
            Err(Error::format(file.path(), reason))
        }
    }
}

/// `0..640 of 1900`.
fn parse_range(text: &str) -> Option<(Range<usize>, usize)> {
    let (range, all) = text.split_once(" of ")?;
    let (start, end) = range.split_once("..")?;
    Some((start.parse().ok()?..end.parse().ok()?, all.parse().ok()?))
}

/// A tensor's name, type and shape.
type Head = (String, Dtype, Vec<usize>);

fn head(name: &str, stored: MomentType, length: usize) -> Head {
    (name.to_owned(), dtype_of(stored), vec![length])
}

fn dtype_of(stored: MomentType) -> Dtype {
    match stored {
        MomentType::F32 => Dtype::F32,
        MomentType::Bf16 => Dtype::BF16,
    }
}

fn begin<'f>(
    file: &'f mut FileWriter,
    heads: &[Head],
    note: Option<(&str, &str)>,
) -> Result<TensorWriter<'f>> {
    TensorWriter::begin(file, heads.iter().map(|(name, dtype, shape)| (name, *dtype, shape)), note)
}

fn tensor<'a>(name: &str, values: StateView<'a>) -> NamedTensor<'a> {
    let data = match values {
        StateView::F32(values) => TensorData::Floats(values, WeightType::F32),
        StateView::Bf16(values) => TensorData::Bf16(values),
    };
    NamedTensor { name: name.to_owned(), shape: vec![values.len()], data }
}

/// Numbers by which ranks tell each other what they have written: 1, the length, and the hash.
const NUMBERS: usize = 6;

fn numbers_of(file: &ManifestEntry) -> Result<[u64; NUMBERS]> {
    let hash = blake3::Hash::from_hex(&file.blake3)
        .map_err(|error| Error::Job(format!("`{}` is no hash: {error}", file.blake3)))?;
    let mut numbers = [1, file.bytes, 0, 0, 0, 0];
    let words = hash.as_bytes().as_chunks().0;
    numbers[2..].iter_mut().zip(words).for_each(|(number, word)| *number = u64::from_le_bytes(*word));
    Ok(numbers)
}

fn file_of(name: &str, numbers: &[u64; NUMBERS]) -> ManifestEntry {
    let mut hash = [0; 32];
    let words = hash.as_chunks_mut().0;
    words.iter_mut().zip(&numbers[2..]).for_each(|(word, number)| *word = number.to_le_bytes());
    let blake3 = blake3::Hash::from_bytes(hash).to_hex().to_string();
    ManifestEntry { name: name.to_owned(), bytes: numbers[1], blake3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ranks_tell_each_other_of_a_file_is_all_of_it() {
        let file = ManifestEntry {
            name: "state-1-of-2.safetensors".to_owned(),
            bytes: u64::MAX / 3,
            blake3: blake3::hash(b"content").to_hex().to_string(),
        };
        assert_eq!(file_of(&name_of(0, 2), &numbers_of(&file).unwrap()), file);
    }

    #[test]
    fn ranges_are_read_as_they_are_written() {
        assert_eq!(parse_range("0..640 of 1900"), Some((0..640, 1900)));
        for text in ["", "0..640", "640 of 1900", "0..x of 3", "0..-1 of 3", "0...1 of 3"] {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }
}
