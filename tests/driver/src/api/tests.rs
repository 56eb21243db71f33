//! The rules, each broken once.

use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::sys::{
    CUcontext, CUdeviceptr, CUfunction, CUfunction_attribute, CUjit_option, CUmodule, CUresult, CUstream,
};

use super::{device::*, memory::*, module::*, stream::*};
use crate::state::take_violations;

const OK: CUresult = CUresult::CUDA_SUCCESS;
const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;
const SHARED: CUfunction_attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;

/// Until this is dropped no other test has the machine.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A context with a stream and pinned memory, one test at a time.
struct Machine {
    stream: CUstream,
    pinned: *mut u8,
    _alone: MutexGuard<'static, ()>,
}

impl Machine {
    fn new() -> Self {
        let alone = alone();
        let (mut context, mut stream, mut pinned): (CUcontext, CUstream, *mut c_void) =
            (null_mut(), null_mut(), null_mut());
        // SAFETY: places for results.
        unsafe {
            assert_eq!(cuInit(0), OK);
            assert_eq!(cuDevicePrimaryCtxRetain(&mut context, 0), OK);
            assert_eq!(cuCtxSetCurrent(context), OK);
            assert_eq!(cuStreamCreate(&mut stream, 1), OK);
            assert_eq!(cuMemHostAlloc(&mut pinned, 4096, 0), OK);
        }
        take_violations();
        Self { stream, pinned: pinned.cast(), _alone: alone }
    }

    fn allocate(&self, bytes: usize) -> CUdeviceptr {
        let mut address = 0;
        // SAFETY: a place for the result.
        assert_eq!(unsafe { cuMemAllocAsync(&mut address, bytes, self.stream) }, OK);
        address
    }

    fn upload(&self, to: CUdeviceptr, from: *const u8, bytes: usize) -> CUresult {
        // SAFETY: what the driver checks.
        unsafe { cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, self.stream) }
    }

    fn download(&self, to: *mut u8, from: CUdeviceptr, bytes: usize) -> CUresult {
        // SAFETY: what the driver checks.
        unsafe { cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, self.stream) }
    }

    fn wait(&self) -> CUresult {
        // SAFETY: a stream that is there.
        unsafe { cuStreamSynchronize(self.stream) }
    }

    fn free(&self, address: CUdeviceptr) -> CUresult {
        // SAFETY: what the driver checks.
        unsafe { cuMemFreeAsync(address, self.stream) }
    }

    /// Byte `index` of the pinned memory.
    fn byte(&self, index: usize) -> *mut u8 {
        assert!(index < 4096);
        // SAFETY: inside, checked above.
        unsafe { self.pinned.add(index) }
    }

    /// Gives all back; what is then said of what is left.
    fn end(self) -> Vec<String> {
        // SAFETY: made in `new`.
        unsafe {
            assert_eq!(cuMemFreeHost(self.pinned.cast()), OK);
            assert_eq!(cuStreamDestroy_v2(self.stream), OK);
            take_violations();
            assert_eq!(cuDevicePrimaryCtxRelease_v2(0), OK);
        }
        take_violations()
    }
}

/// The kernels of a family, loaded.
pub(super) fn load(family: &str) -> CUmodule {
    let text = CString::new(cpift_kernels::modules::ptx(family, (8, 0)).unwrap()).unwrap();
    let mut module = null_mut();
    // SAFETY: a text with a zero at its end, and no options.
    let result = unsafe { cuModuleLoadDataEx(&mut module, text.as_ptr().cast(), 0, null_mut(), null_mut()) };
    assert_eq!(result, OK);
    module
}

pub(super) fn function(module: CUmodule, name: &str) -> Result<CUfunction, CUresult> {
    let name = CString::new(name).unwrap();
    let mut function = null_mut();
    // SAFETY: a place for the result and a text with a zero at its end.
    match unsafe { cuModuleGetFunction(&mut function, module, name.as_ptr()) } {
        OK => Ok(function),
        error => Err(error),
    }
}

