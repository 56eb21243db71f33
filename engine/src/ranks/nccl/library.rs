//! NCCL, which is loaded at run time. Types are `cudarc`'s; the library is looked for here, since `cudarc` does not know the
//! name that it is installed under where its headers are not, `libnccl.so.2`.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use cudarc::driver::result::ctx;
use cudarc::nccl::sys::{cudaStream_t, ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclResult_t, ncclUniqueId};

use crate::gpu::Stream;

/// Names that the library has, the first found is taken.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// 2.4, as the library then numbered itself: the first with `ncclCommGetAsyncError`.
const OLDEST: c_int = 2_400;

/// The result of a call, as a number: newer libraries have more than `ncclResult_t` knows.
type Status = c_int;

/// The functions called here, by the names and with the types that NCCL gives them.
macro_rules! functions {
    ($($field:ident = $name:literal: fn($($parameter:ty),*);)*) => {
        struct Functions {
            $($field: unsafe extern "C" fn($($parameter),*) -> Status,)*
        }

        impl Functions {
            /// # Safety
            /// The library is NCCL.
            unsafe fn of(library: &libloading::Library) -> Result<Self, String> {
                $(
                    // SAFETY: the type is that of this function in NCCL, by the caller's promise.
                    let $field = *unsafe { library.get($name) }
                        .map_err(|_| format!("its library has no function {}", $name))?;
                )*
                Ok(Self { $($field,)* })
            }
        }
    };
}

functions! {
    all_gather = "ncclAllGather":
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, cudaStream_t);
    all_reduce = "ncclAllReduce":
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, ncclComm_t, cudaStream_t);
    broadcast = "ncclBroadcast":
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, c_int, ncclComm_t, cudaStream_t);
    destroy = "ncclCommDestroy": fn(ncclComm_t);
    async_error = "ncclCommGetAsyncError": fn(ncclComm_t, *mut Status);
    init_rank = "ncclCommInitRank": fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int);
    unique_id = "ncclGetUniqueId": fn(*mut ncclUniqueId);
    version = "ncclGetVersion": fn(*mut c_int);
    group_end = "ncclGroupEnd": fn();
    group_start = "ncclGroupStart": fn();
    reduce = "ncclReduce":
        fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclRedOp_t, c_int, ncclComm_t, cudaStream_t);
}

/// The library, once it was found.
pub struct Library {
    functions: Functions,
    /// As `2.26.2`.
    version: String,
    /// Its functions are there as long as it is.
    _library: libloading::Library,
}

impl Library {
    /// The library.
    ///
    /// # Errors
    /// In words, for people, where there is none that can be used.
    pub fn get() -> Result<&'static Self, String> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        LIBRARY.get_or_init(Self::load).as_ref().map_err(Clone::clone)
    }

    fn load() -> Result<Self, String> {
        // SAFETY: loads the library, which runs nothing of it but its own initialisation.
        let found = NAMES.iter().find_map(|name| unsafe { libloading::Library::new(*name) }.ok());
        let library = found.ok_or_else(|| format!("its library was not found: {}", NAMES.join(", ")))?;
        // SAFETY: a library of this name is NCCL.
        let functions = unsafe { Functions::of(&library) }?;
        let mut version = 0;
        // SAFETY: the number is written to.
        check_status(unsafe { (functions.version)(&mut version) })?;
        if version < OLDEST {
            return Err(format!("its library is {}, needed is 2.4 or newer", written(version)));
        }
        Ok(Self { functions, version: written(version), _library: library })
    }

    /// As `2.26.2`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// A new identification.
    ///
    /// # Errors
    /// What the library says.
    pub fn identify(&self) -> Result<UniqueId, String> {
        let mut identification = ncclUniqueId { internal: [0; 128] };
        // SAFETY: it is written to.
        check_status(unsafe { (self.functions.unique_id)(&mut identification) })?;
        Ok(identification.internal.map(|byte| byte.to_ne_bytes()[0]))
    }
}

/// Something is still under way, which is no error.
const IN_PROGRESS: Status = ncclResult_t::ncclInProgress as Status;

