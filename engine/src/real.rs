//! The number types that a transformer computes in.

use cpift_kernels::dispatch::attention::AttentionElement;
use cpift_kernels::dispatch::gemm::GemmElement;
use half::bf16;

use crate::cpu::gemm::Factor;
use crate::gpu::OnGpu;

/// A type of activations, of their gradients and of the weights that products read: f32 or bf16, on every device, with the
/// conversions of [`Float`](crate::Float).
///
/// Master weights, moments, gradients of weights and every sum are f32 whatever the type.
pub trait Real: Factor + OnGpu<Kernel: AttentionElement + GemmElement> {}

impl Real for f32 {}
impl Real for bf16 {}