#[test]
fn nothing_asynchronous_happens_before_somebody_waits() {
    let machine = Machine::new();
    let address = machine.allocate(64);
    // SAFETY: pinned memory that no copy in progress uses: none is in progress before a wait.
    unsafe {
        machine.byte(0).write(1);
        assert_eq!(machine.upload(address, machine.byte(0), 1), OK);
        // Too early: the copy has not run.
        machine.byte(0).write(2);
        assert_eq!(machine.download(machine.byte(100), address, 1), OK);
        assert_eq!(machine.byte(100).read(), 0xff, "the host reads what is not there yet");
        assert_eq!(machine.wait(), OK);
        assert_eq!(machine.byte(100).read(), 2, "the device got what the host wrote too early");
        // What nobody wrote is no number.
        assert_eq!(machine.download(machine.byte(0), address + 32, 4), OK);
        assert_eq!(machine.wait(), OK);
        assert!(machine.byte(0).cast::<f32>().read().is_nan());
    }
    assert_eq!(machine.free(address), OK);
    assert_eq!(machine.end(), [""; 0]);
}

#[test]
fn memory_is_checked() {
    let machine = Machine::new();
    let (address, other) = (machine.allocate(1000), machine.allocate(10));
    let on_stack = [0u8; 8];
    let said = |result: CUresult, part: &str| {
        assert_ne!(result, OK);
        let violations = take_violations();
        assert!(violations.len() == 1 && violations[0].contains(part), "{violations:?}");
    };
    said(machine.upload(address, on_stack.as_ptr(), 8), "not pinned");
    said(machine.upload(address + 996, machine.byte(0), 8), "leave the allocation of 1000 bytes");
    said(machine.download(machine.byte(0), machine.byte(0) as u64, 8), "is not device memory");
    said(machine.free(address + 16), "inside an allocation");
    // SAFETY: what the driver checks.
    unsafe {
        said(cuMemsetD8Async(0, 0, 8, machine.stream), "is not device memory");
        said(cuMemcpyAsync(address, address + 4, 8, machine.stream), "overlap");
        assert_eq!(cuMemcpyAsync(address, other, 10, machine.stream), OK);
    }
    assert_eq!(machine.free(address), OK);
    said(machine.free(address), "freed before");
    said(machine.upload(address, machine.byte(0), 8), "was freed");
    // A copy that is queued still needs its pinned memory.
    assert_eq!(machine.download(machine.byte(8), other, 8), OK);
    // SAFETY: what the driver checks.
    unsafe { said(cuMemFreeHost(machine.pinned.cast()), "while queued work uses it") };
    assert_eq!(machine.wait(), OK);
    assert_eq!(machine.end(), ["the context was given back with 1 allocations of 10 bytes"]);
}

