//! The emulator as a device: its memory is the host's.

use std::alloc::{Layout, alloc, dealloc};
use std::time::{Duration, Instant};

use cpift_kernels::emulator::{Emulator, Schedule, Traffic, TrafficLog};
use cpift_kernels::launch::{Launch, LaunchError, Request};

use super::command::{Command, Graph};
use super::{Backend, EMULATED, Range};
use crate::buffer::Placement;
use crate::error::{Error, Result};
use crate::layout::ALIGNMENT;

/// Of a device of another compute capability than an A100's: as few as make blocks do several tiles in tests.
const MULTIPROCESSORS: u32 = 4;

/// Runs kernels at once, on the calling thread.
#[derive(Debug)]
pub struct Emulated {
    emulator: Emulator,
    /// Where memory that is set or copied is noted, if anywhere.
    traffic: Option<TrafficLog>,
}

impl Emulated {
    pub fn new(schedule: Schedule) -> Self {
        Self { emulator: Emulator::new(schedule), traffic: None }
    }

    /// One that counts what launches, settings and copies within its memory move.
    pub fn counting(traffic: &TrafficLog, compute_capability: (u32, u32)) -> Self {
        let mut emulator = Emulator::counting(Schedule::Forward, traffic);
        if compute_capability != emulator.compute_capability() {
            emulator = emulator.like(compute_capability, MULTIPROCESSORS);
        }
        Self { emulator, traffic: Some(traffic.clone()) }
    }

    fn note(&self, kernel: &'static str, read: usize, written: usize) {
        let (read, written) = (read as u64, written as u64);
        if let Some(traffic) = &self.traffic {
            traffic.push(Traffic { kernel, read, written, loaded: read, stored: written, tensor_flops: 0 });
        }
    }

    /// The same with the kernels for another compute capability than an A100's.
    pub fn like(schedule: Schedule, compute_capability: (u32, u32)) -> Self {
        Self { emulator: Emulator::new(schedule).like(compute_capability, MULTIPROCESSORS), traffic: None }
    }

    fn layout(bytes: usize) -> Result<Layout> {
        Layout::from_size_align(bytes, ALIGNMENT).map_err(|_| out_of_memory(bytes))
    }
}

/// Commands run one by one: what a graph does, without its speed.
struct List(Vec<Command>);

impl Graph for List {
    fn replace(&mut self, index: usize, command: &Command) -> Result<()> {
        self.0[index] = command.clone();
        Ok(())
    }

    unsafe fn launch(&self, backend: &dyn Backend) -> Result<()> {
        // SAFETY: passed on to the caller.
        self.0.iter().try_for_each(|command| unsafe { command.run(backend) })
    }
}

fn out_of_memory(bytes: usize) -> Error {
    Error::OutOfMemory { device: EMULATED.to_owned(), bytes }
}

impl Launch for Emulated {
    unsafe fn launch(&self, request: &Request<'_>) -> std::result::Result<(), LaunchError> {
        // SAFETY: passed on to the caller.
        unsafe { self.emulator.launch(request) }
    }

    fn multiprocessors(&self) -> u32 {
        self.emulator.multiprocessors()
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.emulator.compute_capability()
    }
}

impl Backend for Emulated {
    fn allocate(&self, bytes: usize, _placement: Placement) -> Result<u64> {
        let layout = Self::layout(bytes)?;
        // SAFETY: the size is not zero, as the trait demands.
        let pointer = unsafe { alloc(layout) };
        if pointer.is_null() {
            return Err(out_of_memory(bytes));
        }
        // Not zeros, which a kernel may not count on: all floats are NaN.
        // SAFETY: the allocation has these bytes.
        unsafe { pointer.write_bytes(0xff, bytes) };
        Ok(pointer as u64)
    }

    unsafe fn free(&self, address: u64, bytes: usize, _placement: Placement) {
        if let Ok(layout) = Self::layout(bytes) {
            // SAFETY: allocated above with this layout, by the caller's promise.
            unsafe { dealloc(address as *mut u8, layout) }
        }
    }

    unsafe fn set(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        self.note("set", 0, bytes);
        // SAFETY: inside an allocation that nothing else refers to, by the caller's promise.
        unsafe { (address as *mut u8).write_bytes(byte, bytes) };
        Ok(())
    }

    unsafe fn write(&self, address: u64, source: &[u8]) -> Result<()> {
        // SAFETY: as for `set`.
        unsafe { (address as *mut u8).copy_from_nonoverlapping(source.as_ptr(), source.len()) };
        Ok(())
    }

    unsafe fn read(&self, ranges: &mut [Range<'_>]) -> Result<()> {
        for (address, destination) in ranges {
            let source = *address as *const u8;
            // SAFETY: inside an allocation, by the caller's promise.
            unsafe { source.copy_to_nonoverlapping(destination.as_mut_ptr(), destination.len()) };
        }
        Ok(())
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.note("copy", bytes, bytes);
        // SAFETY: inside allocations and disjoint, by the caller's promise.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(from as *const u8, bytes) };
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn graph(&self, commands: &[Command]) -> Result<Option<Box<dyn Graph>>> {
        Ok(Some(Box::new(List(commands.to_vec()))))
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        let start = Instant::now();
        work()?;
        Ok(start.elapsed())
    }

    fn cache_bytes(&self) -> usize {
        0
    }

    fn memory_bytes(&self) -> Option<u64> {
        None
    }

    fn peak_memory_bytes(&self, _placement: Placement) -> Option<u64> {
        None
    }

    fn name(&self) -> String {
        match self.emulator.compute_capability() {
            (8, 0) => EMULATED.to_owned(),
            (major, minor) => format!("{EMULATED}:{major}.{minor}"),
        }
    }

    fn describe(&self) -> String {
        "emulated (GPU kernels on the CPU, for tests)".to_owned()
    }
}
