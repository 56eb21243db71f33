//! The functions of NCCL that the engine calls, and its reduce-scatter. The library is found as `libnccl.so.2` by a second link to this one.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId};

use super::{give, handle};
use crate::collective::hub::{self, Introduction};
use crate::collective::{Communicator, Element, Header, Kind, Operation};
use crate::state::{Outcome, known, log, queue, state, violation};
use crate::stream::{Stream, Work};

/// 2.26.2.
const VERSION: c_int = 22_602;

const INVALID: CUresult = CUresult::CUDA_ERROR_INVALID_VALUE;

/// Operations of a group that this thread has begun.
#[derive(Default)]
struct Group {
    depth: usize,
    operations: Vec<(Arc<Stream>, Arc<Communicator>, Operation)>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
}

/// Whether this thread has begun a group and not ended it.
pub fn is_group_open() -> bool {
    GROUP.with_borrow(|group| group.depth > 0)
}

/// A call of NCCL: what is wrong with its use is `ncclInvalidUsage`.
fn call(name: &str, work: impl FnOnce() -> Outcome) -> ncclResult_t {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => ncclResult_t::ncclSuccess,
        Ok(Err(error)) => {
            log(&format!("{name}: {error:?}"));
            ncclResult_t::ncclInvalidUsage
        }
        Err(_) => {
            let _ = violation(CUresult::CUDA_ERROR_UNKNOWN, &format!("{name} panicked"));
            ncclResult_t::ncclInternalError
        }
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> ncclResult_t {
    // SAFETY: the caller's promise.
    call("ncclGetVersion", || unsafe { give(version, VERSION) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclGetUniqueId(identification: *mut ncclUniqueId) -> ncclResult_t {
    call("ncclGetUniqueId", || {
        let bytes = hub::open().map_err(|_| CUresult::CUDA_ERROR_OPERATING_SYSTEM)?;
        let internal = bytes.map(|byte| std::ffi::c_char::from_ne_bytes([byte]));
        // SAFETY: the caller's promise.
        unsafe { give(identification, ncclUniqueId { internal }) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclCommInitRank(
    communicator: *mut ncclComm_t,
    size: c_int,
    identification: ncclUniqueId,
    rank: c_int,
) -> ncclResult_t {
    call("ncclCommInitRank", || {
        if !(0..size).contains(&rank) {
            return Err(violation(INVALID, &format!("rank {rank} of {size}")));
        }
        let (context, device) = {
            let state = state();
            let context = state.context()?;
            (context, state.contexts[&context].1)
        };
        let introduction = Introduction {
            rank: rank as u32,
            size: size as u32,
            process: std::process::id(),
            device: device as u32,
        };
        // The state is not locked meanwhile: other ranks may be threads of this process.
        let bytes = identification.internal.map(|byte| byte.to_ne_bytes()[0]);
        let Some(connection) = hub::come(bytes, introduction) else {
            let message = format!("rank {rank} of {size} on device {device} is not taken");
            return Err(violation(INVALID, &message));
        };
        let new = Communicator::new(context, [rank as usize, size as usize], connection);
        let mut state = state();
        let number = state.handle();
        state.communicators.insert(number, Arc::new(new));
        // SAFETY: the caller's promise.
        unsafe { give(communicator, handle(number)) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclCommDestroy(communicator: ncclComm_t) -> ncclResult_t {
    call("ncclCommDestroy", || {
        let mut state = state();
        let number = communicator as usize;
        let known = known(&state.communicators, number, "communicator")?;
        if Arc::strong_count(known) > 1 {
            return Err(violation(INVALID, "a communicator is destroyed while queued work uses it"));
        }
        state.communicators.remove(&number);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclCommGetAsyncError(
    communicator: ncclComm_t,
    error: *mut ncclResult_t,
) -> ncclResult_t {
    call("ncclCommGetAsyncError", || {
        known(&state().communicators, communicator as usize, "communicator")?;
        // SAFETY: the caller's promise.
        unsafe { give(error, ncclResult_t::ncclSuccess) }
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclGroupStart() -> ncclResult_t {
    GROUP.with_borrow_mut(|group| group.depth += 1);
    ncclResult_t::ncclSuccess
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclGroupEnd() -> ncclResult_t {
    call("ncclGroupEnd", || {
        let operations = GROUP.with_borrow_mut(|group| match group.depth {
            0 => Err(violation(INVALID, "the end of a group that was not begun")),
            1 => {
                group.depth = 0;
                Ok(std::mem::take(&mut group.operations))
            }
            _ => {
                group.depth -= 1;
                Ok(Vec::new())
            }
        })?;
        operations.into_iter().try_for_each(|(stream, communicator, operation)| {
            queue(&stream, [Work::Collective { communicator, operation }])
        })
    })
}

/// An operation as its call names it.
struct Call {
    header: Header,
    send: u64,
    receive: u64,
    communicator: ncclComm_t,
    stream: cudaStream_t,
}

impl Call {
    /// Queues it, at the end of a group that is open.
    fn queue(self) -> Outcome {
        let Header { kind, element, root, .. } = self.header;
        let state = state();
        let communicator = known(&state.communicators, self.communicator as usize, "communicator")?.clone();
        let stream = state.stream(self.stream as usize)?;
        if stream.context != communicator.context {
            return Err(violation(INVALID, "a stream of another device than the communicator's"));
        }
        if root >= communicator.size {
            return Err(violation(INVALID, &format!("the root {root} of {} ranks", communicator.size)));
        }
        let (sent, received) = communicator.bytes(&self.header);
        // In place where the part that is received, or sent, is where it belongs in the whole.
        let own = communicator.rank * self.header.count * element.bytes();
        let in_place = match kind {
            Kind::ReduceScatter => self.receive == self.send + own as u64,
            Kind::AllGather => self.send == self.receive + own as u64,
            _ => self.send == self.receive,
        };
        let meet = self.send < self.receive + received as u64 && self.receive < self.send + sent as u64;
        if meet && !in_place {
            return Err(violation(INVALID, &format!("{kind:?} from and to memory that overlaps")));
        }
        let what = format!("{kind:?}");
        let place = |address, bytes| state.memory.device_place(address, bytes, stream.context, &what);
        let (send, receive) = (place(self.send, sent)?, place(self.receive, received)?);
        drop(state);
        let operation = Operation { header: self.header, send, receive };
        if is_group_open() {
            GROUP.with_borrow_mut(|group| group.operations.push((stream, communicator, operation)));
            return Ok(());
        }
        queue(&stream, [Work::Collective { communicator, operation }])
    }
}

fn element(number: ncclDataType_t) -> Outcome<Element> {
    match number {
        ncclDataType_t::ncclUint8 => Ok(Element::Byte),
        ncclDataType_t::ncclFloat32 => Ok(Element::F32),
        ncclDataType_t::ncclFloat64 => Ok(Element::F64),
        other => Err(violation(INVALID, &format!("elements that are not known here: {other:?}"))),
    }
}

/// Only sums are known here, of numbers.
fn number(number: ncclDataType_t, operation: ncclRedOp_t) -> Outcome<Element> {
    match (element(number)?, operation) {
        (element @ (Element::F32 | Element::F64), ncclRedOp_t::ncclSum) => Ok(element),
        (element, other) => Err(violation(INVALID, &format!("{other:?} of {element:?}"))),
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclReduce(
    send: *const c_void,
    receive: *mut c_void,
    count: usize,
    data_type: ncclDataType_t,
    operation: ncclRedOp_t,
    root: c_int,
    communicator: ncclComm_t,
    stream: cudaStream_t,
) -> ncclResult_t {
    call("ncclReduce", || {
        let header =
            Header { kind: Kind::Reduce, element: number(data_type, operation)?, count, root: root as usize };
        Call { header, send: send as u64, receive: receive as u64, communicator, stream }.queue()
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclReduceScatter(
    send: *const c_void,
    receive: *mut c_void,
    count: usize,
    data_type: ncclDataType_t,
    operation: ncclRedOp_t,
    communicator: ncclComm_t,
    stream: cudaStream_t,
) -> ncclResult_t {
    call("ncclReduceScatter", || {
        let element = number(data_type, operation)?;
        let header = Header { kind: Kind::ReduceScatter, element, count, root: 0 };
        Call { header, send: send as u64, receive: receive as u64, communicator, stream }.queue()
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclAllReduce(
    send: *const c_void,
    receive: *mut c_void,
    count: usize,
    data_type: ncclDataType_t,
    operation: ncclRedOp_t,
    communicator: ncclComm_t,
    stream: cudaStream_t,
) -> ncclResult_t {
    call("ncclAllReduce", || {
        let element = number(data_type, operation)?;
        let header = Header { kind: Kind::AllReduce, element, count, root: 0 };
        Call { header, send: send as u64, receive: receive as u64, communicator, stream }.queue()
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclBroadcast(
    send: *const c_void,
    receive: *mut c_void,
    count: usize,
    data_type: ncclDataType_t,
    root: c_int,
    communicator: ncclComm_t,
    stream: cudaStream_t,
) -> ncclResult_t {
    call("ncclBroadcast", || {
        let header =
            Header { kind: Kind::Broadcast, element: element(data_type)?, count, root: root as usize };
        Call { header, send: send as u64, receive: receive as u64, communicator, stream }.queue()
    })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn ncclAllGather(
    send: *const c_void,
    receive: *mut c_void,
    count: usize,
    data_type: ncclDataType_t,
    communicator: ncclComm_t,
    stream: cudaStream_t,
) -> ncclResult_t {
    call("ncclAllGather", || {
        let header = Header { kind: Kind::AllGather, element: element(data_type)?, count, root: 0 };
        Call { header, send: send as u64, receive: receive as u64, communicator, stream }.queue()
    })
}
