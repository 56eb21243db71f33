//! Ranks that are processes, by MPI.
//!
//! Built on calls between two ranks at a time: a sum is then added in the order of the ranks whichever algorithm a library has
//! for it, and every rank sends and receives (R − 1)/R of what is reduced or gathered, which is the least there can be.

use std::mem::ManuallyDrop;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cpift_engine::ranks::{Collective, Place, add_in_order};
use cpift_engine::{Error, Ranks, Result};
use mpi::Threading;
use mpi::environment::Universe;
use mpi::point_to_point::send_receive_into;
use mpi::request;
use mpi::topology::SimpleCommunicator;
use mpi::traits::*;

/// Bytes that one call moves at most, over all ranks: MPI counts in 32 bits with a sign, and what is received is kept until it
/// is added.
const CHUNK: usize = 1 << 24;

/// Bytes of a broadcast at a time.
const BROADCAST: usize = 1 << 28;

/// How long a rank looks for what rank 0 sends without a pause, and the pauses after that: rank 0 may be busy for minutes
/// with work of its own, for which it wants the cores.
const PATIENCE: Duration = Duration::from_millis(5);
const PAUSE: Duration = Duration::from_micros(500);

/// MPI, from its start to its end. Dropped without [`Mpi::finish`] it ends all ranks.
pub struct Mpi {
    universe: ManuallyDrop<Universe>,
}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Mpi")
    }
}

impl Mpi {
    /// Whether this build has it.
    pub const IS_BUILT: bool = true;

    /// Joins the other ranks, of which `place` speaks.
    ///
    /// # Errors
    /// MPI does not know of them, as where another program than MPI's started them, or it allows no threads.
    pub fn start(place: &Place) -> Result<(Self, Ranks)> {
        let Some((universe, threading)) = mpi::initialize_with_threading(Threading::Serialized) else {
            return Err(Error::Ranks { reason: "MPI is at work already".to_owned() });
        };
        let world = SimpleCommunicator::world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        let started = Self { universe: ManuallyDrop::new(universe) };
        if threading < Threading::Serialized {
            started.finish();
            return Err(Error::Ranks { reason: "this MPI allows calls by one thread only".to_owned() });
        }
        if (rank, size) != (place.rank, place.size) {
            started.finish();
            let reason = format!(
                "{} started {} processes, and MPI knows of {size}: start them with mpirun, or with srun where SLURM \
                 speaks to this MPI (srun --mpi=pmix); without {} in the environment each trains by itself",
                place.launcher.name(),
                place.size,
                place.launcher.variable()
            );
            return Err(Error::Ranks { reason });
        }
        Ok((started, Ranks::new(Arc::new(MpiRank { rank, size }))))
    }

    /// Ends MPI, when the other ranks do so too.
    pub fn finish(mut self) {
        // SAFETY: it is not used again: `forget` keeps the value from being dropped.
        unsafe { ManuallyDrop::drop(&mut self.universe) };
        std::mem::forget(self);
    }

    /// Ends all ranks now.
    pub fn abort(self, exit_code: u8) -> ! {
        SimpleCommunicator::world().abort(i32::from(exit_code))
    }
}

impl Drop for Mpi {
    /// A rank that ends before it has finished, as by a fault of ours, ends the others, which would wait for it.
    fn drop(&mut self) {
        SimpleCommunicator::world().abort(1);
    }
}

/// A rank of all that MPI started. Calls may come from any thread, one at a time.
#[derive(Debug)]
struct MpiRank {
    rank: usize,
    size: usize,
}

impl MpiRank {
    /// The pairs of an exchange among all: to whom this rank sends, and from whom it receives at the same time.
    fn partners(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (rank, size) = (self.rank, self.size);
        (1..size).map(move |shift| ((rank + shift) % size, (rank + size - shift) % size))
    }
}

/// The `round`th part of a range that is taken apart into parts of `chunk` elements; empty behind its end.
fn part(range: &Range<usize>, round: usize, chunk: usize) -> Range<usize> {
    let start = range.start.saturating_add(round.saturating_mul(chunk)).min(range.end);
    start..start.saturating_add(chunk).min(range.end)
}

/// Rounds until the longest range has been gone through.
fn rounds(ranges: &[Range<usize>], chunk: usize) -> usize {
    ranges.iter().map(|range| range.len().div_ceil(chunk)).max().unwrap_or(0)
}

