//! Launchers that choose among kernels of one operation: by the device, the sizes, and how operands lie in memory.

pub mod attention;
pub mod attention_hopper;
pub mod gemm;
pub mod gemm_hopper;
