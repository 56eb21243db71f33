//! Whole jobs through the library.

mod baselines;
mod gpu;
mod methods;
mod resume;
