//! Which elements of a model are not the base's, bit by bit, and what both are.

use std::ops::Range;

use blake3::{Hash, Hasher};
use bytemuck::Pod;
use cpift_engine::CpuDevice;
use rayon::prelude::*;
use safetensors::Dtype;

use super::core_masks::CoreMasks;
use super::pair::{Pair, Tensor};
use super::watch::Watch;
use crate::checkpoint::{WeightType, header_of};
use crate::error::{Error, Result};
use crate::files::AtomicFolder;
use crate::merge::{narrow, widen};

/// Elements read at a time: whole words of bits.
pub(super) const CHUNK: usize = 1 << 22;

/// Words of bits that a thread takes at a time.
const WORDS: usize = 1 << 10;

/// Elements of a word.
const WORD: usize = 64;

/// What is known of a tensor.
#[derive(Debug, Clone)]
pub(super) struct Change {
    /// Elements that are not the base's.
    pub changed: u64,
    /// Of the base's bytes.
    pub base_hash: Hash,
    /// Of the bytes that the base has with these elements in place.
    pub hash: Hash,
}

/// Name of the file with a bit for every element that changed.
pub(super) const BITS_FILE: &str = "changed.safetensors";

/// Compares all tensors and writes the bits of what changed into a folder under construction. With a core only what is in
/// it counts.
///
/// # Errors
/// A mask of the core that does not fit; a stop; the system's.
pub(super) fn find(
    cpu: &CpuDevice,
    pair: &Pair,
    core: Option<&CoreMasks>,
    writing: &mut AtomicFolder,
    watch: &mut Watch<'_>,
) -> Result<Vec<Change>> {
    let shapes: Vec<Vec<usize>> =
        pair.tensors.iter().map(|tensor| vec![tensor.elements().div_ceil(WORD)]).collect();
    let entries = pair.tensors.iter().zip(&shapes).map(|(tensor, shape)| (&tensor.name, Dtype::U64, shape));
    let header = header_of(entries, None).map_err(Error::Job)?;
    let mut changes = Vec::with_capacity(pair.tensors.len());
    writing.write(BITS_FILE, |file| {
        file.put(&header)?;
        for tensor in &pair.tensors {
            let core = match core {
                Some(core) => {
                    Some(core.read(tensor)?.unwrap_or_else(|| vec![0; tensor.elements().div_ceil(WORD)]))
                }
                None => None,
            };
            let (mut base_hash, mut hash, mut changed) = (Hasher::new(), Hasher::new(), 0);
            for elements in chunks(tensor.elements()) {
                let chunk = Chunk::read(pair, tensor, elements.clone())?;
                let core =
                    core.as_ref().map(|words| &words[elements.start / WORD..elements.end.div_ceil(WORD)]);
                let compared = cpu.run(|| {
                    base_hash.update_rayon(chunk.base.bytes());
                    let compared = chunk.compare(tensor, core);
                    hash.update_rayon(compared.result.bytes());
                    compared
                });
                changed += compared.words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
                file.put(bytemuck::cast_slice(&compared.words))?;
                watch.add((chunk.base.length + chunk.model.length) as u64)?;
            }
            changes.push(Change { changed, base_hash: base_hash.finalize(), hash: hash.finalize() });
        }
        Ok(())
    })?;
    Ok(changes)
}

/// The pieces that a tensor is read in.
pub(super) fn chunks(elements: usize) -> impl Iterator<Item = Range<usize>> {
    (0..elements).step_by(CHUNK).map(move |start| start..elements.min(start + CHUNK))
}

/// Bytes in memory that is aligned for any type.
pub(super) struct Bytes {
    memory: Vec<u64>,
    length: usize,
}

impl Bytes {
    pub fn new(length: usize) -> Self {
        Self { memory: vec![0; length.div_ceil(size_of::<u64>())], length }
    }

    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.memory)[..self.length]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.memory)[..self.length]
    }
}

/// The same elements of both.
struct Chunk {
    base: Bytes,
    model: Bytes,
}

/// What differs, and the base's elements with those in place that do.
struct Compared {
    words: Vec<u64>,
    result: Bytes,
}

