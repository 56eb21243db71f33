//! Self-tests of the kernels that are for one compute capability alone.
//!
//! They rest on more of the hardware than others do: swizzled shared memory, mbarriers, TMA, `wgmma`. A group of them is
//! tested right before a launcher first chooses one, so that a job which needs none, as one in f32, does without. A
//! group that is refused, or wrong, is not used: launchers then choose kernels that run on all devices. A kernel that
//! does not come to its end (a fault, or a wait that is over its limit) takes the context with it and all memory in it,
//! and CUDA promises nothing to a process in which that happened, in a new context either. So there is no going on:
//! every call says how a new process does without these kernels.

mod attention;
mod products;

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use cpift_kernels::dispatch::attention_hopper::{BACKWARD, FORWARD};
use cpift_kernels::dispatch::gemm_hopper;
use cpift_kernels::launch::{Launch, LaunchError, Request};

use super::{Backend, GpuDevice, GpuMemory, lock};
use crate::error::{Error, Result};

/// Kernels that are tested together, and used or not.
struct KernelGroup {
    /// What launchers ask for.
    name: &'static str,
    test: Test,
}

/// How a group is tested.
#[derive(Clone, Copy)]
enum Test {
    Products,
    /// Attention of heads of so many elements.
    Forward(u32),
    /// Its gradients.
    Backward(u32),
}

/// All of them are for this compute capability.
const CAPABILITY: (u32, u32) = (9, 0);
/// Multiprocessors that tests say there are: so few that a block has several tiles.
const MULTIPROCESSORS: u32 = 3;

/// All groups.
fn groups() -> impl Iterator<Item = KernelGroup> {
    let products = KernelGroup { name: gemm_hopper::SELF_TEST, test: Test::Products };
    let forward = FORWARD.map(|(head_dim, name)| KernelGroup { name, test: Test::Forward(head_dim) });
    let backward = BACKWARD.map(|(head_dim, name)| KernelGroup { name, test: Test::Backward(head_dim) });
    [products].into_iter().chain(forward).chain(backward)
}

impl Test {
    /// Which result is wrong, if any.
    fn run(self, device: &GpuDevice) -> Result<Option<String>> {
        match self {
            Self::Products => products::test(device),
            Self::Forward(head_dim) => attention::test(device, head_dim, false),
            Self::Backward(head_dim) => attention::test(device, head_dim, true),
        }
    }
}

impl fmt::Display for Test {
    /// What the kernels compute.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Products => write!(f, "products"),
            Self::Forward(head_dim) => write!(f, "attention of heads of {head_dim}"),
            Self::Backward(head_dim) => write!(f, "gradients of attention of heads of {head_dim}"),
        }
    }
}

/// A launcher that tests launch on: of few multiprocessors, and of kernels for one compute capability alone or none.
#[derive(Debug)]
struct Launcher<'a> {
    device: &'a dyn Launch,
    passes_self_test: bool,
}

impl Launch for Launcher<'_> {
    unsafe fn launch(&self, request: &Request<'_>) -> std::result::Result<(), LaunchError> {
        // SAFETY: what the caller promises.
        unsafe { self.device.launch(request) }
    }

    fn multiprocessors(&self) -> u32 {
        MULTIPROCESSORS
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.device.compute_capability()
    }

    fn passes_self_test(&self, _group: &'static str) -> bool {
        self.passes_self_test
    }
}

/// What came of the tests on a device.
#[derive(Default)]
pub struct SelfTests {
    /// By group, in the order of the tests: why it is not used, if so.
    outcomes: Mutex<Vec<(KernelGroup, Option<String>)>>,
    /// That a test broke the device.
    broken: OnceLock<Error>,
}

impl SelfTests {
    /// Whether kernels of this group may be used, which is tested if it was not yet.
    pub fn pass(&self, backend: &Arc<dyn Backend>, name: &str) -> bool {
        // Held while a test runs: another thread has to wait for what comes of it.
        let mut outcomes = lock(&self.outcomes);
        if let Some((_, outcome)) = outcomes.iter().find(|(group, _)| group.name == name) {
            return outcome.is_none();
        }
        let Some(group) = groups().find(|group| group.name == name) else { return true };
        let outcome = self.run(backend, group.test);
        let passed = outcome.is_none();
        outcomes.push((group, outcome));
        passed
    }

