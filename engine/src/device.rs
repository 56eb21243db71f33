//! Where buffers live and operations run.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

#[cfg(feature = "emulator")]
use cpift_kernels::emulator::{Schedule, TrafficLog};

use crate::buffer::Placement;
pub use crate::cpu::CpuDevice;
use crate::error::{Error, Result};
use crate::gpu::{EMULATED, GpuDevice, LaunchLog};

/// A device: cheap to clone, shared by every buffer and operation of a job.
#[derive(Debug, Clone)]
pub enum Device {
    /// The host's cores, used through a thread pool of fixed size.
    Cpu(CpuDevice),
    /// A GPU, or the emulator of one (feature `emulator`).
    Gpu(GpuDevice),
}

impl Device {
    /// The CPU with `threads` threads; `None` takes one per available core.
    ///
    /// # Errors
    /// When the threads cannot be started.
    pub fn cpu(threads: Option<NonZeroUsize>) -> Result<Self> {
        CpuDevice::new(threads).map(Self::Cpu)
    }

    /// The GPU kernels run by the SIMT emulator, on host memory: for tests. With the feature `emulator`.
    #[cfg(feature = "emulator")]
    pub fn emulated(schedule: Schedule) -> Self {
        Self::Gpu(GpuDevice::emulated(schedule))
    }

    /// As [`Device::emulated`], with the kernels for this compute capability, as (9, 0), instead of an A100's.
    #[cfg(feature = "emulator")]
    pub fn emulated_like(schedule: Schedule, compute_capability: (u32, u32)) -> Self {
        Self::Gpu(GpuDevice::emulated_like(schedule, compute_capability))
    }

    /// A device that writes the kernels launched on it to `log` and runs none. It has as much memory as is
    /// asked for, and what is read from it is zero.
    pub fn logging(log: &LaunchLog) -> Self {
        Self::Gpu(GpuDevice::logging(log))
    }

    /// As [`Device::emulated_like`], and writes to `log` what every launch, setting and copy of its memory moves: for
    /// tests of what operations say they move.
    #[cfg(feature = "emulator")]
    pub fn counting(log: &TrafficLog, compute_capability: (u32, u32)) -> Self {
        Self::Gpu(GpuDevice::counting(log, compute_capability))
    }

