//! Comparison of CPI-FT with its baselines and with itself, each choice changed in turn.

mod collect;
mod folder;
mod interval;
mod read;
pub mod results;
mod rows;

pub use collect::{Collection, collect};
pub use folder::{Claim, ComparisonFolder, Outcome, Subject, Unit};
pub use read::RESULTS;
pub use rows::{Row, Selection, family_names, method_names, rows};
