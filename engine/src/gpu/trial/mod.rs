//! First tests of the kernels that are for one compute capability alone.
//!
//! They rest on more of the hardware than others do: permutations of shared memory, barriers for arrivals, the copy
//! engine. A family of them is tested right before a launcher first chooses one, so that a job which needs none, as
//! one in f32, does without. A family that is refused, or wrong, is not used: launchers then choose kernels that run
//! on all devices. A kernel that does not come to its end (a fault, or a wait that is over its limit) takes the
//! context with it and all memory in it, and CUDA promises nothing to a process in which that happened, in a new
//! context either. So there is no going on: every call says how a new process does without these kernels.

mod attention;
mod products;

use std::sync::{Arc, OnceLock};

use cpift_kernels::{attention_hopper, gemm_hopper};

use super::{Backend, GpuDevice, GpuMemory};
use crate::error::{Error, Result};

/// Kernels that are tested together, and used or not.
struct Family {
    /// The module they are in.
    name: &'static str,
    /// What they compute, for messages.
    computes: &'static str,
    /// Which of them is wrong, if any.
    test: fn(&GpuDevice) -> Result<Option<String>>,
}

/// All of them are for this compute capability.
const CAPABILITY: (u32, u32) = (9, 0);
const FAMILIES: [Family; 2] = [
    Family { name: gemm_hopper::FAMILY, computes: "products", test: products::test },
    Family { name: attention_hopper::FAMILY, computes: "attention", test: attention::test },
];

/// What came of the tests on a device.
#[derive(Default)]
pub struct Trials {
    /// By family, once it was tested: why it is not used, if so.
    outcomes: [OnceLock<Option<String>>; FAMILIES.len()],
    /// That a test broke the device.
    broken: OnceLock<Error>,
}

impl Trials {
    /// Whether kernels of this family may be used, which is tested if it was not yet.
    pub fn pass(&self, backend: &Arc<dyn Backend>, family: &str) -> bool {
        let tested = FAMILIES.iter().zip(&self.outcomes).find(|(tested, _)| tested.name == family);
        tested.is_none_or(|(family, outcome)| outcome.get_or_init(|| self.run(backend, family)).is_none())
    }

    /// Tests all families that were not tested yet, on a device that has them.
    pub fn run_all(&self, backend: &Arc<dyn Backend>) {
        if backend.compute_capability() == CAPABILITY {
            FAMILIES.iter().for_each(|family| {
                self.pass(backend, family.name);
            });
        }
    }

    /// # Errors
    /// When a test broke the device.
    pub fn usable(&self) -> Result<()> {
        self.broken.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// The families that failed, each with the reason.
    pub fn left_out(&self) -> Vec<String> {
        let failed = |(family, outcome): (&Family, &OnceLock<Option<String>>)| {
            let reason = outcome.get()?.as_ref()?;
            Some(format!("Hopper's kernels for {}, which failed a first test: {reason}", family.computes))
        };
        FAMILIES.iter().zip(&self.outcomes).filter_map(failed).collect()
    }

    /// Tests a family: why it is not to be used, if so. Not by way of the recording that may be going on.
    fn run(&self, backend: &Arc<dyn Backend>, family: &Family) -> Option<String> {
        if let Err(broken) = self.usable() {
            return Some(broken.to_string());
        }
        let device = GpuDevice::over(Arc::clone(backend));
        let reason = match (family.test)(&device) {
            Ok(None) => return None,
            Ok(Some(wrong)) => format!("wrong numbers from {wrong}"),
            Err(error) => error.to_string(),
        };
        if let Err(error) = device.synchronize() {
            let reason = format!(
                "Hopper's kernels for {} broke it in a first test ({error}); to compute without them run again \
                 with the environment variable CPIFT_HOPPER=off",
                family.computes
            );
            // Set once: nothing is tested on a device that is broken.
            let _ = self.broken.set(Error::DeviceUnavailable { name: backend.name(), reason });
        }
        Some(reason)
    }
}

fn read<T: bytemuck::Pod + Default>(memory: &GpuMemory<T>) -> Result<Vec<T>> {
    let mut values = vec![T::default(); memory.len()];
    memory.all().read(&mut values)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use cpift_kernels::emulator::Schedule;

    use super::*;
    use crate::gpu::emulated::Emulated;

    #[test]
    fn right_kernels_pass_once_and_are_used() {
        let backend: Arc<dyn Backend> = Arc::new(Emulated::like(Schedule::Forward, CAPABILITY));
        let trials = Trials::default();
        trials.run_all(&backend);
        assert!(trials.outcomes.iter().all(|outcome| outcome.get() == Some(&None)));
        assert!(trials.pass(&backend, gemm_hopper::FAMILY) && trials.usable().is_ok());
        assert_eq!(trials.left_out(), [""; 0]);
    }

    #[test]
    fn wrong_kernels_are_left_out_with_the_reason() {
        // Reads zeros, whatever is launched.
        let log = crate::LaunchLog::of_device(CAPABILITY, 132);
        let backend: Arc<dyn Backend> = Arc::new(log.clone());
        let trials = Trials::default();
        assert!(!trials.pass(&backend, gemm_hopper::FAMILY) && trials.usable().is_ok());
        assert_eq!(
            trials.left_out(),
            [
                "Hopper's kernels for products, which failed a first test: wrong numbers from gemm_nt_hopper by tiles of 128 by 128"
            ]
        );
        let launched = log.take().len();
        assert!(launched > 0 && !trials.pass(&backend, gemm_hopper::FAMILY));
        assert_eq!(log.take().len(), 0, "tested again");
    }

    #[test]
    fn other_devices_and_families_are_not_tested() {
        let log = crate::LaunchLog::new();
        let backend: Arc<dyn Backend> = Arc::new(log.clone());
        let trials = Trials::default();
        trials.run_all(&backend);
        assert!(trials.pass(&backend, "gemm") && log.take().is_empty());
    }
}
