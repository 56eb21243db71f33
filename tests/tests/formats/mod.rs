//! What is read and written.

mod checkpoints;
mod config;
mod documents;
mod files;
mod tensorboard;
