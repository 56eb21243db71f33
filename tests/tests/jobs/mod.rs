//! Whole jobs through the library.

mod adapters;
mod baselines;
mod card;
mod changed_inputs;
mod compact;
mod disk;
mod gpu;
mod measures;
mod methods;
mod probe_lengths;
mod probe_runs;
mod resume;
mod sampled;
mod scores;
