//! Streams and events.

use std::ffi::c_uint;
use std::sync::{Arc, OnceLock};

use cudarc::driver::sys::{CUevent, CUresult, CUstream};

use super::{give, handle};
use crate::state::{self, SETTINGS, call, missing, queue, state, violation};
use crate::stream::{Event, Record, Stream, Work};

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamCreate(stream: *mut CUstream, _flags: c_uint) -> CUresult {
    call("cuStreamCreate", || {
        let mut state = state();
        let context = state.context()?;
        let number = state.handle();
        let new = Stream::new(number, context, SETTINGS.schedule);
        state.streams.insert(number, Arc::new(new));
        // SAFETY: the caller's promise.
        unsafe { give(stream, handle(number)) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamSynchronize(stream: CUstream) -> CUresult {
    call("cuStreamSynchronize", || {
        let (stream, point) = {
            let mut state = state();
            state.counts.waits += 1;
            (state.stream(stream as usize)?, state.order.now(stream as usize))
        };
        state::wait(&stream)?;
        state().order.wait_by_host(&point);
        Ok(())
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
        let new = Event::new(state.context()?);
        let number = state.handle();
        state.events.insert(number, Arc::new(new));
        // SAFETY: the caller's promise.
        unsafe { give(event, handle(number)) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuEventRecord(event: CUevent, stream: CUstream) -> CUresult {
    call("cuEventRecord", || {
        let (event, record) = {
            let state = state();
            let (event, stream) = (state.event(event as usize)?, state.stream(stream as usize)?);
            let point = state.order.now(stream.handle);
            (event, Arc::new(Record { stream, point, reached: OnceLock::new() }))
        };
        event.set(record.clone());
        queue(&record.stream.clone(), [Work::Record(record)])
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn cuStreamWaitEvent(
    stream: CUstream,
    event: CUevent,
    flags: c_uint,
) -> CUresult {
    call("cuStreamWaitEvent", || {
        if flags != 0 {
            return Err(violation(CUresult::CUDA_ERROR_INVALID_VALUE, "a wait for an event with flags"));
        }
        let (stream, record) = {
            let mut state = state();
            let (stream, event) = (state.stream(stream as usize)?, state.event(event as usize)?);
            // For one that was never recorded nothing waits.
            let Some(record) = event.record() else { return Ok(()) };
            state.order.wait(stream.handle, &record.point);
            (stream, record)
        };
        queue(&stream, [Work::Wait(record)])
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
        let Some(record) = event.record() else { return Ok(()) };
        // More than was asked for: what is behind the event as well.
        state::wait(&record.stream)?;
        state().order.wait_by_host(&record.point);
        Ok(())
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
            let record = state.event(event as usize)?.record();
            let reached = record.and_then(|record| record.reached.get().copied());
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