    /// Tests all groups that were not tested yet, on a device that has them.
    pub fn run_all(&self, backend: &Arc<dyn Backend>) {
        if backend.compute_capability() == CAPABILITY {
            groups().for_each(|group| {
                self.pass(backend, group.name);
            });
        }
    }

    /// # Errors
    /// When a test broke the device.
    pub fn usable(&self) -> Result<()> {
        self.broken.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// The groups that failed, each with the reason.
    pub fn disabled_kernels(&self) -> Vec<String> {
        let outcomes = lock(&self.outcomes);
        let failed = outcomes.iter().filter_map(|(group, outcome)| {
            let reason = outcome.as_ref()?;
            Some(format!("Hopper's kernels for {}, which failed a self-test: {reason}", group.test))
        });
        failed.collect()
    }

    /// Runs a test: why its kernels are not to be used, if so. Not by way of the recording that may be going on.
    fn run(&self, backend: &Arc<dyn Backend>, test: Test) -> Option<String> {
        if let Err(broken) = self.usable() {
            return Some(broken.to_string());
        }
        let device = GpuDevice::over(Arc::clone(backend));
        // What is wrong already is not the test's fault.
        if let Err(error) = device.synchronize() {
            let reason = error.to_string();
            let _ = self.broken.set(error);
            return Some(reason);
        }
        let reason = match test.run(&device) {
            Ok(None) => return None,
            Ok(Some(wrong)) => format!("wrong numbers: {wrong}"),
            Err(error) => error.to_string(),
        };
        if let Err(error) = device.synchronize() {
            let reason = format!(
                "Hopper's kernels for {test} broke it in a self-test ({error}); to compute without them run again \
                 with the environment variable CPIFT_HOPPER=off"
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
        let self_tests = SelfTests::default();
        self_tests.run_all(&backend);
        assert_eq!(self_tests.disabled_kernels(), [""; 0]);
        assert_eq!(self_tests.outcomes.lock().unwrap().len(), 10);
        assert!(self_tests.pass(&backend, gemm_hopper::SELF_TEST) && self_tests.usable().is_ok());
    }

    #[test]
    fn wrong_kernels_are_left_out_with_the_reason() {
        // Reads zeros, whatever is launched.
        let log = crate::LaunchLog::of_device(CAPABILITY, 132);
        let backend: Arc<dyn Backend> = Arc::new(log.clone());
        let self_tests = SelfTests::default();
        assert!(!self_tests.pass(&backend, gemm_hopper::SELF_TEST) && self_tests.usable().is_ok());
        assert_eq!(
            self_tests.disabled_kernels(),
            [
                "Hopper's kernels for products, which failed a self-test: wrong numbers: gemm_nt_hopper by tiles of 128 by 128"
            ]
        );
        let launched = log.take().len();
        assert!(launched > 0 && !self_tests.pass(&backend, gemm_hopper::SELF_TEST));
        assert_eq!(log.take().len(), 0, "tested again");
    }

    /// On the largest device, too, blocks go from tile to tile in the tests.
    #[test]
    fn blocks_have_several_tiles() {
        let log = crate::LaunchLog::of_device(CAPABILITY, 132);
        let backend: Arc<dyn Backend> = Arc::new(log.clone());
        SelfTests::default().run_all(&backend);
        let launched = log.take();
        let persistent =
            |launch: &&crate::LaunchRecord| launch.numbers.iter().any(|(name, _)| *name == "tiles");
        let own = launched.iter().filter(|launch| launch.family.ends_with("hopper")).filter(persistent);
        assert!(
            own.clone().count() > 10 && own.clone().all(|launch| launch.blocks == u64::from(MULTIPROCESSORS))
        );
    }

    #[test]
    fn other_devices_and_groups_are_not_tested() {
        let log = crate::LaunchLog::new();
        let backend: Arc<dyn Backend> = Arc::new(log.clone());
        let self_tests = SelfTests::default();
        self_tests.run_all(&backend);
        assert!(self_tests.pass(&backend, "gemm") && log.take().is_empty());
    }
}
