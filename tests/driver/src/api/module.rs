//! Modules, functions and launches.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::slice;
use std::sync::Arc;

use cudarc::driver::sys::{CUfunction, CUfunction_attribute, CUjit_option, CUmodule, CUresult, CUstream};

use super::{give, handle};
use crate::launch::{Function, Geometry, Value, read_arguments};
use crate::ptx::Module;
use crate::settings::Failure;
use crate::state::{Outcome, SETTINGS, call, known, known_mut, log, queue, state, violation};

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut CUmodule,
    image: *const c_void,
    count: c_uint,
    options: *mut CUjit_option,
    values: *mut *mut c_void,
) -> CUresult {
    call("cuModuleLoadDataEx", || {
        let context = state().context()?;
        if image.is_null() || (count > 0 && (options.is_null() || values.is_null())) {
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "a module is loaded from nowhere"));
        }
        // SAFETY: a text with a zero at its end, by the caller's promise.
        let text = unsafe { CStr::from_ptr(image.cast()) }.to_string_lossy();
        let loaded = take(&text);
        if let Err((_, log)) = &loaded {
            // SAFETY: as many options and values as said, by the caller's promise.
            unsafe { write_log(log, count as usize, options, values) };
        }
        let loaded = loaded.map_err(|(error, _)| error)?;
        log(&format!("loaded: {} kernels", loaded.entries.len()));
        let mut state = state();
        let number = state.handle();
        state.counts.modules += 1;
        state.modules.insert(number, (context, Arc::new(loaded)));
        // SAFETY: the caller's promise.
        unsafe { give(module, handle(number)) }
    })
}

/// What the compiler makes of a text, or an error and its words.
fn take(text: &str) -> Result<Module, (CUresult, String)> {
    let module = Module::parse(text)
        .map_err(|message| (CUresult::CUDA_ERROR_INVALID_PTX, format!("ptxas fatal   : {message}\n")))?;
    let known = known_ptx(SETTINGS.version);
    let (major, minor) = module.version;
    if module.version > known {
        let log = format!(
            "ptxas application ptx input, line 1; fatal   : Unsupported .version {major}.{minor}; current version is '{}.{}'\n",
            known.0, known.1
        );
        return Err((CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION, log));
    }
    if !module.runs_on(SETTINGS.capability) {
        return Err((CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, String::new()));
    }
    for failure in &SETTINGS.failures {
        let Failure::Jit(name) = failure else { continue };
        if module.entries.keys().any(|entry| entry.starts_with(name.as_str())) {
            let log = format!(
                "ptxas application ptx input, line 7; error   : Unexpected instruction types in {name}\n\
                 ptxas fatal   : Ptx assembly aborted due to errors\n"
            );
            return Err((CUresult::CUDA_ERROR_INVALID_PTX, log));
        }
    }
    Ok(module)
}

/// The newest PTX of a driver, by the table in the reference of PTX.
fn known_ptx(version: i32) -> (u32, u32) {
    let (major, minor) = ((version / 1000) as u32, (version % 1000 / 10) as u32);
    match (major, minor) {
        (12, 6..) => (8, minor - 1),
        _ => (major.saturating_sub(4), minor),
    }
}

/// Writes to the log that was offered, if there is one.
///
/// # Safety
/// As many options and values as `count`, of the kinds that CUDA's reference says.
unsafe fn write_log(log: &str, count: usize, options: *const CUjit_option, values: *const *mut c_void) {
    if count == 0 {
        return;
    }
    // SAFETY: the caller's promise.
    let (options, values) =
        unsafe { (slice::from_raw_parts(options, count), slice::from_raw_parts(values, count)) };
    let value =
        |option: CUjit_option| options.iter().position(|&given| given == option).map(|place| values[place]);
    let size = value(CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES).map_or(0, |size| size as usize);
    if let Some(buffer) = value(CUjit_option::CU_JIT_ERROR_LOG_BUFFER)
        && !buffer.is_null()
        && size > 0
    {
        let length = log.len().min(size - 1);
        // SAFETY: a buffer of that size, by the caller's promise.
        unsafe {
            buffer.cast::<u8>().copy_from_nonoverlapping(log.as_ptr(), length);
            buffer.cast::<u8>().add(length).write(0);
        }
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuModuleGetFunction(
    function: *mut CUfunction,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    call("cuModuleGetFunction", || {
        if name.is_null() {
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "a function without a name"));
        }
        // SAFETY: a text with a zero at its end, by the caller's promise.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let mut state = state();
        let number = module as usize;
        let (context, module) = known(&state.modules, number, "module")?.clone();
        state.own(context, "module")?;
        let entry = module.entries.get(&*name).ok_or_else(|| {
            violation(CUresult::CUDA_ERROR_NOT_FOUND, &format!("`{name}` is not in the PTX"))
        })?;
        let found = Function::new(context, number, &name, entry)?;
        let number = state.handle();
        state.functions.insert(number, found);
        // SAFETY: the caller's promise.
        unsafe { give(function, handle(number)) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuModuleUnload(module: CUmodule) -> CUresult {
    call("cuModuleUnload", || {
        let mut state = state();
        let number = module as usize;
        let (context, _) = *known(&state.modules, number, "module")?;
        state.own(context, "module")?;
        state.modules.remove(&number);
        state.functions.retain(|_, function| function.module != number);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuFuncSetAttribute(
    function: CUfunction,
    attribute: CUfunction_attribute,
    value: c_int,
) -> CUresult {
    call("cuFuncSetAttribute", || {
        let mut state = state();
        let function = known_mut(&mut state.functions, function as usize, "function")?;
        if attribute != CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES {
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "an attribute that is not known here"));
        }
        function.allow_shared(value)
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuLaunchKernel(
    function: CUfunction,
    grid_x: c_uint,
    grid_y: c_uint,
    grid_z: c_uint,
    block_x: c_uint,
    block_y: c_uint,
    block_z: c_uint,
    shared: c_uint,
    stream: CUstream,
    arguments: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> CUresult {
    let geometry = Geometry {
        function: function as usize,
        grid: [grid_x, grid_y, grid_z],
        block: [block_x, block_y, block_z],
        shared,
    };
    call("cuLaunchKernel", || {
        // SAFETY: the caller's promise.
        let values = unsafe { arguments_of(geometry.function, arguments, extra) }?;
        let (stream, work) = {
            let mut state = state();
            state.counts.launches += 1;
            (state.stream(stream as usize)?, state.prepare(&geometry, &values)?)
        };
        queue(&stream, [work])
    })
}

/// Values of a launch's arguments.
///
/// # Safety
/// As for [`read_arguments`].
pub unsafe fn arguments_of(
    function: usize,
    arguments: *const *mut c_void,
    extra: *const *mut c_void,
) -> Outcome<Vec<Value>> {
    if !extra.is_null() {
        return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "arguments as a block are not known here"));
    }
    let state = state();
    let function = known(&state.functions, function, "function")?;
    // SAFETY: the caller's promise.
    unsafe { read_arguments(function, arguments) }
}

#[cfg(test)]
mod tests {
    use super::known_ptx;

    #[test]
    fn drivers_know_the_ptx_of_their_toolkit() {
        for (driver, ptx) in [
            (11_000, (7, 0)),
            (11_080, (7, 8)),
            (12_000, (8, 0)),
            (12_040, (8, 4)),
            (12_060, (8, 5)),
            (12_080, (8, 7)),
            (12_090, (8, 8)),
            (13_000, (9, 0)),
        ] {
            assert_eq!(known_ptx(driver), ptx);
        }
    }
}
