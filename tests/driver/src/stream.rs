//! Streams: work in order, done when somebody waits for it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cpift_kernels::emulator::{Emulator, Schedule};
use cpift_kernels::launch::{Argument, Kernel, Request};
use cudarc::driver::sys::CUresult;

use crate::collective::{Communicator, Operation};
use crate::execute;
use crate::memory::{Block, Place};
use crate::ptx::Entry;
use crate::state::{Outcome, SETTINGS, violation};

/// A stream.
#[derive(Debug)]
pub struct Stream {
    /// Whose it is.
    pub context: usize,
    emulator: Emulator,
    work: Mutex<VecDeque<Work>>,
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
        /// Memory that the arguments are in.
        places: Vec<Place>,
        /// What is made of it instead, for tests of failures.
        instead: Option<Instead>,
    },
    /// Bytes set.
    Set {
        /// Where.
        to: Place,
        /// What to.
        byte: u8,
        /// How many.
        bytes: usize,
    },
    /// A copy within the device, or between it and the host's pinned memory.
    Copy {
        /// Where to.
        to: Place,
        /// Where from.
        from: Place,
        /// How many bytes.
        bytes: usize,
    },
    /// Something that this process does with others.
    Collective {
        /// Which.
        communicator: Arc<Communicator>,
        /// What.
        operation: Operation,
    },
    /// Memory given back.
    Free(Arc<Block>),
    /// A point in time.
    Record(Arc<Event>),
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
    /// When its stream came to it; none before.
    pub reached: Mutex<Option<Instant>>,
    /// The stream it was recorded in.
    pub stream: Mutex<Option<Arc<Stream>>>,
}

impl Stream {
    pub fn new(context: usize, schedule: Schedule) -> Self {
        Self {
            context,
            emulator: Emulator::new(schedule).like(SETTINGS.capability, SETTINGS.multiprocessors),
            work: Mutex::default(),
        }
    }

    /// Puts work behind what is there.
    pub fn push(&self, work: Work) {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).push_back(work);
    }

    /// Whether work that is queued, and nobody waits for, uses this memory.
    pub fn is_using(&self, block: &Arc<Block>) -> bool {
        let is_it = |place: &Place| Arc::ptr_eq(&place.block, block);
        let uses = |work: &Work| match work {
            Work::Launch { places, .. } => places.iter().any(is_it),
            Work::Set { to, .. } => is_it(to),
            Work::Copy { to, from, .. } => is_it(to) || is_it(from),
            Work::Collective { operation, .. } => is_it(&operation.send) || is_it(&operation.receive),
            Work::Free(freed) => Arc::ptr_eq(freed, block),
            Work::Record(_) => false,
        };
        // While it is waited for it is locked, until others come to what it does with them.
        self.work.try_lock().is_ok_and(|work| work.iter().any(uses))
    }

    /// Does all of the work. After a failure the rest is forgotten.
    pub fn drain(&self) -> Outcome {
        let mut queue = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(work) = queue.pop_front() {
            if let Err(error) = self.run(work) {
                queue.clear();
                return Err(error);
            }
        }
        Ok(())
    }

    fn run(&self, work: Work) -> Outcome {
        match work {
            Work::Launch { instead: Some(Instead::Nothing), .. } => {}
            Work::Launch { instead: Some(Instead::Fail), .. } => {
                return Err(CUresult::CUDA_ERROR_LAUNCH_FAILED);
            }
            Work::Launch { kernel, entry, grid, shared, arguments, places: _places, instead: None } => {
                let request = Request { kernel, grid, shared, arguments: &arguments };
                // SAFETY: kinds and widths of the arguments were checked against the kernel's parameters, and those
                // against the entry's; their memory is held by the places, and the emulator checks every access against it.
                unsafe { execute::launch(SETTINGS.runs, &self.emulator, &request, &entry) }.map_err(
                    |error| {
                        violation(
                            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
                            &format!("while a kernel ran: {error}"),
                        )
                    },
                )?;
            }
            // SAFETY: the place was checked for these bytes and holds its memory.
            Work::Set { to, byte, bytes } => unsafe { to.host().write_bytes(byte, bytes) },
            Work::Copy { to, from, bytes } => {
                // SAFETY: both places were checked for these bytes and hold their memory; `copy` may overlap.
                unsafe { to.host().copy_from(from.host(), bytes) }
            }
            Work::Collective { communicator, operation } => communicator.run(&operation)?,
            Work::Free(block) => block.poison(),
            Work::Record(event) => {
                *event.reached.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
        }
        Ok(())
    }
}
