//! Kernels as the driver has them: modules compiled from PTX when the first of their kernels is launched.

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::ptr;

use cpift_kernels::launch::{LaunchError, Request, SHARED_MEMORY_DEFAULT};
use cudarc::driver::result;
use cudarc::driver::sys::{self, CUfunction_attribute};

use super::explain;

/// Bytes for the driver's compiler to complain in.
const LOG: usize = 16 << 10;

/// Modules loaded so far and the kernels asked for. The context must be current in every call.
pub struct Functions {
    compute_capability: (u32, u32),
    /// Most bytes of shared memory that a block can be allowed.
    shared_memory: u32,
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<&'static str, Function>,
}

/// A kernel that was asked for.
#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Bytes of dynamic shared memory that a block of it may have.
    allowed: u32,
}

// SAFETY: modules and functions belong to no thread; the context is made current before every use.
unsafe impl Send for Functions {}

impl Functions {
    /// None yet, for a device of this kind.
    pub fn new(compute_capability: (u32, u32), shared_memory: u32) -> Self {
        Self { compute_capability, shared_memory, modules: HashMap::new(), functions: HashMap::new() }
    }

    /// The kernel of a launch, allowed what the launch needs.
    ///
    /// # Errors
    /// More shared memory than the device has, or what the driver says.
    pub fn get(&mut self, request: &Request<'_>) -> Result<sys::CUfunction, LaunchError> {
        let kernel = request.kernel.name;
        if request.shared > self.shared_memory {
            let (bytes, limit) = (u64::from(request.shared), self.shared_memory);
            return Err(LaunchError::SharedMemory { kernel, bytes, limit });
        }
        self.get_allowed(request).map_err(|message| LaunchError::Driver { kernel, message })
    }

    fn get_allowed(&mut self, request: &Request<'_>) -> Result<sys::CUfunction, String> {
        let kernel = request.kernel;
        let function = match self.functions.get(kernel.name) {
            Some(&function) => function,
            None => {
                let module = self.module(kernel.family)?;
                let name = CString::new(kernel.name).map_err(|error| error.to_string())?;
                // SAFETY: the module is loaded and stays so.
                let handle = unsafe { result::module::get_function(module, name) }.map_err(explain)?;
                Function { handle, allowed: SHARED_MEMORY_DEFAULT }
            }
        };
        let allowed = function.allowed.max(request.shared);
        if allowed > function.allowed {
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function comes from a loaded module.
            unsafe { result::function::set_function_attribute(function.handle, attribute, allowed as i32) }
                .map_err(explain)?;
        }
        self.functions.insert(kernel.name, Function { allowed, ..function });
        Ok(function.handle)
    }

    /// A family's module, which is compiled when it is not loaded yet.
    fn module(&mut self, family: &'static str) -> Result<sys::CUmodule, String> {
        if let Some(&module) = self.modules.get(family) {
            return Ok(module);
        }
        let module = load(family, self.compute_capability)?;
        self.modules.insert(family, module);
        Ok(module)
    }

    /// Gives the modules back.
    ///
    /// # Safety
    /// None of their kernels runs any more, nor will.
    pub unsafe fn unload(&mut self) {
        self.functions.clear();
        for (_, module) in self.modules.drain() {
            // Nothing can be done about a failure.
            // SAFETY: loaded by `load`; used no more, by the caller's promise.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}

/// Compiles a family's PTX; the compiler's own words are in the error.
fn load(family: &'static str, compute_capability: (u32, u32)) -> Result<sys::CUmodule, String> {
    let text = cpift_kernels::modules::ptx(family, compute_capability)
        .ok_or_else(|| format!("there is no PTX for the kernels `{family}`"))?;
    let text = CString::new(text).map_err(|error| error.to_string())?;
    let mut log = vec![0u8; LOG];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
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
        let (major, minor) = compute_capability;
        format!(
            "the driver does not take the PTX of `{family}` for compute capability {major}.{minor}: {}{}{log}",
            explain(error),
            if log.is_empty() { "" } else { ": " }
        )
    })?;
    Ok(module)
}
