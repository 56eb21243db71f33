//! Transformer, checkpoints, data and training stages of CPI-FT.

mod batch;
pub mod checkpoint;
pub mod compare;
pub mod config;
pub mod data;
mod error;
pub mod evaluation;
pub mod files;
mod jinja;
pub mod job;
pub mod machine;
mod metrics;
mod model;
pub mod progress;
pub mod settings;
pub mod stages;
pub mod tokenizer;
pub mod trainer;
pub mod transformer;

pub use batch::{Batch, IGNORE, RowLoss};
pub use checkpoint::Checkpoint;
pub use config::{Architecture, ModelConfig, Rope, RopeScaling};
pub use error::{Error, Result};
pub use model::Model;
pub use settings::Recipe;
pub use tokenizer::Tokenizer;
