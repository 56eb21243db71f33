//! Data: files to rows of tokens, and rows to the batches of each step.
//!
//! Rows are read by their fields (`RowSchema`), and become rows of one of four formats ([`RowFormat`]). The prompt's
//! tokens are those that generation will see, and the answer's those that follow them in a text of both; only the answer
//! is supervised, with the token that ends it.

mod cache;
mod content;
mod conversation;
mod dataset;
mod evaluation;
mod example;
mod fields;
mod load;
mod message;
mod message_format;
mod message_forms;
mod messages;
mod notice;
mod omissions;
pub(crate) mod order;
mod preparation;
mod prompt_completion;
mod prompts;
mod reasoning;
mod row_schema;
mod row_templates;
mod rows;
mod sampler;
mod settings;
mod shots;
mod source;
mod summary;
mod tokenize;
mod turns;

pub use cache::CacheUse;
pub use content::{Counts, InvalidRow};
pub use dataset::Dataset;
pub use evaluation::{EvaluationBatch, evaluation_batches};
pub use notice::{FileNotice, Notice};
pub use preparation::{DataProgress, Preparation, PreparationEvent};
pub use prompt_completion::instruction_prompt;
pub use prompts::{FilePrompt, Prompt, PromptMaker, PromptSettings};
pub use rows::RowFormat;
pub use sampler::{SampledRow, Sampler, SamplerSettings, Source, StepBatches, balanced_sample};
pub use settings::{DataSettings, LongRows};
pub use shots::Shots;
pub use source::{Position, Unit};
pub use summary::{Bin, Quantiles, Summary};
pub use tokenize::Row;