impl Collective for MpiRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn reduce_scatter(&self, values: &mut [f32], ranges: &[Range<usize>]) -> Result<()> {
        let world = SimpleCommunicator::world();
        let chunk = (CHUNK / size_of::<f32>() / self.size).max(1);
        let mut received = vec![vec![0_f32; chunk.min(ranges[self.rank].len())]; self.size];
        for round in 0..rounds(ranges, chunk) {
            let own = part(&ranges[self.rank], round, chunk);
            for (to, from) in self.partners() {
                let sent = &values[part(&ranges[to], round, chunk)];
                let target = &mut received[from][..own.len()];
                let (to, from) = (world.process_at_rank(to as i32), world.process_at_rank(from as i32));
                send_receive_into(sent, &to, target, &from);
            }
            let others = received.iter().enumerate().filter(|(rank, _)| *rank != self.rank);
            let others: Vec<&[f32]> = others.map(|(_, values)| &values[..own.len()]).collect();
            add_in_order(&mut values[own], self.rank, &others);
        }
        Ok(())
    }

    fn all_gather(&self, bytes: &mut [u8], ranges: &[Range<usize>]) -> Result<()> {
        let world = SimpleCommunicator::world();
        for round in 0..rounds(ranges, CHUNK) {
            let own = part(&ranges[self.rank], round, CHUNK);
            for (to, from) in self.partners() {
                let target = part(&ranges[from], round, CHUNK);
                let (sent, target) = apart(bytes, own.clone(), target);
                let (to, from) = (world.process_at_rank(to as i32), world.process_at_rank(from as i32));
                send_receive_into(sent, &to, target, &from);
            }
        }
        Ok(())
    }

    fn broadcast(&self, bytes: &mut [u8]) -> Result<()> {
        let world = SimpleCommunicator::world();
        let root = world.process_at_rank(0);
        for part in bytes.chunks_mut(BROADCAST) {
            request::scope(|scope| {
                let mut request = root.immediate_broadcast_into(scope, part);
                let started = Instant::now();
                while let Err(pending) = request.test() {
                    request = pending;
                    pause(started);
                }
            });
        }
        Ok(())
    }

    fn barrier(&self) -> Result<()> {
        let mut request = SimpleCommunicator::world().immediate_barrier();
        let started = Instant::now();
        while let Err(pending) = request.test() {
            request = pending;
            pause(started);
        }
        Ok(())
    }
}

/// Leaves the cores to the other ranks for a moment, once this one has waited for some time.
fn pause(started: Instant) {
    if started.elapsed() > PATIENCE {
        std::thread::sleep(PAUSE);
    }
}

/// Two ranges of which neither reaches into the other, unless one is empty.
fn apart(bytes: &mut [u8], read: Range<usize>, write: Range<usize>) -> (&[u8], &mut [u8]) {
    if read.is_empty() {
        (&[], &mut bytes[write])
    } else if write.is_empty() {
        (&bytes[read], &mut [])
    } else if read.start < write.start {
        let (before, behind) = bytes.split_at_mut(write.start);
        (&before[read], &mut behind[..write.len()])
    } else {
        let (before, behind) = bytes.split_at_mut(read.start);
        (&behind[..read.len()], &mut before[write])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_gone_through_in_parts() {
        let ranges = [0..10, 10..11, 11..11];
        assert_eq!(rounds(&ranges, 4), 3);
        let parts = |range: &Range<usize>| (0..3).map(|round| part(range, round, 4)).collect::<Vec<_>>();
        assert_eq!(parts(&ranges[0]), [0..4, 4..8, 8..10]);
        assert_eq!(parts(&ranges[1]), [10..11, 11..11, 11..11]);
        assert!(parts(&ranges[2]).iter().all(Range::is_empty));
    }

    #[test]
    fn what_is_read_and_what_is_written_lie_apart() {
        let mut bytes = [0, 1, 2, 3, 4, 5];
        let (read, write) = apart(&mut bytes, 0..2, 4..6);
        assert_eq!((read, &*write), (&[0, 1][..], &[4, 5][..]));
        let (read, write) = apart(&mut bytes, 3..6, 0..2);
        assert_eq!((read, &*write), (&[3, 4, 5][..], &[0, 1][..]));
        let (read, write) = apart(&mut bytes, 2..2, 1..6);
        assert_eq!((read.len(), write.len()), (0, 5));
    }
}