impl Chunk {
    fn read(pair: &Pair, tensor: &Tensor, elements: Range<usize>) -> Result<Self> {
        let mut base = Bytes::new(elements.len() * tensor.base_dtype.bitsize() / 8);
        let mut model = Bytes::new(elements.len() * tensor.width());
        pair.base().read(&tensor.base_name, elements.start, base.bytes_mut())?;
        pair.model().read(&tensor.name, elements.start, model.bytes_mut())?;
        Ok(Self { base, model })
    }

    fn compare(&self, tensor: &Tensor, core: Option<&[u64]>) -> Compared {
        let mut result = in_type(self.base.bytes(), tensor.base_dtype, tensor.dtype);
        let model = self.model.bytes();
        let words = match tensor.width() {
            1 => take_differing::<u8>(result.bytes_mut(), model, core),
            2 => take_differing::<u16>(result.bytes_mut(), model, core),
            4 => take_differing::<u32>(result.bytes_mut(), model, core),
            _ => take_differing::<u64>(result.bytes_mut(), model, core),
        };
        Compared { words, result }
    }
}

/// Stored elements in another type of floats, rounded to nearest; in the same as they are.
pub(super) fn in_type(bytes: &[u8], from: Dtype, to: Dtype) -> Bytes {
    let size = |dtype: Dtype| dtype.bitsize() / 8;
    let mut result = Bytes::new(bytes.len() / size(from) * size(to));
    let (Some(wide), Some(other)) = (WeightType::of(from), WeightType::of(to)) else {
        result.bytes_mut().copy_from_slice(bytes);
        return result;
    };
    if from == to {
        result.bytes_mut().copy_from_slice(bytes);
        return result;
    }
    let piece = WORDS * WORD;
    let targets = result.bytes_mut().par_chunks_mut(piece * size(to));
    bytes.par_chunks(piece * size(from)).zip(targets).for_each(|(bytes, target)| {
        let mut values = vec![0.0; bytes.len() / size(from)];
        // What is not finite stays so in any type.
        widen(bytes, wide, &mut values);
        narrow(&values, other, target);
    });
    result
}

/// Bits of the elements that differ, of those in the core where there is one; they are taken over from `other`.
fn take_differing<T: Pod + PartialEq + Send + Sync>(
    own: &mut [u8],
    other: &[u8],
    core: Option<&[u64]>,
) -> Vec<u64> {
    let own: &mut [T] = bytemuck::cast_slice_mut(own);
    let other: &[T] = bytemuck::cast_slice(other);
    let mut words = vec![0_u64; own.len().div_ceil(WORD)];
    let pieces = own.par_chunks_mut(WORDS * WORD).zip(other.par_chunks(WORDS * WORD));
    words.par_chunks_mut(WORDS).zip(pieces).enumerate().for_each(|(piece, (words, (own, other)))| {
        let lines = own.chunks_mut(WORD).zip(other.chunks(WORD));
        for (index, (word, (own, other))) in words.iter_mut().zip(lines).enumerate() {
            let core = core.map_or(u64::MAX, |core| core[piece * WORDS + index]);
            for (lane, (own, other)) in own.iter_mut().zip(other).enumerate() {
                if own != other && core >> lane & 1 == 1 {
                    *own = *other;
                    *word |= 1 << lane;
                }
            }
        }
    });
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_of_what_differs_in_the_core() {
        let base: Vec<u16> = (0..200).collect();
        let mut model = base.clone();
        for place in [0, 63, 64, 130, 199] {
            model[place] += 1000;
        }
        let bytes = |values: &[u16]| bytemuck::cast_slice::<u16, u8>(values).to_vec();
        let mut own = base.clone();
        let words = take_differing::<u16>(bytemuck::cast_slice_mut(&mut own), &bytes(&model), None);
        assert_eq!(words, [1 | 1 << 63, 1, 1 << 2, 1 << 7]);
        assert_eq!(own, model);
        let mut own = base.clone();
        let core = [1 << 63 | 2, 0, u64::MAX, u64::MAX];
        let words = take_differing::<u16>(bytemuck::cast_slice_mut(&mut own), &bytes(&model), Some(&core));
        assert_eq!(words, [1 << 63, 0, 1 << 2, 1 << 7]);
        let differing: Vec<usize> = (0..200).filter(|&place| own[place] != base[place]).collect();
        assert_eq!(differing, [63, 130, 199]);
    }
}
