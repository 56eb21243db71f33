//! Devices that run the kernels of `cpift-kernels`: a GPU through CUDA's driver, or the SIMT emulator.
//!
//! Both are one implementation of the operations over a [`Backend`], which holds memory and launches
//! kernels. Operations are asynchronous: they are queued in one stream and run in order. Reading memory
//! back to the host waits for everything queued before, and is where a failure of it is reported.
//! [`recorder`] collects the launches of a whole step and runs them as one.

mod command;
mod cuda;
#[cfg(feature = "emulator")]
mod emulated;
mod kernels;
mod log;
mod memory;
pub(crate) mod products;
mod recorder;
mod self_test;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[cfg(feature = "emulator")]
use cpift_kernels::emulator::{Schedule, TrafficLog};
use cpift_kernels::launch::{Launch, Slice};

use crate::buffer::Placement;
use crate::error::{Error, Result};
use command::{Command, Graph};
pub(crate) use cuda::{Event, SideStream, Stream};
pub use kernels::OnGpu;
pub use log::{LaunchLog, LaunchRecord};
pub(crate) use memory::{DeviceCopy, GpuMemory, GpuSlice, GpuSliceMut};
use recorder::Recorder;
use self_test::SelfTests;

/// Bytes of either memory that are allocated, and the most that ever were.
#[derive(Debug, Default)]
struct MemoryUsage {
    current: [AtomicU64; 2],
    peak: [AtomicU64; 2],
}

impl MemoryUsage {
    fn add(&self, bytes: usize, placement: Placement) {
        let before = self.current[placement as usize].fetch_add(bytes as u64, Ordering::Relaxed);
        self.peak[placement as usize].fetch_max(before + bytes as u64, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: usize, placement: Placement) {
        self.current[placement as usize].fetch_sub(bytes as u64, Ordering::Relaxed);
    }

    fn peak(&self, placement: Placement) -> u64 {
        self.peak[placement as usize].load(Ordering::Relaxed)
    }
}

/// What is behind this folder's mutexes is whole after every step: a panic elsewhere did no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Name of the emulator as a device.
pub(crate) const EMULATED: &str = "emulated";

/// Memory and kernel launches of one device. Addresses are the device's own.
///
/// All methods may be called from any thread; what they queue runs in the order of the calls.
pub(crate) trait Backend: Launch {
    /// Memory that kernels reach, aligned to [`ALIGNMENT`](crate::buffer::ALIGNMENT), with any content. `bytes` is not 0.
    fn allocate(&self, bytes: usize, placement: Placement) -> Result<u64>;

    /// Gives memory back once everything queued so far has run.
    ///
    /// # Safety
    /// `address` comes from [`Backend::allocate`] of the same number of bytes in the same place and is not used any more.
    unsafe fn free(&self, address: u64, bytes: usize, placement: Placement);

    /// Sets every byte.
    ///
    /// # Safety
    /// The range lies inside an allocation of this backend that nothing else refers to meanwhile.
    unsafe fn set(&self, address: u64, byte: u8, bytes: usize) -> Result<()>;

    /// Copies from the host; `source` may change as soon as this returns.
    ///
    /// # Safety
    /// As for [`Backend::set`].
    unsafe fn write(&self, address: u64, source: &[u8]) -> Result<()>;

