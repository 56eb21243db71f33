//! Kernels on the emulator, against f64 oracles; the emulator itself.

mod common;

mod adamw;
mod attention;
mod attention_hopper;
mod attention_tensor;
mod causal_conv1d;
mod cross_entropy;
mod elementwise;
mod embedding;
mod emulator;
mod gated_delta_rule;
mod gated_mlp;
mod gemm;
mod gemm_hopper;
mod gemm_split_k;
mod gemm_tensor;
mod hopper;
mod norm;
mod output_gate;
mod rms_norm;
mod rope;
mod scale;
mod select;
mod slerp;
mod softcap;
mod tensor;
mod transplant;
