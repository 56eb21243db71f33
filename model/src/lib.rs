//! Transformer, checkpoints, data and training stages of CPI-FT.

mod batch;
pub mod checkpoint;
pub mod config;
pub mod data;
mod error;
pub mod files;
pub mod machine;
pub mod progress;
pub mod settings;
pub mod tokenizer;
pub mod transformer;

pub use batch::{Batch, IGNORE};
pub use checkpoint::Checkpoint;
pub use config::{Architecture, ModelConfig, Rope, RopeScaling};
pub use error::{Error, Result};
pub use settings::Recipe;
pub use tokenizer::Tokenizer;
