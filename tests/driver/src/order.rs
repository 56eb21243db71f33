//! Which work comes before which, by vector clocks. Finds work of two streams that meets in memory without an order.
//!
//! What counts is what the calls demand, not what has run: a missing wait is found whenever work runs. So work that has
//! run is remembered until the host has waited for it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;

use crate::memory::Place;

/// A point in time: by stream, by its handle, the number of its last work that is done then.
#[derive(Debug, Clone, Default)]
pub struct Clock(HashMap<usize, u64>);

impl Clock {
    /// The last work of a stream that is done.
    fn last(&self, stream: usize) -> u64 {
        self.0.get(&stream).copied().unwrap_or(0)
    }

    /// Makes it a point when also all is done that is done at the other.
    fn join(&mut self, other: &Self) {
        for (&stream, &number) in &other.0 {
            let own = self.0.entry(stream).or_default();
            *own = number.max(*own);
        }
    }
}

/// What work does with a range of memory.
#[derive(Debug, Clone)]
pub struct Access {
    /// The allocation.
    block: u64,
    /// Addresses on the device.
    bytes: Range<u64>,
    writes: bool,
    /// What the range is to the work, for messages.
    role: &'static str,
}

impl Access {
    /// Of this place.
    pub fn new(place: &Place, writes: bool, role: &'static str) -> Self {
        let start = place.block.address() + place.offset as u64;
        Self { block: place.block.number, bytes: start..start + place.bytes as u64, writes, role }
    }

    /// Whether the order of the two matters.
    fn conflicts(&self, other: &Self) -> bool {
        let overlap = self.bytes.start.max(other.bytes.start) < self.bytes.end.min(other.bytes.end);
        self.block == other.block && overlap && (self.writes || other.writes)
    }

    fn describe(&self, work: &str) -> String {
        let (access, Range { start, end }) = (if self.writes { "writes" } else { "reads" }, &self.bytes);
        format!("{work} {access} {start:#x} to {end:#x} ({})", self.role)
    }
}

/// Work that the host has not waited for.
#[derive(Debug)]
struct Pending {
    number: u64,
    name: &'static str,
    accesses: Vec<Access>,
}

/// What is known of a stream.
#[derive(Debug, Default)]
struct Line {
    /// What is done before its next work, its own included.
    clock: Clock,
    pending: VecDeque<Pending>,
}

/// What is known of all streams, by their handles.
#[derive(Debug, Default)]
pub struct Order(BTreeMap<usize, Line>);

impl Order {
    /// Takes up a stream's next work.
    ///
    /// # Errors
    /// Which work of another stream it conflicts with, and is not ordered behind.
    pub fn add(&mut self, stream: usize, name: &'static str, accesses: Vec<Access>) -> Result<(), String> {
        let clock = self.now(stream);
        for (&other, line) in self.0.iter().filter(|(other, _)| **other != stream) {
            let done = line.pending.partition_point(|work| work.number <= clock.last(other));
            // The latest first: a wait for it would have been for the others, too.
            for work in line.pending.range(done..).rev() {
                let mut pairs =
                    accesses.iter().flat_map(|own| work.accesses.iter().map(move |other| (own, other)));
                if let Some((own, theirs)) = pairs.find(|(own, theirs)| own.conflicts(theirs)) {
                    return Err(format!(
                        "{}, memory that another stream works on: {}, and nothing orders the two",
                        own.describe(name),
                        theirs.describe(work.name),
                    ));
                }
            }
        }
        let line = self.0.entry(stream).or_default();
        let number = clock.last(stream) + 1;
        line.clock.0.insert(stream, number);
        if !accesses.is_empty() {
            line.pending.push_back(Pending { number, name, accesses });
        }
        Ok(())
    }

    /// When all is done that was queued in a stream, and what that waits for.
    pub fn now(&self, stream: usize) -> Clock {
        self.0.get(&stream).map_or_else(Clock::default, |line| line.clock.clone())
    }

    /// A stream's next work comes after a point.
    pub fn wait(&mut self, stream: usize, point: &Clock) {
        self.0.entry(stream).or_default().clock.join(point);
    }

    /// Forgets work that is done at a point for which the host has waited: what is queued from then on comes after it.
    pub fn wait_by_host(&mut self, point: &Clock) {
        for (&stream, line) in &mut self.0 {
            let done = line.pending.partition_point(|work| work.number <= point.last(stream));
            line.pending.drain(..done);
        }
    }
}
