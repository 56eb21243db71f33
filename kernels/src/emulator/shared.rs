//! A block's shared memory, which knows who accessed what since when.
//!
//! Races are found by the order that barriers make, not by luck of the schedule: two accesses by
//! different threads to the same place, one of them a write, need a block barrier between them, or, in the
//! same warp, a warp barrier.

use std::collections::{BTreeMap, VecDeque};

use super::async_proxy::TmaCopy;
use super::mbarrier::{Arrived, Mbarriers};
use super::rules::{Mutation, Rules};
use crate::fault::Cause;

/// Accesses are told apart at this many bytes: the smallest element kernels share.
pub(super) const GRANULE: usize = 2;
/// What the memory holds before it is written: a NaN as f32 and as bf16.
const POISON: u8 = 0xff;

/// When and by whom a granule was accessed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Access {
    /// The thread; [`NOBODY`] before the first.
    pub(super) thread: u32,
    /// Block barriers passed before.
    barriers: u32,
    /// Barriers of its warp passed before.
    warp_barriers: u32,
    /// Fences before which TMA and the tensor cores may not see it.
    pub(super) fences: u32,
}

const NOBODY: u32 = u32::MAX;
const NEVER: Access = Access { thread: NOBODY, barriers: 0, warp_barriers: 0, fences: 0 };

#[derive(Debug, Clone, Copy)]
pub(super) struct Granule {
    /// By a thread.
    pub(super) write: Access,
    atomic: bool,
    /// What the thread's store covered, from here on; nothing where it was no plain store.
    stored: Covered,
    /// The thread whose copy to it is under way.
    pub(super) copied_by: Option<u32>,
    /// What a copy of a tile that wrote it since counted for.
    pub(super) arrived: Option<Arrived>,
    /// The latest read.
    read: Access,
    /// Another thread's read since the same block barrier, if there was one.
    other_read: Access,
}

/// Bytes that a store covers, as a granule in them sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Covered {
    /// Bytes before the granule.
    before: i8,
    /// All of them.
    length: u8,
}

/// Shared memory of the block in progress.
#[derive(Debug)]
pub struct SharedMemory {
    /// In words of 16 bytes, for alignment.
    words: Vec<u128>,
    bytes: u32,
    pub(super) rules: Rules,
    pub(super) granules: Vec<Granule>,
    barriers: u32,
    warp_barriers: Vec<u32>,
    /// Barriers that copies of tiles arrive at.
    pub(super) mbarriers: Mbarriers,
    /// Copies of tiles under way, the oldest first.
    pub(super) tma_copies: Vec<TmaCopy>,
    /// Of each thread, those that make its writes known to TMA and the tensor cores.
    pub(super) fences: Vec<u32>,
    /// Copies under way, of each thread: those of its open group and, before them, its closed groups.
    copies: BTreeMap<u32, ThreadCopies>,
}

/// Copies that one thread has started and not waited for.
#[derive(Debug, Default)]
struct ThreadCopies {
    groups: VecDeque<Vec<Copy>>,
    open: Vec<Copy>,
}

/// A copy under way.
#[derive(Debug, Clone)]
struct Copy {
    byte: u32,
    bytes: [u8; 16],
}

/// Kinds of accesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Load,
    /// Writes.
    Store,
    /// Reads and writes in one.
    Atomic,
}

impl Kind {
    fn verb(self) -> &'static str {
        match self {
            Self::Load => "load from",
            Self::Store => "store to",
            Self::Atomic => "atomic on",
        }
    }
}

impl SharedMemory {
    /// Poisoned memory for a block of `warps` warps.
    pub fn new(bytes: u32, warps: u32, rules: Rules) -> Self {
        let fresh = Granule {
            write: NEVER,
            atomic: false,
            stored: Covered::default(),
            copied_by: None,
            arrived: None,
            read: NEVER,
            other_read: NEVER,
        };
        Self {
            words: vec![u128::from_ne_bytes([POISON; 16]); bytes.div_ceil(16) as usize],
            bytes,
            rules,
            granules: vec![fresh; (bytes as usize).div_ceil(GRANULE)],
            barriers: 0,
            warp_barriers: vec![0; warps as usize],
            mbarriers: Mbarriers::new(32 * warps, rules),
            tma_copies: Vec::new(),
            fences: vec![0; 32 * warps as usize],
            copies: BTreeMap::new(),
        }
    }

