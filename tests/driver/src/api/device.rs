//! Starting, devices, contexts, and the words for errors.

use std::ffi::{c_char, c_int, c_uint, c_void};

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute as Attribute, CUmemPool_attribute, CUmemoryPool, CUresult,
};

use super::{give, handle};
use crate::state::{self, Outcome, SETTINGS, call, log, state, violation};

/// The pool of every device.
const POOL: usize = 0x1000;
/// What the device says it is.
const NAME: &[u8] = b"stand-in, no GPU\0";

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuInit(flags: c_uint) -> CUresult {
    if flags != 0 {
        return CUresult::CUDA_ERROR_INVALID_VALUE;
    }
    state::initialise().err().unwrap_or(CUresult::CUDA_SUCCESS)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    // SAFETY: the caller's promise.
    unsafe { give(version, SETTINGS.version) }.err().unwrap_or(CUresult::CUDA_SUCCESS)
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    // SAFETY: the caller's promise.
    call("cuDeviceGetCount", || unsafe { give(count, SETTINGS.devices) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> CUresult {
    call("cuDeviceGet", || {
        check(ordinal)?;
        // SAFETY: the caller's promise.
        unsafe { give(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGetName(
    name: *mut c_char,
    length: c_int,
    device: CUdevice,
) -> CUresult {
    call("cuDeviceGetName", || {
        check(device)?;
        if name.is_null() || (length as usize) < NAME.len() {
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "no place for the name"));
        }
        // SAFETY: memory of that length, by the caller's promise.
        unsafe { name.cast::<u8>().copy_from_nonoverlapping(NAME.as_ptr(), NAME.len()) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) -> CUresult {
    call("cuDeviceTotalMem_v2", || {
        check(device)?;
        // SAFETY: the caller's promise.
        unsafe { give(bytes, SETTINGS.memory as usize) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    attribute: Attribute,
    device: CUdevice,
) -> CUresult {
    call("cuDeviceGetAttribute", || {
        check(device)?;
        let number = match attribute {
            Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR => SETTINGS.capability.0 as c_int,
            Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR => SETTINGS.capability.1 as c_int,
            Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED => 1,
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN => {
                SETTINGS.shared_memory() as c_int
            }
            Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT => SETTINGS.multiprocessors as c_int,
            Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE => 1 << 16,
            other => {
                log(&format!("attribute {other:?} is not known here"));
                return Err(CUresult::CUDA_ERROR_INVALID_VALUE);
            }
        };
        // SAFETY: the caller's promise.
        unsafe { give(value, number) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDevicePrimaryCtxRetain(
    context: *mut CUcontext,
    device: CUdevice,
) -> CUresult {
    call("cuDevicePrimaryCtxRetain", || {
        check(device)?;
        let mut state = state();
        let there = state.contexts.iter().find(|(_, context)| context.1 == device).map(|(&number, _)| number);
        let number = there.unwrap_or_else(|| state.handle());
        state.contexts.entry(number).or_insert((0, device)).0 += 1;
        // SAFETY: the caller's promise.
        unsafe { give(context, handle(number)) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> CUresult {
    call("cuDevicePrimaryCtxRelease_v2", || {
        let mut state = state();
        let Some((&number, context)) = state.contexts.iter_mut().find(|(_, context)| context.1 == device)
        else {
            let message = "a context that nobody retained is given back";
            return Err(violation(CUresult::CUDA_ERROR_INVALID_CONTEXT, message));
        };
        context.0 -= 1;
        if context.0 == 0 {
            state.release(number);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuCtxSetCurrent(context: CUcontext) -> CUresult {
    call("cuCtxSetCurrent", || {
        let number = context as usize;
        if number != 0 {
            state::known(&state().contexts, number, "context")?;
        }
        state::set_current(number);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuDeviceGetDefaultMemPool(
    pool: *mut CUmemoryPool,
    device: CUdevice,
) -> CUresult {
    call("cuDeviceGetDefaultMemPool", || {
        check(device)?;
        // SAFETY: the caller's promise.
        unsafe { give(pool, handle(POOL)) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemPoolSetAttribute(
    pool: CUmemoryPool,
    attribute: CUmemPool_attribute,
    value: *mut c_void,
) -> CUresult {
    call("cuMemPoolSetAttribute", || {
        let known = attribute == CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        if pool as usize != POOL || !known || value.is_null() {
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "a pool is changed in an unknown way"));
        }
        Ok(())
    })
}

/// Names and words of the errors given out here.
fn words(error: CUresult) -> Option<(&'static [u8], &'static [u8])> {
    macro_rules! table {
        ($($name:ident: $text:literal),* $(,)?) => {
            match error {
                $(CUresult::$name => Some((
                    concat!(stringify!($name), "\0").as_bytes(),
                    concat!($text, "\0").as_bytes(),
                )),)*
                _ => None,
            }
        };
    }
    table! {
        CUDA_SUCCESS: "no error",
        CUDA_ERROR_INVALID_VALUE: "invalid argument",
        CUDA_ERROR_OUT_OF_MEMORY: "out of memory",
        CUDA_ERROR_NOT_INITIALIZED: "initialization error",
        CUDA_ERROR_NO_DEVICE: "no CUDA-capable device is detected",
        CUDA_ERROR_INVALID_DEVICE: "invalid device ordinal",
        CUDA_ERROR_INVALID_IMAGE: "device kernel image is invalid",
        CUDA_ERROR_INVALID_CONTEXT: "invalid device context",
        CUDA_ERROR_NO_BINARY_FOR_GPU: "no kernel image is available for execution on the device",
        CUDA_ERROR_INVALID_PTX: "a PTX JIT compilation failed",
        CUDA_ERROR_UNSUPPORTED_PTX_VERSION: "the provided PTX was compiled with an unsupported toolchain.",
        CUDA_ERROR_INVALID_HANDLE: "invalid resource handle",
        CUDA_ERROR_NOT_FOUND: "named symbol not found",
        CUDA_ERROR_NOT_READY: "device not ready",
        CUDA_ERROR_ILLEGAL_ADDRESS: "an illegal memory access was encountered",
        CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES: "too many resources requested for launch",
        CUDA_ERROR_LAUNCH_FAILED: "unspecified launch failure",
        CUDA_ERROR_NOT_SUPPORTED: "operation not supported",
        CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: "system has unsupported display driver / cuda driver combination",
        CUDA_ERROR_UNKNOWN: "unknown error",
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuGetErrorName(error: CUresult, text: *mut *const c_char) -> CUresult {
    // SAFETY: the caller's promise.
    unsafe { tell(text, words(error).map(|words| words.0)) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuGetErrorString(error: CUresult, text: *mut *const c_char) -> CUresult {
    // SAFETY: the caller's promise.
    unsafe { tell(text, words(error).map(|words| words.1)) }
}

/// Gives a text out, or says that there is none.
///
/// # Safety
/// The pointer is null or points to memory for a pointer.
unsafe fn tell(place: *mut *const c_char, text: Option<&'static [u8]>) -> CUresult {
    let (pointer, result) = match text {
        Some(text) => (text.as_ptr().cast(), CUresult::CUDA_SUCCESS),
        None => (std::ptr::null(), CUresult::CUDA_ERROR_INVALID_VALUE),
    };
    // SAFETY: the caller's promise.
    unsafe { give(place, pointer) }.err().unwrap_or(result)
}

fn check(device: CUdevice) -> Outcome {
    if (0..SETTINGS.devices).contains(&device) {
        return Ok(());
    }
    Err(violation(CUresult::CUDA_ERROR_INVALID_DEVICE, &format!("there is no device {device}")))
}
