// Made by `cargo ptx`: do not edit.

use super::Module;

#[rustfmt::skip]
pub(super) const MODULES: &[Module] = &[
    Module { family: "adamw", architecture: "sm_80", ptx: include_str!("adamw.sm_80.ptx") },
    Module { family: "attention", architecture: "sm_80", ptx: include_str!("attention.sm_80.ptx") },
    Module { family: "attention_hopper", architecture: "sm_90a", ptx: include_str!("attention_hopper.sm_90a.ptx") },
    Module { family: "causal_conv1d", architecture: "sm_80", ptx: include_str!("causal_conv1d.sm_80.ptx") },
    Module { family: "cross_entropy", architecture: "sm_80", ptx: include_str!("cross_entropy.sm_80.ptx") },
    Module { family: "elementwise", architecture: "sm_80", ptx: include_str!("elementwise.sm_80.ptx") },
    Module { family: "embedding", architecture: "sm_80", ptx: include_str!("embedding.sm_80.ptx") },
    Module { family: "gated_delta_rule", architecture: "sm_80", ptx: include_str!("gated_delta_rule.sm_80.ptx") },
    Module { family: "gated_mlp", architecture: "sm_80", ptx: include_str!("gated_mlp.sm_80.ptx") },
    Module { family: "gemm", architecture: "sm_80", ptx: include_str!("gemm.sm_80.ptx") },
    Module { family: "gemm_hopper", architecture: "sm_90a", ptx: include_str!("gemm_hopper.sm_90a.ptx") },
    Module { family: "norm", architecture: "sm_80", ptx: include_str!("norm.sm_80.ptx") },
    Module { family: "output_gate", architecture: "sm_80", ptx: include_str!("output_gate.sm_80.ptx") },
    Module { family: "rms_norm", architecture: "sm_80", ptx: include_str!("rms_norm.sm_80.ptx") },
    Module { family: "rope", architecture: "sm_80", ptx: include_str!("rope.sm_80.ptx") },
    Module { family: "scale", architecture: "sm_80", ptx: include_str!("scale.sm_80.ptx") },
    Module { family: "select", architecture: "sm_80", ptx: include_str!("select.sm_80.ptx") },
    Module { family: "slerp", architecture: "sm_80", ptx: include_str!("slerp.sm_80.ptx") },
    Module { family: "softcap", architecture: "sm_80", ptx: include_str!("softcap.sm_80.ptx") },
    Module { family: "transplant", architecture: "sm_80", ptx: include_str!("transplant.sm_80.ptx") },
];
