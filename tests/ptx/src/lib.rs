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

    /// Executes kernels from source and PTX; those that have no PTX from their source.
    #[derive(Debug)]
    pub struct Emulator(source::emulator::Emulator);

    impl Emulator {
        /// As the emulator's.
        pub fn new(schedule: Schedule) -> Self {
            Self(source::emulator::Emulator::new(schedule))
        }

        /// As the emulator's.
        pub fn like(self, compute_capability: (u32, u32), multiprocessors: u32) -> Self {
            Self(self.0.like(compute_capability, multiprocessors))
        }
    }

    impl Launch for Emulator {
        unsafe fn launch(&self, request: &Request<'_>) -> Result<(), LaunchError> {
            match execute::committed(request.kernel)? {
                // SAFETY: the caller's promise.
                None => unsafe { self.0.launch(request) },
                // SAFETY: the caller's promise; the entry is of this kernel.
                Some(entry) => unsafe { execute::launch(Runs::Both, &self.0, request, &entry) },
            }
        }

        fn multiprocessors(&self) -> u32 {
            self.0.multiprocessors()
        }

        fn compute_capability(&self) -> (u32, u32) {
            self.0.compute_capability()
        }
    }
}