#[test]
fn threads_need_a_context_and_handles_must_be_there() {
    let machine = Machine::new();
    let stream = machine.stream as usize;
    let violations = std::thread::spawn(move || {
        let mut address = 0;
        // SAFETY: what the driver checks.
        let result = unsafe { cuMemAllocAsync(&mut address, 8, stream as CUstream) };
        assert_eq!(result, CUresult::CUDA_ERROR_INVALID_CONTEXT);
        take_violations()
    });
    assert_eq!(violations.join().unwrap(), ["no context is current"]);
    // SAFETY: what the driver checks.
    unsafe {
        assert_eq!(cuStreamSynchronize(null_mut()), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(cuModuleUnload(machine.stream.cast()), CUresult::CUDA_ERROR_INVALID_HANDLE);
        assert_eq!(cuDeviceGet(&mut 0, 5), CUresult::CUDA_ERROR_INVALID_DEVICE);
    }
    assert_eq!(machine.end(), [""; 0]);
}

/// Launches of `fill_f32(out, count, value)` with one thing changed at a time.
#[test]
fn launches_are_checked() {
    let machine = Machine::new();
    let module = load("elementwise");
    let fill = function(module, "fill_f32").unwrap();
    assert_eq!(function(module, "fill_f23"), Err(CUresult::CUDA_ERROR_NOT_FOUND));
    let address = machine.allocate(400);
    let launch = |address: u64, count: u64, grid: u32, block: u32, shared: u32| {
        let value = 1.5f32;
        let mut arguments: [*mut c_void; 3] = [
            (&raw const address).cast_mut().cast(),
            (&raw const count).cast_mut().cast(),
            (&raw const value).cast_mut().cast(),
        ];
        // SAFETY: three arguments of the kernel's types.
        let result = unsafe {
            cuLaunchKernel(
                fill,
                grid,
                1,
                1,
                block,
                1,
                1,
                shared,
                machine.stream,
                arguments.as_mut_ptr(),
                null_mut(),
            )
        };
        if result == OK { machine.wait() } else { result }
    };
    assert_eq!(launch(address, 100, 1, 256, 0), OK);
    assert_eq!(machine.download(machine.byte(0), address + 396, 4), OK);
    assert_eq!(machine.wait(), OK);
    // SAFETY: pinned memory, copied to above.
    assert_eq!(unsafe { machine.byte(0).cast::<f32>().read() }, 1.5);

    assert_eq!(launch(address, 100, 1, 128, 0), INVALID, "another block than the PTX requires");
    assert_eq!(launch(address, 100, 0, 256, 0), INVALID, "no blocks");
    assert_eq!(launch(address, 100, 1, 256, 49_153), INVALID, "more shared memory than allowed");
    let on_stack = [0f32; 100];
    assert_eq!(
        launch(on_stack.as_ptr() as u64, 100, 1, 256, 0),
        INVALID,
        "memory of the host that is not pinned"
    );
    // Pinned memory has the same address for a kernel, and 1024 elements.
    assert_eq!(launch(machine.byte(0) as u64, 1000, 1, 256, 0), OK);
    // SAFETY: pinned memory, written by the kernel above.
    assert_eq!(unsafe { machine.byte(4 * 999).cast::<f32>().read() }, 1.5);
    // SAFETY: what the driver checks.
    unsafe {
        assert_eq!(cuFuncSetAttribute(fill, SHARED, 163 << 10), OK);
        assert_eq!(cuFuncSetAttribute(fill, SHARED, (163 << 10) + 1), INVALID, "more than the device has");
    }
    assert_eq!(launch(address, 100, 1, 256, 49_153), OK);
    assert_eq!(machine.free(address), OK);
    assert_eq!(launch(address, 100, 1, 256, 0), INVALID, "memory that was freed");
    // SAFETY: the functions are not used any more.
    unsafe { assert_eq!(cuModuleUnload(module), OK) };
    assert_eq!(launch(address, 100, 1, 256, 0), CUresult::CUDA_ERROR_INVALID_HANDLE, "a module that is gone");
    assert_eq!(machine.end(), [""; 0]);
}

#[test]
fn the_compiler_says_what_it_does_not_take() {
    let machine = Machine::new();
    let text = cpift_kernels::modules::ptx("transplant", (8, 0)).unwrap();
    for (text, error, part) in [
        (text.replace(".version 7.0", ".version 8.8"), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, "8.8"),
        (text.replace(".target sm_80", ".target sm_90"), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, ""),
        ("nonsense".to_owned(), CUresult::CUDA_ERROR_INVALID_PTX, "fatal"),
    ] {
        let text = CString::new(text).unwrap();
        let mut log = [0u8; 200];
        let mut options =
            [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
        let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), std::ptr::without_provenance_mut(200)];
        let mut module = null_mut();
        // SAFETY: a text with a zero at its end, and the log that the options say.
        let result = unsafe {
            cuModuleLoadDataEx(
                &mut module,
                text.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        assert_eq!(result, error);
        assert!(String::from_utf8_lossy(&log).contains(part));
    }
    // SAFETY: what the driver checks.
    let result = unsafe { cuModuleLoadDataEx(&mut null_mut(), null(), 0, null_mut(), null_mut()) };
    assert_eq!(result, INVALID);
    assert_eq!(machine.end(), [""; 0]);
}
