//! Comparison of CPI-FT with its baselines and with itself, each choice changed in turn.

mod interval;
mod read;
pub mod results;

pub use read::RESULTS;
