//! A device that writes down what is launched on it and runs nothing, for predicting times, and for looking at
//! what an operation launches.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use cpift_kernels::launch::{Argument, Direction, Launch, LaunchError, MULTIPROCESSORS, Request};

use super::command::{Command, Graph};
use super::{Backend, GpuDevice, MemoryUsage, Range, lock};
use crate::buffer::Placement;
use crate::error::Result;
use crate::layout::ALIGNMENT;

/// A launch, with what its time depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchRecord {
    /// The kernel's name.
    pub kernel: &'static str,
    /// The module it is in.
    pub family: &'static str,
    /// Threads of a block.
    pub block: u32,
    /// Number of blocks.
    pub blocks: u64,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
    /// Bytes of the buffers passed, those that are read and written counted twice.
    pub bytes: u64,
    /// Whole numbers passed, by name.
    pub numbers: Vec<(&'static str, u64)>,
}

/// The launches on a device made by [`Device::logging`](crate::Device::logging). Clones are the same list.
#[derive(Debug, Clone)]
pub struct LaunchLog {
    launches: Arc<Mutex<Vec<LaunchRecord>>>,
    /// Addresses from here on are free.
    free: Arc<AtomicU64>,
    /// Of the device that launches are chosen for.
    compute_capability: (u32, u32),
    multiprocessors: u32,
    /// Asked which kernels pass their self-tests; without one all do.
    asked: Option<GpuDevice>,
    memory_usage: Arc<MemoryUsage>,
}

impl LaunchLog {
    /// An empty one, of launches as on an A100.
    pub fn new() -> Self {
        Self::of_device((8, 0), MULTIPROCESSORS)
    }

    /// An empty one, of launches as on a device of this compute capability, with so many multiprocessors.
    pub fn of_device(compute_capability: (u32, u32), multiprocessors: u32) -> Self {
        let free = Arc::new(AtomicU64::new(ALIGNMENT as u64));
        let (launches, memory_usage) = (Arc::default(), Arc::default());
        Self { launches, free, compute_capability, multiprocessors, asked: None, memory_usage }
    }

    /// An empty one, of launches as on `device`.
    pub fn like(device: &GpuDevice) -> Self {
        let launcher = device.launcher();
        let log = Self::of_device(launcher.compute_capability(), launcher.multiprocessors());
        Self { asked: Some(device.clone()), ..log }
    }

    /// What was launched since this was last asked, in order.
    pub fn take(&self) -> Vec<LaunchRecord> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<LaunchRecord>> {
        lock(&self.launches)
    }
}

impl Default for LaunchLog {
    fn default() -> Self {
        Self::new()
    }
}

impl Launch for LaunchLog {
    unsafe fn launch(&self, request: &Request<'_>) -> std::result::Result<(), LaunchError> {
        let kernel = request.kernel;
        let mut record = LaunchRecord {
            kernel: kernel.name,
            family: kernel.family,
            block: kernel.block,
            blocks: request.grid.iter().map(|&blocks| u64::from(blocks)).product(),
            shared: request.shared,
            bytes: 0,
            numbers: Vec::new(),
        };
        for (parameter, argument) in kernel.parameters.iter().zip(request.arguments) {
            match *argument {
                Argument::Buffer { length, .. } => {
                    let passes = if parameter.direction == Direction::Update { 2 } else { 1 };
                    record.bytes += passes * (length * parameter.element_bytes()) as u64;
                }
                Argument::TensorMap(matrix) => {
                    record.bytes += matrix.length as u64 * u64::from(matrix.element_bytes);
                }
                Argument::U32(value) => record.numbers.push((parameter.name, u64::from(value))),
                Argument::U64(value) => record.numbers.push((parameter.name, value)),
                Argument::F32(_) | Argument::F64(_) => {}
            }
        }
        self.lock().push(record);
        Ok(())
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.compute_capability
    }

    fn passes_self_test(&self, group: &'static str) -> bool {
        self.asked.as_ref().is_none_or(|device| device.launcher().passes_self_test(group))
    }
}

impl Backend for LaunchLog {
    fn allocate(&self, bytes: usize, placement: Placement) -> Result<u64> {
        self.memory_usage.add(bytes, placement);
        Ok(self.free.fetch_add(bytes.next_multiple_of(ALIGNMENT) as u64, Ordering::Relaxed))
    }

    unsafe fn free(&self, _address: u64, bytes: usize, placement: Placement) {
        self.memory_usage.subtract(bytes, placement);
    }

    unsafe fn set(&self, _address: u64, _byte: u8, _bytes: usize) -> Result<()> {
        Ok(())
    }

    unsafe fn write(&self, _address: u64, _source: &[u8]) -> Result<()> {
        Ok(())
    }

    unsafe fn read(&self, ranges: &mut [Range<'_>]) -> Result<()> {
        ranges.iter_mut().for_each(|(_, destination)| destination.fill(0));
        Ok(())
    }

    unsafe fn copy(&self, _to: u64, _from: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }

    fn graph(&self, _commands: &[Command]) -> Result<Option<Box<dyn Graph>>> {
        Ok(None)
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        work()?;
        Ok(Duration::ZERO)
    }

    fn cache_bytes(&self) -> usize {
        0
    }

    fn memory_bytes(&self) -> Option<u64> {
        None
    }

    fn peak_memory_bytes(&self, placement: Placement) -> Option<u64> {
        Some(self.memory_usage.peak(placement))
    }

    fn name(&self) -> String {
        "log".to_owned()
    }

    fn describe(&self) -> String {
        "log (launches are written down and not run)".to_owned()
    }
}
