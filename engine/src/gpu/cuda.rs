//! A GPU through CUDA's driver, by `cudarc`, whose library is loaded when the first device is opened.
//!
//! One stream, one memory pool. A family's PTX is compiled by the driver when its first kernel is launched
//! (and kept by the driver's own cache from run to run).

mod graph;

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cpift_kernels::launch::{Argument, Launch, LaunchError, Request, SHARED_MEMORY_DEFAULT};
use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

use super::Backend;
use super::recorder::{Command, Graph};
use crate::error::{Error, Result};

/// Bytes of pinned host memory that reads and writes go through.
const STAGING: usize = 8 << 20;
/// Bytes for the driver's compiler to complain in.
const LOG: usize = 16 << 10;
/// Oldest compute capability the PTX runs on.
const OLDEST: (u32, u32) = (8, 0);
/// CUDA 11.0 brought PTX 7.0, 11.1 PTX 7.1, 12.0 PTX 8.0 and so on.
const PTX_BEHIND_CUDA: u32 = 4;

/// An opened device.
pub struct Cuda {
    ordinal: usize,
    name: String,
    compute_capability: (u32, u32),
    memory: usize,
    multiprocessors: u32,
    shared_memory_limit: u32,
    cache: usize,
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    /// Whether the driver knows graphs as they are made here.
    graphs: bool,
    functions: Mutex<Functions>,
    staging: Mutex<Staging>,
}

/// Modules loaded so far and the kernels asked for.
#[derive(Default)]
struct Functions {
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<&'static str, sys::CUfunction>,
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
    /// Opens device `ordinal`.
    pub fn new(ordinal: usize) -> Result<Self> {
        let unavailable =
            |reason: String| Error::DeviceUnavailable { name: format!("cuda:{ordinal}"), reason };
        let failed = |what: &str| {
            let what = what.to_owned();
            move |error: DriverError| unavailable_error(ordinal, format!("{what}: {}", explain(error)))
        };
        // SAFETY: only looks for the library.
        if !unsafe { sys::is_culib_present() } {
            return Err(unavailable("no CUDA driver was found (libcuda is not installed)".to_owned()));
        }
        result::init().map_err(failed("the CUDA driver does not start"))?;
        let count = result::device::get_count().map_err(failed("devices cannot be counted"))?;
        if ordinal as i64 >= i64::from(count) {
            return Err(unavailable(format!("the machine has {count} CUDA device(s)")));
        }
        let device = result::device::get(ordinal as i32).map_err(failed("the device cannot be opened"))?;
        // SAFETY: `device` comes from `get`.
        let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
        let number = |which| attribute(which).map(|value| value.max(0) as u32);
        let query = failed("the device does not say what it is");
        let compute_capability = (
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR).map_err(&query)?,
            number(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR).map_err(&query)?,
        );
        let name = result::device::get_name(device).map_err(&query)?;
        if compute_capability < OLDEST {
            let (major, minor) = compute_capability;
            return Err(unavailable(format!(
                "{name} has compute capability {major}.{minor}, needed is {}.{} (Ampere) or newer",
                OLDEST.0, OLDEST.1
            )));
        }
        let driver = driver_version().map_err(&query)?;
        let ptx = cpift_kernels::modules::newest_version(compute_capability);
        if newest_ptx(driver) < ptx {
            return Err(unavailable(format!(
                "its driver is for CUDA {}.{}, the kernels for {name} are PTX {}.{}, which CUDA {}.{} and newer know",
                driver / 1000,
                driver % 1000 / 10,
                ptx.0,
                ptx.1,
                ptx.0 + PTX_BEHIND_CUDA,
                ptx.1
            )));
        }
        if number(Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED).map_err(&query)? == 0 {
            return Err(unavailable(format!("{name} has no memory pools")));
        }
        let shared_memory_limit =
            number(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN).map_err(&query)?;
        let multiprocessors =
            number(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT).map_err(&query)?.max(1);
        let cache = number(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).map_err(&query)? as usize;
        // SAFETY: `device` comes from `get`.
        let memory = unsafe { result::device::total_mem(device) }.map_err(&query)?;

