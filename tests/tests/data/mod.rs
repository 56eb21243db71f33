//! From files to batches.

mod chat;
mod conversations;
mod rows;
mod sampling;
mod tokenizers;
mod turns;
