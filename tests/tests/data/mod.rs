//! From files to batches.

mod cache;
mod chat;
mod conversations;
mod files;
mod forms;
mod limits;
mod notices;
mod rows;
mod sampling;
mod shots;
mod texts;
mod tokenizer_classes;
mod tokenizers;
mod turns;
