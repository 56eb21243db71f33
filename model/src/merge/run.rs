//! The merge itself: blocks come from the reader, are combined on the device's threads, and go to the writer.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use cpift_engine::CpuDevice;
use rayon::prelude::*;

use super::clock::DiskClock;
use super::convert::narrow;
use super::kernel::{Kernel, Seen, kernel};
use super::plan::{Shard, TensorPlan, places};
use super::reader::{Block, Blocks, READERS, Reader};
use super::tile::{Scratch, Stored, TILE, Tile};
use super::writer::{self, Gone, Writer};
use super::{MergeProgress, MergeReport};
use crate::checkpoint::{TensorFolder, WeightType};
use crate::error::{Error, Result};
use crate::files::ResumableFolder;

/// What is merged.
pub(super) struct Work<'a> {
    pub cpu: &'a CpuDevice,
    pub tensors: &'a [TensorPlan],
    pub models: &'a [TensorFolder],
    pub shards: &'a [Shard],
    pub stop: &'a AtomicBool,
}

/// Why the computing thread stopped.
enum Stopped {
    /// The writer has the error.
    Writer,
    Error(Error),
}

impl From<Gone> for Stopped {
    fn from(_: Gone) -> Self {
        Self::Writer
    }
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl Work<'_> {
    /// Merges the shards that the folder does not have yet.
    pub fn run(
        &self,
        folder: &mut ResumableFolder,
        observer: &mut (dyn FnMut(MergeProgress) + Send),
    ) -> Result<MergeReport> {
        let began = Instant::now();
        let todo: Vec<&Shard> = self.shards.iter().filter(|shard| !folder.contains(&shard.name)).collect();
        let blocks = Blocks::of(self.tensors, self.models);
        let requests: Vec<_> = todo
            .iter()
            .flat_map(|shard| blocks.requests(shard.tensors.clone(), self.tensors, self.models))
            .collect();
        let total = todo.iter().map(|shard| shard.bytes(self.tensors)).sum();
        let clock = DiskClock::default();
        let reader = Reader::new(requests, self.tensors, self.models, (blocks, &clock));
        let (writer, orders) = writer::pair();
        let mut report = MergeReport::default();
        std::thread::scope(|scope| {
            // Dropped in here, also when something panics: the other threads then end.
            let _ends = EndOfReading(&reader);
            let mut writer = writer;
            for _ in 0..READERS {
                scope.spawn(|| reader.work());
            }
            let writing = scope.spawn(|| orders.work(folder, &clock, |_| {}));
            let mut merge =
                Merge { work: self, blocks, reader: &reader, writer: &mut writer, report: &mut report };
            let computed = self.cpu.run(|| merge.shards(&todo, total, observer));
            drop(writer);
            let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (computed, written) {
                (_, Err(error)) | (Err(Stopped::Error(error)), _) => Err(error),
                (Err(Stopped::Writer), Ok(())) => {
                    Err(Error::Job("the writing thread ended before all was written".to_owned()))
                }
                (Ok(()), Ok(())) => Ok(()),
            }
        })?;
        report.read = reader.bytes();
        report.written = total;
        report.seconds = began.elapsed().as_secs_f64();
        report.disk_seconds = clock.busy().as_secs_f64();
        report.tensors = self.tensors.len();
        Ok(report)
    }
}

/// Ends the reading threads when it is dropped.
struct EndOfReading<'a, 'r>(&'a Reader<'r>);

impl Drop for EndOfReading<'_, '_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

struct Merge<'a, 'w> {
    work: &'a Work<'w>,
    blocks: Blocks,
    reader: &'a Reader<'a>,
    writer: &'a mut Writer,
    report: &'a mut MergeReport,
}

