//! From files to batches.

mod chat;
mod conversations;
mod files;
mod forms;
mod limits;
mod rows;
mod sampling;
mod shots;
mod tokenizers;
mod turns;
