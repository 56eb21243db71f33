//! The kernels' tests, executed from source and PTX, and tests of that execution itself. A family that is new has
//! its test here too.

#[path = "../../../kernels/tests/adamw.rs"]
mod adamw;
#[path = "../../../kernels/tests/attention.rs"]
mod attention;
#[path = "../../../kernels/tests/attention_hopper.rs"]
mod attention_hopper;
#[path = "../../../kernels/tests/attention_tensor.rs"]
mod attention_tensor;
#[path = "../../../kernels/tests/causal_conv1d.rs"]
mod causal_conv1d;
#[path = "../../../kernels/tests/common/mod.rs"]
mod common;
#[path = "../../../kernels/tests/cross_entropy.rs"]
mod cross_entropy;
#[path = "../../../kernels/tests/elementwise.rs"]
mod elementwise;
#[path = "../../../kernels/tests/embedding.rs"]
mod embedding;
#[path = "../../../kernels/tests/gated_delta_rule.rs"]
mod gated_delta_rule;
#[path = "../../../kernels/tests/gated_mlp.rs"]
mod gated_mlp;
#[path = "../../../kernels/tests/gemm.rs"]
mod gemm;
#[path = "../../../kernels/tests/gemm_hopper.rs"]
mod gemm_hopper;
#[path = "../../../kernels/tests/gemm_split_k.rs"]
mod gemm_split_k;
#[path = "../../../kernels/tests/gemm_tensor.rs"]
mod gemm_tensor;
#[path = "../../../kernels/tests/norm.rs"]
mod norm;
#[path = "../../../kernels/tests/output_gate.rs"]
mod output_gate;
#[path = "../../../kernels/tests/rms_norm.rs"]
mod rms_norm;
#[path = "../../../kernels/tests/rope.rs"]
mod rope;
#[path = "../../../kernels/tests/scale.rs"]
mod scale;
#[path = "../../../kernels/tests/select.rs"]
mod select;
#[path = "../../../kernels/tests/slerp.rs"]
mod slerp;
#[path = "../../../kernels/tests/softcap.rs"]
mod softcap;
#[path = "../../../kernels/tests/transplant.rs"]
mod transplant;

mod coverage;
mod instructions;
mod paths;
mod planted;
mod text;
mod warpgroups;
