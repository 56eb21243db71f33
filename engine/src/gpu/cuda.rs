//! A GPU through CUDA's driver, by `cudarc`, whose library is loaded when the first device is opened.
//!
//! One stream, one memory pool. A family's PTX is compiled by the driver when its first kernel is launched
//! (and kept by the driver's own cache from run to run).

mod event;
mod functions;
mod graph;
mod pinned;
mod properties;
mod side_stream;
mod tensor_map;

use std::fmt;
use std::ptr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cpift_kernels::launch::{Launch, LaunchError, Request};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys;

use super::command::{Command, Graph};
use super::{Backend, MemoryUsage, Range, lock};
use crate::buffer::Placement;
use crate::error::{Error, Result};
pub use event::Event;
use functions::Functions;
use pinned::Pinned;
use properties::Properties;
pub use side_stream::SideStream;
use tensor_map::Parameters;

/// Bytes of pinned host memory that reads and writes go through.
const STAGING: usize = 8 << 20;

/// An opened device.
pub struct Cuda {
    ordinal: usize,
    properties: Properties,
    context: sys::CUcontext,
    stream: sys::CUstream,
    functions: Arc<Mutex<Functions>>,
    staging: Mutex<Staging>,
    pinned: Pinned,
    memory_usage: MemoryUsage,
}

/// A device's context, and its stream: alive as long as the device is.
#[derive(Clone, Copy)]
pub struct Stream {
    /// To be made current on the thread that calls the driver.
    pub context: sys::CUcontext,
    /// In which all work is queued.
    pub stream: sys::CUstream,
}

/// Pinned host memory that copies go through: from pageable memory the driver would wait for the stream.
struct Staging {
    start: *mut u8,
    /// Bytes at the start that queued copies may still read.
    busy: usize,
}

// SAFETY: contexts, streams, modules and pinned memory belong to no thread; every call makes the context
// current first, and what is mutable is behind mutexes.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

impl Cuda {
    /// How many devices the driver has.
    ///
    /// # Errors
    /// No driver, or it does not start.
    pub fn count() -> Result<usize> {
        properties::count("cuda")
    }

    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// No driver, no such device, or one that the kernels do not run on.
    pub fn new(ordinal: usize) -> Result<Self> {
        let properties = Properties::read(ordinal)?;
        let open = |error| Error::DeviceUnavailable {
            name: format!("cuda:{ordinal}"),
            reason: format!("the device cannot be used: {}", explain(error)),
        };
        // SAFETY: a device that the driver gave; released in `drop`.
        let context = unsafe { result::primary_ctx::retain(properties.device) }.map_err(open)?;
        let functions = Functions::new(properties.compute_capability, properties.shared_memory);
        let mut cuda = Self {
            ordinal,
            properties,
            context,
            stream: ptr::null_mut(),
            functions: Arc::new(Mutex::new(functions)),
            staging: Mutex::new(Staging { start: ptr::null_mut(), busy: 0 }),
            pinned: Pinned::default(),
            memory_usage: MemoryUsage::default(),
        };
        cuda.enter().map_err(open)?;
        cuda.stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(open)?;
        cuda.keep_freed_memory().map_err(open)?;
        // SAFETY: freed in `drop`.
        let staging = unsafe { result::malloc_host(STAGING, 0) }.map_err(open)?;
        cuda.staging = Mutex::new(Staging { start: staging.cast(), busy: 0 });
        Ok(cuda)
    }

    /// Makes the context current on this thread, which every call of the driver needs.
    fn enter(&self) -> std::result::Result<(), DriverError> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }
    }

    fn own_stream(&self) -> Stream {
        Stream { context: self.context, stream: self.stream }
    }

    /// Lets the pool keep what is freed: buffers of the same sizes come and go every step.
    fn keep_freed_memory(&self) -> std::result::Result<(), DriverError> {
        let mut threshold = u64::MAX;
        // SAFETY: the device's own pool, and the attribute is a u64.
        unsafe {
            let pool = result::device::get_default_mem_pool(self.properties.device)?;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, ptr::from_mut(&mut threshold).cast())
        }
    }

    /// Waits, and copies parts from where they are staged to where they go.
    fn fetch(
        &self,
        staging: &Staging,
        parts: &mut Vec<(&mut [u8], usize)>,
    ) -> std::result::Result<(), DriverError> {
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }?;
        for (part, place) in parts.drain(..) {
            // SAFETY: staged there by copies that have run.
            let staged = unsafe { std::slice::from_raw_parts(staging.start.add(place), part.len()) };
            part.copy_from_slice(staged);
        }
        Ok(())
    }

    fn failed(&self, what: &str, error: DriverError) -> Error {
        Error::Device { device: self.name(), reason: format!("{what}: {}", explain(error)) }
    }

    /// The kernel of a launch that this device can make.
    fn function_for(&self, request: &Request<'_>) -> std::result::Result<sys::CUfunction, LaunchError> {
        lock(&self.functions).get(request)
    }
}