impl Merge<'_, '_> {
    fn shards(
        &mut self,
        todo: &[&Shard],
        total: u64,
        observer: &mut (dyn FnMut(MergeProgress) + Send),
    ) -> std::result::Result<(), Stopped> {
        let mut done = 0;
        observer(MergeProgress { done, total });
        for (number, shard) in todo.iter().enumerate() {
            self.writer.begin(&shard.name, &shard.header)?;
            for tensor in &self.work.tensors[shard.tensors.clone()] {
                if self.work.stop.load(Ordering::Relaxed) {
                    let all = self.work.shards.len();
                    let whole = all - todo.len() + number;
                    let position = format!("with {whole} of {all} files whole");
                    return Err(Error::Interrupted { position }.into());
                }
                self.tensor(tensor)?;
                done += tensor.bytes();
                observer(MergeProgress { done, total });
            }
            self.writer.end()?;
        }
        Ok(())
    }

    fn tensor(&mut self, tensor: &TensorPlan) -> std::result::Result<(), Stopped> {
        let blocks = self.blocks.of_tensor(tensor, self.work.models);
        let floats = tensor.float().zip(kernel(&tensor.how, tensor.elements()));
        let Some((dtype, mut kernel)) = floats else { return self.copy(tensor, blocks.len()) };
        let sources = Sources::of(tensor, self.work.models)?;
        let holds = self.blocks.holds(blocks.len());
        let mut held: Vec<Block> = Vec::new();
        for look in 0..kernel.looks() {
            let mut seen = Vec::new();
            for index in 0..blocks.len() {
                let received = if held.len() > index { None } else { Some(self.reader.receive()?) };
                let block = received.as_ref().unwrap_or_else(|| &held[index]);
                seen.extend(sources.look(kernel.as_ref(), look, block)?);
                match received {
                    Some(block) if holds => held.push(block),
                    Some(block) => self.reader.give_back(block),
                    None => {}
                }
            }
            kernel.learn(look, seen).map_err(|reason| {
                Error::format(
                    self.work.models[tensor.sources[0].0].listing(),
                    format!("`{}` {reason}", tensor.name),
                )
            })?;
        }
        let mut held = held.into_iter();
        for _ in 0..blocks.len() {
            let block = match held.next() {
                Some(block) => block,
                None => self.reader.receive()?,
            };
            let bytes = block.elements.len() * dtype.bytes() as usize;
            let mut memory = self.writer.memory(bytes)?;
            let target = &mut bytemuck::cast_slice_mut(&mut memory)[..bytes];
            sources.combine(kernel.as_ref(), &block, dtype, target)?;
            self.reader.give_back(block);
            self.writer.put(memory, bytes)?;
        }
        let (all, linear) = kernel.interpolations();
        self.report.interpolations += all;
        self.report.linear += linear;
        Ok(())
    }

    /// Writes a tensor's bytes as they are; the other sources must have the same.
    fn copy(&mut self, tensor: &TensorPlan, blocks: usize) -> std::result::Result<(), Stopped> {
        for _ in 0..blocks {
            let block = self.reader.receive()?;
            let bytes = block.bytes(0);
            for (source, (model, name)) in tensor.sources.iter().enumerate().skip(1) {
                if block.bytes(source) != bytes {
                    let reason = format!(
                        "`{name}` holds no floats and differs from that of {}: only equal ones can be merged",
                        self.work.models[tensor.sources[0].0].folder().display()
                    );
                    return Err(Error::format(self.work.models[*model].listing(), reason).into());
                }
            }
            let length = bytes.len();
            let mut memory = self.writer.memory(length)?;
            bytemuck::cast_slice_mut::<u64, u8>(&mut memory)[..length].copy_from_slice(bytes);
            self.reader.give_back(block);
            self.writer.put(memory, length)?;
        }
        Ok(())
    }
}

/// The sources of one tensor of floats.
struct Sources<'a> {
    tensor: &'a TensorPlan,
    models: &'a [TensorFolder],
    dtypes: Vec<WeightType>,
    /// Memory of threads that are not at work on a tile.
    scratches: Mutex<Vec<Scratch>>,
}

