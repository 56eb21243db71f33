//! Data: files to rows of tokens, and rows to the batches of each step.
//!
//! Every row has one of four shapes ([`Shape`]). The prompt's tokens are those that generation will see, and the
//! answer's those that follow them in a text of both; only the answer is supervised, with the token that ends it.

mod cache;
mod conversation;
mod dataset;
mod evaluation;
mod load;
mod message_forms;
mod messages;
mod notice;
mod omissions;
pub(crate) mod order;
mod reasoning;
mod rows;
mod sampler;
mod settings;
mod shots;
mod source;
mod tokenize;
mod turns;

pub use dataset::{CacheUse, Counts, Dataset};
pub(crate) use evaluation::evaluation_batches_of;
pub use evaluation::{EvaluationBatch, evaluation_batches};
pub use notice::{FileNotice, Notice};
pub use rows::{Shape, instruction_prompt};
pub use sampler::{Draw, Sampler, SamplerSettings, Source, StepBatches, balanced_sample};
pub use settings::{DataSettings, LongRows};
pub use shots::Shots;
pub use source::{Position, Unit};
pub use tokenize::Row;
