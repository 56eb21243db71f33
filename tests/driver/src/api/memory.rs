//! Memory of the device and pinned memory of the host.

use std::ffi::{c_uchar, c_uint, c_void};

use cudarc::driver::sys::{CUdeviceptr, CUresult, CUstream};

use super::give;
use crate::graph::Node;
use crate::order::Access;
use crate::state::{Outcome, SETTINGS, call, queue, state};
use crate::stream::Work;

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemAllocAsync(
    address: *mut CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemAllocAsync", || {
        let mut state = state();
        let context = state.stream(stream as usize)?.context;
        let allocated = state.memory.allocate(bytes, SETTINGS.memory, context)?;
        let place = state.memory.place(allocated, bytes, context, "an allocation")?;
        // In the order of the stream, before which others must not use it; nobody has it yet.
        let access = Access::new(&place, true, "all of it");
        let _ = state.order.add(stream as usize, "an allocation", vec![access]);
        // SAFETY: the caller's promise.
        unsafe { give(address, allocated) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemFreeAsync(address: CUdeviceptr, stream: CUstream) -> CUresult {
    call("cuMemFreeAsync", || {
        let mut state = state();
        let stream = state.stream(stream as usize)?;
        let place = state.memory.free(address)?;
        drop(state);
        queue(&stream, [Work::Free(place)])
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    call("cuMemGetInfo_v2", || {
        let state = state();
        state.context()?;
        // SAFETY: the caller's promise.
        unsafe {
            give(free, (SETTINGS.memory - state.memory.in_use()) as usize)?;
            give(total, SETTINGS.memory as usize)
        }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemsetD8Async(
    address: CUdeviceptr,
    byte: c_uchar,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemsetD8Async", || run(&Node::Set { to: address, byte, bytes }, stream))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemcpyAsync(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyAsync", || run(&Node::Copy { to, from, bytes }, stream))
}

/// Queues what a node does.
fn run(node: &Node, stream: CUstream) -> Outcome {
    let (stream, work) = {
        let state = state();
        (state.stream(stream as usize)?, state.work_of(node)?)
    };
    queue(&stream, [work])
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyHtoDAsync_v2", || {
        let (stream, to, from) = {
            let state = state();
            let stream = state.stream(stream as usize)?;
            let to = state.memory.device_place(to, bytes, stream.context, "copying to the device")?;
            (stream, to, state.memory.pinned(from as u64, bytes, "copying to the device")?)
        };
        queue(&stream, [Work::Copy { to, from }])
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyDtoHAsync_v2", || {
        let (stream, to, from) = {
            let state = state();
            let stream = state.stream(stream as usize)?;
            let from = state.memory.device_place(from, bytes, stream.context, "copying from the device")?;
            (stream, state.memory.pinned(to as u64, bytes, "copying from the device")?, from)
        };
        queue(&stream, [Work::Copy { to, from }])
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemHostAlloc(
    place: *mut *mut c_void,
    bytes: usize,
    _flags: c_uint,
) -> CUresult {
    call("cuMemHostAlloc", || {
        let mut state = state();
        state.context()?;
        let address = state.memory.allocate_pinned(bytes)?;
        // SAFETY: the caller's promise.
        unsafe { give(place, address as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemFreeHost(start: *mut c_void) -> CUresult {
    call("cuMemFreeHost", || {
        let mut state = state();
        state.context()?;
        state.memory.free_pinned(start as u64)
    })
}