/// Name and words of the driver for an error.
fn explain(error: DriverError) -> String {
    let text = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

impl Launch for Cuda {
    unsafe fn launch(&self, request: &Request<'_>) -> std::result::Result<(), LaunchError> {
        let kernel = request.kernel.name;
        let failed = |message: String| LaunchError::Driver { kernel, message };
        self.enter().map_err(|error| failed(explain(error)))?;
        let function = self.function_for(request)?;
        let mut parameters = Parameters::new(request.arguments).map_err(|error| failed(explain(error)))?;
        let [x, y, z] = request.grid;
        // SAFETY: one pointer per parameter, of its type, alive during the call, which copies the values;
        // the contract was checked by the caller; buffers are freed in stream order.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (request.kernel.block, 1, 1),
                request.shared,
                self.stream,
                &mut parameters.pointers,
            )
        }
        .map_err(|error| failed(explain(error)))
    }

    fn multiprocessors(&self) -> u32 {
        self.properties.multiprocessors
    }

    fn compute_capability(&self) -> (u32, u32) {
        self.properties.compute_capability
    }
}

impl Backend for Cuda {
    fn allocate(&self, bytes: usize, placement: Placement) -> Result<u64> {
        self.enter().map_err(|error| self.failed("allocation", error))?;
        let (allocated, owner) = match placement {
            // SAFETY: the stream is this device's; all uses of the memory are queued in it.
            Placement::Device => (unsafe { result::malloc_async(self.stream, bytes) }, self.name()),
            Placement::Host => (self.pinned.allocate(bytes), format!("the host, for {}", self.name())),
        };
        let address = allocated.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { device: owner, bytes },
            _ => self.failed("allocation", error),
        })?;
        self.memory_usage.add(bytes, placement);
        Ok(address)
    }

    unsafe fn free(&self, address: u64, bytes: usize, placement: Placement) {
        self.memory_usage.subtract(bytes, placement);
        if self.enter().is_err() {
            return;
        }
        // A failure here means that the device has failed before, which the next read reports.
        match placement {
            // SAFETY: allocated by `allocate`, by the caller's promise; runs after what is queued.
            Placement::Device => drop(unsafe { result::free_async(address, self.stream) }),
            Placement::Host => {
                // SAFETY: the stream lives as long as `self`; what was queued has run, or never will; allocated by
                // `allocate`, by the caller's promise.
                unsafe {
                    let _ = result::stream::synchronize(self.stream);
                    let _ = self.pinned.free(address);
                }
            }
        }
    }

    unsafe fn set(&self, address: u64, byte: u8, bytes: usize) -> Result<()> {
        self.enter()
            // SAFETY: inside an allocation, by the caller's promise.
            .and_then(|()| unsafe { result::memset_d8_async(address, byte, bytes, self.stream) })
            .map_err(|error| self.failed("setting memory", error))
    }

    unsafe fn write(&self, address: u64, source: &[u8]) -> Result<()> {
        let failed = |error| self.failed("copying to the device", error);
        self.enter().map_err(failed)?;
        if self.pinned.contains(address) {
            // SAFETY: the stream lives as long as `self`, and nothing queued is left; inside an allocation, by the caller's
            // promise.
            unsafe {
                result::stream::synchronize(self.stream).map_err(failed)?;
                Pinned::write(address, source);
            }
            return Ok(());
        }
        let mut staging = lock(&self.staging);
        for (chunk, part) in source.chunks(STAGING).enumerate() {
            if staging.busy + part.len() > STAGING {
                // SAFETY: the stream lives as long as `self`.
                unsafe { result::stream::synchronize(self.stream) }.map_err(failed)?;
                staging.busy = 0;
            }
            // SAFETY: pinned memory with room for the part, which no queued copy uses; the target is
            // inside an allocation.
            unsafe {
                let place = staging.start.add(staging.busy);
                ptr::copy_nonoverlapping(part.as_ptr(), place, part.len());
                let staged = std::slice::from_raw_parts(place, part.len());
                let target = address + (chunk * STAGING) as u64;
                result::memcpy_htod_async(target, staged, self.stream).map_err(failed)?;
            }
            staging.busy += part.len().next_multiple_of(256);
        }
        Ok(())
    }

    unsafe fn read(&self, ranges: &mut [Range<'_>]) -> Result<()> {
        let failed = |error| self.failed("copying from the device", error);
        self.enter().map_err(failed)?;
        let mut staging = lock(&self.staging);
        // What was queued: where it goes, and where it is staged.
        let mut parts: Vec<(&mut [u8], usize)> = Vec::new();
        let mut used = 0;
        for (address, destination) in ranges {
            if self.pinned.contains(*address) {
                // SAFETY: as in `write`.
                unsafe {
                    result::stream::synchronize(self.stream).map_err(failed)?;
                    Pinned::read(*address, destination);
                }
                continue;
            }
            for (chunk, part) in destination.chunks_mut(STAGING).enumerate() {
                if used + part.len() > STAGING {
                    self.fetch(&staging, &mut parts).map_err(failed)?;
                    used = 0;
                }
                // SAFETY: pinned memory with room for the part, locked; copies from it that are queued come before
                // this one in the stream. The source is inside an allocation.
                unsafe {
                    let staged = std::slice::from_raw_parts_mut(staging.start.add(used), part.len());
                    let source = *address + (chunk * STAGING) as u64;
                    result::memcpy_dtoh_async(staged, source, self.stream).map_err(failed)?;
                }
                let length = part.len().next_multiple_of(256);
                parts.push((part, used));
                used += length;
            }
        }
        self.fetch(&staging, &mut parts).map_err(failed)?;
        staging.busy = 0;
        Ok(())
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.enter()
            // Between the device and pinned memory too: the driver tells by the addresses.
            // SAFETY: inside allocations and disjoint, by the caller's promise.
            .and_then(|()| unsafe { sys::cuMemcpyAsync(to, from, bytes, self.stream) }.result())
            .map_err(|error| self.failed("copying on the device", error))
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()
            // SAFETY: the stream lives as long as `self`.
            .and_then(|()| unsafe { result::stream::synchronize(self.stream) })
            .map_err(|error| self.failed("waiting for the device", error))
    }

    fn graph(&self, commands: &[Command]) -> Result<Option<Box<dyn Graph>>> {
        if !self.properties.graphs {
            return Ok(None);
        }
        Ok(Some(Box::new(graph::CudaGraph::new(self, commands)?)))
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        let failed = |error| self.failed("measuring time", error);
        let stream = self.own_stream();
        let (start, end) = (Event::new(stream).map_err(failed)?, Event::new(stream).map_err(failed)?);
        start.record().map_err(failed)?;
        work()?;
        end.record().map_err(failed)?;
        end.since(&start).map_err(failed)
    }

    fn stream(&self) -> Option<Stream> {
        Some(self.own_stream())
    }

    fn cache_bytes(&self) -> usize {
        self.properties.cache
    }

    fn memory_bytes(&self) -> Option<u64> {
        Some(self.properties.memory)
    }

    fn peak_memory_bytes(&self, placement: Placement) -> Option<u64> {
        Some(self.memory_usage.peak(placement))
    }

    fn name(&self) -> String {
        format!("cuda:{}", self.ordinal)
    }

    fn describe(&self) -> String {
        let Properties { name, hardware: (major, minor), memory, .. } = &self.properties;
        let gibibytes = *memory as f64 / f64::from(1 << 30);
        format!("cuda:{} ({name}, compute {major}.{minor}, {gibibytes:.0} GiB)", self.ordinal)
    }

    fn disabled_kernels(&self) -> Vec<String> {
        Vec::from_iter(self.properties.disabled_kernels.clone())
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let entered = self.enter().is_ok();
        // Nothing can be done about failures here, and drop must not panic. The context is given back in any case:
        // one that a kernel has broken is not retained again.
        // SAFETY: all were made in `new` or `load` and are used no more; the context goes last.
        unsafe {
            if entered {
                let _ = result::stream::synchronize(self.stream);
                lock(&self.functions).unload();
                let staging = lock(&self.staging).start;
                if !staging.is_null() {
                    let _ = result::free_host(staging.cast());
                }
                if !self.stream.is_null() {
                    let _ = result::stream::destroy(self.stream);
                }
            }
            let _ = result::primary_ctx::release(self.properties.device);
        }
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda")
            .field("ordinal", &self.ordinal)
            .field("name", &self.properties.name)
            .finish_non_exhaustive()
    }
}
