//! Comparison of CPI-FT with its baselines and with itself, each choice changed in turn.

mod interval;
pub mod results;
