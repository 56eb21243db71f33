//! Data: files to rows of tokens, and rows to the batches of each step.
//!
//! Rows are read by their fields, and become one of four shapes ([`Shape`]). The prompt's tokens are those that generation will see, and the
//! answer's those that follow them in a text of both; only the answer is supervised, with the token that ends it.

mod cache;
mod conversation;
mod dataset;
mod dialects;
mod evaluation;
mod exchange;
mod form;
mod load;
mod message_forms;
mod messages;
mod notice;
mod omissions;
pub(crate) mod order;
mod preparation;
mod prompts;
mod reasoning;
mod row_templates;
mod rows;
mod sampler;
mod settings;
mod shots;
mod source;
mod summary;
mod tokenize;
mod turns;

pub use dataset::{CacheUse, Counts, Dataset, InvalidRow};
pub use evaluation::{EvaluationBatch, evaluation_batches};
pub use exchange::instruction_prompt;
pub use notice::{FileNotice, Notice};
pub use preparation::{DataProgress, Preparation};
pub use prompts::{FilePrompt, Prompt, PromptMaker, PromptSettings};
pub use rows::Shape;
pub use sampler::{Draw, Sampler, SamplerSettings, Source, StepBatches, balanced_sample};
pub use settings::{DataSettings, LongRows};
pub use shots::Shots;
pub use source::{Position, Unit};
pub use summary::{Bin, Quantiles, Summary};
pub use tokenize::Row;
