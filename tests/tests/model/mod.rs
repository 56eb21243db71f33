//! The whole model, and fusion of models.

mod fuse;
mod generation;
mod golden;
mod gradients;
mod initial;
mod memory_plan;
