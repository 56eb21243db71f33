//! The devices that one test body runs on.

use std::fmt::Debug;

use cpift_engine::Device;
use cpift_kernels::emulator::Schedule;

use crate::stand_in;

/// The CPU, the emulator in three schedules, and a GPU where there is one.
///
/// With `CPIFT_TEST_CUDA` set, a GPU that cannot be used is a failure instead of being left out, and the emulator, which
/// does not need one and is slow, is left out. So it is on the stand-in for CUDA's driver, which runs the emulator.
pub fn devices() -> Vec<Device> {
    let needs_cuda = std::env::var_os("CPIFT_TEST_CUDA").is_some();
    let mut devices = vec![Device::cpu(None).expect("threads")];
    if !needs_cuda && !stand_in::in_use() {
        devices.extend(emulated());
    }
    match Device::cuda(0) {
        Ok(device) => devices.push(device),
        Err(error) if needs_cuda => panic!("{error}"),
        Err(_) => {}
    }
    devices
}

/// The emulator in one schedule, and a GPU where there is one: for whole models, whose operations run in all
/// schedules in tests of their own.
pub fn gpus() -> Vec<Device> {
    let mut devices = devices();
    devices.retain(|device| matches!(device, Device::Gpu(_)));
    devices.dedup_by_key(|device| device.name());
    devices
}

/// What `run` gives on every device. The emulator must give the same bits in its three
/// schedules.
pub fn on_each<R: PartialEq + Debug>(run: impl Fn(&Device) -> R) -> Vec<(Device, R)> {
    let results: Vec<(Device, R)> =
        devices().into_iter().map(|device| (device.clone(), run(&device))).collect();
    let emulated: Vec<&R> =
        results.iter().filter(|(device, _)| device.name() == "emulated").map(|(_, result)| result).collect();
    assert!(emulated.windows(2).all(|pair| pair[0] == pair[1]), "{emulated:?} differ by schedule");
    results
}

/// The emulator in three schedules, in which a right kernel gives the same bits.
pub fn emulated() -> [Device; 3] {
    [Schedule::Forward, Schedule::Reverse, Schedule::Shuffled(17)].map(Device::emulated)
}
