//! Whole jobs through the library.

mod baselines;
mod changed_inputs;
mod gpu;
mod methods;
mod resume;
mod sampled;
mod scores;
