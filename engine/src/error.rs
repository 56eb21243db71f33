//! The one error type of the engine. Every variant carries the operands that were wrong.

use std::sync::Arc;

use cpift_kernels::launch::LaunchError;

/// The names of devices that there are in this build.
const DEVICE_NAMES: &str = if cfg!(feature = "emulator") {
    "`auto`, `cpu`, `cuda:N` or `emulated`"
} else {
    "`auto`, `cpu` or `cuda:N`"
};

/// What can go wrong in the engine. Messages name the operation and the values it was given.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A buffer passed to an operation does not have the number of elements the shape asks for.
    #[error("{op}: `{name}` has {actual} elements, expected {expected}")]
    Length {
        /// The operation.
        op: &'static str,
        /// The argument's name.
        name: &'static str,
        /// Elements the shape asks for.
        expected: usize,
        /// Elements given.
        actual: usize,
    },
    /// An argument has a value the operation cannot take.
    #[error("{op}: {reason}")]
    Argument {
        /// The operation.
        op: &'static str,
        /// What is wrong, with the values.
        reason: String,
    },
    /// Memory for a buffer could not be had.
    #[error("out of memory on {device}: a buffer of {bytes} bytes could not be allocated")]
    OutOfMemory {
        /// The device.
        device: String,
        /// Size of the allocation that failed.
        bytes: usize,
    },
    /// The device's name is not one of those known.
    #[error("unknown device `{name}`: use {}", DEVICE_NAMES)]
    UnknownDevice {
        /// The name given.
        name: String,
    },
    /// The device is the emulator, which is compiled with a feature.
    #[error("this build has no emulator: build with `--features emulator`")]
    NoEmulator,
    /// The device is known, but cannot be used here.
    #[error("device `{name}` cannot be used: {reason}")]
    DeviceUnavailable {
        /// The name given.
        name: String,
        /// Why.
        reason: String,
    },
    /// A kernel was refused, or failed.
    #[error(transparent)]
    Launch(#[from] Arc<LaunchError>),
    /// Ranks cannot work together any more, or not at all.
    #[error("ranks: {reason}")]
    Ranks {
        /// Which rank, and why.
        reason: String,
    },
    /// The device failed.
    #[error("{device}: {reason}")]
    Device {
        /// The device.
        device: String,
        /// What its driver said.
        reason: String,
    },
}

impl From<LaunchError> for Error {
    fn from(error: LaunchError) -> Self {
        Self::Launch(Arc::new(error))
    }
}

/// Result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// Fails with [`Error::Length`] unless `actual == expected`.
pub(crate) fn check_length(
    op: &'static str,
    name: &'static str,
    actual: usize,
    expected: usize,
) -> Result<()> {
    if actual == expected { Ok(()) } else { Err(Error::Length { op, name, expected, actual }) }
}

/// Fails with [`Error::Argument`] unless `ok`; `reason` is only built on failure.
pub(crate) fn check(op: &'static str, ok: bool, reason: impl FnOnce() -> String) -> Result<()> {
    if ok { Ok(()) } else { Err(Error::Argument { op, reason: reason() }) }
}
