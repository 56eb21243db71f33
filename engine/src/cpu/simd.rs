//! Run-time choice of vector instructions.
//!
//! Loops are written plainly, over fixed-size chunks or arrays of lanes, and compiled several times;
//! [`vectorize`] runs the widest version the processor has. So one binary is fast everywhere.

/// Runs `work` compiled for the widest vector instructions of this processor. Only what is inlined
/// into `work` is: mark helpers called in it `#[inline(always)]`.
#[inline(always)]
pub fn vectorize<R>(work: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(work)
}

/// The vector instructions in use, for a person.
pub fn description() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            return "AVX-512";
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            return "AVX2";
        }
        "SSE2"
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        "baseline vectors"
    }
}
