//! The devices that one test body runs on.

use cpift_engine::Device;
use cpift_kernels::emulator::Schedule;

/// The CPU, the emulator in three schedules, and a GPU where there is one.
///
/// With `CPIFT_TEST_CUDA` set, a GPU that cannot be used is a failure instead of being left out.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::cpu(None).expect("threads")];
    devices.extend(emulated());
    match Device::cuda(0) {
        Ok(device) => devices.push(device),
        Err(error) if std::env::var_os("CPIFT_TEST_CUDA").is_some() => panic!("{error}"),
        Err(_) => {}
    }
    devices
}

/// The emulator in three schedules, in which a right kernel gives the same bits.
pub fn emulated() -> [Device; 3] {
    [Schedule::Forward, Schedule::Reverse, Schedule::Shuffled(17)].map(Device::emulated)
}
