//! Events: points in the device's stream, for measuring time.

use std::time::Duration;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::Cuda;

/// A point in the device's stream.
pub struct Event<'a> {
    cuda: &'a Cuda,
    event: sys::CUevent,
}

impl<'a> Event<'a> {
    /// One that is nowhere yet.
    pub fn new(cuda: &'a Cuda) -> std::result::Result<Self, DriverError> {
        cuda.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        Ok(Self { cuda, event })
    }

    /// Places it behind everything queued.
    pub fn record(&self) -> std::result::Result<(), DriverError> {
        self.cuda.enter()?;
        // SAFETY: event and stream are alive and of one context.
        unsafe { result::event::record(self.event, self.cuda.stream) }
    }

    /// Waits until the stream has come here; the time since it came to `start`.
    pub fn since(&self, start: &Self) -> std::result::Result<Duration, DriverError> {
        self.cuda.enter()?;
        // SAFETY: both events are alive and were recorded in one stream.
        let milliseconds = unsafe {
            result::event::synchronize(self.event)?;
            result::event::elapsed(start.event, self.event)?
        };
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        if self.cuda.enter().is_ok() {
            // Nothing can be done about a failure.
            // SAFETY: made in `new`, used no more.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}