    /// Bytes the block asked for.
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    /// The whole block has met.
    pub fn block_barrier(&mut self) {
        self.barriers += 1;
        self.mbarriers.share(0..self.fences.len());
    }

    /// A warp has met.
    pub fn warp_barrier(&mut self, warp: usize) {
        self.warp_barriers[warp] += 1;
        self.mbarriers.share(32 * warp..32 * (warp + 1));
    }

    /// The thread makes known what it wrote.
    pub fn fence(&mut self, thread: u32) {
        self.fences[thread as usize] += 1;
    }

    /// Start of the memory.
    pub fn pointer(&mut self) -> *mut u8 {
        self.words.as_mut_ptr().cast()
    }

    /// A copy of `bytes` to `byte` on begins; the memory there is in use until it is waited for.
    pub fn start_copy(&mut self, thread: u32, byte: u32, bytes: [u8; 16]) {
        self.copies.entry(thread).or_default().open.push(Copy { byte, bytes });
        self.mark_copy(byte, Some(thread));
    }

    /// Closes the thread's open group of copies, be it empty.
    pub fn commit_copies(&mut self, thread: u32) {
        let copies = self.copies.entry(thread).or_default();
        let group = std::mem::take(&mut copies.open);
        copies.groups.push_back(group);
    }

    /// Finishes all but the `latest` last groups of the thread's copies.
    pub fn wait_copies(&mut self, thread: u32, latest: usize) {
        let copies = self.copies.entry(thread).or_default();
        let finished = copies.groups.len().saturating_sub(latest);
        let finished = match self.rules.mutation {
            Some(Mutation::CopiesNotAwaited) => 0..0,
            Some(Mutation::LatestCopiesAwaited) => copies.groups.len() - finished..copies.groups.len(),
            _ => 0..finished,
        };
        let finished: Vec<Copy> = copies.groups.drain(finished).flatten().collect();
        for Copy { byte, bytes } in finished {
            let start = byte as usize;
            // SAFETY: an access of these 16 bytes was checked when the copy began.
            unsafe { self.pointer().add(start).cast::<[u8; 16]>().write(bytes) };
            self.mark_copy(byte, None);
            let now = self.now(thread);
            for granule in &mut self.granules[start / GRANULE..(start + 16) / GRANULE] {
                (granule.write, granule.atomic, granule.arrived) = (now, false, None);
                granule.stored = Covered::default();
            }
        }
    }

    fn mark_copy(&mut self, byte: u32, by: Option<u32>) {
        let first = byte as usize / GRANULE;
        self.granules[first..first + 16 / GRANULE].iter_mut().for_each(|granule| granule.copied_by = by);
    }

    pub(super) fn now(&self, thread: u32) -> Access {
        let warp_barriers = self.warp_barriers[thread as usize / 32];
        Access { thread, barriers: self.barriers, warp_barriers, fences: self.fences[thread as usize] }
    }

    /// Notes an access by `thread` to `length` bytes from `byte`, which lie inside the memory.
    pub fn access(
        &mut self,
        thread: u32,
        kind: Kind,
        byte: u32,
        length: u32,
        location: &dyn Fn() -> String,
    ) -> Result<(), Cause> {
        self.access_all(thread, kind, (byte, length), false, location)
    }

    /// Stores bytes, which lie inside the memory.
    ///
    /// Stores of one value to the same bytes need no order between them: where data races overlap completely, what
    /// is read is one of the values that were written (PTX ISA, memory consistency model, "Limitations on Mixed-size
    /// Data-races").
    pub fn store(
        &mut self,
        thread: u32,
        byte: u32,
        bytes: &[u8],
        location: &dyn Fn() -> String,
    ) -> Result<(), Cause> {
        // SAFETY: inside the memory.
        let place = unsafe { self.pointer().add(byte as usize) };
        // SAFETY: as many bytes as are to be stored, and nothing else refers to them.
        let there = unsafe { std::slice::from_raw_parts_mut(place, bytes.len()) };
        let same = *there == *bytes;
        let range = (byte, bytes.len() as u32);
        self.access_all(thread, Kind::Store, range, same, location)?;
        there.copy_from_slice(bytes);
        Ok(())
    }

