//! Shared parts of the benches.
//!
//! Throughput printed as `elem/s` is what the bench's name says: flop/s where it ends in `flops`.
//! The environment variable `DEVICE` chooses the device (`cpu`, or `cuda:0` for example), `THREADS` the number
//! of threads; without them it is the CPU with one thread per core. `SHAPES` is the folder of model shapes
//! where the benches run away from their sources.

use std::path::{Path, PathBuf};

use cpift_engine::{Buffer, Device};

pub mod flat;

/// The device under test.
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

/// Runs `work` and waits until the device has done it: what is to be timed.
pub fn finished<R, E: std::fmt::Debug>(device: &Device, work: impl FnOnce() -> Result<R, E>) -> R {
    let result = work().expect("the operation succeeds");
    device.synchronize().expect("the device works");
    result
}

/// `length` values spread over -1..1, the same in every run.
pub fn random(device: &Device, length: usize) -> Buffer<f32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..length).map(|_| next()).collect();
    Buffer::from_slice(device, &values).expect("memory")
}
