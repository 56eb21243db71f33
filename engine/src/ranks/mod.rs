//! Several processes that work on one training: its ranks.
//!
//! [`Ranks`] is what the rest of the program knows of them: how many there are, which of them this process is, which range of
//! flat parameters each owns ([`ranges`]), and the few operations that all ranks make together. What carries these is a
//! [`Collective`]: MPI between processes (the crate `cpift-mpi`), [TCP](sockets) between them, or [threads of one
//! process](threads).
//! What is in the memory of GPUs goes by [NCCL](nccl), where ranks are [connected so](Ranks::with_gpus), and else by way of the
//! host. A process that is alone has no collective: then every operation does nothing and costs nothing.
//!
//! All ranks have to call the same operations in the same order, with the same lengths. A [`Collective`] adds sums in the order
//! of the ranks, so the same number of ranks gives the same bits; NCCL has an order of its own.

mod environment;
pub mod nccl;
mod overlap;
pub mod sockets;
mod sum;
mod threads;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytemuck::Pod;

use crate::buffer::{Target, ViewMut};
use crate::device::Device;
use crate::error::{Error, Result, check, check_length};
use crate::mask::WORD_BITS;
pub use environment::{Launcher, Place};
use nccl::{Nccl, Occupied};
pub use overlap::OverlappedReduceScatter;
pub use sum::add_in_order;
pub use threads::threads;

/// What is done, on another thread, when another rank is gone before its time.
pub type OnLoss = Arc<dyn Fn(Loss) + Send + Sync>;

/// Why a rank cannot go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// Another rank has failed, with this exit code, and has said why itself.
    Failed(u8),
    /// Another rank, or what connects it, is gone: which, in words.
    Gone(String),
}

/// What carries data between ranks. Ranges are one for each rank, in their order, and cover everything without gaps.
pub trait Collective: Send + Sync + std::fmt::Debug {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn size(&self) -> usize;

    /// Makes this rank's range of `values` the sum of that range over all ranks, added in their order. What the other
    /// ranges then hold is not specified.
    ///
    /// # Errors
    /// Another rank has ended.
    fn reduce_scatter(&self, values: &mut [f32], ranges: &[Range<usize>]) -> Result<()>;

    /// Makes every range of `bytes` that of its rank.
    ///
    /// # Errors
    /// Another rank has ended.
    fn all_gather(&self, bytes: &mut [u8], ranges: &[Range<usize>]) -> Result<()>;

    /// Makes `bytes` those of rank 0. To wait for it for long does not keep a core busy.
    ///
    /// # Errors
    /// Another rank has ended.
    fn broadcast(&self, bytes: &mut [u8]) -> Result<()>;

    /// Returns when all ranks have called it. To wait for it for long does not keep a core busy.
    ///
    /// # Errors
    /// Another rank has ended.
    fn barrier(&self) -> Result<()>;
}

/// The ranks of a training, as one of them sees them. Cheap to clone; the default is a process that is alone.
#[derive(Debug, Clone, Default)]
pub struct Ranks {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    collective: Arc<dyn Collective>,
    /// What carries the memory of GPUs; none where that goes by way of the host.
    nccl: Option<Nccl>,
    /// [`Traffic`] so far.
    bytes: AtomicU64,
    nanoseconds: AtomicU64,
}

/// What a rank has received from others, and how long operations took, waiting for others included.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Traffic {
    /// Bytes received.
    pub bytes: u64,
    /// Seconds in which the rank did nothing else.
    pub seconds: f64,
    /// Seconds in which it computed meanwhile.
    pub hidden_seconds: f64,
}

impl Traffic {
    /// What came since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            seconds: self.seconds - before.seconds,
            hidden_seconds: self.hidden_seconds - before.hidden_seconds,
        }
    }
}

impl Ranks {
    /// A process that is alone.
    pub fn alone() -> Self {
        Self::default()
    }

    /// Ranks between which `collective` carries data.
    pub fn new(collective: Arc<dyn Collective>) -> Self {
        Self::over(collective, None)
    }

