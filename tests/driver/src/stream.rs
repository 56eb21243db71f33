//! Streams: work in order, done when somebody waits for it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use cpift_kernels::emulator::{Emulator, Schedule};
use cpift_kernels::launch::{Argument, Direction, Kernel, Parameter, Request};
use cudarc::driver::sys::CUresult;

use crate::collective::{Communicator, Operation};
use crate::execute;
use crate::memory::Place;
use crate::order::{Access, Clock};
use crate::ptx::Entry;
use crate::state::{Outcome, SETTINGS, violation};

/// A stream.
#[derive(Debug)]
pub struct Stream {
    /// Its own.
    pub handle: usize,
    /// Whose it is.
    pub context: usize,
    emulator: Emulator,
    queue: Mutex<Queue>,
    /// Some work is over.
    advanced: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    work: VecDeque<Work>,
    /// Whether work that was taken out runs now.
    is_running: bool,
}

/// Something queued.
#[derive(Debug, Clone)]
pub enum Work {
    /// A kernel, whose launch was checked.
    Launch {
        /// What runs.
        kernel: &'static Kernel,
        /// Blocks in each direction.
        grid: [u32; 3],
        /// Its PTX.
        entry: Arc<Entry>,
        /// Bytes of dynamic shared memory.
        shared: u32,
        /// With addresses of the host.
        arguments: Vec<Argument>,
        /// Memory that the arguments are in, as far as is known, and what they are.
        buffers: Vec<(Place, &'static Parameter)>,
        /// What is made of it instead, for tests of failures.
        instead: Option<Instead>,
    },
    /// Bytes set.
    Set {
        /// Where.
        to: Place,
        /// What to.
        byte: u8,
    },
    /// A copy within the device, or between it and the host's pinned memory.
    Copy {
        /// Where to.
        to: Place,
        /// Where from, as many bytes.
        from: Place,
    },
    /// Something that this process does with others.
    Collective {
        /// Which.
        communicator: Arc<Communicator>,
        /// What.
        operation: Operation,
    },
    /// An allocation given back.
    Free(Place),
    /// A point in the stream.
    Record(Arc<Record>),
    /// What comes behind waits for a point in another stream.
    Wait(Arc<Record>),
}

impl Work {
    /// For messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Launch { kernel, .. } => kernel.name,
            Self::Set { .. } => "a memset",
            Self::Copy { .. } => "a copy",
            Self::Collective { operation, .. } => operation.header.kind.name(),
            Self::Free(_) => "a free",
            Self::Record(_) => "a record",
            Self::Wait(_) => "a wait",
        }
    }

    /// What it does with memory.
    pub fn accesses(&self) -> Vec<Access> {
        match self {
            Self::Launch { buffers, .. } => {
                let is_written = |parameter: &Parameter| {
                    matches!(parameter.direction, Direction::Write | Direction::Update)
                };
                let access = |(place, parameter): &(Place, &'static Parameter)| {
                    Access::new(place, is_written(parameter), parameter.name)
                };
                buffers.iter().map(access).collect()
            }
            Self::Set { to, .. } => vec![Access::new(to, true, "to")],
            Self::Copy { to, from } => vec![Access::new(to, true, "to"), Access::new(from, false, "from")],
            Self::Collective { operation: Operation { header, send, receive }, .. } => {
                vec![Access::new(send, header.spoils(), "send"), Access::new(receive, true, "receive")]
            }
            Self::Free(all) => vec![Access::new(all, true, "all of it")],
            Self::Record(_) | Self::Wait(_) => Vec::new(),
        }
    }
}

/// What a launch does instead of running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// It fails.
    Fail,
    /// Nothing.
    Nothing,
}

/// An event.
#[derive(Debug)]
pub struct Event {
    /// Whose it is.
    pub context: usize,
    /// The latest; none before the first.
    record: Mutex<Option<Arc<Record>>>,
}

impl Event {
    /// One that was never recorded.
    pub fn new(context: usize) -> Self {
        Self { context, record: Mutex::default() }
    }

    /// What it stands for now, if it was ever recorded.
    pub fn record(&self) -> Option<Arc<Record>> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it stands for from now on.
    pub fn set(&self, record: Arc<Record>) {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = Some(record);
    }
}

/// A point in a stream. Waits for it stay when the event is recorded again.
#[derive(Debug)]
pub struct Record {
    /// Which.
    pub stream: Arc<Stream>,
    /// What is done then.
    pub point: Clock,
    /// When its stream came to it; none before.
    pub reached: OnceLock<Instant>,
}

