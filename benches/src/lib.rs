//! Measurements: a whole training step ([`step`]), every operation ([`kernels`]), and what operations should take on
//! GPUs that are not there ([`predict`]). `cpift-engine bench` and the Criterion benches print them.
//!
//! Throughput printed as `elem/s` is what the bench's name says: flop/s where it ends in `flops`.
//! The environment variable `DEVICE` chooses the device (`cpu`, or `cuda:0` for example), `THREADS` the number
//! of threads; without them it is the CPU with one thread per core. `SHAPES` is the folder of model shapes
//! where the benches run away from their sources.

pub mod kernels;
pub mod predict;
pub mod step;

use std::path::{Path, PathBuf};

use cpift_engine::Device;

/// The device under test of the Criterion benches and the comparisons.
pub fn device() -> Device {
    let threads = std::env::var("THREADS").ok().and_then(|threads| threads.parse().ok());
    let name = std::env::var("DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    Device::from_name(&name, threads).expect("the device can be used")
}

/// The config of a model shape in `benches/shapes/`.
pub fn shape(name: &str) -> PathBuf {
    let folder = std::env::var_os("SHAPES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("shapes"), PathBuf::from);
    folder.join(format!("{name}.json"))
}
