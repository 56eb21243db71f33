//! A second stream of a device, for what runs beside its work.

use cudarc::driver::result::{self, DriverError};

use super::Stream;
use super::event::enter;

/// A stream beside that of a device, which it has to end before.
pub struct SideStream(Stream);

// SAFETY: streams belong to no thread; their context is made current before every use.
unsafe impl Send for SideStream {}
// SAFETY: as above.
unsafe impl Sync for SideStream {}

impl SideStream {
    /// One with nothing in it, of the same context.
    pub fn beside(stream: Stream) -> std::result::Result<Self, DriverError> {
        enter(stream)?;
        let own = result::stream::create(result::stream::StreamKind::NonBlocking)?;
        Ok(Self(Stream { stream: own, ..stream }))
    }

    /// Waits until all that is queued has run.
    pub fn synchronize(&self) -> std::result::Result<(), DriverError> {
        enter(self.0)?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.0.stream) }
    }

    /// To queue in.
    pub fn stream(&self) -> Stream {
        self.0
    }
}

impl Drop for SideStream {
    fn drop(&mut self) {
        if enter(self.0).is_ok() {
            // Nothing can be done about a failure. What is queued is still done.
            // SAFETY: made in `beside`, used no more.
            let _ = unsafe { result::stream::destroy(self.0.stream) };
        }
    }
}