impl Stream {
    pub fn new(handle: usize, context: usize, schedule: Schedule) -> Self {
        Self {
            handle,
            context,
            emulator: Emulator::new(schedule).like(SETTINGS.capability, SETTINGS.multiprocessors),
            queue: Mutex::default(),
            advanced: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts work behind what is there.
    pub fn push(&self, work: Work) {
        self.lock().work.push_back(work);
    }

    /// Does all of the work. After a failure the rest is forgotten.
    pub fn drain(&self) -> Outcome {
        self.run_until(|| false)
    }

    /// Does work in order until something has happened, or nothing is left.
    ///
    /// Work runs unlocked, so that it can wait for another stream's. Streams that wait for each other in turn come to an
    /// end: a wait is for a record that was queued before it, so the oldest work of all can always run.
    fn run_until(&self, has_happened: impl Fn() -> bool) -> Outcome {
        let mut queue = self.lock();
        while !has_happened() {
            if queue.is_running {
                // By another thread.
                queue = self.advanced.wait(queue).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let Some(work) = queue.work.pop_front() else { break };
            queue.is_running = true;
            drop(queue);
            let outcome = catch_unwind(AssertUnwindSafe(|| self.run(work)))
                .unwrap_or_else(|_| Err(violation(CUresult::CUDA_ERROR_UNKNOWN, "queued work panicked")));
            queue = self.lock();
            queue.is_running = false;
            if outcome.is_err() {
                queue.work.clear();
            }
            self.advanced.notify_all();
            outcome?;
        }
        Ok(())
    }

    fn run(&self, work: Work) -> Outcome {
        match work {
            Work::Launch { instead: Some(Instead::Nothing), .. } => {}
            Work::Launch { instead: Some(Instead::Fail), .. } => {
                return Err(CUresult::CUDA_ERROR_LAUNCH_FAILED);
            }
            Work::Launch { kernel, entry, grid, shared, arguments, buffers: _buffers, instead: None } => {
                let request = Request { kernel, grid, shared, arguments: &arguments };
                // SAFETY: kinds and widths of the arguments were checked against the kernel's parameters, and those
                // against the entry's; their memory is held by the buffers, and the emulator checks every access against it.
                unsafe { execute::launch(SETTINGS.runs, &self.emulator, &request, &entry) }.map_err(
                    |error| {
                        violation(
                            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
                            &format!("while a kernel ran: {error}"),
                        )
                    },
                )?;
            }
            // SAFETY: the place was checked for its bytes and holds its memory.
            Work::Set { to, byte } => unsafe { to.host().write_bytes(byte, to.bytes) },
            Work::Copy { to, from } => {
                // SAFETY: both places were checked for these bytes and hold their memory; `copy` may overlap.
                unsafe { to.host().copy_from(from.host(), to.bytes) }
            }
            Work::Collective { communicator, operation } => communicator.run(&operation)?,
            Work::Free(all) => all.block.poison(),
            Work::Record(record) => {
                let _ = record.reached.set(Instant::now());
            }
            Work::Wait(record) => record.stream.run_until(|| record.reached.get().is_some())?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::hint::spin_loop;
    use std::thread::scope;

    use super::*;
    use crate::memory::Memory;

    fn streams() -> [Arc<Stream>; 2] {
        [1, 2].map(|handle| Arc::new(Stream::new(handle, 0, SETTINGS.schedule)))
    }

    /// Records where `stream` is, and makes `other` wait for it.
    fn order(stream: &Arc<Stream>, other: &Stream) -> Arc<Record> {
        let (point, reached) = (Clock::default(), OnceLock::new());
        let record = Arc::new(Record { stream: stream.clone(), point, reached });
        stream.push(Work::Record(record.clone()));
        other.push(Work::Wait(record.clone()));
        record
    }

    #[test]
    fn threads_can_wait_for_streams_that_wait_for_each_other() {
        let streams = streams();
        let turn = |turn: usize| order(&streams[turn % 2], &streams[(turn + 1) % 2]);
        let records: Vec<Arc<Record>> = (0..1000).map(turn).collect();
        scope(|scope| {
            for stream in [&streams[0], &streams[1], &streams[0]] {
                scope.spawn(|| stream.drain().unwrap());
            }
        });
        let times: Vec<Instant> = records.iter().map(|record| *record.reached.get().unwrap()).collect();
        assert!(times.is_sorted());
    }

    #[test]
    fn work_that_another_thread_runs_is_waited_for() {
        const BYTES: usize = 64 << 20;
        let mut memory = Memory::default();
        let address = memory.allocate(BYTES, BYTES as u64, 1).unwrap();
        let to = memory.place(address, BYTES, 1, "test").unwrap();
        let last = memory.place(address + BYTES as u64 - 1, 1, 1, "test").unwrap();
        let [one, other] = streams();
        one.push(Work::Set { to, byte: 1 });
        order(&one, &other);
        scope(|scope| {
            scope.spawn(|| one.drain().unwrap());
            while one.lock().work.len() == 2 {
                spin_loop();
            }
            other.drain().unwrap();
            // SAFETY: one byte inside; what writes it is done.
            assert_eq!(unsafe { *last.host() }, 1);
        });
    }
}
