//! The kernels, with an emulator that executes a launch twice: from the source, and from the committed PTX, which
//! must give the same bits.
//!
//! The kernels' own tests run on it as they are (`tests/kernels.rs`): what they check of the source in all their
//! shapes is then true of the PTX.

pub use cpift_stand_in::execute::executed;
pub use source::*;

/// As in the kernels' crate, but for [`Emulator`](emulator::Emulator).
pub mod emulator {
    use cpift_stand_in::execute::{self, Runs};
    use source::launch::{Launch, LaunchError, Request};

    pub use source::emulator::*;

    /// Executes kernels from their PTX, in one schedule also from their source, and then compares. Kernels that have
    /// no PTX are executed from their source.
    #[derive(Debug)]
    pub struct Emulator {
        emulator: source::emulator::Emulator,
        runs: Runs,
    }

    impl Emulator {
        /// As the emulator's. That other schedules give the same bits is what the kernels' tests demand themselves.
        pub fn new(schedule: Schedule) -> Self {
            let runs = if schedule == Schedule::Reverse { Runs::Ptx } else { Runs::Both };
            Self { emulator: source::emulator::Emulator::new(schedule), runs }
        }

        /// As the emulator's.
        pub fn like(self, compute_capability: (u32, u32), multiprocessors: u32) -> Self {
            Self { emulator: self.emulator.like(compute_capability, multiprocessors), ..self }
        }
    }

    impl Launch for Emulator {
        unsafe fn launch(&self, request: &Request<'_>) -> Result<(), LaunchError> {
            match execute::committed(request.kernel)? {
                // SAFETY: the caller's promise.
                None => unsafe { self.emulator.launch(request) },
                // SAFETY: the caller's promise; the entry is of this kernel.
                Some(entry) => unsafe { execute::launch(self.runs, &self.emulator, request, &entry) },
            }
        }

        fn multiprocessors(&self) -> u32 {
            self.emulator.multiprocessors()
        }

        fn compute_capability(&self) -> (u32, u32) {
            self.emulator.compute_capability()
        }
    }
}
