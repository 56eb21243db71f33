//! For how much of the time the disk was at work.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Counts the time in which at least one thread waits for the system to read, write or flush.
#[derive(Debug, Default)]
pub(super) struct DiskClock(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    active: usize,
    since: Option<Instant>,
    busy: Duration,
}

impl DiskClock {
    /// Does something that the disk may have to do.
    pub fn during<R>(&self, work: impl FnOnce() -> R) -> R {
        self.change(true);
        let result = work();
        self.change(false);
        result
    }

    fn change(&self, begins: bool) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if begins {
            state.active += 1;
            state.since.get_or_insert_with(Instant::now);
            return;
        }
        state.active -= 1;
        if state.active == 0
            && let Some(since) = state.since.take()
        {
            state.busy += since.elapsed();
        }
    }

    /// The time so far.
    pub fn busy(&self) -> Duration {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.busy + state.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}
