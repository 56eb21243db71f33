//! What is read and written.

mod checkpoints;
mod config;
mod configurations;
mod files;
mod inspection;
mod tensorboard;
