//! A stand-in for CUDA's driver library. **Not hardware**, and no proof that hardware does the same: it lets
//! the engine's real path to a GPU (cudarc, loading of PTX, memory, streams, events, graphs) run in tests on
//! machines that have none.
//!
//! It has the driver's functions that the engine calls. A launch is checked and then runs in the SIMT emulator,
//! with the arguments that came as raw pointers: the source of the kernel of that name in `cpift-kernels`, the PTX
//! that was loaded, or both, one after the other, whose results must be the same bits ([`execute::Runs`]). What it
//! is strict about, each a line that starts with `violation:` in the log (see [`settings`]):
//!
//! - calls without a current context, with handles that are not there or belong to another context;
//! - device addresses that nobody allocated, that were freed, or ranges that leave an allocation. Addresses
//!   cannot be used by the host: reading one there ends the process;
//! - PTX newer than the driver or the device, with an instruction that is not known here, entries that the PTX does not have, parameters in the PTX other
//!   than the kernel's, blocks other than `.reqntid`, shared memory over what the function was allowed or
//!   the device has, more registers than there are, grids over the limits;
//! - work of two streams on the same bytes, one of which writes, that neither an event nor a wait of the host orders
//!   ([`order`]); a kernel's buffer counts by its first element, since a driver is not told how long it is;
//! - operations of NCCL (the library is both) that the ranks do not make alike, from or to memory that is not there or
//!   overlaps; groups that are not ended;
//! - asynchronous copies from or to memory that is not pinned, pinned memory given back while a copy uses it;
//! - whatever is still there when the context is given back.
//!
//! Nothing asynchronous happens before somebody waits for it, so that a missing wait, or host memory changed too
//! early, gives wrong results every time. Fresh and freed memory is full of ones: NaN, and indices out of range.
//! A launch that fails is reported by the next wait and by every call after it, as on hardware.
//!
//! What it cannot show: that the machine code made from PTX does what that says; how far approximations are off, which
//! are the host's; anything about time; the driver's real limits where they are undocumented.

mod api;
mod collective;
pub mod execute;
mod graph;
mod launch;
mod memory;
mod order;
mod ptx;
pub mod settings;
mod state;
mod stream;

pub use ptx::{Entry, Module, Program};