    /// Notes an access; `same` is whether it is a store of what is there.
    fn access_all(
        &mut self,
        thread: u32,
        kind: Kind,
        (byte, length): (u32, u32),
        same: bool,
        location: &dyn Fn() -> String,
    ) -> Result<(), Cause> {
        let now = self.now(thread);
        let first = byte as usize / GRANULE;
        let last = (byte + length).div_ceil(GRANULE as u32) as usize;
        for (index, granule) in (first..).zip(&mut self.granules[first..last]) {
            if let Some(arrived) = granule.arrived.filter(|&arrived| !self.mbarriers.knows(thread, arrived)) {
                let (byte, barrier) = ((index * GRANULE) as u32, arrived.barrier);
                return Err(Cause::Unawaited {
                    access: kind.verb(),
                    byte,
                    thread,
                    barrier,
                    location: location(),
                });
            }
            let covered =
                Covered { before: ((index * GRANULE) as i64 - i64::from(byte)) as i8, length: length as u8 };
            if let Err((other, earlier)) = granule.access(now, kind, covered, same) {
                let (byte, location) = ((index * GRANULE) as u32, location());
                return Err(match other {
                    NOBODY => Cause::Uninitialised { byte, location },
                    other => Cause::Race { access: kind.verb(), byte, other, earlier, location },
                });
            }
        }
        Ok(())
    }
}

impl Access {
    /// Whether there was none.
    pub(super) fn is_never(&self) -> bool {
        self.thread == NOBODY
    }

    /// Whether `later` is sure to come after this access.
    pub(super) fn is_before(&self, later: &Access) -> bool {
        self.thread == NOBODY
            || self.thread == later.thread
            || self.barriers < later.barriers
            || (self.thread / 32 == later.thread / 32 && self.warp_barriers < later.warp_barriers)
    }
}

impl Granule {
    /// Notes an access, and whether it is a store; fails with the thread it races with and what that did. A store of
    /// what is there may come without order behind one of the same bytes.
    fn access(
        &mut self,
        now: Access,
        kind: Kind,
        covered: Covered,
        same: bool,
    ) -> Result<(), (u32, &'static str)> {
        if let Some(thread) = self.copied_by {
            return Err((thread, "is still copying to"));
        }
        if kind != Kind::Store && self.write.is_never() && self.arrived.is_none() {
            return Err((NOBODY, "wrote"));
        }
        let both_atomic = kind == Kind::Atomic && self.atomic;
        let repeated = same && !self.atomic && self.stored == covered;
        if !both_atomic && !repeated && !self.write.is_before(&now) {
            return Err((self.write.thread, "wrote"));
        }
        if kind == Kind::Load {
            // What a copy of a tile brought is given back by an arrival; a copy that comes earlier is found under way.
            if self.arrived.is_none() {
                self.note_read(now);
            }
        } else {
            self.reads_are_over(&now)?;
            self.write = now;
            self.atomic = kind == Kind::Atomic;
            self.stored = if self.atomic { Covered::default() } else { covered };
            self.arrived = None;
        }
        Ok(())
    }

    pub(super) fn note_read(&mut self, now: Access) {
        if self.read.thread != now.thread && self.read.barriers == now.barriers {
            self.other_read = self.read;
        }
        self.read = now;
    }

    /// Whether all accesses are over; fails with the thread for which that is not sure, and what it did.
    pub(super) fn accesses_are_over(&self, now: &Access) -> Result<(), (u32, &'static str)> {
        match self.copied_by {
            Some(thread) => Err((thread, "is still copying to")),
            None if !self.write.is_before(now) => Err((self.write.thread, "wrote")),
            None => self.reads_are_over(now),
        }
    }

    fn reads_are_over(&self, now: &Access) -> Result<(), (u32, &'static str)> {
        let open = [self.read, self.other_read].into_iter().find(|read| !read.is_before(now));
        open.map_or(Ok(()), |read| Err((read.thread, "read")))
    }

    /// A copy of a tile has written it: earlier accesses were over before that began.
    pub(super) fn arrive(&mut self, arrived: Arrived) {
        let Self { write, copied_by, read, other_read, .. } = self;
        (*write, *read, *other_read, *copied_by) = (NEVER, NEVER, NEVER, None);
        self.arrived = Some(arrived);
    }
}
