//! What a fusion or merge reads, and the memory it works in.

use std::ops::Range;

use cpift_engine::{View, ViewMut};

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

    /// Reads one task's importance; its absolute value ranks parameters. Where it is what the model is away from the
    /// base, it is computed in place from `base`, the weights of the base model.
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

/// Memory of a fusion, each of the layout's length.
#[derive(Debug)]
pub struct Buffers<'a> {
    /// Receives the fused model.
    pub backbone: ViewMut<'a, f32>,
    /// Holds one task model after the other.
    pub operand: ViewMut<'a, f32>,
    /// Holds the base model.
    pub base: ViewMut<'a, f32>,
}