    /// The same, whose GPUs are connected by NCCL: that of this rank is `device`. `on_loss` is called, on another thread, when
    /// NCCL has lost the other ranks.
    ///
    /// # Errors
    /// A device that is no GPU; NCCL's library cannot be used or cannot connect the devices; another rank has ended.
    pub fn with_gpus(collective: Arc<dyn Collective>, device: &Device, on_loss: OnLoss) -> Result<Self> {
        let Device::Gpu(gpu) = device else {
            let reason = format!("NCCL connects GPUs, and {} is none", device.name());
            return Err(Error::Ranks { reason });
        };
        let nccl = Nccl::connect(&*collective, gpu, on_loss)?;
        Ok(Self::over(collective, Some(nccl)))
    }

    fn over(collective: Arc<dyn Collective>, nccl: Option<Nccl>) -> Self {
        let shared = Shared { collective, nccl, bytes: AtomicU64::new(0), nanoseconds: AtomicU64::new(0) };
        Self { shared: (shared.collective.size() > 1).then(|| Arc::new(shared)) }
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.shared.as_ref().map_or(0, |shared| shared.collective.rank())
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.shared.as_ref().map_or(1, |shared| shared.collective.size())
    }

    /// Whether there is no other rank.
    pub fn is_alone(&self) -> bool {
        self.shared.is_none()
    }

    /// What each rank owns of `length` flat parameters: see [`ranges`].
    pub fn ranges(&self, length: usize) -> Vec<Range<usize>> {
        ranges(length, self.size())
    }

    /// What this rank owns of `length` flat parameters.
    pub fn own_range(&self, length: usize) -> Range<usize> {
        range_of(length, self.rank(), self.size())
    }

    /// Makes this rank's range of `values` the sum of that range over all ranks. What the other ranges then hold is not
    /// specified.
    ///
    /// # Errors
    /// Ranges that do not cover the values one for each rank, a device that has failed, or another rank has ended.
    pub fn reduce_scatter(&self, values: ViewMut<'_, f32>, ranges: &[Range<usize>]) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        check_ranges("reduce-scatter", ranges, values.len(), self.size())?;
        let received = (self.size() - 1) * ranges[self.rank()].len() * size_of::<f32>();
        shared.exchange(
            received,
            values,
            Carrier {
                on_host: &|collective, values| collective.reduce_scatter(values, ranges),
                // SAFETY: the ranges are inside of the values, which are borrowed mutably; their memory is freed in stream order.
                on_gpus: &|nccl, address| unsafe { nccl.reduce_scatter(address, ranges) },
            },
        )
    }

    /// Makes every range of `values` that of its rank.
    ///
    /// # Errors
    /// As [`Ranks::reduce_scatter`].
    pub fn all_gather<T: Pod>(&self, values: ViewMut<'_, T>, ranges: &[Range<usize>]) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        check_ranges("all-gather", ranges, values.len(), self.size())?;
        let in_bytes = |range: &Range<usize>| range.start * size_of::<T>()..range.end * size_of::<T>();
        let ranges: Vec<Range<usize>> = ranges.iter().map(in_bytes).collect();
        let received = values.len() * size_of::<T>() - ranges[self.rank()].len();
        shared.exchange(
            received,
            values,
            Carrier {
                on_host: &|collective, values| {
                    collective.all_gather(bytemuck::cast_slice_mut(values), &ranges)
                },
                // SAFETY: the ranges are inside of the values, which are borrowed mutably; their memory is freed in stream order.
                on_gpus: &|nccl, address| unsafe { nccl.all_gather(address, &ranges) },
            },
        )
    }

    /// Makes `values` the sums over all ranks, the same bits on each.
    ///
    /// # Errors
    /// Another rank has ended.
    pub fn sum(&self, values: &mut [f64]) -> Result<()> {
        self.all_reduce(values, |sum, value| *sum += value)
    }

