//! Transformer, checkpoints, data and training stages of CPI-FT.

mod adapter;
mod batch;
mod chat_template;
pub mod checkpoint;
pub mod compare;
mod compute;
pub mod config;
mod contain;
mod control_tokens;
pub mod cores;
mod counts;
pub mod data;
mod error;
pub mod evaluation;
pub mod export;
pub mod files;
pub mod generation;
pub mod hub;
mod hub_cache;
mod hub_error;
mod hub_names;
pub mod inspection;
mod jinja;
pub mod job;
mod loaded;
pub mod machine;
pub mod merge;
mod metrics;
mod model;
pub mod progress;
pub mod recipe;
pub mod score;
mod serde_text;
pub mod stages;
pub mod state_type;
pub mod sweep;
pub mod table;
pub mod tokenizer;
pub mod trainer;
pub mod transformer;

pub use batch::{Batch, IGNORE, RowLoss};
pub use checkpoint::Checkpoint;
pub use config::{
    Block, DeltaNet, Family, InitialValues, LayerAttention, LinearRole, ModelConfig, NormNames, NormRole,
    NormWidth, Part, QueryScaling, Rope, RopeScaling, Scales,
};
pub use contain::panic_is_contained;
pub use error::{Error, FileAction, Result};
pub use model::{Model, Scaling};
pub use recipe::Recipe;
pub use tokenizer::Tokenizer;
