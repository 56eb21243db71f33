//! GPU kernels written in Rust. One source is compiled twice:
//!
//! - by rustc for `nvptx64-nvidia-cuda` to the PTX in `kernels/ptx/` (`cargo ptx`, committed), which a
//!   CUDA driver runs;
//! - for the host, where the [`emulator`] runs every CUDA thread as a coroutine and checks what hardware
//!   does not: bounds, alignment, races, divergence, memory read before it was written.
//!
//! [`kernel!`] defines a kernel once, for both, with its launch contract. [`simt`] is the device API the
//! bodies are written in. Each family of kernels is a module here and a PTX module there.

#![cfg_attr(target_arch = "nvptx64", no_std)]
#![cfg_attr(
    target_arch = "nvptx64",
    feature(
        abi_ptx,
        abi_unadjusted,
        asm_experimental_arch,
        core_float_math,
        link_llvm_intrinsics,
        portable_simd
    )
)]
// There, contracts are not compiled, nor the constants that only they use; intrinsics are internal.
#![cfg_attr(target_arch = "nvptx64", allow(dead_code, internal_features))]
// Of most kernels, that build has no more than what they are written with.
#![cfg_attr(target_feature = "sm_90a", allow(unused_imports, unused_macros))]

#[macro_use]
mod macros;
pub mod simt;

#[cfg(not(target_arch = "nvptx64"))]
pub mod emulator;
#[cfg(not(target_arch = "nvptx64"))]
pub mod launch;
#[cfg(not(target_arch = "nvptx64"))]
pub mod modules;
#[cfg(not(target_arch = "nvptx64"))]
pub mod tiled;

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod elementwise;
pub mod embedding;
pub mod gated_mlp;
pub mod gemm;
// Their instructions are for one architecture, which the compiler knows by.
#[cfg(any(not(target_arch = "nvptx64"), target_feature = "sm_90a"))]
pub mod attention_hopper;
#[cfg(any(not(target_arch = "nvptx64"), target_feature = "sm_90a"))]
pub mod gemm_hopper;
pub mod mask;
pub mod norm;
#[cfg(any(not(target_arch = "nvptx64"), target_feature = "sm_90a"))]
mod ring;
pub mod rms_norm;
pub mod rope;
pub mod select;
pub mod slerp;
pub mod transplant;

/// All families and their kernels, by name: what PTX modules are made of.
#[cfg(not(target_arch = "nvptx64"))]
pub fn families() -> &'static [(&'static str, &'static [launch::Kernel])] {
    &[
        ("adamw", adamw::KERNELS),
        ("attention", attention::KERNELS),
        ("attention_hopper", attention_hopper::KERNELS),
        ("cross_entropy", cross_entropy::KERNELS),
        ("elementwise", elementwise::KERNELS),
        ("embedding", embedding::KERNELS),
        ("gated_mlp", gated_mlp::KERNELS),
        ("gemm", gemm::KERNELS),
        ("gemm_hopper", gemm_hopper::KERNELS),
        ("mask", mask::KERNELS),
        ("norm", norm::KERNELS),
        ("rms_norm", rms_norm::KERNELS),
        ("rope", rope::KERNELS),
        ("select", select::KERNELS),
        ("slerp", slerp::KERNELS),
        ("transplant", transplant::KERNELS),
    ]
}
