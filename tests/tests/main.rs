//! Tests that cross crates.

mod data;
mod driver;
mod formats;
mod hub;
mod jobs;
mod merging;
mod model;
mod ops;
mod ranks;
