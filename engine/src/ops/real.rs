//! The number types that a transformer computes in.

use half::bf16;

use super::{
    attention, causal_conv1d, cross_entropy, embedding, gated_delta_rule, gated_mlp, linear, output_gate,
    rms_norm, rope, scale,
};
use crate::number::Number;

/// A type that all operations of a transformer take: f32 or bf16, on every device.
///
/// Master weights, gradients of weights and every sum are f32 whatever the type.
pub trait Real:
    Number
    + attention::OnCpu
    + causal_conv1d::OnCpu
    + cross_entropy::OnCpu
    + embedding::OnCpu
    + gated_delta_rule::OnCpu
    + gated_mlp::OnCpu
    + linear::OnCpu
    + output_gate::OnCpu
    + rms_norm::OnCpu
    + rope::OnCpu
    + scale::OnCpu
{
}

impl Real for f32 {}
impl Real for bf16 {}
