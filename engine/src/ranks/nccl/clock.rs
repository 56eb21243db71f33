//! How long a device is occupied with exchanging, by events in its stream.

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUresult};

use crate::gpu::Stream;

/// The time of operations that have ended, and the events of those that may not have.
#[derive(Default)]
pub struct Clock {
    seconds: f64,
    /// Before and behind each operation, in their order.
    pending: Vec<[Event; 2]>,
}

/// An event.
struct Event {
    handle: sys::CUevent,
    context: sys::CUcontext,
}

// SAFETY: events belong to no thread; their context is made current before every use.
unsafe impl Send for Event {}

impl Clock {
    /// Puts events before and behind what `queue` queues in the stream.
    ///
    /// # Errors
    /// Those of `queue`, and what the driver says.
    pub fn measure(
        &mut self,
        stream: Stream,
        queue: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), String> {
        // Only some ask for the time: what has ended is not kept for them.
        self.seconds();
        let start = Event::record(stream)?;
        queue()?;
        self.pending.push([start, Event::record(stream)?]);
        Ok(())
    }

    /// Of all operations that have ended.
    pub fn seconds(&mut self) -> f64 {
        let ended = self.pending.iter().map_while(|[start, end]| end.since(start)).collect::<Vec<f64>>();
        self.pending.drain(..ended.len());
        self.seconds += ended.iter().sum::<f64>();
        self.seconds
    }

    /// Forgets operations that have not ended.
    pub fn clear(&mut self) {
        self.pending.clear();
    }
}

impl Event {
    /// One that the stream comes to behind all that is in it.
    fn record(stream: Stream) -> Result<Self, String> {
        let failed = |error| format!("measuring time: the driver says {error}");
        // SAFETY: a live device's context, by whoever made the stream known.
        unsafe { result::ctx::set_current(stream.context) }.map_err(failed)?;
        let handle = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failed)?;
        let event = Self { handle, context: stream.context };
        // SAFETY: both are alive and of one context.
        unsafe { result::event::record(handle, stream.stream) }.map_err(failed)?;
        Ok(event)
    }

    /// Seconds since the stream came to `start`; none where it has not come here yet.
    fn since(&self, start: &Self) -> Option<f64> {
        let mut milliseconds = 0.0;
        // SAFETY: a live device's context; both events are alive and were recorded in one stream.
        let status = unsafe {
            result::ctx::set_current(self.context).ok()?;
            sys::cuEventElapsedTime(&mut milliseconds, start.handle, self.handle)
        };
        (status == CUresult::CUDA_SUCCESS).then(|| f64::from(milliseconds.max(0.0)) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: a live device's context; made in `record`, used no more. Nothing can be done about failures.
        unsafe {
            if result::ctx::set_current(self.context).is_ok() {
                let _ = result::event::destroy(self.handle);
            }
        }
    }
}
