//! The tile unit of AMX: whether it may be used, and its instructions.
//!
//! The compiler knows neither the tile registers nor, on its stable version, their intrinsics. Nothing that it
//! generates touches them, so they keep what one block of assembly leaves for the next.

use std::arch::asm;
use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};
use std::io;
use std::mem::MaybeUninit;
use std::sync::OnceLock;

use super::tiles::{A_STEP, B_STEP, Sums, TileUnit};
use crate::cpu::simd::Level;

/// Proof that this process may use tiles of bf16; only [`Amx::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub struct Amx(());

/// Why there is no [`Amx`].
#[derive(Debug)]
pub enum NoAmx {
    /// The processor has no tiles of bf16, or no AVX-512 beside them.
    Processor,
    /// The system does not keep the tiles of threads.
    System(String),
}

impl Amx {
    /// Asks the processor and, once per process, the system.
    pub fn detect() -> Result<Self, &'static NoAmx> {
        static DETECTED: OnceLock<Result<Amx, NoAmx>> = OnceLock::new();
        DETECTED.get_or_init(detect).as_ref().copied()
    }
}

fn detect() -> Result<Amx, NoAmx> {
    const TILES_OF_BF16: u32 = 1 << 22 | 1 << 24;
    const OSXSAVE: u32 = 1 << 27;
    /// Configuration and data of tiles.
    const TILE_STATE: u64 = 1 << 17 | 1 << 18;
    if !matches!(Level::detect(), Level::Avx512(_)) || __cpuid(0).eax < 7 {
        return Err(NoAmx::Processor);
    }
    if __cpuid_count(7, 0).edx & TILES_OF_BF16 != TILES_OF_BF16 {
        return Err(NoAmx::Processor);
    }
    // SAFETY: with OSXSAVE the instruction is there.
    if __cpuid(1).ecx & OSXSAVE == 0 || unsafe { enabled_state() } & TILE_STATE != TILE_STATE {
        return Err(NoAmx::System("the system does not enable the tiles' state".to_owned()));
    }
    request_permission().map(|()| Amx(()))
}

/// What of its state the system lets programs use.
#[target_feature(enable = "xsave")]
fn enabled_state() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does.
    unsafe { _xgetbv(0) }
}

/// Linux saves the tiles of a process only after it asked for that.
#[cfg(target_os = "linux")]
fn request_permission() -> Result<(), NoAmx> {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: this call reads and writes no memory of the process.
    match unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) } {
        0 => Ok(()),
        _ => {
            Err(NoAmx::System(format!("the system refuses the tiles' state: {}", io::Error::last_os_error())))
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn request_permission() -> Result<(), NoAmx> {
    Err(NoAmx::System(format!("no way to ask for the tiles' state is known on {}", std::env::consts::OS)))
}

/// What `ldtilecfg` reads: palette 1, and eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// Gives the tiles back when it is dropped: while they are in use, a switch of threads saves 8 KiB more.
struct Configured;

impl Configured {
    fn new(_: Amx) -> Self {
        // SAFETY: the proof exists only where the instruction may run; it reads 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) };
        Self
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: a value of this type exists only where the instruction may run.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

impl TileUnit for Amx {
    fn run<R>(self, work: impl FnOnce() -> R) -> R {
        let _configured = Configured::new(self);
        work()
    }

    #[inline(always)]
    unsafe fn multiply(self, a: &[[f32; A_STEP]], b: &[[f32; B_STEP]], sums: &mut MaybeUninit<Sums>) {
        assert!(a.len() == b.len() && !a.is_empty(), "panels of the same depth");
        // SAFETY: the loop reads a step of either panel in each of its rounds, as many as they have; the tiles of
        // 16 rows of 64 bytes, two by two, are the whole of `sums`. By the caller's promise they are configured.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{a} + {row}*1]",
                "tileloadd tmm6, [{b} + {rows}*1]",
                "tileloadd tmm5, [{a} + {row}*1 + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{b} + {rows}*1 + 64]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {a}, 2048",
                "add {b}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{sums} + {rows}*1], tmm0",
                "tilestored [{sums} + {rows}*1 + 64], tmm1",
                "tilestored [{sums} + {rows}*1 + 2048], tmm2",
                "tilestored [{sums} + {rows}*1 + 2112], tmm3",
                a = inout(reg) a.as_ptr() => _,
                b = inout(reg) b.as_ptr() => _,
                steps = inout(reg) a.len() => _,
                sums = in(reg) sums.as_mut_ptr(),
                row = in(reg) 64_usize,
                rows = in(reg) 128_usize,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
