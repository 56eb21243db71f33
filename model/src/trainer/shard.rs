//! What ranks do together in a step: each has its share of the micro-batches, and then of the parameters.

use std::ops::Range;
use std::sync::Arc;

use cpift_engine::Mask;
use cpift_engine::ranks::Traffic;
use half::bf16;

use super::command::Command;
use super::{Trainer, Update, tokens_of};
use crate::batch::Batch;
use crate::error::Result;
use crate::model::Scaling;
use crate::progress::Communication;

impl Trainer {
    /// Has the other ranks do what follows, if this is rank 0 and there are any.
    pub(super) fn tell(&self, command: Command) -> Result<()> {
        match self.ranks.rank() == 0 && !self.ranks.is_alone() {
            true => command.send(&self.ranks),
            false => Ok(()),
        }
    }

    /// Lets the other ranks end: the job is over. Not where it failed, as they may be in the middle of something.
    ///
    /// # Errors
    /// Another rank has ended before.
    pub fn end(&self) -> Result<()> {
        self.tell(Command::End)
    }

    /// Sends the other ranks the weights, where they were changed by other than steps.
    pub(super) fn send_weights(&mut self) -> Result<()> {
        if self.is_shared {
            return Ok(());
        }
        self.tell(Command::TakeWeights)?;
        self.share_weights()
    }

    /// Makes the weights those of rank 0.
    pub(super) fn share_weights(&mut self) -> Result<()> {
        self.ranks.broadcast(self.model.weights_mut()?)?;
        (self.is_shared, self.is_whole) = (true, true);
        Ok(())
    }

    /// Has the other ranks send what of the master weights this one, rank 0, lacks.
    pub(super) fn complete_weights(&mut self) -> Result<()> {
        if self.is_whole {
            return Ok(());
        }
        self.tell(Command::CompleteWeights)?;
        self.gather_lower()
    }

    /// Makes the master weights whole on every rank.
    pub(super) fn gather_lower(&mut self) -> Result<()> {
        self.model.gather_lower(&self.ranks, &self.ranges)?;
        self.is_whole = true;
        Ok(())
    }

    /// Takes the frozen coordinates from rank 0, where there are any.
    pub(super) fn take_frozen(&mut self, any: bool) -> Result<()> {
        let empty = any.then(|| Arc::new(Mask::zeros(self.layout.len())));
        self.share_frozen(empty.as_ref())
    }

    /// Makes the frozen coordinates those of rank 0, of which each rank keeps the ones in its range.
    pub(super) fn share_frozen(&mut self, frozen: Option<&Arc<Mask>>) -> Result<()> {
        if self.ranks.is_alone() {
            self.frozen = frozen.cloned();
            return Ok(());
        }
        let Some(frozen) = frozen else {
            self.frozen = None;
            return Ok(());
        };
        let mut words = frozen.words().to_vec();
        self.ranks.broadcast_slice(&mut words)?;
        let whole = Mask::from_words(frozen.len(), words)?;
        self.frozen = Some(Arc::new(whole.slice(self.ranks.own_range(self.layout.len()))));
        Ok(())
    }

    /// Whether gradients are summed while the last micro-batch of every rank is still computed.
    pub(super) fn overlaps(&self, batches: &[Batch]) -> bool {
        self.ranks.can_overlap(&self.device) && batches.len() >= self.ranks.size()
    }

    /// The second half of a step, once every rank has the gradients of its micro-batches: sums of gradients, the norm of all,
    /// the optimizer on the own range, and weights and losses from all.
    pub(super) fn step_own_range(&mut self, update: &Update, batches: &[Batch]) -> Result<()> {
        let own = self.ranks.own_range(self.layout.len());
        if !self.overlaps(batches) {
            self.ranks.reduce_scatter(self.model.gradients_mut()?, &self.ranges)?;
        }
        let frozen = self.frozen.as_deref();
        let gradient = self.model.gradients().slice(own.clone());
        self.clip.measure_over(&self.ranks, gradient, frozen, update.maximum())?;
        let scaling = Scaling { clip: Some(&self.clip), frozen };
        self.model.step_range(&mut self.optimizer, own, scaling, &update.hyper)?;
        self.model.gather_weights(&self.ranks, &self.ranges)?;
        // What is rounded away, where there is such: only who reads master weights needs it of other ranges.
        self.is_whole = !self.model.is_split();
        let ranks = self.ranks.size();
        let tokens_before = |count: usize| tokens_of(&batches[..count]);
        let positions: Vec<Range<usize>> = (0..ranks)
            .map(|rank| deal(batches.len(), rank, ranks))
            .map(|micro| tokens_before(micro.start)..tokens_before(micro.end))
            .collect();
        let losses = self.losses.slice_mut(0..tokens_of(batches));
        Ok(self.ranks.all_gather(losses, &positions)?)
    }

    /// What a step reports of this traffic: nothing of a rank that is alone.
    pub(super) fn communication(
        &self,
        Traffic { bytes, seconds, hidden_seconds }: Traffic,
    ) -> Option<Communication> {
        // Gradients in f32 and the weights that are computed with, of which every rank has 1/R already.
        let weight = if self.model.is_split() { size_of::<bf16>() } else { size_of::<f32>() };
        let (ranks, parameter) = (self.ranks.size() as u64, (size_of::<f32>() + weight) as u64);
        let least_bytes = parameter * self.layout.len() as u64 * (ranks - 1) / ranks;
        (ranks > 1).then_some(Communication { ranks, bytes, least_bytes, seconds, hidden_seconds })
    }
}

/// Which of `count` micro-batches a rank has: as many as every other where they can be dealt evenly, those of rank 0 first.
pub fn deal(count: usize, rank: usize, ranks: usize) -> Range<usize> {
    count * rank / ranks..count * (rank + 1) / ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_micro_batch_is_dealt_once_and_in_order() {
        for count in 0..20 {
            for ranks in 1..6 {
                let dealt: Vec<usize> = (0..ranks).flat_map(|rank| deal(count, rank, ranks)).collect();
                assert!(dealt.into_iter().eq(0..count), "{count} over {ranks}");
            }
        }
        assert_eq!(deal(6, 1, 3), 2..4);
    }
}
