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
            $crate::cpu::simd::Level::Avx512(avx512) => $crate::cpu::simd::Instructions::run(
                avx512,
                #[inline(always)]
                || $work,
            ),
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::simd::Level::Avx2(avx2) => $crate::cpu::simd::Instructions::run(
                avx2,
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

/// Proof that the processor has AVX-512 with dot products of bf16; only [`Avx512Bf16::detect`] makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx512Bf16(());

#[cfg(target_arch = "x86_64")]
impl Avx512Bf16 {
    /// None where the processor lacks any of it.
    pub fn detect() -> Option<Self> {
        let wide = matches!(Level::detect(), Level::Avx512(_));
        (wide && std::is_x86_feature_detected!("avx512bf16")).then_some(Self(()))
    }
}

/// Proof that the processor has AVX2 and FMA; only [`Level::detect`] makes one.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub struct Avx2(());

/// What code that is written once for all instruction sets needs of the one it is compiled for.
pub trait Instructions: Copy + Send + Sync {
    /// Runs `work` compiled with these instructions where it is inlined.
    fn run<R>(self, work: impl FnOnce() -> R) -> R;

    /// The same as a function of its own, for an inner loop whose registers should not be shared with
    /// what is around the call.
    fn call<R>(self, work: impl FnOnce() -> R) -> R;

    /// a·b + c, rounded once where an instruction does that.
    fn multiply_add(self, a: f32, b: f32, c: f32) -> f32;

    /// The block with rows and columns exchanged.
    fn transpose(self, block: [[f32; 8]; 8]) -> [[f32; 8]; 8];
}

/// [`Instructions`] of a proof that the processor has these features, AVX among them.
#[cfg(target_arch = "x86_64")]
macro_rules! instructions {
    ($proof:ty, $features:literal) => {
        impl Instructions for $proof {
            #[inline(always)]
            fn run<R>(self, work: impl FnOnce() -> R) -> R {
                #[target_feature(enable = $features)]
                #[inline]
                fn with_features<R>(work: impl FnOnce() -> R) -> R {
                    work()
                }
                // SAFETY: `self` exists only where the processor has these features.
                unsafe { with_features(work) }
            }

            #[inline(always)]
            fn call<R>(self, work: impl FnOnce() -> R) -> R {
                #[target_feature(enable = $features)]
                #[inline(never)]
                fn with_features<R>(work: impl FnOnce() -> R) -> R {
                    work()
                }
                // SAFETY: `self` exists only where the processor has these features.
                unsafe { with_features(work) }
            }

            #[inline(always)]
            fn multiply_add(self, a: f32, b: f32, c: f32) -> f32 {
                a.mul_add(b, c)
            }

            #[inline(always)]
            fn transpose(self, block: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
                // SAFETY: `self` exists only where the processor has AVX.
                unsafe { transpose_avx(block) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
instructions!(Avx512Bf16, "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt");
#[cfg(target_arch = "x86_64")]
instructions!(Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,lzcnt,popcnt");
#[cfg(target_arch = "x86_64")]
instructions!(Avx2, "avx2,fma,bmi1,bmi2,lzcnt,popcnt");

/// What every processor of the architecture has.
#[derive(Debug, Clone, Copy)]
pub struct Baseline;

impl Instructions for Baseline {
    fn run<R>(self, work: impl FnOnce() -> R) -> R {
        run_baseline(work)
    }

    fn call<R>(self, work: impl FnOnce() -> R) -> R {
        run_baseline(work)
    }

    #[inline(always)]
    fn multiply_add(self, a: f32, b: f32, c: f32) -> f32 {
        // Without the instruction, rounding once would be a call of a library function.
        if cfg!(target_arch = "x86_64") { a * b + c } else { a.mul_add(b, c) }
    }

    #[inline(always)]
    fn transpose(self, block: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
        std::array::from_fn(|row| std::array::from_fn(|column| block[column][row]))
    }
}

/// Asks for the cache line at `address`, which need not be valid: a hint, where the architecture has one.
#[inline(always)]
pub fn prefetch<T>(address: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing and does not fault, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Transposes by shuffles within registers: pairs of rows, then of pairs, then of their halves. Written
/// plainly it compiles to a load and a store of every element, which takes 3 to 5 times as long.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
#[inline]
fn transpose_avx(block: [[f32; 8]; 8]) -> [[f32; 8]; 8] {
    use std::arch::x86_64::*;
    let mut rows = [_mm256_setzero_ps(); 8];
    for (row, values) in rows.iter_mut().zip(block) {
        *row = bytemuck::cast(values);
    }
    // In both halves of a register: rows 0 to 3 (or 4 to 7) of two columns, then of one.
    let pairs = |first: usize| {
        let [a, b, c, d] = [rows[first], rows[first + 1], rows[first + 2], rows[first + 3]];
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
            _mm256_shuffle_ps::<0xee>(ab_low, cd_low),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ]
    };
    let (top, bottom) = (pairs(0), pairs(4));
    let mut columns = [[0.0; 8]; 8];
    for i in 0..4 {
        columns[i] = bytemuck::cast(_mm256_permute2f128_ps::<0x20>(top[i], bottom[i]));
        columns[i + 4] = bytemuck::cast(_mm256_permute2f128_ps::<0x31>(top[i], bottom[i]));
    }
    columns
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_transposes_alike() {
        let block: [[f32; 8]; 8] =
            std::array::from_fn(|row| std::array::from_fn(|column| (8 * row + column) as f32));
        let expected = std::array::from_fn(|row| std::array::from_fn(|column| (8 * column + row) as f32));
        assert_eq!(Baseline.transpose(block), expected);
        match Level::detect() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(avx512) => assert_eq!(avx512.transpose(block), expected),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(avx2) => assert_eq!(avx2.transpose(block), expected),
            Level::Baseline => {}
        }
    }
}
