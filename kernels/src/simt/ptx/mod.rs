//! The device API on a GPU: what rustc and LLVM make PTX instructions of.
//!
//! Two rules, both learnt from PTX that was wrong:
//!
//! - What all lanes or threads must reach together (barriers, shuffles, votes) is an `llvm.nvvm` intrinsic,
//!   never `asm!`: LLVM knows that the intrinsics are convergent, and would copy asm into both sides of a
//!   branch.
//! - Global memory is reached through the entry's own thin pointers, so that LLVM sees the address space
//!   and writes `ld.global`, not a generic `ld`. `cargo ptx` refuses a kernel where it did not.

#[macro_use]
mod warpgroup;
mod hopper;
mod math;
mod memory;
mod shared;
mod tensor;
mod thread;
mod warp;
mod warpgroup_backward;
mod warpgroup_forward;

pub use hopper::*;
pub use math::*;
pub use memory::*;
pub use shared::*;
pub use tensor::*;
pub use thread::*;
pub use warp::*;
pub use warpgroup::*;
pub use warpgroup_backward::*;
pub use warpgroup_forward::*;
