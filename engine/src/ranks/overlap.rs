//! Sums over ranks of gradients that are final while others are still computed.
//!
//! The backward pass goes through the flat layout from its end to its beginning. What it has left behind is sent in buckets,
//! beside what it goes on with: as PyTorch's DistributedDataParallel does (arXiv 2006.15704), here each sum to the rank that
//! owns it.

use std::marker::PhantomData;
use std::ops::Range;

use super::{Ranks, check_ranges};
use crate::buffer::{Target, ViewMut};
use crate::device::Device;
use crate::error::{Error, Result, check};
use crate::ops::gradients::GradientsMut;

/// A reduce-scatter under way, of which the last buckets are sent first. What was sent stays borrowed for `'g`, which is longer
/// than until the device's stream waits for it.
pub struct OverlappedReduceScatter<'g> {
    ranks: Ranks,
    /// What each rank owns.
    ranges: Vec<Range<usize>>,
    /// Not sent yet.
    buckets: Vec<Range<usize>>,
    /// Whether the device's stream does not wait yet for what was sent.
    is_under_way: bool,
    /// Invariant in `'g`: what is sent has to be borrowed for that long.
    sent: PhantomData<&'g mut &'g mut [f32]>,
}

impl Ranks {
    /// Whether sums can be sent while this device computes: where NCCL carries them.
    pub fn can_overlap(&self, device: &Device) -> bool {
        let nccl = self.shared.as_ref().and_then(|shared| shared.nccl.as_ref());
        matches!((nccl, device), (Some(nccl), Device::Gpu(gpu)) if nccl.is_for(gpu))
    }

    /// [`Ranks::reduce_scatter`] of gradients that `work` computes, and hands over as they become final. What is queued on the
    /// device afterwards runs behind all of it. `buckets` cover the gradients without gaps, and are the same on all ranks.
    ///
    /// # Errors
    /// Those of `work`; ranges or buckets that do not cover the same; something is left that was not handed over; the device
    /// has failed.
    pub fn overlapped_reduce_scatter<'g, E: From<Error>>(
        &self,
        ranges: &[Range<usize>],
        buckets: &[Range<usize>],
        work: impl FnOnce(&mut OverlappedReduceScatter<'g>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        const OP: &str = "overlapped reduce-scatter";
        let length = buckets.last().map_or(0, |bucket| bucket.end);
        check_ranges(OP, ranges, length, self.size())?;
        check_ranges(OP, buckets, length, buckets.len())?;
        let mut sums = OverlappedReduceScatter {
            ranks: self.clone(),
            ranges: ranges.to_vec(),
            buckets: buckets.to_vec(),
            is_under_way: false,
            sent: PhantomData,
        };
        work(&mut sums)?;
        check(OP, sums.buckets.is_empty(), || {
            format!("{} buckets were not handed over", sums.buckets.len())
        })?;
        Ok(sums.wait()?)
    }
}

impl<'g> OverlappedReduceScatter<'g> {
    /// Sends the buckets that begin at `first` or behind, all of which is final. They are taken out of the gradients.
    ///
    /// # Errors
    /// Gradients that are in bf16, or in memory that NCCL does not carry; what driver or NCCL say.
    pub fn send_from(&mut self, gradients: &mut GradientsMut<'g>, first: usize) -> Result<()> {
        while let Some(bucket) = self.buckets.pop_if(|bucket| bucket.start >= first) {
            check("overlapped reduce-scatter", gradients.len() == bucket.end, || {
                format!("{} gradients are left at bucket {bucket:?}", gradients.len())
            })?;
            self.send(gradients.split_off(bucket.start)?, &bucket)?;
        }
        Ok(())
    }

    fn send(&mut self, values: ViewMut<'g, f32>, bucket: &Range<usize>) -> Result<()> {
        let within = |range: &Range<usize>| {
            let clamped = |place: usize| place.clamp(bucket.start, bucket.end) - bucket.start;
            clamped(range.start)..clamped(range.end)
        };
        let ranges: Vec<Range<usize>> = self.ranges.iter().map(within).collect();
        let shared = self.ranks.shared.as_deref();
        let carrier = shared.and_then(|shared| Some((shared, shared.carrier_of(&values)?)));
        let (Some((shared, nccl)), Target::Gpu(address)) = (carrier, values.target()) else {
            let reason = "gradients overlap with the backward pass only where NCCL carries them".to_owned();
            return Err(Error::Ranks { reason });
        };
        self.is_under_way = true;
        shared.count((self.ranks.size() - 1) * ranges[self.ranks.rank()].len() * size_of::<f32>());
        // SAFETY: ranges inside of the values, which stay borrowed for `'g`: that is longer than `overlapped_reduce_scatter`
        // runs, and it has the device's stream, in whose order memory is freed, wait for this before it returns.
        unsafe { nccl.reduce_beside(address, &ranges) }
    }

    /// Has what is queued from now on run behind what was sent.
    fn wait(&mut self) -> Result<()> {
        let nccl = self.ranks.shared.as_ref().and_then(|shared| shared.nccl.as_ref());
        match nccl {
            Some(nccl) if self.is_under_way => {
                self.is_under_way = false;
                nccl.wait_for_side_stream()
            }
            _ => Ok(()),
        }
    }
}

impl Drop for OverlappedReduceScatter<'_> {
    /// However the work has ended: gradients are not freed before what was sent has run.
    fn drop(&mut self) {
        let _ = self.wait();
    }
}
