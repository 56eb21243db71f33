//! Reading ahead: blocks of tensors, each with the same elements of all its sources, in the order in which they are
//! asked for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::clock::DiskClock;
use super::cpift::fraction;
use super::plan::{TensorPlan, places};
use super::tile::{Stored, TILE};
use crate::checkpoint::{TensorFolder, WeightType};
use crate::error::Result;

/// Bytes of all blocks that are in memory at a time.
const BUDGET: usize = 448 << 20;

/// Bytes of one block, where a tile of all sources fits.
const BLOCK: usize = 8 << 20;

/// Threads that read: while one waits for the disk the other asks for more.
pub(super) const READERS: usize = 2;

/// What each source's bytes begin at a multiple of.
const ALIGNMENT: usize = 64;

/// Elements of a tensor to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub tensor: usize,
    pub elements: Range<usize>,
}

/// How a merge's tensors are cut into blocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Blocks {
    /// Bytes of a block's memory.
    bytes: usize,
    /// How many there are.
    count: usize,
}

/// One block: its memory, and where each source's bytes are.
pub(super) struct Block {
    pub elements: Range<usize>,
    memory: Vec<u64>,
    sources: Vec<Range<usize>>,
    /// Bytes that were read for it.
    read: u64,
}

/// Bytes of an element, as read of a source.
fn element_bytes(tensor: &TensorPlan, models: &[TensorFolder]) -> Vec<usize> {
    let of = |place: super::plan::Place<'_>| {
        place.folder.find(place.name).map_or(0, |(_, tensor)| tensor.dtype.bitsize() / 8)
    };
    match tensor.rows {
        // Rows that are put in order are read as f32.
        Some(_) => vec![size_of::<f32>(); tensor.sources.len()],
        None => places(tensor, models).into_iter().map(of).collect(),
    }
}

impl Blocks {
    /// For all tensors of a merge.
    pub fn of(tensors: &[TensorPlan], models: &[TensorFolder]) -> Self {
        let tile = |tensor| Self::memory(&element_bytes(tensor, models), TILE);
        let bytes = tensors.iter().map(tile).max().unwrap_or(0).max(BLOCK);
        Self { bytes, count: (BUDGET / bytes).max(4) }
    }

    fn memory(element_bytes: &[usize], elements: usize) -> usize {
        element_bytes.iter().map(|bytes| (bytes * elements).next_multiple_of(ALIGNMENT)).sum()
    }

    /// Elements of a block of a tensor: whole tiles.
    fn elements(self, tensor: &TensorPlan, models: &[TensorFolder]) -> usize {
        let per_tile = Self::memory(&element_bytes(tensor, models), TILE).max(1);
        (self.bytes / per_tile).max(1) * TILE
    }

    /// The blocks of a tensor.
    pub fn of_tensor(self, tensor: &TensorPlan, models: &[TensorFolder]) -> Vec<Range<usize>> {
        let (elements, step) = (tensor.elements(), self.elements(tensor, models));
        (0..elements).step_by(step).map(|start| start..elements.min(start + step)).collect()
    }

    /// Whether a tensor of so many blocks stays in memory from its first look on; else it is read for each. The other half
    /// of the memory is for what comes next.
    pub fn holds(self, blocks: usize) -> bool {
        blocks <= self.count / 2
    }

    /// Everything to be read for these tensors, in order.
    pub fn requests(
        self,
        numbers: Range<usize>,
        tensors: &[TensorPlan],
        models: &[TensorFolder],
    ) -> Vec<Request> {
        let mut requests = Vec::new();
        for number in numbers {
            let tensor = &tensors[number];
            // Fusion reads its tensors itself.
            if fraction(tensor).is_some() {
                continue;
            }
            let blocks = self.of_tensor(tensor, models);
            let times = if self.holds(blocks.len()) { 1 } else { tensor.how.looks(tensor.elements()) + 1 };
            for _ in 0..times {
                requests.extend(
                    blocks.iter().map(|elements| Request { tensor: number, elements: elements.clone() }),
                );
            }
        }
        requests
    }
}

