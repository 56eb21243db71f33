//! Operations against f64 oracles, on every device.

mod adamw;
mod attention;
mod causal_conv1d;
mod cross_entropy;
mod embedding;
mod gated_delta_rule;
mod gated_mlp;
mod gradients;
mod linear;
mod mask;
mod merge;
mod output_gate;
mod rms_norm;
mod rope;
mod round;
mod scale;
mod select;
mod slerp;
mod split;
mod traffic;