        let open = failed("the device cannot be used");
        // SAFETY: `device` comes from `get`; released in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(&open)?;
        let mut cuda = Self {
            ordinal,
            name,
            compute_capability,
            memory,
            multiprocessors,
            shared_memory_limit,
            cache,
            device,
            context,
            stream: ptr::null_mut(),
            graphs: driver >= graph::OLDEST_DRIVER,
            functions: Mutex::default(),
            staging: Mutex::new(Staging { start: ptr::null_mut(), busy: 0 }),
        };
        cuda.enter().map_err(&open)?;
        cuda.stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(&open)?;
        cuda.keep_freed_memory().map_err(&open)?;
        // SAFETY: freed in `drop`.
        let staging = unsafe { result::malloc_host(STAGING, 0) }.map_err(&open)?;
        cuda.staging = Mutex::new(Staging { start: staging.cast(), busy: 0 });
        Ok(cuda)
    }

    /// Makes the context current on this thread, which every call of the driver needs.
    fn enter(&self) -> std::result::Result<(), DriverError> {
        // SAFETY: the context lives as long as `self`.
        unsafe { result::ctx::set_current(self.context) }
    }

    /// Lets the pool keep what is freed: buffers of the same sizes come and go every step.
    fn keep_freed_memory(&self) -> std::result::Result<(), DriverError> {
        let mut threshold = u64::MAX;
        // SAFETY: the device's own pool, and the attribute is a u64.
        unsafe {
            let pool = result::device::get_default_mem_pool(self.device)?;
            let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
            result::mem_pool::set_attribute(pool, attribute, ptr::from_mut(&mut threshold).cast())
        }
    }

    fn failed(&self, what: &str, error: DriverError) -> Error {
        Error::Device { device: self.name(), reason: format!("{what}: {}", explain(error)) }
    }

    /// The kernel of a launch that this device can make.
    fn function_for(&self, request: &Request<'_>) -> std::result::Result<sys::CUfunction, LaunchError> {
        let kernel = request.kernel.name;
        if request.shared > self.shared_memory_limit {
            let (bytes, limit) = (u64::from(request.shared), self.shared_memory_limit);
            return Err(LaunchError::SharedMemory { kernel, bytes, limit });
        }
        self.function(request).map_err(|message| LaunchError::Driver { kernel, message })
    }

    /// The kernel, from its family's module, which is compiled when it is not loaded yet.
    fn function(&self, request: &Request<'_>) -> std::result::Result<sys::CUfunction, String> {
        let kernel = request.kernel;
        let mut loaded = lock(&self.functions);
        if let Some(&function) = loaded.functions.get(kernel.name) {
            return Ok(function);
        }
        let module = match loaded.modules.get(kernel.family) {
            Some(&module) => module,
            None => {
                let module = self.load(kernel.family)?;
                loaded.modules.insert(kernel.family, module);
                module
            }
        };
        let name = CString::new(kernel.name).map_err(|error| error.to_string())?;
        // SAFETY: the module is loaded and stays so.
        let function = unsafe { result::module::get_function(module, name) }.map_err(explain)?;
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        if request.shared > SHARED_MEMORY_DEFAULT {
            let most = self.shared_memory_limit as i32;
            // SAFETY: the function comes from a loaded module.
            unsafe { result::function::set_function_attribute(function, attribute, most) }
                .map_err(explain)?;
        }
        loaded.functions.insert(kernel.name, function);
        Ok(function)
    }

    /// Compiles a family's PTX; the compiler's own words are in the error.
    fn load(&self, family: &'static str) -> std::result::Result<sys::CUmodule, String> {
        let text = cpift_kernels::modules::ptx(family, self.compute_capability)
            .ok_or_else(|| format!("there is no PTX for the kernels `{family}`"))?;
        let text = CString::new(text).map_err(|error| error.to_string())?;
        let mut log = vec![0u8; LOG];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), ptr::without_provenance_mut(LOG)];
        let mut module = ptr::null_mut();
        // SAFETY: a terminated text; as many values as options; the log outlives the call.
        let outcome = unsafe {
            sys::cuModuleLoadDataEx(
                &mut module,
                text.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        outcome.result().map_err(|error| {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            let log = String::from_utf8_lossy(&log[..end]).trim().replace('\n', "; ");
            let (major, minor) = self.compute_capability;
            format!(
                "the driver does not take the PTX of `{family}` for compute capability {major}.{minor}: {}{}{log}",
                explain(error),
                if log.is_empty() { "" } else { ": " }
            )
        })?;
        Ok(module)
    }
}