    /// [`Ranks::sum`] of numbers in a buffer, which on a GPU is not waited for where NCCL carries them.
    ///
    /// # Errors
    /// The device has failed, or another rank has ended.
    pub fn sum_view(&self, mut values: ViewMut<'_, f64>) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let count = values.len();
        match shared.carrier_of(&values) {
            Some(nccl) => {
                shared.count((self.size() - 1) * count * size_of::<f64>());
                let Target::Gpu(address) = values.target() else { return Ok(()) };
                // SAFETY: as many values, which are borrowed mutably; their memory is freed in stream order.
                unsafe { nccl.sum(address, count) }
            }
            None => {
                let mut on_host = values.as_view().to_vec()?;
                self.sum(&mut on_host)?;
                values.copy_from_host(&on_host)
            }
        }
    }

    /// Makes `counts` the sums over all ranks.
    ///
    /// # Errors
    /// Another rank has ended.
    pub fn count(&self, counts: &mut [u64]) -> Result<()> {
        self.all_reduce(counts, |sum, count| *sum = sum.wrapping_add(count))
    }

    /// Few numbers: all are gathered, and each rank adds them in the order of the ranks.
    fn all_reduce<T: Pod>(&self, values: &mut [T], add: impl Fn(&mut T, T)) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let length = values.len();
        let mut all = vec![T::zeroed(); length * self.size()];
        all[self.rank() * length..][..length].copy_from_slice(values);
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut all);
        let part = bytes.len() / self.size();
        let ranges: Vec<Range<usize>> = (0..self.size()).map(|rank| rank * part..(rank + 1) * part).collect();
        shared.measure(bytes.len() - part, |collective| collective.all_gather(bytes, &ranges))?;
        let (first, others) = all.split_at(length);
        values.copy_from_slice(first);
        for others in others.chunks(length.max(1)) {
            values.iter_mut().zip(others).for_each(|(sum, &value)| add(sum, value));
        }
        Ok(())
    }

    /// Makes `values` those of rank 0.
    ///
    /// # Errors
    /// The device has failed, or another rank has ended.
    pub fn broadcast<T: Pod>(&self, values: ViewMut<'_, T>) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let bytes = values.len() * size_of::<T>();
        let received = if self.rank() == 0 { 0 } else { bytes };
        shared.exchange(
            received,
            values,
            Carrier {
                on_host: &|collective, values| collective.broadcast(bytemuck::cast_slice_mut(values)),
                // SAFETY: as many bytes, which are borrowed mutably; their memory is freed in stream order.
                on_gpus: &|nccl, address| unsafe { nccl.broadcast(address, bytes) },
            },
        )
    }

    /// The same of memory that is no buffer.
    ///
    /// # Errors
    /// Another rank has ended.
    pub fn broadcast_slice<T: Pod>(&self, values: &mut [T]) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(values);
        let received = if self.rank() == 0 { 0 } else { bytes.len() };
        shared.measure(received, |collective| collective.broadcast(bytes))
    }

    /// Returns when all ranks have called it.
    ///
    /// # Errors
    /// Another rank has ended.
    pub fn barrier(&self) -> Result<()> {
        let Some(shared) = &self.shared else { return Ok(()) };
        shared.measure(0, |collective| collective.barrier())
    }

    /// What this rank has received so far, and how long that took.
    pub fn traffic(&self) -> Traffic {
        self.shared.as_ref().map_or_else(Traffic::default, |shared| {
            let on_gpus = shared.nccl.as_ref().map_or_else(Occupied::default, Nccl::occupied);
            Traffic {
                bytes: shared.bytes.load(Ordering::Relaxed),
                seconds: shared.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9 + on_gpus.alone,
                hidden_seconds: on_gpus.hidden,
            }
        })
    }
}

/// An operation on what the host has.
type OnHost<'a, T> = &'a dyn Fn(&dyn Collective, &mut [T]) -> Result<()>;
/// One on what begins at this address of a GPU; queued.
type OnGpus<'a> = &'a dyn Fn(&Nccl, u64) -> Result<()>;

/// How an operation is made, by what carries it.
struct Carrier<'a, T> {
    on_host: OnHost<'a, T>,
    on_gpus: OnGpus<'a>,
}

impl Shared {
    /// What carries these values from GPU to GPU, where they go so.
    fn carrier_of<T: Pod>(&self, values: &ViewMut<'_, T>) -> Option<&Nccl> {
        let gpu = values.gpu()?;
        self.nccl.as_ref().filter(|nccl| nccl.is_for(gpu))
    }

