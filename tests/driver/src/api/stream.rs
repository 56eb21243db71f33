//! Streams and events.

use std::ffi::c_uint;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::sys::{CUevent, CUresult, CUstream};

use super::{give, handle};
use crate::state::{self, SETTINGS, call, missing, queue, state};
use crate::stream::{Event, Stream, Work};

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamCreate(stream: *mut CUstream, _flags: c_uint) -> CUresult {
    call("cuStreamCreate", || {
        let mut state = state();
        let new = Stream::new(state.context()?, SETTINGS.schedule);
        let number = state.handle();
        state.streams.insert(number, Arc::new(new));
        // SAFETY: the caller's promise.
        unsafe { give(stream, handle(number)) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamSynchronize(stream: CUstream) -> CUresult {
    call("cuStreamSynchronize", || {
        let stream = {
            let mut state = state();
            state.counts.waits += 1;
            state.stream(stream as usize)?
        };
        state::wait(&stream)
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamDestroy_v2(stream: CUstream) -> CUresult {
    call("cuStreamDestroy_v2", || {
        let stream = {
            let mut state = state();
            state.stream(stream as usize)?;
            state.streams.remove(&(stream as usize)).ok_or_else(|| missing(stream as usize, "stream"))?
        };
        // What was queued is done all the same.
        state::wait(&stream)
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventCreate(event: *mut CUevent, _flags: c_uint) -> CUresult {
    call("cuEventCreate", || {
        let mut state = state();
        let new = Event { context: state.context()?, reached: Mutex::default(), stream: Mutex::default() };
        let number = state.handle();
        state.events.insert(number, Arc::new(new));
        // SAFETY: the caller's promise.
        unsafe { give(event, handle(number)) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventRecord(event: CUevent, stream: CUstream) -> CUresult {
    call("cuEventRecord", || {
        let (event, stream) = {
            let state = state();
            (state.event(event as usize)?, state.stream(stream as usize)?)
        };
        *event.reached.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *event.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream.clone());
        queue(&stream, Work::Record(event));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventSynchronize(event: CUevent) -> CUresult {
    call("cuEventSynchronize", || {
        let event = {
            let mut state = state();
            state.counts.waits += 1;
            state.event(event as usize)?
        };
        let stream = event.stream.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // More than was asked for: what is behind the event as well.
        stream.map_or(Ok(()), |stream| state::wait(&stream))
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut f32,
    start: CUevent,
    end: CUevent,
) -> CUresult {
    call("cuEventElapsedTime", || {
        let state = state();
        let reached = |event: CUevent| {
            let event = state.event(event as usize)?;
            let reached = *event.reached.lock().unwrap_or_else(PoisonError::into_inner);
            reached.ok_or(CUresult::CUDA_ERROR_NOT_READY)
        };
        let time = reached(end)?.saturating_duration_since(reached(start)?);
        // SAFETY: the caller's promise.
        unsafe { give(milliseconds, time.as_secs_f32() * 1e3) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventDestroy_v2(event: CUevent) -> CUresult {
    call("cuEventDestroy_v2", || {
        let mut state = state();
        state.event(event as usize)?;
        state.events.remove(&(event as usize));
        Ok(())
    })
}
