//! What a fusion or merge reads, and the memory it works in.

use std::ops::Range;

use cpift_engine::{View, ViewMut};

use super::pieces::LayoutPart;
use crate::error::Result;

/// Where the task models come from: read one at a time, so that memory does not grow with their number.
pub trait TaskModels {
    /// Reads the weights of the base model, θ0.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read_base(&mut self, weights: ViewMut<'_, f32>) -> Result<()>;

    /// Reads the weights of one task's model, θi.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read_weights(&mut self, task: usize, weights: ViewMut<'_, f32>) -> Result<()>;

    /// Reads a range of the weights of one task's model. Of a tied head that is stored too nothing is checked:
    /// [`TaskModels::read_weights`] does.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read_range(&mut self, task: usize, range: Range<usize>, weights: ViewMut<'_, f32>) -> Result<()>;

    /// Reads a part of one task's importance; its absolute value ranks parameters. Where it is what the model is away from
    /// the base, it is computed in place from `base`, that part of the base model.
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_importance(
        &mut self,
        task: usize,
        part: &LayoutPart,
        importance: ViewMut<'_, f32>,
        base: View<'_, f32>,
    ) -> Result<()>;
}

/// What the task models have in one part of the parameters.
pub trait PartModels {
    /// Reads a task's weights. Padding between tensors becomes zeros.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(&mut self, task: usize, weights: ViewMut<'_, f32>) -> Result<()>;

    /// Reads a task's importance, as [`TaskModels::read_importance`].
    ///
    /// # Errors
    /// When it cannot be read.
    fn read_importance(
        &mut self,
        task: usize,
        importance: ViewMut<'_, f32>,
        base: View<'_, f32>,
    ) -> Result<()>;
}

/// A part of whole models.
pub struct PartOf<'a> {
    /// The models.
    pub models: &'a mut dyn TaskModels,
    /// Which part.
    pub part: &'a LayoutPart,
}

impl PartModels for PartOf<'_> {
    fn read(&mut self, task: usize, mut weights: ViewMut<'_, f32>) -> Result<()> {
        weights.fill(0.0)?;
        self.models.read_range(task, self.part.range.clone(), weights)
    }

    fn read_importance(
        &mut self,
        task: usize,
        importance: ViewMut<'_, f32>,
        base: View<'_, f32>,
    ) -> Result<()> {
        self.models.read_importance(task, self.part, importance, base)
    }
}

/// Memory of a fusion.
#[derive(Debug)]
pub struct Buffers<'a> {
    /// Receives the fused model; of the layout's length.
    pub backbone: ViewMut<'a, f32>,
    /// Holds the base model; of the layout's length.
    pub base: ViewMut<'a, f32>,
    /// Holds a part of one task model after the other: at least as long as the [longest](super::pieces::longest_part).
    pub operand: ViewMut<'a, f32>,
}

/// Memory of the fusion of one part, each of its length.
#[derive(Debug)]
pub struct PartBuffers<'a> {
    /// Receives the fused part.
    pub backbone: ViewMut<'a, f32>,
    /// Holds one task model's part after the other.
    pub operand: ViewMut<'a, f32>,
    /// The base model's part.
    pub base: View<'a, f32>,
}
