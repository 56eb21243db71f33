//! How long operations take in a stream, by events in it.

use std::time::Duration;

use crate::gpu::{Event, Stream};

/// The time of operations that have ended, and the events of those that may not have.
#[derive(Default)]
pub struct Clock {
    time: Duration,
    /// Before and behind each operation, in their order.
    pending: Vec<[Event; 2]>,
}

impl Clock {
    /// Puts events before and behind what `queue` queues in the stream. Where the driver has none, that is not measured.
    ///
    /// # Errors
    /// Those of `queue`.
    pub fn measure(
        &mut self,
        stream: Stream,
        queue: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), String> {
        // Only some ask for the time: what has ended is not kept for them.
        self.seconds();
        let start = recorded(stream);
        queue()?;
        if let (Some(start), Some(end)) = (start, recorded(stream)) {
            self.pending.push([start, end]);
        }
        Ok(())
    }

    /// Of all operations that have ended.
    pub fn seconds(&mut self) -> f64 {
        let ended: Vec<Duration> =
            self.pending.iter().map_while(|[start, end]| end.elapsed(start).ok()).collect();
        self.pending.drain(..ended.len());
        self.time += ended.iter().sum::<Duration>();
        self.time.as_secs_f64()
    }
}

/// An event that the stream comes to behind all that is in it.
fn recorded(stream: Stream) -> Option<Event> {
    Event::new(stream).and_then(|event| event.record().map(|()| event)).ok()
}