/// What ranks find each other by; the first rank makes it.
pub type UniqueId = [u8; 128];

/// A version as the library numbers it, as people know it: 2406 is 2.4.6, and 22602 is 2.26.2.
fn written(version: c_int) -> String {
    let major = if version < 10_000 { 1_000 } else { 10_000 };
    format!("{}.{}.{}", version / major, version % major / 100, version % 100)
}

fn check_status(status: Status) -> Result<(), String> {
    const SUCCESS: Status = ncclResult_t::ncclSuccess as Status;
    const CUDA: Status = ncclResult_t::ncclUnhandledCudaError as Status;
    const SYSTEM: Status = ncclResult_t::ncclSystemError as Status;
    const REMOTE: Status = ncclResult_t::ncclRemoteError as Status;
    const USAGE: Status = ncclResult_t::ncclInvalidUsage as Status;
    let reason = match status {
        SUCCESS => return Ok(()),
        CUDA => "a call of CUDA has failed in NCCL".to_owned(),
        SYSTEM => "a call of the system has failed in NCCL".to_owned(),
        REMOTE => "NCCL has lost another rank".to_owned(),
        USAGE => "NCCL was used in a wrong way, as where two ranks have one GPU".to_owned(),
        other => format!("NCCL says {other}"),
    };
    Err(format!("{reason} (NCCL_DEBUG=INFO has it say more)"))
}

/// A rank's end of what connects the GPUs.
pub struct Communicator {
    library: &'static Library,
    handle: ncclComm_t,
    /// Of the device, which outlives this.
    context: cudarc::driver::sys::CUcontext,
}

// SAFETY: calls that queue work come from one thread at a time (`Nccl` holds a lock); the question for errors may come
// from any thread, as NCCL's documentation says.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

/// Where something is on the device, and how many elements it has.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    /// Of the first byte.
    pub address: u64,
    /// Elements.
    pub count: usize,
}

impl Region {
    fn pointer<T>(self) -> *mut T {
        ptr::without_provenance_mut(self.address as usize)
    }
}

impl Communicator {
    /// Meets the other ranks; returns when all have come.
    ///
    /// # Errors
    /// What driver or library say.
    pub fn meet(
        library: &'static Library,
        identification: UniqueId,
        [rank, size]: [usize; 2],
        stream: Stream,
    ) -> Result<Self, String> {
        enter(stream.context)?;
        let (Ok(rank), Ok(size)) = (c_int::try_from(rank), c_int::try_from(size)) else {
            return Err(format!("NCCL counts ranks in 32 bits: {size}"));
        };
        let identification =
            ncclUniqueId { internal: identification.map(|byte| c_char::from_ne_bytes([byte])) };
        let mut handle = ptr::null_mut();
        // SAFETY: the handle is written to; the device is the one that is current.
        check_status(unsafe { (library.functions.init_rank)(&mut handle, size, identification, rank) })?;
        Ok(Self { library, handle, context: stream.context })
    }

    /// What has gone wrong since without anybody asking.
    ///
    /// # Errors
    /// What it is.
    pub fn check(&self) -> Result<(), String> {
        let mut found = 0;
        // SAFETY: the handle is alive; the result is written to.
        check_status(unsafe { (self.library.functions.async_error)(self.handle, &mut found) })?;
        match found {
            IN_PROGRESS => Ok(()),
            found => check_status(found),
        }
    }

    /// Has what `queue` queues run as one.
    ///
    /// # Errors
    /// What it says, or the library.
    pub fn group(&self, queue: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        enter(self.context)?;
        // SAFETY: the library is there; the group ends below whatever happens in it.
        check_status(unsafe { (self.library.functions.group_start)() })?;
        let queued = queue();
        // SAFETY: begun above, on this thread.
        let ended = check_status(unsafe { (self.library.functions.group_end)() });
        queued.and(ended)
    }

