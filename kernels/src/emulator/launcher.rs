//! The emulator as what runs launches.

use std::cell::{Cell, RefCell};
use std::sync::{Mutex, PoisonError};

use corosensei::stack::DefaultStack;

use super::block;
use super::rules::Rules;
use super::schedule::{Order, Schedule};
use super::shared::SharedMemory;
use super::thread::Context;
use super::traffic::{Counter, TrafficLog};
use crate::fault::Fault;
use crate::launch::{Launch, LaunchError, MULTIPROCESSORS, Request};
use crate::modules;

/// Shared memory of a block of an H100, the most a kernel can ask for.
pub const SHARED_MEMORY_LIMIT: u32 = 227 * 1024;

/// Bytes of a thread's stack, generous for unoptimised builds.
const STACK: usize = 128 * 1024;

/// Runs kernels on the calling thread, on host memory.
pub struct Emulator {
    schedule: Schedule,
    compute_capability: (u32, u32),
    multiprocessors: u32,
    rules: Rules,
    /// Stacks of threads, kept from launch to launch.
    stacks: Mutex<Vec<DefaultStack>>,
    /// Where the traffic of launches is noted, if anywhere.
    traffic: Option<TrafficLog>,
}

impl Emulator {
    /// An emulator that runs threads and blocks in this order, for all kernels that an A100 runs.
    pub fn new(schedule: Schedule) -> Self {
        Self {
            schedule,
            compute_capability: (8, 0),
            multiprocessors: MULTIPROCESSORS,
            rules: Rules::default(),
            stacks: Mutex::default(),
            traffic: None,
        }
    }

    /// The same as another device: by its compute capability and the number of its multiprocessors launchers
    /// choose kernels and the number of blocks.
    pub fn like(self, compute_capability: (u32, u32), multiprocessors: u32) -> Self {
        Self { compute_capability, multiprocessors, ..self }
    }

    /// The same by other rules than this project's kernels are held to: for tests of the emulator itself.
    #[doc(hidden)]
    pub fn by(self, rules: Rules) -> Self {
        Self { rules, ..self }
    }

    /// One that also counts what launches move.
    pub fn counting(schedule: Schedule, traffic: &TrafficLog) -> Self {
        Self { traffic: Some(traffic.clone()), ..Self::new(schedule) }
    }
}

impl std::fmt::Debug for Emulator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Emulator").field("schedule", &self.schedule).finish_non_exhaustive()
    }
}

impl Emulator {
    /// Runs what a launch asks for, each thread of it as `body` says: the kernel's own, unless it is executed in
    /// another form.
    ///
    /// # Safety
    /// As for [`Launch::launch`]; `body` accesses what the kernel may.
    #[doc(hidden)]
    pub unsafe fn run(&self, request: &Request<'_>, body: &dyn Fn()) -> Result<(), LaunchError> {
        let kernel = request.kernel;
        if request.shared > SHARED_MEMORY_LIMIT {
            let (bytes, limit) = (u64::from(request.shared), SHARED_MEMORY_LIMIT);
            return Err(LaunchError::SharedMemory { kernel: kernel.name, bytes, limit });
        }
        if !modules::runs_on(kernel.architecture, self.compute_capability) {
            let (kernel, architecture) = (kernel.name, kernel.architecture);
            return Err(LaunchError::Architecture { kernel, architecture, device: self.compute_capability });
        }
        let mut stacks = self.stacks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut order = Order::new(self.schedule);
        let counter = self.traffic.as_ref().map(|_| RefCell::new(Counter::new(kernel.parameters)));
        let [x, y, z] = request.grid;
        for index in order.shuffle(x as usize * y as usize * z as usize) {
            let index = index as u64;
            let (x, y) = (u64::from(x), u64::from(y));
            let context = Context {
                kernel,
                grid: request.grid,
                block: [(index % x) as u32, (index / x % y) as u32, (index / x / y) as u32],
                thread: Cell::new(0),
                suspend: Cell::new(None),
                shared: RefCell::new(SharedMemory::new(request.shared, kernel.block / 32, self.rules)),
                counter: counter.as_ref(),
            };
            while stacks.len() < kernel.block as usize {
                let message = |error| format!("no memory for the stack of an emulated thread: {error}");
                stacks.push(
                    DefaultStack::new(STACK).map_err(|error| LaunchError::Driver {
                        kernel: kernel.name,
                        message: message(error),
                    })?,
                );
            }
            block::run(request, body, &context, &mut order, &mut stacks).map_err(|(threads, cause)| {
                Box::new(Fault { kernel: kernel.name, block: context.block, threads, cause })
            })?;
        }
        if let (Some(log), Some(counter)) = (&self.traffic, counter) {
            log.push(counter.into_inner().finish(kernel.name));
        }
        Ok(())
    }
}

impl Launch for Emulator {
    unsafe fn launch(&self, request: &Request<'_>) -> Result<(), LaunchError> {
        // SAFETY: the caller's promise; the kernel's own body.
        unsafe { self.run(request, &|| request.kernel.run_body(request.arguments)) }
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.compute_capability
    }
}
