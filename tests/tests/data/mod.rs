//! From files to batches.

mod chat;
mod conversations;
mod forms;
mod rows;
mod sampling;
mod tokenizers;
mod turns;
