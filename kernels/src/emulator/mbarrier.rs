//! Mbarriers: threads and the bytes of copies arrive at them, and each thread knows of some phases that they completed.

use std::collections::BTreeMap;

use super::rules::{Mutation, Rules};
use super::shared::{Access, SharedMemory};
use crate::fault::Cause;

/// A barrier in shared memory.
#[derive(Debug)]
struct Barrier {
    /// Arrivals that end a phase.
    count: u32,
    /// Those that are missing in this phase.
    missing: u32,
    /// Bytes that were announced and have not arrived.
    bytes: i64,
    /// Phases that are over, those of barriers that were at the same byte before among them.
    over: u32,
    /// Those that were over when it was initialised.
    earlier: u32,
    /// Whether it may be used: not once it was invalidated.
    valid: bool,
    /// When and by whom it was initialised.
    made: Access,
    /// For each thread, how many phases it knows to be over.
    known: Vec<u32>,
}

/// The barriers of a block, by the byte they are at.
#[derive(Debug)]
pub struct Mbarriers {
    barriers: BTreeMap<u32, Barrier>,
    threads: usize,
    rules: Rules,
}

/// What a copy that has arrived counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrived {
    /// The barrier.
    pub barrier: u32,
    /// Phases that are over when all of it is there.
    phases: u32,
}

impl Mbarriers {
    /// None yet, in a block of so many threads.
    pub fn new(threads: u32, rules: Rules) -> Self {
        Self { barriers: BTreeMap::new(), threads: threads as usize, rules }
    }

    /// Begins phase 0. What `mbarrier.init` does to a valid mbarrier is undefined (PTX ISA, `mbarrier.init`).
    pub fn init(
        &mut self,
        byte: u32,
        count: u32,
        made: Access,
        location: &dyn Fn() -> String,
    ) -> Result<(), Cause> {
        if self.barriers.get(&byte).is_some_and(|barrier| barrier.valid) {
            let what = "is initialised once more, and was not invalidated before".to_owned();
            return Err(Cause::Mbarrier { byte, what, location: location() });
        }
        // What arrived at an earlier barrier of this byte stays known to those who knew.
        let before = self.barriers.remove(&byte).map(|barrier| (barrier.over, barrier.known));
        let (over, known) = before.unwrap_or_else(|| (0, vec![0; self.threads]));
        let barrier =
            Barrier { count, missing: count, bytes: 0, over, earlier: over, valid: true, made, known };
        self.barriers.insert(byte, barrier);
        Ok(())
    }

    /// Ends the use of the barrier.
    pub fn invalidate(
        &mut self,
        byte: u32,
        now: &Access,
        location: &dyn Fn() -> String,
    ) -> Result<(), Cause> {
        let barrier = self.used(byte, now, location)?;
        if barrier.bytes != 0 {
            let what = format!("is invalidated while {} bytes are missing", barrier.bytes);
            return Err(Cause::Mbarrier { byte, what, location: location() });
        }
        barrier.valid = false;
        Ok(())
    }

    /// The barrier at `byte`, which `now` may use.
    fn used(
        &mut self,
        byte: u32,
        now: &Access,
        location: &dyn Fn() -> String,
    ) -> Result<&mut Barrier, Cause> {
        let misused = |what: String| Cause::Mbarrier { byte, what, location: location() };
        let Some(barrier) = self.barriers.get_mut(&byte) else {
            return Err(misused("was not initialised".to_owned()));
        };
        if !barrier.valid {
            return Err(misused("was invalidated".to_owned()));
        }
        if !barrier.made.is_before(now) {
            return Err(misused(format!(
                "thread {} initialised with no barrier in between",
                barrier.made.thread
            )));
        }
        Ok(barrier)
    }

    /// A thread arrives and announces `bytes` of copies.
    pub fn arrive(
        &mut self,
        byte: u32,
        bytes: u32,
        now: &Access,
        location: &dyn Fn() -> String,
    ) -> Result<(), Cause> {
        let rules = self.rules;
        let barrier = self.used(byte, now, location)?;
        if barrier.missing == 0 {
            let what = format!("awaits {} threads a phase, and one more arrived", barrier.count);
            return Err(Cause::Mbarrier { byte, what, location: location() });
        }
        barrier.bytes += i64::from(bytes);
        barrier.missing -= 1;
        barrier.end_phase(rules);
        Ok(())
    }