    /// Queues: `region` of rank `root` becomes the sum over all ranks.
    ///
    /// # Errors
    /// What driver or library say.
    ///
    /// # Safety
    /// The region is f32 inside an allocation of the communicator's device, which stays until `stream`, of the same device,
    /// has come behind this, and nothing else reads or writes it meanwhile. So it is on all ranks, with the same count.
    pub unsafe fn reduce(&self, region: Region, root: usize, stream: Stream) -> Result<(), String> {
        enter(self.context)?;
        // SAFETY: the caller's promise; the operation is in place.
        check_status(unsafe {
            (self.library.functions.reduce)(
                region.pointer(),
                region.pointer(),
                region.count,
                ncclDataType_t::ncclFloat32,
                ncclRedOp_t::ncclSum,
                root as c_int,
                self.handle,
                stream.stream.cast(),
            )
        })
    }

    /// Queues: of as many parts as there are ranks, of as many bytes as `own` counts, which begin at `start`, every one
    /// becomes that of its rank; this rank's is `own`.
    ///
    /// # Errors
    /// As [`Communicator::reduce`].
    ///
    /// # Safety
    /// As [`Communicator::reduce`], of all parts, in bytes.
    pub unsafe fn all_gather(&self, start: u64, own: Region, stream: Stream) -> Result<(), String> {
        enter(self.context)?;
        // SAFETY: the caller's promise; the operation is in place.
        check_status(unsafe {
            (self.library.functions.all_gather)(
                own.pointer(),
                ptr::without_provenance_mut(start as usize),
                own.count,
                ncclDataType_t::ncclUint8,
                self.handle,
                stream.stream.cast(),
            )
        })
    }

    /// Queues: `region`, in bytes, becomes that of rank `root`.
    ///
    /// # Errors
    /// As [`Communicator::reduce`].
    ///
    /// # Safety
    /// As [`Communicator::reduce`], in bytes.
    pub unsafe fn broadcast(&self, region: Region, root: usize, stream: Stream) -> Result<(), String> {
        enter(self.context)?;
        // SAFETY: the caller's promise; the operation is in place.
        check_status(unsafe {
            (self.library.functions.broadcast)(
                region.pointer(),
                region.pointer(),
                region.count,
                ncclDataType_t::ncclUint8,
                root as c_int,
                self.handle,
                stream.stream.cast(),
            )
        })
    }

    /// Queues: `region` becomes the sum over all ranks, on each of them.
    ///
    /// # Errors
    /// As [`Communicator::reduce`].
    ///
    /// # Safety
    /// As [`Communicator::reduce`], of f64.
    pub unsafe fn all_reduce(&self, region: Region, stream: Stream) -> Result<(), String> {
        enter(self.context)?;
        // SAFETY: the caller's promise; the operation is in place.
        check_status(unsafe {
            (self.library.functions.all_reduce)(
                region.pointer(),
                region.pointer(),
                region.count,
                ncclDataType_t::ncclFloat64,
                ncclRedOp_t::ncclSum,
                self.handle,
                stream.stream.cast(),
            )
        })
    }
}

impl Drop for Communicator {
    /// What is queued has to have run. The other ranks do the same.
    fn drop(&mut self) {
        if enter(self.context).is_ok() {
            // Nothing can be done about a failure.
            // SAFETY: alive, and used no more.
            let _ = unsafe { (self.library.functions.destroy)(self.handle) };
        }
    }
}

/// Makes a device's context current on this thread.
fn enter(context: cudarc::driver::sys::CUcontext) -> Result<(), String> {
    // SAFETY: a live device's context, by whoever made the stream known.
    unsafe { ctx::set_current(context) }.map_err(|error| format!("the driver says {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_written_as_people_know_them() {
        assert_eq!(written(2_406), "2.4.6");
        assert_eq!(written(22_602), "2.26.2");
    }

    /// Whether it is here or not, asking does not panic.
    #[test]
    fn a_missing_library_is_named() {
        match Library::get() {
            Ok(library) => assert!(library.version().starts_with("2.")),
            Err(reason) => assert_eq!(reason, "its library was not found: libnccl.so.2, libnccl.so"),
        }
    }
}
