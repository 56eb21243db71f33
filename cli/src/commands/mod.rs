//! One module per command: arguments in, calls of `cpift-model`, tables or JSON out.

pub mod completions;
pub mod devices;