impl<'a> Sources<'a> {
    fn of(tensor: &'a TensorPlan, models: &'a [TensorFolder]) -> Result<Self> {
        let dtype = |place: super::plan::Place<'_>| {
            let found = place.folder.find(place.name).and_then(|(_, info)| WeightType::of(info.dtype));
            found.ok_or_else(|| {
                Error::format(
                    place.folder.listing(),
                    format!("`{}` holds no floats that are supported", place.name),
                )
            })
        };
        let dtypes = places(tensor, models).into_iter().map(dtype).collect::<Result<_>>()?;
        Ok(Self { tensor, models, dtypes, scratches: Mutex::default() })
    }

    /// What all sources have of a range of a block's elements.
    fn stored<'b>(&self, block: &'b Block, range: &Range<usize>) -> Vec<Stored<'b>> {
        let stored = |(source, dtype): (usize, &WeightType)| block.stored(source, *dtype, range);
        self.dtypes.iter().enumerate().map(stored).collect()
    }

    fn tiles(block: &Block) -> impl IndexedParallelIterator<Item = Range<usize>> {
        let length = block.elements.len();
        (0..length.div_ceil(TILE)).into_par_iter().map(move |tile| tile * TILE..length.min((tile + 1) * TILE))
    }

    /// Lends memory for a tile, as many as there are threads.
    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> R {
        let lock = || self.scratches.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = lock().pop();
        let mut scratch = taken.unwrap_or_else(|| Scratch::new(self.dtypes.len()));
        let result = work(&mut scratch);
        lock().push(scratch);
        result
    }

    fn look(&self, kernel: &dyn Kernel, look: usize, block: &Block) -> Result<Vec<Seen>> {
        let look_at = |range: Range<usize>| {
            let stored = self.stored(block, &range);
            let tile = Tile::new(block.elements.start + range.start, range.len(), &stored);
            let seen = self.with_scratch(|scratch| kernel.look(look, &tile, scratch));
            self.require_finite(&tile, &stored).map(|()| seen)
        };
        let seen: Vec<Result<Seen>> = Self::tiles(block).map(look_at).collect();
        seen.into_iter().collect()
    }

    fn combine(
        &self,
        kernel: &dyn Kernel,
        block: &Block,
        dtype: WeightType,
        target: &mut [u8],
    ) -> Result<()> {
        let size = dtype.bytes() as usize;
        let combine = |(range, target): (Range<usize>, &mut [u8])| {
            let stored = self.stored(block, &range);
            let tile = Tile::new(block.elements.start + range.start, range.len(), &stored);
            self.with_scratch(|scratch| {
                let mut memory = std::mem::take(&mut scratch.out);
                let out = &mut memory[..range.len()];
                kernel.combine(&tile, scratch, out);
                let fits = narrow(out, dtype, target);
                let outcome = self.require_finite(&tile, &stored);
                let outcome = outcome.and_then(|()| match fits {
                    true => Ok(()),
                    false => Err(self.too_large(out, tile.start, dtype)),
                });
                scratch.out = memory;
                outcome
            })
        };
        let tiles = Self::tiles(block).zip(target.par_chunks_mut(TILE * size));
        let outcomes: Vec<Result<()>> = tiles.map(combine).collect();
        outcomes.into_iter().collect()
    }

    /// Fails where a source of a tile was not finite, naming the element.
    fn require_finite(&self, tile: &Tile<'_>, stored: &[Stored<'_>]) -> Result<()> {
        let Some(source) = tile.not_finite() else { return Ok(()) };
        let mut values = vec![0.0; tile.length];
        super::convert::widen(stored[source].bytes, stored[source].dtype, &mut values);
        let index = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
        let (model, name) = &self.tensor.sources[source];
        let folder = &self.models[*model];
        let path = folder.find(name).map_or(folder.listing(), |(file, _)| file.path());
        Err(Error::format(path, format!("`{name}` has {} at element {}", values[index], tile.start + index)))
    }

    fn too_large(&self, values: &[f32], start: usize, dtype: WeightType) -> Error {
        // Memory that is aligned for any of the types.
        let mut memory = [0_u64];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
        let mut index = 0;
        while index + 1 < values.len()
            && narrow(&values[index..=index], dtype, &mut bytes[..dtype.bytes() as usize])
        {
            index += 1;
        }
        let (name, value) = (&self.tensor.name, values[index]);
        let dtype = dtype.config_name();
        Error::Job(format!("`{name}` becomes {value} at element {}, too large for {dtype}", start + index))
    }
}