    /// Whether a copy may count its bytes there: TMA must have been told of the barrier.
    pub fn expect_copy(
        &mut self,
        byte: u32,
        now: &Access,
        fences: &[u32],
        location: &dyn Fn() -> String,
    ) -> Result<(), Cause> {
        let unfenced = self.rules.mbarriers_unfenced;
        let barrier = self.used(byte, now, location)?;
        if !unfenced && fences[barrier.made.thread as usize] <= barrier.made.fences {
            let what = format!("thread {} initialised without fence_mbarrier_init", barrier.made.thread);
            return Err(Cause::Mbarrier { byte, what, location: location() });
        }
        Ok(())
    }

    /// Bytes of a copy arrive.
    pub fn complete(&mut self, byte: u32, bytes: u32) -> Arrived {
        let barrier = self.barriers.get_mut(&byte).expect("checked when the copy began");
        let arrived = Arrived { barrier: byte, phases: barrier.over + 1 };
        barrier.bytes -= i64::from(bytes);
        barrier.end_phase(self.rules);
        arrived
    }

    /// Whether the phase of this parity is over; if so, the thread knows.
    pub fn poll(
        &mut self,
        byte: u32,
        parity: u32,
        now: &Access,
        location: &dyn Fn() -> String,
    ) -> Result<bool, Cause> {
        let inverted = self.rules.has(Mutation::ParityInverted);
        let barrier = self.used(byte, now, location)?;
        let is_over = ((barrier.over - barrier.earlier) % 2 != parity % 2) != inverted;
        if is_over {
            barrier.known[now.thread as usize] = barrier.over;
        }
        Ok(is_over)
    }

    /// Whether the thread knows that the copy has arrived.
    pub fn knows(&self, thread: u32, arrived: Arrived) -> bool {
        self.barriers
            .get(&arrived.barrier)
            .is_some_and(|barrier| barrier.known[thread as usize] >= arrived.phases)
    }

    /// Threads met: what one knows, all do.
    pub fn share(&mut self, threads: std::ops::Range<usize>) {
        for barrier in self.barriers.values_mut() {
            let known = &mut barrier.known[threads.clone()];
            let most = known.iter().copied().max().unwrap_or(0);
            known.fill(most);
        }
    }

    /// What a phase in progress still awaits, for messages.
    pub fn describe(&self, byte: u32) -> String {
        match self.barriers.get(&byte) {
            Some(barrier) => format!(
                "{} of {} threads and {} bytes are missing in phase {}",
                barrier.missing,
                barrier.count,
                barrier.bytes,
                barrier.over - barrier.earlier
            ),
            None => "it was not initialised".to_owned(),
        }
    }
}

/// What threads do with mbarriers.
impl SharedMemory {
    /// Begins phase 0 of the barrier at `byte`.
    pub fn mbarrier_init(
        &mut self,
        thread: u32,
        byte: u32,
        count: u32,
        location: &dyn Fn() -> String,
    ) -> Result<(), Cause> {
        let now = self.now(thread);
        self.mbarriers.init(byte, count, now, location)
    }

    /// Ends the use of the barrier at `byte`.
    pub fn mbarrier_inval(
        &mut self,
        thread: u32,
        byte: u32,
        location: &dyn Fn() -> String,
    ) -> Result<(), Cause> {
        let now = self.now(thread);
        self.mbarriers.invalidate(byte, &now, location)
    }

    /// The thread arrives and announces `bytes` of copies.
    pub fn arrive(
        &mut self,
        thread: u32,
        byte: u32,
        bytes: u32,
        location: &dyn Fn() -> String,
    ) -> Result<(), Cause> {
        let now = self.now(thread);
        self.mbarriers.arrive(byte, bytes, &now, location)
    }

    /// Whether the phase of this parity is over; if so, the thread knows.
    pub fn poll(
        &mut self,
        thread: u32,
        byte: u32,
        parity: u32,
        location: &dyn Fn() -> String,
    ) -> Result<bool, Cause> {
        let now = self.now(thread);
        self.mbarriers.poll(byte, parity, &now, location)
    }
}

impl Barrier {
    /// Goes on to the next phase once everything has arrived.
    fn end_phase(&mut self, rules: Rules) {
        if self.missing == 0 && (self.bytes == 0 || rules.has(Mutation::BytesNotAwaited)) {
            self.over += 1;
            self.missing = self.count;
        }
    }
}
