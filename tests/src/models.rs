//! Task models in memory.

use std::ops::Range;

use cpift_engine::{View, ViewMut};
use cpift_model::Result;
use cpift_model::stages::models::TaskModels;
use cpift_model::stages::pieces::LayoutPart;

/// Base, task models and importances as flat parameters.
pub struct MemoryModels {
    /// θ0.
    pub base: Vec<f32>,
    /// θi of every task.
    pub tasks: Vec<Vec<f32>>,
    /// Importance of every task; empty where nothing asks for it.
    pub importance: Vec<Vec<f32>>,
}

impl TaskModels for MemoryModels {
    fn read_base(&mut self, mut weights: ViewMut<'_, f32>) -> Result<()> {
        Ok(weights.copy_from_host(&self.base)?)
    }

    fn read_weights(&mut self, task: usize, mut weights: ViewMut<'_, f32>) -> Result<()> {
        Ok(weights.copy_from_host(&self.tasks[task])?)
    }

    fn read_range(&mut self, task: usize, range: Range<usize>, mut weights: ViewMut<'_, f32>) -> Result<()> {
        Ok(weights.copy_from_host(&self.tasks[task][range])?)
    }

    fn read_importance(
        &mut self,
        task: usize,
        part: &LayoutPart,
        mut importance: ViewMut<'_, f32>,
        _base: View<'_, f32>,
    ) -> Result<()> {
        Ok(importance.copy_from_host(&self.importance[task][part.range.clone()])?)
    }
}
