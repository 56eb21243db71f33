//! Reading what a model adds to its base, a block at a time.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{CoresProgress, Tensor};
use crate::checkpoint::TensorFolder;
use crate::error::{Error, Result};
use crate::merge::widen_finite;

/// Elements of a block: whole words of a mask.
pub(super) const BLOCK: usize = 1 << 18;

/// Stops and progress of all readings.
pub(super) struct Reading<'a> {
    stop: &'a AtomicBool,
    done: AtomicU64,
    /// The first of the blocks that are read side by side which could not be; the largest number before.
    failed: AtomicUsize,
    total: u64,
    observer: Mutex<&'a mut (dyn FnMut(CoresProgress) + Send)>,
}

impl<'a> Reading<'a> {
    pub fn new(
        stop: &'a AtomicBool,
        observer: &'a mut (dyn FnMut(CoresProgress) + Send),
        total: u64,
    ) -> Self {
        observer(CoresProgress { done: 0, total });
        let (done, failed) = (AtomicU64::new(0), AtomicUsize::new(usize::MAX));
        Self { stop, done, failed, total, observer: Mutex::new(observer) }
    }

    fn add(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        // Another thread is just telling: its number is as good.
        if let Ok(mut observer) = self.observer.try_lock() {
            observer(CoresProgress { done, total: self.total });
        }
    }

    fn check(&self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Stopped {
                position: "before all cores were found; nothing was written".to_owned(),
            }),
            false => Ok(()),
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let (done, total) = (*self.done.get_mut(), self.total);
        self.observer.get_mut().unwrap_or_else(PoisonError::into_inner)(CoresProgress { done, total });
    }
}

/// What one model adds to the base.
#[derive(Clone, Copy)]
pub(super) struct Updates<'a, 'r> {
    /// The base and the model.
    pub folders: [&'a TensorFolder; 2],
    /// The model's number among all folders; the base's is 0.
    pub number: usize,
    pub reading: &'a Reading<'r>,
}

/// A thread's memory.
#[derive(Default)]
pub(super) struct Scratch {
    /// Words, so that what is stored is aligned.
    stored: Vec<u64>,
    pub base: Vec<f32>,
    /// The model's values, then what it adds to the base.
    pub update: Vec<f32>,
}

/// A block of a tensor.
#[derive(Debug, Clone)]
pub(super) struct Block {
    pub tensor: usize,
    pub elements: Range<usize>,
}

/// The blocks of these tensors, in order.
pub(super) fn blocks(tensors: &[Tensor], wanted: impl Fn(&Tensor) -> bool) -> Vec<Block> {
    let numbered = tensors.iter().enumerate().filter(|(_, tensor)| wanted(tensor));
    numbered.flat_map(|(index, tensor)| blocks_of(index, tensor)).collect()
}

/// The blocks of one tensor.
pub(super) fn blocks_of(index: usize, tensor: &Tensor) -> impl Iterator<Item = Block> + use<> {
    let elements = tensor.elements;
    (0..elements)
        .step_by(BLOCK)
        .map(move |start| Block { tensor: index, elements: start..elements.min(start + BLOCK) })
}

impl Updates<'_, '_> {
    /// Bytes of an element of a tensor as it is stored.
    pub fn element_bytes(folder: &TensorFolder, name: &str) -> usize {
        folder.find(name).map_or(0, |(_, info)| info.dtype.bitsize() / 8)
    }

    /// Reads a block, which is number `number` of those that are read side by side, into the scratch memory. Blocks behind
    /// one that failed are not read.
    ///
    /// # Errors
    /// NaN or infinity, by tensor and element; a stop; the system's.
    pub fn read(
        &self,
        tensors: &[Tensor],
        block: &Block,
        number: usize,
        scratch: &mut Scratch,
    ) -> Result<()> {
        let failed = &self.reading.failed;
        if failed.load(Ordering::Relaxed) < number {
            return Ok(());
        }
        let outcome = self.read_block(tensors, block, scratch);
        if outcome.is_err() {
            failed.fetch_min(number, Ordering::Relaxed);
        }
        outcome
    }

    fn read_block(&self, tensors: &[Tensor], block: &Block, scratch: &mut Scratch) -> Result<()> {
        self.reading.check()?;
        let tensor = &tensors[block.tensor];
        let Scratch { stored, base, update } = scratch;
        self.read_one(0, &tensor.names[0], block, stored, base)?;
        self.read_one(1, &tensor.names[self.number], block, stored, update)?;
        for (update, base) in update.iter_mut().zip(base) {
            *update -= *base;
        }
        match update.iter().position(|update| !update.is_finite()) {
            None => Ok(()),
            Some(place) => {
                let reason = format!(
                    "`{}` is too far from the base at element {}",
                    tensor.names[self.number],
                    block.elements.start + place
                );
                Err(Error::format(self.folders[1].listing(), reason))
            }
        }
    }

    fn read_one(
        &self,
        folder: usize,
        name: &str,
        block: &Block,
        stored: &mut Vec<u64>,
        values: &mut Vec<f32>,
    ) -> Result<()> {
        let folder = self.folders[folder];
        let (file, _, dtype) = folder.require_floats(name)?;
        let (length, size) = (block.elements.len(), dtype.bytes() as usize);
        stored.resize((length * size).div_ceil(size_of::<u64>()), 0);
        values.resize(length, 0.0);
        let bytes = &mut bytemuck::cast_slice_mut::<u64, u8>(stored)[..length * size];
        folder.read(name, block.elements.start, bytes)?;
        self.reading.add(bytes.len() as u64);
        widen_finite((file, name), block.elements.start, bytes, dtype, values)
    }
}
