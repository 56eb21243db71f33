//! Which instructions multiply bf16 on this processor.

#[cfg(target_arch = "x86_64")]
use super::amx::{Amx, NoAmx};
#[cfg(target_arch = "x86_64")]
use super::tiles::Tiles;
#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::{Avx512, Avx512Bf16, Level};

/// What products of bf16 are computed by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bf16Path {
    /// The tile unit of AMX: about ten times f32's rate.
    Amx,
    /// The dot products of AVX-512: twice f32's rate on Zen 4 and newer, half of it on some others.
    Avx512Bf16,
    /// f32 arithmetic: no faster than f32.
    Widened,
}

impl Bf16Path {
    /// For a person.
    pub fn name(self) -> &'static str {
        match self {
            Self::Amx => "AMX",
            Self::Avx512Bf16 => "AVX-512 BF16",
            Self::Widened => "f32 arithmetic",
        }
    }
}

/// What products of bf16 are computed by on this processor. The standard library and the module remember what they
/// detected.
pub fn bf16_path() -> Bf16Path {
    match detect() {
        #[cfg(target_arch = "x86_64")]
        Path::Amx(_) => Bf16Path::Amx,
        #[cfg(target_arch = "x86_64")]
        Path::Avx512Bf16(_) => Bf16Path::Avx512Bf16,
        Path::Widened => Bf16Path::Widened,
    }
}

/// Why the system keeps this process from the AMX that its processor has; none where it does not.
pub fn amx_refusal() -> Option<&'static str> {
    #[cfg(target_arch = "x86_64")]
    if let Err(NoAmx::System(reason)) = Amx::detect() {
        return Some(reason);
    }
    None
}

/// The kernel for each of [`Bf16Path`], or what proves that it may run.
pub enum Path {
    #[cfg(target_arch = "x86_64")]
    Amx(Tiles<Avx512, Amx>),
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(Avx512Bf16),
    Widened,
}

pub fn detect() -> Path {
    #[cfg(target_arch = "x86_64")]
    {
        if let (Ok(unit), Level::Avx512(instructions)) = (Amx::detect(), Level::detect()) {
            return Path::Amx(Tiles { instructions, unit });
        }
        if let Some(dots) = Avx512Bf16::detect().filter(|_| dots_are_fast()) {
            return Path::Avx512Bf16(dots);
        }
    }
    Path::Widened
}

/// Whether the dot products of bf16 do more multiply-adds in the same time than f32's instructions. On Zen 4 and
/// newer they do twice as many, on Xeons of 2023 half as many.
#[cfg(target_arch = "x86_64")]
fn dots_are_fast() -> bool {
    let identity = std::arch::x86_64::__cpuid(0);
    [identity.ebx, identity.edx, identity.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}