    /// Makes an operation on values, wherever they are, by which so many bytes are received.
    fn exchange<T: Pod>(
        &self,
        received: usize,
        mut values: ViewMut<'_, T>,
        carrier: Carrier<'_, T>,
    ) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let nccl = self.carrier_of(&values);
        match (values.reborrow().target(), nccl) {
            (Target::Host(values), _) => {
                self.measure(received, |collective| (carrier.on_host)(collective, values))
            }
            (Target::Gpu(address), Some(nccl)) => {
                // Queued: its time is the device's.
                self.count(received);
                (carrier.on_gpus)(nccl, address)
            }
            (Target::Gpu(_), None) => {
                let mut on_host = values.as_view().to_vec()?;
                self.measure(received, |collective| (carrier.on_host)(collective, &mut on_host))?;
                values.copy_from_host(&on_host)
            }
        }
    }

    fn count(&self, received: usize) {
        self.bytes.fetch_add(received as u64, Ordering::Relaxed);
    }

    /// Makes an operation by which so many bytes are received.
    fn measure(&self, received: usize, operation: impl FnOnce(&dyn Collective) -> Result<()>) -> Result<()> {
        let started = Instant::now();
        let result = operation(self.collective.as_ref());
        self.count(received);
        self.nanoseconds.fetch_add(started.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result
    }
}

/// What each of so many ranks owns of `length` flat parameters: whole words of a [mask](crate::Mask) and as even as these
/// can be dealt; the last range ends with the parameters.
pub fn ranges(length: usize, ranks: usize) -> Vec<Range<usize>> {
    (0..ranks).map(|rank| range_of(length, rank, ranks)).collect()
}

fn range_of(length: usize, rank: usize, ranks: usize) -> Range<usize> {
    let words = length.div_ceil(WORD_BITS) as u128;
    // Less than `words`, so it fits again.
    let start = |rank: usize| (words * rank as u128 / ranks as u128) as usize * WORD_BITS;
    start(rank)..start(rank + 1).min(length)
}

/// Fails unless there is a range for each rank, and they cover everything in order.
fn check_ranges(op: &'static str, ranges: &[Range<usize>], length: usize, ranks: usize) -> Result<()> {
    check_length(op, "ranges", ranges.len(), ranks)?;
    let mut end = 0;
    for range in ranges {
        check(op, range.start == end && range.end >= end, || {
            format!("the range {range:?} does not follow one that ends at {end}")
        })?;
        end = range.end;
    }
    check_length(op, "ranges' elements", end, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_whole_words_and_cover_everything() {
        for length in [0, 1, 63, 64, 65, 640, 1000, 12_345] {
            for ranks in 1..9 {
                let ranges = ranges(length, ranks);
                check_ranges("test", &ranges, length, ranks).unwrap();
                assert!(ranges.iter().all(|range| range.is_empty() || range.start.is_multiple_of(WORD_BITS)));
                let words = ranges.iter().map(|range| range.len().div_ceil(WORD_BITS));
                let (least, most) = (words.clone().min().unwrap(), words.max().unwrap());
                assert!(most - least <= 1, "{length} over {ranks}: {ranges:?}");
            }
        }
    }

    #[test]
    fn other_ranges_are_refused() {
        for ranges in
            [super::ranges(4, 1), vec![0..4, 5..8], vec![0..4, 4..9], vec![0..4, 4..7], vec![1..4, 4..8]]
        {
            assert!(check_ranges("test", &ranges, 8, 2).is_err(), "{ranges:?}");
        }
        // As one may be written; an empty range is none too many.
        check_ranges("test", &[0..0, 0..8], 8, 2).unwrap();
    }

    #[test]
    fn one_rank_is_alone() {
        let only = threads(1).remove(0);
        assert!(only.is_alone() && (only.rank(), only.size()) == (0, 1));
        let mut values = [1.5];
        only.sum(&mut values).unwrap();
        assert_eq!((values, only.traffic()), ([1.5], Traffic::default()));
    }
}
