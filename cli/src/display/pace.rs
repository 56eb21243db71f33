//! When work that goes on says how far it is, where there is no terminal to show a bar.

use std::time::{Duration, Instant};

/// Shortest time between two lines.
const LEAST_PAUSE: Duration = Duration::from_secs(1);
/// Time after which a line comes even within a tenth of the work.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// The lines of one piece of work: one per tenth of it, but not two in a second, and never silence for long.
pub struct Pace {
    last_line: Instant,
    tenths: u64,
}

impl Pace {
    /// That of work that begins now.
    pub fn begin() -> Self {
        Self { last_line: Instant::now(), tenths: 0 }
    }

    /// Whether a line is due with `done` of `total` done. What follows at the end says more than a line.
    pub fn line_is_due(&mut self, done: u64, total: u64) -> bool {
        let tenths = 10 * done / total.max(1);
        let pause = self.last_line.elapsed();
        let due = done < total && ((tenths > self.tenths && pause >= LEAST_PAUSE) || pause >= LONGEST_PAUSE);
        if due {
            (self.tenths, self.last_line) = (tenths, Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_rare() {
        let mut pace = Pace::begin();
        let due_after = |pace: &mut Pace, done: u64, pause: Duration| {
            pace.last_line -= pause;
            pace.line_is_due(done, 100)
        };
        assert!(!due_after(&mut pace, 50, Duration::ZERO), "two lines in a second");
        assert!(due_after(&mut pace, 60, LEAST_PAUSE));
        assert!(!due_after(&mut pace, 69, LEAST_PAUSE), "no new tenth");
        assert!(due_after(&mut pace, 70, LEAST_PAUSE));
        assert!(due_after(&mut pace, 71, LONGEST_PAUSE), "silence for long");
        assert!(!due_after(&mut pace, 100, LONGEST_PAUSE), "what comes out follows");
    }
}
