//! GPU kernels written in Rust. One source is compiled twice:
//!
//! - by rustc for `nvptx64-nvidia-cuda` to the PTX in `kernels/ptx/` (`cargo ptx`, committed), which a
//!   CUDA driver runs;
//! - for the host, where the [`emulator`] runs every CUDA thread as a coroutine and checks what hardware
//!   does not: bounds, alignment, races, divergence, memory read before it was written. That is in builds with the
//!   feature `emulator`. In others kernels' bodies are not compiled, and what they call is checked by the compiler
//!   alone.
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
// Without the emulator hosts have no bodies of kernels, and nothing uses what those are written with.
#![cfg_attr(
    not(any(target_arch = "nvptx64", feature = "emulator")),
    allow(dead_code, unused_imports, unused_macros)
)]
// Of most kernels, that build has no more than what they are written with.
#![cfg_attr(target_feature = "sm_90a", allow(unused_imports, unused_macros))]

#[macro_use]
mod macros;
pub mod simt;
mod values;

#[cfg(not(target_arch = "nvptx64"))]
pub mod dispatch;
#[cfg(not(target_arch = "nvptx64"))]
pub mod emulator;
#[cfg(not(target_arch = "nvptx64"))]
mod fault;
#[cfg(not(target_arch = "nvptx64"))]
pub mod launch;
#[cfg(not(target_arch = "nvptx64"))]
pub mod modules;
#[cfg(not(target_arch = "nvptx64"))]
pub mod tensor_map;

pub mod adamw;
pub mod attention;
pub mod causal_conv1d;
pub mod chunks;
pub mod cross_entropy;
pub mod dither;
pub mod elementwise;
pub mod embedding;
pub mod gated_delta_rule;
pub mod gated_mlp;
pub mod gemm;
// Their instructions are for one architecture, which the compiler knows by.
#[cfg(any(not(target_arch = "nvptx64"), target_feature = "sm_90a"))]
pub mod attention_hopper;
#[cfg(any(not(target_arch = "nvptx64"), target_feature = "sm_90a"))]
pub mod gemm_hopper;
pub mod norm;
pub mod output_gate;
#[cfg(any(not(target_arch = "nvptx64"), target_feature = "sm_90a"))]
mod pipeline;
pub mod rms_norm;
pub mod rope;
pub mod scale;
pub mod select;
pub mod slerp;
pub mod softcap;
pub mod stochastic;
pub mod transplant;

/// A kernel as [`kernel!`] registers it, with the module that it is written in.
#[cfg(not(target_arch = "nvptx64"))]
#[doc(hidden)]
#[derive(Debug)]
pub struct Registered {
    pub module: &'static str,
    pub kernel: launch::Kernel,
}

#[cfg(not(target_arch = "nvptx64"))]
inventory::collect!(Registered);

#[cfg(not(target_arch = "nvptx64"))]
#[doc(hidden)]
pub use inventory;

/// A family and its kernels.
#[cfg(not(target_arch = "nvptx64"))]
pub type Family = (&'static str, &'static [launch::Kernel]);

/// All families and their kernels, by name: what PTX modules are made of. Kernels that other crates define, as tests
/// do, are not among them.
#[cfg(not(target_arch = "nvptx64"))]
pub fn families() -> &'static [Family] {
    static FAMILIES: std::sync::LazyLock<Vec<Family>> = std::sync::LazyLock::new(|| {
        let mut families = std::collections::BTreeMap::<_, Vec<_>>::new();
        let own = |registered: &&Registered| {
            registered.module.split("::").next() == module_path!().split("::").next()
        };
        for Registered { kernel, .. } in inventory::iter::<Registered>.into_iter().filter(own) {
            families.entry(kernel.family).or_default().push(*kernel);
        }
        let sorted = |(family, mut kernels): (_, Vec<launch::Kernel>)| {
            kernels.sort_unstable_by_key(|kernel| kernel.name);
            (family, &*kernels.leak())
        };
        families.into_iter().map(sorted).collect()
    });
    &FAMILIES
}

/// The kernels of a family; none where there is no such family.
#[cfg(not(target_arch = "nvptx64"))]
pub fn family(name: &str) -> &'static [launch::Kernel] {
    families().iter().find(|(family, _)| *family == name).map_or(&[], |&(_, kernels)| kernels)
}
