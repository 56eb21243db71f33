//! From files to batches.

mod chat;
mod conversations;
mod rows;
mod sampling;
mod shots;
mod tokenizers;
mod turns;
