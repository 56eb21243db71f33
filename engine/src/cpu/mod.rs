//! What the CPU implementations of the operations share.
//!
//! Conventions that keep results identical from run to run: work is split into chunks whose size
//! does not depend on timing, every output element is written by one chunk, and sums over chunks are
//! collected in order and added sequentially. Rayon's own `sum`/`reduce` on floats is not used.

mod cache;
pub mod convert;
mod device;
pub mod gemm;
pub mod math;
pub mod parallel;
pub(crate) mod pieces;
pub mod simd;
pub mod tile;

pub(crate) use cache::cache_bytes;
pub use device::CpuDevice;

/// The instructions in use, for a person: on what depends which bits a result has.
pub(crate) fn description() -> String {
    let bf16 = match gemm::bf16_path() {
        gemm::Bf16Path::Widened => String::new(),
        path => format!(", {} for bf16", path.name()),
    };
    let refusal = gemm::amx_refusal().map_or_else(String::new, |reason| format!(", without AMX: {reason}"));
    format!("{}{bf16}{refusal}", simd::description())
}

/// Rows of `width` elements that make one chunk of elementwise work: about 64 KiB, whatever the machine.
pub(crate) fn rows_per_chunk(width: usize) -> usize {
    (16 * 1024 / width.max(1)).max(1)
}
