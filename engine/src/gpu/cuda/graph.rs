//! Lists of commands as CUDA graphs: nodes in a row, each replaced where its command changes.

use std::ptr;
use std::sync::{Arc, Mutex};

use cpift_kernels::launch::Request;
use cudarc::driver::result::DriverError;
use cudarc::driver::sys;

use super::functions::Functions;
use super::tensor_map::Parameters;
use super::{Cuda, lock};
use crate::error::{Error, Result};
use crate::gpu::Backend;
use crate::gpu::command::{Command, Graph};

/// Oldest driver whose graphs have the calls used here, as the driver numbers itself: 12.0.
pub const OLDEST_DRIVER: i32 = 12_000;

/// A graph, ready to be launched.
pub struct CudaGraph {
    name: String,
    context: sys::CUcontext,
    stream: sys::CUstream,
    graph: sys::CUgraph,
    /// Null until all nodes are there.
    executable: sys::CUgraphExec,
    nodes: Vec<sys::CUgraphNode>,
    /// The device's: a changed launch may need more shared memory than its kernel was allowed before.
    functions: Arc<Mutex<Functions>>,
}

// SAFETY: graphs and what they are made of belong to no thread; calls make the context current first.
unsafe impl Send for CudaGraph {}

impl CudaGraph {
    /// The commands, one behind the other.
    pub fn new(cuda: &Cuda, commands: &[Command]) -> Result<Self> {
        let failed = |error| cuda.failed("making a graph", error);
        cuda.enter().map_err(failed)?;
        let mut graph = ptr::null_mut();
        // SAFETY: destroyed in `drop`.
        unsafe { sys::cuGraphCreate(&mut graph, 0) }.result().map_err(failed)?;
        let mut built = Self {
            name: cuda.name(),
            context: cuda.context,
            stream: cuda.stream,
            graph,
            executable: ptr::null_mut(),
            nodes: Vec::with_capacity(commands.len()),
            functions: Arc::clone(&cuda.functions),
        };
        for command in commands {
            let function = built.function_of(command)?;
            built.add(function, command).map_err(failed)?;
        }
        // SAFETY: a whole graph; destroyed in `drop`.
        unsafe { sys::cuGraphInstantiateWithFlags(&mut built.executable, graph, 0) }
            .result()
            .map_err(failed)?;
        Ok(built)
    }

    /// What a command launches, allowed what it needs; null for changes of memory.
    fn function_of(&self, command: &Command) -> Result<sys::CUfunction> {
        Ok(match *command {
            Command::Launch { kernel, grid, shared, ref arguments } => {
                lock(&self.functions).get(&Request { kernel, grid, shared, arguments })?
            }
            Command::Set { .. } | Command::Copy { .. } => ptr::null_mut(),
        })
    }

    /// Adds a command behind the last.
    fn add(&mut self, function: sys::CUfunction, command: &Command) -> std::result::Result<(), DriverError> {
        let before = self.nodes.last().copied();
        let (before, count) =
            (before.as_ref().map_or(ptr::null(), ptr::from_ref), usize::from(before.is_some()));
        let mut node = ptr::null_mut();
        // SAFETY: the graph and the node before are there; parameters are copied by the calls; what they name was
        // checked when the command was recorded.
        unsafe {
            match command {
                Command::Launch { arguments, .. } => {
                    let mut own = Parameters::new(arguments)?;
                    let parameters = launch_parameters(function, command, &mut own.pointers);
                    sys::cuGraphAddKernelNode_v2(&mut node, self.graph, before, count, &parameters)
                }
                &Command::Set { address, byte, bytes } => {
                    let parameters = set_parameters(address, byte, bytes);
                    sys::cuGraphAddMemsetNode(&mut node, self.graph, before, count, &parameters, self.context)
                }
                &Command::Copy { to, from, bytes } => {
                    let parameters = copy_parameters(to, from, bytes);
                    sys::cuGraphAddMemcpyNode(&mut node, self.graph, before, count, &parameters, self.context)
                }
            }
        }
        .result()?;
        self.nodes.push(node);
        Ok(())
    }

    fn enter(&self) -> Result<()> {
        // SAFETY: the context outlives its graphs: the recorder drops them before the device.
        unsafe { cudarc::driver::result::ctx::set_current(self.context) }.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: DriverError) -> Error {
        Error::Device { device: self.name.clone(), reason: format!("a graph: {}", super::explain(error)) }
    }
}

