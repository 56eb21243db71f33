//! Transformer, checkpoints, data and training stages of CPI-FT.

mod batch;
mod error;

pub use batch::{Batch, IGNORE};
pub use error::{Error, Result};
