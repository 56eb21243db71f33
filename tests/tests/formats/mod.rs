//! What is read and written.

mod checkpoints;
mod config;
mod files;
mod tensorboard;
