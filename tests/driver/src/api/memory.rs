//! Memory of the device and pinned memory of the host.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::{c_uchar, c_uint, c_void};

use cudarc::driver::sys::{CUdeviceptr, CUresult, CUstream};

use super::give;
use crate::graph::Node;
use crate::state::{Outcome, SETTINGS, call, queue, state, violation};
use crate::stream::{HostRange, Work};

/// Alignment of pinned memory.
const PAGE: usize = 4096;

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
        // SAFETY: the caller's promise.
        unsafe { give(address, allocated) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemFreeAsync(address: CUdeviceptr, stream: CUstream) -> CUresult {
    call("cuMemFreeAsync", || {
        let mut state = state();
        let stream = state.stream(stream as usize)?;
        let block = state.memory.free(address)?;
        drop(state);
        queue(&stream, Work::Free(block));
        Ok(())
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
pub(super) unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    call("cuMemcpyDtoDAsync_v2", || run(&Node::Copy { to, from, bytes }, stream))
}

/// Queues what a node does.
fn run(node: &Node, stream: CUstream) -> Outcome {
    let (stream, work) = {
        let state = state();
        (state.stream(stream as usize)?, state.work_of(node)?)
    };
    queue(&stream, work);
    Ok(())
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
            let to = state.memory.place(to, bytes, stream.context, "copying to the device")?;
            (stream, to, state.pinned(from as usize, bytes, "copying to the device")?)
        };
        queue(&stream, Work::Upload { to, from });
        Ok(())
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
            let from = state.memory.place(from, bytes, stream.context, "copying from the device")?;
            (stream, state.pinned(to as usize, bytes, "copying from the device")?, from)
        };
        queue(&stream, Work::Download { to, from });
        Ok(())
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
        let layout = layout(bytes)?;
        // SAFETY: the size is not zero.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        // SAFETY: as many bytes were allocated.
        unsafe { start.write_bytes(0xff, bytes) };
        state.pinned.insert(start as usize, bytes);
        // SAFETY: the caller's promise.
        unsafe { give(place, start.cast()) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuMemFreeHost(start: *mut c_void) -> CUresult {
    call("cuMemFreeHost", || {
        let mut state = state();
        state.context()?;
        let Some(bytes) = state.pinned.remove(&(start as usize)) else {
            let message = "pinned memory is given back that is not there";
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, message));
        };
        let range = HostRange { start: start as usize, bytes };
        if state.streams.values().any(|stream| stream.uses(range)) {
            // Kept, since work that is queued would use it.
            let message = "pinned memory is given back while queued copies use it";
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, message));
        }
        // SAFETY: allocated by `cuMemHostAlloc` with this size, and taken out of what is there.
        unsafe { dealloc(start.cast(), layout(bytes)?) };
        Ok(())
    })
}

fn layout(bytes: usize) -> Outcome<Layout> {
    match Layout::from_size_align(bytes, PAGE) {
        Ok(layout) if bytes > 0 => Ok(layout),
        _ => Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "pinned memory of no bytes")),
    }
}
