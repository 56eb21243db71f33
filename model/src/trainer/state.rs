//! The optimizer's state, part by part.
//!
//! Several ranks have a range each. Rank 0 has a part put together, or dealt, in the memory of the gradients, which mean
//! nothing between steps; so it needs no more memory than it has. Checkpoints need nothing put together where each rank can
//! write its range (`state_file.rs`).

use cpift_engine::ops::adamw::{
    AdamW, ImportanceKind, MomentType, Moments, MomentsView, StateMut, StateView,
};
use cpift_engine::ops::gradients::GradientsView;
use serde::{Deserialize, Serialize};

use super::Trainer;
use super::command::Command;
use crate::error::Result;
use crate::model::not_exact;

/// A part of the optimizer's state: a number for each parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StatePart {
    /// First moments.
    FirstMoment,
    /// Second moments.
    SecondMoment,
    /// Importance accumulated so far; nothing where none is.
    Importance,
}

impl StatePart {
    /// Its name in a file.
    pub fn name(self) -> &'static str {
        match self {
            Self::FirstMoment => "moment1",
            Self::SecondMoment => "moment2",
            Self::Importance => "importance",
        }
    }
}

impl Trainer {
    /// What the importance is.
    pub fn importance_kind(&self) -> ImportanceKind {
        self.optimizer.importance_kind()
    }

    /// The number type of a part, and of how many parameters there is one.
    pub fn state_form(&self, part: StatePart) -> (MomentType, usize) {
        let is_empty = part == StatePart::Importance && self.has_no_importance();
        (self.optimizer.moment_type(), if is_empty { 0 } else { self.layout.len() })
    }

    /// A part of the state, of all parameters. With several ranks it is valid until the next step or the next part.
    ///
    /// # Errors
    /// Another rank has ended.
    pub fn state(&mut self, part: StatePart) -> Result<StateView<'_>> {
        if self.ranks.is_alone() || (part == StatePart::Importance && self.has_no_importance()) {
            return Ok(own_state(&self.optimizer, part));
        }
        self.tell(Command::Gather(part))?;
        self.gather(part)?;
        match self.model.gradients() {
            GradientsView::F32(values) => Ok(StateView::F32(values)),
            GradientsView::Bf16(_) => Err(not_exact()),
        }
    }

    /// Has `read` write a part of the state, of all parameters: when a checkpoint is read.
    ///
    /// # Errors
    /// Those of `read`, or another rank has ended.
    pub fn set_state(
        &mut self,
        part: StatePart,
        read: impl FnOnce(StateMut<'_>) -> Result<()>,
    ) -> Result<()> {
        if self.ranks.is_alone() || (part == StatePart::Importance && self.has_no_importance()) {
            return read(own_state_mut(&mut self.optimizer, part));
        }
        read(StateMut::F32(self.model.gradients_mut()?))?;
        self.tell(Command::Take(part))?;
        self.take(part)
    }

    fn has_no_importance(&self) -> bool {
        self.importance_kind() == ImportanceKind::None
    }

    /// Puts a part together, in the memory of the gradients, from what all ranks have.
    pub(super) fn gather(&mut self, part: StatePart) -> Result<()> {
        let own = self.ranks.own_range(self.layout.len());
        let mut whole = self.model.gradients_mut()?;
        match own_state(&self.optimizer, part) {
            StateView::F32(values) => whole.reborrow().slice(own).copy_from(values)?,
            StateView::Bf16(_) => return Err(not_exact()),
        }
        Ok(self.ranks.all_gather(whole, &self.ranges)?)
    }

    /// Takes this rank's range of a part that is in the memory of rank 0's gradients.
    pub(super) fn take(&mut self, part: StatePart) -> Result<()> {
        let own = self.ranks.own_range(self.layout.len());
        let mut whole = self.model.gradients_mut()?;
        self.ranks.broadcast(whole.reborrow())?;
        match own_state_mut(&mut self.optimizer, part) {
            StateMut::F32(mut target) => Ok(target.copy_from(whole.as_view().slice(own))?),
            StateMut::Bf16(_) => Err(not_exact()),
        }
    }
}

/// What a rank has of a part.
pub(super) fn own_state(optimizer: &AdamW, part: StatePart) -> StateView<'_> {
    if part == StatePart::Importance {
        return optimizer.importance();
    }
    let is_first = part == StatePart::FirstMoment;
    match optimizer.moments() {
        MomentsView::F32(first, second) => StateView::F32(if is_first { first } else { second }),
        MomentsView::Bf16(first, second) => StateView::Bf16(if is_first { first } else { second }),
    }
}

fn own_state_mut(optimizer: &mut AdamW, part: StatePart) -> StateMut<'_> {
    if part == StatePart::Importance {
        return optimizer.importance_mut();
    }
    let is_first = part == StatePart::FirstMoment;
    match optimizer.moments_mut() {
        Moments::F32(first, second) => StateMut::F32(if is_first { first } else { second }),
        Moments::Bf16(first, second) => StateMut::Bf16(if is_first { first } else { second }),
    }
}
