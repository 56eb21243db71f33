//! Comparison of CPI-FT with its baselines and with itself, each choice changed in turn.
//!
//! [`Prepared::new`] checks the recipe and makes the units of work, one for every row of the table and seed;
//! [`Prepared::run`] starts a process for each, which calls [`work`], and collects the outcomes into a
//! [`results::Comparison`].

mod collect;
mod differences;
mod family;
mod folder;
mod interval;
mod prepare;
mod probe_lengths;
mod rates;
mod read;
pub mod results;
mod rows;
mod schedule;
mod selection;
mod worker;

pub use folder::{Unit, compared_hub_sources, require_unused};
pub use prepare::{CompareOptions, Measuring, Prepared};
pub use read::RESULTS;
pub use schedule::{Progress, RunOptions};
pub use selection::Selection;
pub use worker::{BUSY, WorkOptions, work};
