//! One module per command: arguments in, calls of `cpift-model`, tables or JSON out.

pub mod bench;
pub mod completions;
pub mod devices;
pub mod eval;
pub mod generate;
pub mod plan;
pub mod train;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use cpift_engine::{Device, Error};

/// The device of that name. `auto` is a GPU where one can be used; where none can, a line says why, and
/// it is the CPU.
fn open_device(name: &str, threads: Option<NonZeroUsize>) -> cpift_engine::Result<Device> {
    if name != "auto" {
        return Device::from_name(name, threads);
    }
    Device::cuda(0).or_else(|error| {
        let reason = match error {
            Error::DeviceUnavailable { reason, .. } => reason,
            error => error.to_string(),
        };
        eprintln!("no GPU: {reason}; computing on the CPU");
        Device::cpu(threads)
    })
}

/// Where tokenised data is kept between runs: `cpift-engine` in the user's cache folder. None where there
/// is no such folder, as for users without a home.
fn token_cache() -> Option<PathBuf> {
    let folder = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")))?;
    Some(cache.join("cpift-engine"))
}
