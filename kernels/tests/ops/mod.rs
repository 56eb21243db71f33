//! Kernels against f64 oracles. They run twice: on the emulator (`kernels/tests/main.rs`), and there from source and
//! from their PTX too (`tests/ptx/tests/main.rs`).

mod adamw;
mod attention;
mod attention_hopper;
mod attention_tensor;
mod causal_conv1d;
mod cross_entropy;
mod elementwise;
mod embedding;
mod gated_delta_rule;
mod gated_mlp;
mod gemm;
mod gemm_hopper;
mod gemm_split_k;
mod gemm_tensor;
mod norm;
mod output_gate;
mod rms_norm;
mod rope;
mod scale;
mod select;
mod slerp;
mod softcap;
mod transplant;
