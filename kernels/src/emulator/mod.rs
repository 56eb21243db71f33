//! Runs kernels without a GPU and finds their faults: a test instrument, and what the device API means.
//!
//! Every CUDA thread is a coroutine. A barrier or warp operation suspends it; when all threads of a block,
//! or all lanes of a warp, wait at the same point, they go on. Found, and named with kernel, block and
//! threads:
//!
//! - global accesses outside of the buffers passed, and misaligned vector accesses;
//! - shared memory out of bounds, read before it was written, or raced for ([`shared`]);
//! - threads that diverge around a barrier or a warp operation, and so would hang or worse;
//! - copies and products that run beside the threads ([`async_proxy`]) and were not waited for, mbarriers
//!   that are misused or never passed.
//!
//! Kernels run block after block on the calling thread. That their result does not depend on the order is
//! for tests to show, by running them in every `Schedule`.
//!
//! What runs threads is compiled with the feature `emulator` alone; what the device API is written with always is.

pub(crate) mod async_proxy;
#[doc(hidden)]
pub mod instructions;
mod mbarrier;
mod rules;
pub(crate) mod shared;
mod tensor_cores;
pub(crate) mod thread;
pub(crate) mod traffic;

#[cfg(feature = "emulator")]
mod block;
#[cfg(feature = "emulator")]
mod completion;
#[cfg(feature = "emulator")]
mod launcher;
#[cfg(feature = "emulator")]
mod schedule;

#[cfg(feature = "emulator")]
pub use launcher::{Emulator, SHARED_MEMORY_LIMIT};
#[doc(hidden)]
pub use rules::{Mutation, Rules};
#[cfg(feature = "emulator")]
pub use schedule::Schedule;
pub use traffic::{Traffic, TrafficLog};

pub use crate::fault::{Cause, Fault, Threads};
