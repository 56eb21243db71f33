//! The optimizer's state over steps, for training loops.

use half::bf16;

use super::{Gradient, Hyper, Importance, ImportanceKind, Parameters};
use crate::buffer::{Buffer, View, ViewMut};
use crate::device::Device;
use crate::error::Result;

/// AdamW with its moments, its importance accumulator and its count of steps.
///
/// All state can be read and written, so that a checkpoint of it continues to the same bits:
/// [`AdamW::steps`], [`AdamW::moment1`], [`AdamW::moment2`], [`AdamW::importance`] and their setters.
#[derive(Debug)]
pub struct AdamW {
    device: Device,
    steps: u64,
    moment1: Buffer<f32>,
    moment2: Buffer<f32>,
    importance_kind: ImportanceKind,
    /// One value per parameter, or empty for [`ImportanceKind::None`].
    importance: Buffer<f32>,
}

impl AdamW {
    /// Zero moments and importance for `length` parameters (the layout's length, padding included).
    ///
    /// # Errors
    /// When memory runs out.
    pub fn new(device: &Device, length: usize, importance: ImportanceKind) -> Result<Self> {
        let importance_length = if importance == ImportanceKind::None { 0 } else { length };
        Ok(Self {
            device: device.clone(),
            steps: 0,
            moment1: Buffer::zeros(device, length)?,
            moment2: Buffer::zeros(device, length)?,
            importance_kind: importance,
            importance: Buffer::zeros(device, importance_length)?,
        })
    }

    /// One step over `weights`; counts it. See [`super::step`].
    ///
    /// # Errors
    /// Lengths that differ from the state's, or hyper-parameters outside their range. The state and
    /// the weights are then as before.
    pub fn step(&mut self, weights: ViewMut<'_, f32>, gradient: Gradient<'_>, hyper: &Hyper) -> Result<()> {
        self.step_with_copy(weights, None, gradient, hyper)
    }

    /// [`AdamW::step`] that leaves the new weights in `copy` too, rounded to bf16, where there is one.
    ///
    /// # Errors
    /// As [`AdamW::step`].
    pub fn step_with_copy(
        &mut self,
        weights: ViewMut<'_, f32>,
        copy: Option<ViewMut<'_, bf16>>,
        gradient: Gradient<'_>,
        hyper: &Hyper,
    ) -> Result<()> {
        let accumulator = self.importance.view_mut();
        let parameters = Parameters {
            weights,
            moment1: self.moment1.view_mut(),
            moment2: self.moment2.view_mut(),
            importance: match self.importance_kind {
                ImportanceKind::None => Importance::None,
                ImportanceKind::Net => Importance::Net(accumulator),
                ImportanceKind::Path => Importance::Path(accumulator),
                ImportanceKind::Fisher => Importance::Fisher(accumulator),
            },
            copy,
        };
        super::step(&self.device, parameters, gradient, hyper, self.steps + 1)?;
        self.steps += 1;
        Ok(())
    }

    /// Forgets moments and steps, keeps importance: a new optimizer for the next part of a job.
    ///
    /// # Errors
    /// When the device has failed.
    pub fn restart(&mut self) -> Result<()> {
        self.steps = 0;
        self.moment1.view_mut().fill(0.0)?;
        self.moment2.view_mut().fill(0.0)
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the number of steps taken, when a checkpoint is read.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// First moments.
    pub fn moment1(&self) -> View<'_, f32> {
        self.moment1.view()
    }

    /// First moments, when a checkpoint is read.
    pub fn moment1_mut(&mut self) -> ViewMut<'_, f32> {
        self.moment1.view_mut()
    }

    /// Second moments.
    pub fn moment2(&self) -> View<'_, f32> {
        self.moment2.view()
    }

    /// Second moments, when a checkpoint is read.
    pub fn moment2_mut(&mut self) -> ViewMut<'_, f32> {
        self.moment2.view_mut()
    }

    /// What [`AdamW::importance`] accumulates.
    pub fn importance_kind(&self) -> ImportanceKind {
        self.importance_kind
    }

    /// Importance accumulated so far: signed for [`ImportanceKind::Net`] (selection goes by the
    /// absolute value), and empty for [`ImportanceKind::None`].
    pub fn importance(&self) -> View<'_, f32> {
        self.importance.view()
    }

    /// Importance, when a checkpoint is read.
    pub fn importance_mut(&mut self) -> ViewMut<'_, f32> {
        self.importance.view_mut()
    }

    /// Bytes of state.
    pub fn bytes(&self) -> usize {
        self.moment1.bytes() + self.moment2.bytes() + self.importance.bytes()
    }
}
