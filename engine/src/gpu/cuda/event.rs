//! Events: points in a device's stream, for measuring time and for other streams to wait for.

use std::time::Duration;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::Stream;

/// How streams wait.
const WAIT: sys::CUevent_wait_flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;

/// A point in a stream.
pub struct Event {
    stream: Stream,
    event: sys::CUevent,
}

// SAFETY: events belong to no thread; their context is made current before every use.
unsafe impl Send for Event {}

impl Event {
    /// One that is nowhere yet.
    pub fn new(stream: Stream) -> std::result::Result<Self, DriverError> {
        enter(stream)?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        Ok(Self { stream, event })
    }

    /// Places it behind everything queued.
    pub fn record(&self) -> std::result::Result<(), DriverError> {
        enter(self.stream)?;
        // SAFETY: event and stream are alive and of one context.
        unsafe { result::event::record(self.event, self.stream.stream) }
    }

    /// Has another stream of the same context go on only when this one has come here, as it was last placed.
    pub fn hold(&self, other: Stream) -> std::result::Result<(), DriverError> {
        enter(other)?;
        // SAFETY: event and stream are alive and of one context.
        unsafe { result::stream::wait_event(other.stream, self.event, WAIT) }
    }

    /// Waits until the stream has come here; the time since it came to `start`.
    pub fn since(&self, start: &Self) -> std::result::Result<Duration, DriverError> {
        enter(self.stream)?;
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.event) }?;
        self.elapsed(start)
    }

    /// The time since the stream came to `start`; an error where it has not come here yet.
    pub fn elapsed(&self, start: &Self) -> std::result::Result<Duration, DriverError> {
        enter(self.stream)?;
        // SAFETY: both events are alive and were recorded in one stream.
        let milliseconds = unsafe { result::event::elapsed(start.event, self.event) }?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        if enter(self.stream).is_ok() {
            // Nothing can be done about a failure.
            // SAFETY: made in `new`, used no more.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

/// Makes the stream's context current on this thread.
pub(super) fn enter(stream: Stream) -> std::result::Result<(), DriverError> {
    // SAFETY: a live device's context, by whoever made the stream known.
    unsafe { result::ctx::set_current(stream.context) }
}
