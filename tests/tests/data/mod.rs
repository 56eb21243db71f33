//! From files to batches.

mod chat;
mod conversations;
mod files;
mod rows;
mod sampling;
mod tokenizers;
mod turns;
