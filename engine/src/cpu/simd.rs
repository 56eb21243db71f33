//! Run-time choice of vector instructions.
//!
//! Loops are written plainly, over fixed-size chunks or arrays of lanes, and compiled several times;
//! [`vectorize!`](vectorize) runs the widest version the processor has. So one binary is fast everywhere.

/// `vectorize!(|| work)` runs `work` compiled for the widest vector instructions of this processor.
/// Only what is inlined into it is: mark helpers called in it `#[inline(always)]`.
///
/// A macro, because each instruction set needs a closure of its own, marked to be inlined into its only
/// caller: inlining is what hands the caller's instructions on.
macro_rules! vectorize {
    (|| $work:expr) => {
        match $crate::cpu::simd::Level::detect() {
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::simd::Level::Avx512(avx512) => avx512.run(
                #[inline(always)]
                || $work,
            ),
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::simd::Level::Avx2(avx2) => avx2.run(
                #[inline(always)]
                || $work,
            ),
            $crate::cpu::simd::Level::Baseline => $crate::cpu::simd::run_baseline(|| $work),
        }
    };
}
pub(crate) use vectorize;

/// The vector instructions a loop is compiled for.
#[derive(Debug, Clone, Copy)]
pub enum Level {
    /// AVX-512 with 512-bit registers.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    /// AVX2 and fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// What every processor of the architecture has.
    Baseline,
}

impl Level {
    /// The widest of this processor. The standard library remembers what it detected.
    #[inline(always)]
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("bmi1") && has!("bmi2") && has!("lzcnt") && has!("popcnt")
            {
                if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                    return Self::Avx512(Avx512(()));
                }
                return Self::Avx2(Avx2(()));
            }
        }
        Self::Baseline
    }
}

/// Proof that the processor has AVX-512; only [`Level::detect`] makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx512(());

/// Proof that the processor has AVX2 and FMA; only [`Level::detect`] makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

#[cfg(target_arch = "x86_64")]
impl Avx512 {
    /// Runs `work` compiled with AVX-512 where it is inlined.
    #[inline(always)]
    pub fn run<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        #[inline]
        fn with_features<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: `self` exists only where the processor has these features.
        unsafe { with_features(work) }
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2 {
    /// Runs `work` compiled with AVX2 and FMA where it is inlined.
    #[inline(always)]
    pub fn run<R>(self, work: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma,bmi1,bmi2,lzcnt,popcnt")]
        #[inline]
        fn with_features<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        // SAFETY: `self` exists only where the processor has these features.
        unsafe { with_features(work) }
    }
}

/// Runs `work` as compiled for every processor: apart, so that it does not burden the caller.
#[cold]
#[inline(never)]
pub fn run_baseline<R>(work: impl FnOnce() -> R) -> R {
    work()
}

/// The vector instructions in use, for a person.
pub fn description() -> &'static str {
    match Level::detect() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) => "AVX-512",
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => "AVX2",
        Level::Baseline => "baseline vectors",
    }
}
