//! How long a device is occupied with exchanging, by events in its stream.

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
        let start = recorded(stream)?;
        queue()?;
        self.pending.push([start, recorded(stream)?]);
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
fn recorded(stream: Stream) -> Result<Event, String> {
    let event = Event::new(stream).and_then(|event| event.record().map(|()| event));
    event.map_err(|error| format!("measuring time: the driver says {error}"))
}
