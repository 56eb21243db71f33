//! The whole model, and fusion of models.

mod fuse;
mod golden;
mod gradients;
