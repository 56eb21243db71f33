//! The merge itself: blocks come from the reader, are combined on the device's threads, and go to the writer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use cpift_engine::{CpuDevice, Device};
use rayon::prelude::*;

use super::clock::DiskClock;
use super::convert::narrow;
use super::cpift::{Fusion, fraction};
use super::della;
use super::kernel::kernel;
use super::method::How;
use super::plan::{Shard, TensorPlan};
use super::reader::{Block, Blocks, EndOfReading, READERS, Reader};
use super::sources::{Sources, too_large};
use super::tile::TILE;
use super::writer::{self, Gone, Writer};
use super::{MergeProgress, MergeReport};
use crate::checkpoint::TensorFolder;
use crate::error::{Error, Result};
use crate::files::ResumableFolder;

/// What is merged.
pub(super) struct Work<'a> {
    pub device: &'a Device,
    pub cpu: &'a CpuDevice,
    pub tensors: &'a [TensorPlan],
    pub models: &'a [TensorFolder],
    pub shards: &'a [Shard],
    pub stop: &'a AtomicBool,
}

/// Elements of a fused tensor that are converted and written at once.
const PIECE: usize = 1 << 20;

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
        let fusion =
            Fusion::prepare((self.device, self.cpu), self.tensors, self.models, blocks, (&clock, self.stop))?;
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
            let mut merge = Merge {
                work: self,
                blocks,
                reader: &reader,
                writer: &mut writer,
                fusion,
                clock: &clock,
                whole: 0,
                report: &mut report,
            };
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
        report.read += reader.bytes();
        report.written = total;
        report.seconds = began.elapsed().as_secs_f64();
        report.disk_seconds = clock.busy().as_secs_f64();
        report.tensors = self.tensors.len();
        Ok(report)
    }
}

struct Merge<'a, 'w> {
    work: &'a Work<'w>,
    blocks: Blocks,
    reader: &'a Reader<'a>,
    writer: &'a mut Writer,
    fusion: Option<Fusion<'w>>,
    clock: &'a DiskClock,
    /// Files that are handed over as a whole.
    whole: usize,
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
        if let Some(fusion) = &mut self.fusion {
            // What ties are left for the others follows from those of all tensors before.
            let first = todo.first().map_or(0, |shard| shard.tensors.start);
            let made = &self.work.tensors[..first];
            made.iter()
                .filter(|tensor| fraction(tensor).is_some())
                .try_for_each(|tensor| fusion.skip(tensor))?;
        }
        self.whole = self.work.shards.len() - todo.len();
        for shard in todo {
            self.writer.begin(&shard.name, &shard.header)?;
            for tensor in &self.work.tensors[shard.tensors.clone()] {
                if self.work.stop.load(Ordering::Relaxed) {
                    return Err(self.interrupted().into());
                }
                self.tensor(tensor)?;
                done += tensor.bytes();
                observer(MergeProgress { done, total });
            }
            self.writer.end()?;
            self.whole += 1;
        }
        self.report.read += self.fusion.as_ref().map_or(0, |fusion| fusion.read);
        Ok(())
    }

    fn interrupted(&self) -> Error {
        let position = format!("with {} of {} files whole", self.whole, self.work.shards.len());
        Error::Interrupted { position }
    }

    fn tensor(&mut self, tensor: &TensorPlan) -> std::result::Result<(), Stopped> {
        if fraction(tensor).is_some() {
            return self.fuse(tensor);
        }
        let blocks = self.blocks.of_tensor(tensor, self.work.models);
        let drawn = match &tensor.how {
            How::Updates(updates) if updates.ranks() => {
                let watch = (self.clock, self.work.stop);
                let (drawn, read) = della::draw(self.work.cpu, tensor, self.work.models, watch)?;
                self.report.read += read;
                if drawn.is_empty() {
                    return Err(self.interrupted().into());
                }
                drawn
            }
            _ => Vec::new(),
        };
        let floats = tensor.float().zip(kernel(tensor, drawn));
        let Some((dtype, mut kernel)) = floats else { return self.copy(tensor, blocks.len()) };
        let sources = Sources::of(tensor, self.work.models)?;
        let holds = self.blocks.holds(blocks.len());
        let mut held: Vec<Block> = Vec::new();
        for look in 0..tensor.how.looks(tensor.elements()) {
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

    /// Fuses a tensor as training does.
    fn fuse(&mut self, tensor: &TensorPlan) -> std::result::Result<(), Stopped> {
        let Some((fusion, dtype)) = self.fusion.as_mut().zip(tensor.float()) else {
            return Err(Error::Job(format!("`{}` was not prepared to be fused", tensor.name)).into());
        };
        let (fused, values) = fusion.fuse(tensor)?;
        let size = dtype.bytes() as usize;
        let mut staging = vec![0.0; PIECE.min(values.len())];
        for start in (0..values.len()).step_by(PIECE) {
            let piece = &mut staging[..PIECE.min(values.len() - start)];
            values.slice(start..start + piece.len()).copy_to_host(piece).map_err(Error::from)?;
            let bytes = piece.len() * size;
            let mut memory = self.writer.memory(bytes)?;
            let target: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut memory)[..bytes];
            let parts = piece.par_chunks(TILE).zip(target.par_chunks_mut(TILE * size));
            if !parts.map(|(values, target)| narrow(values, dtype, target)).reduce(|| true, |a, b| a && b) {
                return Err(too_large(&tensor.name, piece, start, dtype).into());
            }
            self.writer.put(memory, bytes)?;
        }
        self.report.interpolations += fused.interpolations;
        self.report.linear += fused.linear;
        self.report.transplanted += fused.transplanted.alone;
        self.report.conflicts += fused.transplanted.conflicts;
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
