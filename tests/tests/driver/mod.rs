//! The way to a GPU, on the stand-in for CUDA's driver.

mod cuda;
mod hopper;
mod recording;