fn unavailable_error(ordinal: usize, reason: String) -> Error {
    Error::DeviceUnavailable { name: format!("cuda:{ordinal}"), reason }
}

/// Name and words of the driver for an error.
fn explain(error: DriverError) -> String {
    let text = |text: std::result::Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| String::new(), |text| text.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(error.error_string()), text(error.error_name()))
}

/// The driver's version, as it numbers itself: 12080 is 12.8.
fn driver_version() -> std::result::Result<i32, DriverError> {
    let mut version = 0;
    // SAFETY: writes the number.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result()?;
    Ok(version)
}

/// The newest PTX version that a driver of this number knows.
fn newest_ptx(driver: i32) -> (u32, u32) {
    let driver = driver.max(0) as u32;
    ((driver / 1000).saturating_sub(PTX_BEHIND_CUDA), driver % 1000 / 10)
}

/// Pointers to arguments, as the driver takes them: it copies what they point to.
fn pointers(arguments: &[Argument]) -> Vec<*mut c_void> {
    let pointer = |argument: &Argument| match argument {
        Argument::Buffer { address, .. } => ptr::from_ref(address).cast_mut().cast(),
        Argument::U32(value) => ptr::from_ref(value).cast_mut().cast(),
        Argument::U64(value) => ptr::from_ref(value).cast_mut().cast(),
        Argument::F32(value) => ptr::from_ref(value).cast_mut().cast(),
        Argument::F64(value) => ptr::from_ref(value).cast_mut().cast(),
    };
    arguments.iter().map(pointer).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these mutexes is whole after every step, so a panic elsewhere did no harm.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Launch for Cuda {
    unsafe fn launch(&self, request: &Request<'_>) -> std::result::Result<(), LaunchError> {
        let kernel = request.kernel.name;
        let failed = |message: String| LaunchError::Driver { kernel, message };
        self.enter().map_err(|error| failed(explain(error)))?;
        let function = self.function_for(request)?;
        let mut parameters = pointers(request.arguments);
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
                &mut parameters,
            )
        }
        .map_err(|error| failed(explain(error)))
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }
}