impl Block {
    /// What a source has of a range of the block's elements.
    pub fn stored(&self, source: usize, dtype: WeightType, range: &Range<usize>) -> Stored<'_> {
        let size = dtype.bytes() as usize;
        Stored { bytes: &self.bytes(source)[range.start * size..range.end * size], dtype }
    }

    /// All bytes of a source.
    pub fn bytes(&self, source: usize) -> &[u8] {
        &bytemuck::cast_slice::<u64, u8>(&self.memory)[self.sources[source].clone()]
    }
}

/// Reads blocks on its threads, as far ahead as there is memory.
pub(super) struct Reader<'a> {
    requests: Vec<Request>,
    tensors: &'a [TensorPlan],
    models: &'a [TensorFolder],
    blocks: Blocks,
    clock: &'a DiskClock,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The request that is read next, and the one that is received next.
    next: usize,
    received: usize,
    ready: BTreeMap<usize, Result<Block>>,
    free: Vec<Vec<u64>>,
    made: usize,
    bytes: u64,
    stopped: bool,
}

impl<'a> Reader<'a> {
    pub fn new(
        requests: Vec<Request>,
        tensors: &'a [TensorPlan],
        models: &'a [TensorFolder],
        (blocks, clock): (Blocks, &'a DiskClock),
    ) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self { requests, tensors, models, blocks, clock, state, changed }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'g>(&self, guard: MutexGuard<'g, State>) -> MutexGuard<'g, State> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until there is nothing left, or the reader is stopped.
    pub fn work(&self) {
        loop {
            let mut state = self.lock();
            while !state.stopped
                && state.next < self.requests.len()
                && state.free.is_empty()
                && state.made == self.blocks.count
            {
                state = self.wait(state);
            }
            if state.stopped || state.next == self.requests.len() {
                return;
            }
            let memory = state.free.pop().unwrap_or_else(|| {
                state.made += 1;
                Vec::new()
            });
            let number = state.next;
            state.next += 1;
            drop(state);
            let block = self.read(&self.requests[number], memory);
            let mut state = self.lock();
            if let Ok(block) = &block {
                state.bytes += block.read;
            }
            state.ready.insert(number, block);
            self.changed.notify_all();
        }
    }

    fn read(&self, request: &Request, mut memory: Vec<u64>) -> Result<Block> {
        let tensor = &self.tensors[request.tensor];
        let (mut sources, mut end) = (Vec::with_capacity(tensor.sources.len()), 0);
        let sizes = element_bytes(tensor, self.models);
        for size in &sizes {
            let start = end;
            sources.push(start..start + size * request.elements.len());
            end = (start + size * request.elements.len()).next_multiple_of(ALIGNMENT);
        }
        if memory.is_empty() {
            // All blocks have the same length, so that any can take the memory of any other.
            memory = vec![0; self.blocks.bytes.div_ceil(size_of::<u64>())];
        }
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut memory);
        let mut read = 0;
        for (source, (place, range)) in places(tensor, self.models).into_iter().zip(&sources).enumerate() {
            let target = &mut bytes[range.clone()];
            if let Some(rows) = &tensor.rows {
                let target = bytemuck::cast_slice_mut(target);
                read += rows.read(source, request.elements.clone(), (self.models, self.clock), target)?;
                continue;
            }
            read += target.len() as u64;
            self.clock.during(|| place.folder.read(place.name, request.elements.start, target))?;
        }
        Ok(Block { elements: request.elements.clone(), memory, sources, read })
    }

    /// The next block.
    pub fn receive(&self) -> Result<Block> {
        let mut state = self.lock();
        loop {
            let number = state.received;
            if let Some(block) = state.ready.remove(&number) {
                state.received += 1;
                return block;
            }
            state = self.wait(state);
        }
    }

    /// Takes a block back that is no longer needed.
    pub fn give_back(&self, block: Block) {
        self.lock().free.push(block.memory);
        self.changed.notify_all();
    }

    /// Ends the threads.
    fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }
}

/// Ends the reading threads when it is dropped.
pub(super) struct EndOfReading<'a, 'r>(pub &'a Reader<'r>);

impl Drop for EndOfReading<'_, '_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