    /// CUDA device `ordinal`. The variable `CPIFT_HOPPER=off` keeps the kernels that are for compute capability 9.0
    /// alone out; others are in their place.
    ///
    /// # Errors
    /// No driver, no such device, or one that is too old, with the reason.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        GpuDevice::cuda(ordinal).map(Self::Gpu)
    }

    /// How many devices CUDA has here; `CUDA_VISIBLE_DEVICES` hides others.
    ///
    /// # Errors
    /// No driver, or it does not start.
    pub fn cuda_count() -> Result<usize> {
        GpuDevice::cuda_count()
    }

    /// A device by name: `auto` (a GPU where there is one, else the CPU), `cpu`, `cuda:N`; with the feature `emulator`
    /// also `emulated`, and `emulated:9.0` for the kernels of that compute capability. `threads` is that of
    /// [`Device::cpu`].
    ///
    /// # Errors
    /// An unknown name, or a device that this build or machine does not have.
    pub fn from_name(name: &str, threads: Option<NonZeroUsize>) -> Result<Self> {
        match name {
            "auto" => Self::cuda(0).or_else(|_| Self::cpu(threads)),
            "cpu" => Self::cpu(threads),
            "cuda" => Self::cuda(0),
            #[cfg(feature = "emulator")]
            EMULATED => Ok(Self::emulated(Schedule::Forward)),
            #[cfg(feature = "emulator")]
            "emulated:9.0" => Ok(Self::emulated_like(Schedule::Forward, (9, 0))),
            #[cfg(not(feature = "emulator"))]
            EMULATED | "emulated:9.0" => Err(Error::NoEmulator),
            _ => match name.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()) {
                Some(ordinal) => Self::cuda(ordinal),
                None => Err(Error::UnknownDevice { name: name.to_owned() }),
            },
        }
    }

    /// Name as [`Device::from_name`] takes it.
    pub fn name(&self) -> String {
        match self {
            Self::Cpu(_) => "cpu".to_owned(),
            Self::Gpu(gpu) => gpu.backend().name(),
        }
    }

    /// What a person is told: the name, what computes, and [`Device::disabled_kernels`].
    pub fn describe(&self) -> String {
        match self {
            Self::Cpu(cpu) => {
                let noun = if cpu.threads() == 1 { "thread" } else { "threads" };
                format!("cpu ({} {noun}, {})", cpu.threads(), crate::cpu::description())
            }
            Self::Gpu(gpu) => match self.disabled_kernels() {
                Some(disabled_kernels) => format!("{}, without {disabled_kernels}", gpu.backend().describe()),
                None => gpu.backend().describe(),
            },
        }
    }

    /// Kernels for this device's compute capability alone that it computes without, with the reason, as far as is
    /// known before they are first wanted; all of it after [`Device::run_self_tests`].
    pub fn disabled_kernels(&self) -> Option<String> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(gpu) => {
                Some(gpu.backend().disabled_kernels().join(", ")).filter(|text| !text.is_empty())
            }
        }
    }

    /// Tests the kernels that a GPU has for its compute capability alone (of bf16, on 9.0). What is refused or
    /// computes wrong numbers is not used, see [`Device::disabled_kernels`]. Without this call each family of them is
    /// tested right before one of it would first run.
    ///
    /// # Errors
    /// When a test broke the device, which is of no use to this process any more; the message says what to do.
    pub fn run_self_tests(&self) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(gpu) => gpu.run_self_tests(),
        }
    }

    /// Threads the CPU part works with. Results are the same bits for the same number of threads.
    pub fn threads(&self) -> usize {
        match self {
            Self::Cpu(cpu) => cpu.threads(),
            Self::Gpu(_) => 1,
        }
    }

    /// Waits until everything that was queued on the device has run; the CPU queues nothing.
    ///
    /// # Errors
    /// What failed on the device since the last wait.
    pub fn synchronize(&self) -> Result<()> {
        match self {
            Self::Cpu(_) => Ok(()),
            Self::Gpu(gpu) => gpu.synchronize(),
        }
    }

    /// Runs `work`, whose launches a GPU collects and runs as one: for a training step, which then costs one
    /// launch instead of hundreds (a CUDA graph, where the driver has them). Results are the same bits. Reading
    /// memory back or waiting inside runs what was collected so far; on the CPU nothing is collected.
    ///
    /// # Errors
    /// Those of `work`, after which what it had queued is forgotten; what running it says.
    pub fn record<R, E: From<Error>>(
        &self,
        work: impl FnOnce() -> std::result::Result<R, E>,
    ) -> std::result::Result<R, E> {
        match self {
            Self::Cpu(_) => work(),
            Self::Gpu(gpu) => gpu.record(work),
        }
    }

    /// Runs `work`, which calls operations, and gives the time they take: on a GPU by events in its stream, from
    /// when it comes to them to when it is done, else by the clock.
    ///
    /// # Errors
    /// Those of `work`, and what failed on the device since the last wait.
    pub fn time(&self, mut work: impl FnMut() -> Result<()> + Send) -> Result<Duration> {
        match self {
            Self::Cpu(cpu) => cpu.run(|| {
                let start = Instant::now();
                work()?;
                Ok(start.elapsed())
            }),
            Self::Gpu(gpu) => gpu.backend().time(&mut work),
        }
    }

    /// Bytes of the last cache before memory; 0 where the system does not tell.
    pub fn cache_bytes(&self) -> usize {
        match self {
            Self::Cpu(_) => crate::cpu::cache_bytes(),
            Self::Gpu(gpu) => gpu.backend().cache_bytes(),
        }
    }

    /// Bytes of the device's own memory; `None` where buffers are in the host's.
    pub fn memory_bytes(&self) -> Option<u64> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(gpu) => gpu.backend().memory_bytes(),
        }
    }

    /// The most bytes that buffers in this place took at once so far, where a GPU counts them.
    pub fn peak_memory_bytes(&self, placement: Placement) -> Option<u64> {
        match self {
            Self::Cpu(_) => None,
            Self::Gpu(gpu) => gpu.backend().peak_memory_bytes(placement),
        }
    }

    /// Runs `work` inside the device's thread pool, so that the operations in it start at once
    /// instead of waking the pool one by one. Calling operations outside is correct, only slower.
    pub fn scope<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Self::Cpu(cpu) => cpu.run(work),
            Self::Gpu(_) => work(),
        }
    }
}