impl Backend for Cuda {
    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.enter().map_err(|error| self.failed("allocation", error))?;
        // SAFETY: the stream is this device's; all uses of the memory are queued in it.
        unsafe { result::malloc_async(self.stream, bytes) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { device: self.name(), bytes },
            _ => self.failed("allocation", error),
        })
    }

    unsafe fn free(&self, address: u64, _bytes: usize) {
        if self.enter().is_ok() {
            // A failure here means that the device has failed before, which the next read reports.
            // SAFETY: allocated by `allocate`, by the caller's promise; runs after what is queued.
            let _ = unsafe { result::free_async(address, self.stream) };
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

    unsafe fn read(&self, address: u64, destination: &mut [u8]) -> Result<()> {
        let failed = |error| self.failed("copying from the device", error);
        self.enter().map_err(failed)?;
        let mut staging = lock(&self.staging);
        // SAFETY: the stream lives as long as `self`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed)?;
        staging.busy = 0;
        for (chunk, part) in destination.chunks_mut(STAGING).enumerate() {
            // SAFETY: pinned memory of at least this size that nothing else uses while it is locked; the
            // source is inside an allocation.
            unsafe {
                let staged = std::slice::from_raw_parts_mut(staging.start, part.len());
                let source = address + (chunk * STAGING) as u64;
                result::memcpy_dtoh_async(staged, source, self.stream).map_err(failed)?;
                result::stream::synchronize(self.stream).map_err(failed)?;
                part.copy_from_slice(staged);
            }
        }
        Ok(())
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Result<()> {
        self.enter()
            // SAFETY: inside allocations and disjoint, by the caller's promise.
            .and_then(|()| unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream) })
            .map_err(|error| self.failed("copying on the device", error))
    }

    fn synchronize(&self) -> Result<()> {
        self.enter()
            // SAFETY: the stream lives as long as `self`.
            .and_then(|()| unsafe { result::stream::synchronize(self.stream) })
            .map_err(|error| self.failed("waiting for the device", error))
    }

    fn graph(&self, commands: &[Command]) -> Result<Option<Box<dyn Graph>>> {
        if !self.graphs {
            return Ok(None);
        }
        Ok(Some(Box::new(graph::CudaGraph::new(self, commands)?)))
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        let failed = |error| self.failed("measuring time", error);
        let (start, end) = (Event::new(self).map_err(failed)?, Event::new(self).map_err(failed)?);
        start.record().map_err(failed)?;
        work()?;
        end.record().map_err(failed)?;
        end.since(&start).map_err(failed)
    }

    fn cache_bytes(&self) -> usize {
        self.cache
    }

    fn name(&self) -> String {
        format!("cuda:{}", self.ordinal)
    }

    fn describe(&self) -> String {
        let (major, minor) = self.compute_capability;
        let gibibytes = self.memory as f64 / f64::from(1 << 30);
        format!("cuda:{} ({}, compute {major}.{minor}, {gibibytes:.0} GiB)", self.ordinal, self.name)
    }
}

/// A point in the device's stream.
struct Event<'a> {
    cuda: &'a Cuda,
    event: sys::CUevent,
}

impl<'a> Event<'a> {
    fn new(cuda: &'a Cuda) -> std::result::Result<Self, DriverError> {
        cuda.enter()?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT)?;
        Ok(Self { cuda, event })
    }

    /// Places it behind everything queued.
    fn record(&self) -> std::result::Result<(), DriverError> {
        self.cuda.enter()?;
        // SAFETY: event and stream are alive and of one context.
        unsafe { result::event::record(self.event, self.cuda.stream) }
    }

    /// Waits until the stream has come here; the time since it came to `start`.
    fn since(&self, start: &Self) -> std::result::Result<Duration, DriverError> {
        self.cuda.enter()?;
        // SAFETY: both events are alive and were recorded in one stream.
        let milliseconds = unsafe {
            result::event::synchronize(self.event)?;
            result::event::elapsed(start.event, self.event)?
        };
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        if self.cuda.enter().is_ok() {
            // Nothing can be done about a failure.
            // SAFETY: made in `new`, used no more.
            let _ = unsafe { result::event::destroy(self.event) };
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        // Nothing can be done about failures here, and drop must not panic.
        // SAFETY: all were made in `new` or `load` and are used no more; the context goes last.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for &module in lock(&self.functions).modules.values() {
                let _ = result::module::unload(module);
            }
            let staging = lock(&self.staging).start;
            if !staging.is_null() {
                let _ = result::free_host(staging.cast());
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda")
            .field("ordinal", &self.ordinal)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::newest_ptx;

    #[test]
    fn drivers_older_than_the_ptx_are_known() {
        assert_eq!(newest_ptx(11_040), (7, 4));
        assert_eq!(newest_ptx(12_080), (8, 8));
        assert!(newest_ptx(10_020) < (7, 0) && newest_ptx(13_000) >= (8, 0));
    }
}
