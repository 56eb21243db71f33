//! Transformer, checkpoints, data and training stages of CPI-FT.

mod batch;
mod error;
pub mod progress;
pub mod settings;

pub use batch::{Batch, IGNORE};
pub use error::{Error, Result};
pub use settings::Recipe;