impl Graph for CudaGraph {
    fn replace(&mut self, index: usize, command: &Command) -> Result<()> {
        self.enter()?;
        let (node, function) = (self.nodes[index], self.function_of(command)?);
        // SAFETY: a node of this graph, parameters of its kind, a function of the same context; copied by the calls.
        unsafe {
            match command {
                Command::Launch { arguments, .. } => {
                    let mut own = Parameters::new(arguments).map_err(|error| self.failed(error))?;
                    let parameters = launch_parameters(function, command, &mut own.pointers);
                    sys::cuGraphExecKernelNodeSetParams_v2(self.executable, node, &parameters)
                }
                &Command::Set { address, byte, bytes } => {
                    let parameters = set_parameters(address, byte, bytes);
                    sys::cuGraphExecMemsetNodeSetParams(self.executable, node, &parameters, self.context)
                }
                &Command::Copy { to, from, bytes } => {
                    let parameters = copy_parameters(to, from, bytes);
                    sys::cuGraphExecMemcpyNodeSetParams(self.executable, node, &parameters, self.context)
                }
            }
        }
        .result()
        .map_err(|error| self.failed(error))
    }

    unsafe fn launch(&self, _: &dyn Backend) -> Result<()> {
        self.enter()?;
        // SAFETY: the executable is whole; what its commands name is there, by the caller's promise.
        unsafe { sys::cuGraphLaunch(self.executable, self.stream) }
            .result()
            .map_err(|error| self.failed(error))
    }
}

impl Drop for CudaGraph {
    fn drop(&mut self) {
        if self.enter().is_err() {
            return;
        }
        // Failures cannot be helped here. A graph that still runs is freed by the driver when it has.
        // SAFETY: made in `new`, used no more.
        unsafe {
            if !self.executable.is_null() {
                let _ = sys::cuGraphExecDestroy(self.executable);
            }
            let _ = sys::cuGraphDestroy(self.graph);
        }
    }
}

/// A launch's parameters; `pointers` are those of its arguments.
fn launch_parameters(
    function: sys::CUfunction,
    command: &Command,
    pointers: &mut [*mut std::ffi::c_void],
) -> sys::CUDA_KERNEL_NODE_PARAMS {
    let (block, [x, y, z], shared) = match command {
        Command::Launch { kernel, grid, shared, .. } => (kernel.block, *grid, *shared),
        Command::Set { .. } | Command::Copy { .. } => (0, [0; 3], 0),
    };
    sys::CUDA_KERNEL_NODE_PARAMS {
        func: function,
        gridDimX: x,
        gridDimY: y,
        gridDimZ: z,
        blockDimX: block,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: shared,
        kernelParams: pointers.as_mut_ptr(),
        extra: ptr::null_mut(),
        kern: ptr::null_mut(),
        ctx: ptr::null_mut(),
    }
}

fn set_parameters(address: u64, byte: u8, bytes: usize) -> sys::CUDA_MEMSET_NODE_PARAMS {
    sys::CUDA_MEMSET_NODE_PARAMS {
        dst: address,
        pitch: 0,
        value: byte.into(),
        elementSize: 1,
        width: bytes,
        height: 1,
    }
}

/// Of the device or pinned memory: the driver tells by the addresses.
fn copy_parameters(to: u64, from: u64, bytes: usize) -> sys::CUDA_MEMCPY3D {
    sys::CUDA_MEMCPY3D {
        srcXInBytes: 0,
        srcY: 0,
        srcZ: 0,
        srcLOD: 0,
        srcMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED,
        srcHost: ptr::null(),
        srcDevice: from,
        srcArray: ptr::null_mut(),
        reserved0: ptr::null_mut(),
        srcPitch: 0,
        srcHeight: 0,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: sys::CUmemorytype::CU_MEMORYTYPE_UNIFIED,
        dstHost: ptr::null_mut(),
        dstDevice: to,
        dstArray: ptr::null_mut(),
        reserved1: ptr::null_mut(),
        dstPitch: 0,
        dstHeight: 0,
        WidthInBytes: bytes,
        Height: 1,
        Depth: 1,
    }
}
