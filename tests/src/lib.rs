//! Shared parts of the tests: oracles in f64, random inputs, small models.

#[cfg(unix)]
pub mod campaign;
pub mod data;
pub mod devices;
pub mod flat;
pub mod folders;
pub mod golden;
pub mod hub;
pub mod jobs;
pub mod model_folders;
pub mod models;
pub mod numeric;
pub mod oracle;
pub mod precision;
pub mod ranks;
pub mod stand_in;
pub mod stored;
