//! In which order threads and blocks run.

/// An order of threads and blocks. A correct kernel gives the same bits in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// First to last.
    Forward,
    /// Last to first.
    Reverse,
    /// Shuffled anew after every barrier, by this seed.
    Shuffled(u64),
}

/// A schedule in progress.
#[derive(Debug)]
pub struct Order {
    schedule: Schedule,
    /// State of a 64-bit linear congruential generator.
    state: u64,
}

impl Order {
    /// Starts a schedule.
    pub fn new(schedule: Schedule) -> Self {
        let state = if let Schedule::Shuffled(seed) = schedule { seed } else { 0 };
        Self { schedule, state }
    }

    /// `0..count` in the order of the moment.
    pub fn shuffle(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        match self.schedule {
            Schedule::Forward => {}
            Schedule::Reverse => order.reverse(),
            Schedule::Shuffled(_) => {
                for last in (1..count).rev() {
                    order.swap(last, self.below(last + 1));
                }
            }
        }
        order
    }

    /// One of `0..count`, which is not 0, in the order of the moment.
    pub fn pick(&mut self, count: usize) -> usize {
        match self.schedule {
            Schedule::Forward => 0,
            Schedule::Reverse => count - 1,
            Schedule::Shuffled(_) => self.below(count),
        }
    }

    /// A number below `limit`, which only has to look irregular.
    fn below(&mut self, limit: usize) -> usize {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) as usize % limit
    }
}