    /// Copies ranges to the host, once everything queued has run: one wait for all of them, as far as they are short.
    ///
    /// # Safety
    /// The ranges lie inside allocations of this backend.
    unsafe fn read(&self, ranges: &mut [Range<'_>]) -> Result<()>;

    /// Copies within the device.
    ///
    /// # Safety
    /// Both ranges lie inside allocations of this backend and do not overlap.
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()>;

    /// Waits for everything queued.
    fn synchronize(&self) -> Result<()>;

    /// The commands, to be run at once and again; none where the device cannot.
    fn graph(&self, commands: &[Command]) -> Result<Option<Box<dyn Graph>>>;

    /// The time that the device takes for what `work` queues, from when it gets there to when it is done.
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration>;

    /// Where CUDA queues what is to run next; none where that is not CUDA's affair, or while it is recorded.
    fn stream(&self) -> Option<Stream> {
        None
    }

    /// Gives `work` where it is to queue what is no command, behind everything queued before.
    fn with_stream(&self, work: &mut dyn FnMut(Stream) -> Result<()>) -> Result<()> {
        match self.stream() {
            Some(stream) => work(stream),
            None => Err(Error::Device { device: self.name(), reason: "is no device of CUDA's".to_owned() }),
        }
    }

    /// Bytes of the last cache before memory.
    fn cache_bytes(&self) -> usize;

    /// Bytes of the device's own memory; none where it is the host's.
    fn memory_bytes(&self) -> Option<u64>;

    /// The most bytes that were allocated at once in this place so far; none where that is not counted.
    fn peak_memory_bytes(&self, placement: Placement) -> Option<u64>;

    /// Name as [`Device::from_name`](crate::Device::from_name) takes it.
    fn name(&self) -> String;

    /// What a person is told.
    fn describe(&self) -> String;

    /// Kernels for this architecture alone that are not used, as far as that is known, each with the reason.
    fn disabled_kernels(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Where a range of memory starts, and where its bytes go.
pub(crate) type Range<'a> = (u64, &'a mut [u8]);

/// A size as kernels take it.
pub(crate) fn narrow(op: &'static str, name: &'static str, size: usize) -> Result<u32> {
    u32::try_from(size).map_err(|_| Error::Argument {
        op,
        reason: format!("{name} = {size} does not fit in 32 bits, which kernels for GPUs need"),
    })
}

/// A device that runs kernels: cheap to clone.
#[derive(Clone)]
pub struct GpuDevice {
    backend: Arc<Recorder>,
}

impl GpuDevice {
    /// CUDA device `ordinal`.
    ///
    /// # Errors
    /// No driver, no such device, or one that is too old, with the reason.
    pub(crate) fn cuda(ordinal: usize) -> Result<Self> {
        let self_tests = Some(SelfTests::default());
        let device =
            Self { backend: Arc::new(Recorder::new(Arc::new(cuda::Cuda::new(ordinal)?), self_tests)) };
        device.self_test().map_err(|error| match error {
            Error::DeviceUnavailable { .. } => error,
            error => Error::DeviceUnavailable {
                name: device.backend.name(),
                reason: format!("it fails a self-test: {error}"),
            },
        })?;
        if !device.self_test_graphs().unwrap_or(false) {
            device.backend.without_graphs();
        }
        Ok(device)
    }

    /// How many devices CUDA has.
    ///
    /// # Errors
    /// No driver, or it does not start.
    pub(crate) fn cuda_count() -> Result<usize> {
        cuda::Cuda::count()
    }

    fn new(backend: impl Backend + 'static) -> Self {
        Self::over(Arc::new(backend))
    }

    /// One over a backend that others may use too: it has a recording of its own.
    fn over(backend: Arc<dyn Backend>) -> Self {
        Self { backend: Arc::new(Recorder::new(backend, None)) }
    }

    /// Tests now, instead of right before they are first chosen, the kernels that are for this device's compute
    /// capability alone.
    ///
    /// # Errors
    /// When that broke the device.
    pub(crate) fn run_self_tests(&self) -> Result<()> {
        self.backend.run_self_tests()
    }

    /// Runs a kernel and reads what it wrote: a driver that does not take the PTX shows here, not in the
    /// middle of a job.
    fn self_test(&self) -> Result<()> {
        let mut memory = GpuMemory::<f32>::zeros(self, 37)?;
        memory.all_mut().fill(1.5)?;
        let mut values = [0.0; 37];
        memory.all().read(&mut values)?;
        if values == [1.5; 37] {
            return Ok(());
        }
        Err(Error::Device { device: self.backend.name(), reason: "a kernel wrote wrong values".to_owned() })
    }

    /// Whether a list of commands run again and again, with one of them replaced, does what it should.
    fn self_test_graphs(&self) -> Result<bool> {
        let mut result = GpuMemory::<f32>::zeros(self, 37)?;
        let mut value = GpuMemory::<f32>::zeros(self, 37)?;
        for number in [1.5, 2.5, 3.5] {
            self.record(|| -> Result<()> {
                result.all_mut().fill(0.0)?;
                value.all_mut().fill(number)?;
                result.all_mut().copy_from(value.all())?;
                value.all_mut().fill(0.0)
            })?;
            let mut values = [0.0; 37];
            result.all().read(&mut values)?;
            if values != [number; 37] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The SIMT emulator: threads and blocks run in the order of `schedule`, on the calling thread.
    #[cfg(feature = "emulator")]
    pub(crate) fn emulated(schedule: Schedule) -> Self {
        Self::new(emulated::Emulated::new(schedule))
    }

    /// As [`GpuDevice::emulated`], with the kernels for this compute capability.
    #[cfg(feature = "emulator")]
    pub(crate) fn emulated_like(schedule: Schedule, compute_capability: (u32, u32)) -> Self {
        Self::new(emulated::Emulated::like(schedule, compute_capability))
    }

    /// The emulator, made to count what moves.
    #[cfg(feature = "emulator")]
    pub(crate) fn counting(traffic: &TrafficLog, compute_capability: (u32, u32)) -> Self {
        Self::new(emulated::Emulated::counting(traffic, compute_capability))
    }

    /// Whether kernels run on the emulator.
    pub fn is_emulated(&self) -> bool {
        self.backend.name().starts_with(EMULATED)
    }

    /// A device that writes down what is launched on it.
    pub(crate) fn logging(log: &LaunchLog) -> Self {
        Self::new(log.clone())
    }

    /// Waits until everything that was queued has run.
    ///
    /// # Errors
    /// What failed on the device since the last wait.
    pub fn synchronize(&self) -> Result<()> {
        self.backend.synchronize()
    }

    /// What [`Device::record`](crate::Device::record) does.
    pub(crate) fn record<R, E: From<Error>>(
        &self,
        work: impl FnOnce() -> std::result::Result<R, E>,
    ) -> std::result::Result<R, E> {
        /// Forgets what was recorded if it does not come to its end.
        struct Recording<'a>(&'a Recorder);
        impl Drop for Recording<'_> {
            fn drop(&mut self) {
                self.0.discard();
            }
        }
        if !self.backend.begin() {
            return work();
        }
        let recording = Recording(&self.backend);
        let result = work()?;
        recording.0.end()?;
        Ok(result)
    }

    /// The number 1, for kernels that read a factor which a caller does not have.
    ///
    /// # Errors
    /// When memory runs out.
    pub(crate) fn one(&self) -> Result<Slice<'_, f32>> {
        let address = self.backend.one()?;
        // SAFETY: one number, which is written once and given back when the device goes.
        Ok(unsafe { Slice::new(address, 1) })
    }

    /// Where kernels are launched.
    pub(crate) fn launcher(&self) -> &dyn Launch {
        &*self.backend
    }

    /// Gives `work` the stream of CUDA's in which it queues what is no kernel of ours, behind everything queued before.
    ///
    /// # Errors
    /// Those of `work`, or the device has none.
    pub(crate) fn with_stream(&self, work: &mut dyn FnMut(Stream) -> Result<()>) -> Result<()> {
        self.backend.with_stream(work)
    }

    /// Memory of the device.
    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// Whether both are the same device.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.backend, &other.backend)
    }
}

impl fmt::Debug for GpuDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.backend.fmt(f)
    }
}
