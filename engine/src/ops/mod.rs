//! Operations: one folder each, `mod.rs` with the contract and the checks, `cpu.rs` with the code.

pub mod accumulate;
pub mod adamw;
pub mod attention;
pub mod causal_conv1d;
pub mod cross_entropy;
pub mod embedding;
pub mod gated_delta_rule;
pub mod gated_mlp;
pub mod gradients;
pub mod linear;
pub mod merge;
pub mod norm;
pub mod output_gate;
mod real;
pub mod rms_norm;
pub mod rope;
pub mod round;
pub mod scale;
pub mod select;
pub mod slerp;
pub mod softcap;
pub mod split;
pub mod streams;
pub mod subtract;
pub mod transplant;
pub mod work;

pub use real::Real;
