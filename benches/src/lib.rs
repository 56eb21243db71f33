//! Shared parts of the benches.
//!
//! Throughput printed as `elem/s` is what the bench's name says: flop/s where it ends in `flops`.
//! The number of threads is that of the environment variable `THREADS`, or one per core.

use cpift_engine::{Buffer, Device};

pub mod flat;

/// The device under test.
pub fn device() -> Device {
    let threads = std::env::var("THREADS").ok().and_then(|threads| threads.parse().ok());
    Device::cpu(threads).expect("the threads start")
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
