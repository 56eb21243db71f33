//! What the CPU implementations of the operations share.
//!
//! Conventions that keep results identical from run to run: work is split into chunks whose size
//! does not depend on timing, every output element is written by one chunk, and sums over chunks are
//! collected in order and added sequentially. Rayon's own `sum`/`reduce` on floats is not used.

pub mod simd;
