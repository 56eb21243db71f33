//! Tensor cores, and copies to shared memory that run beside the arithmetic.

use core::arch::asm;

use super::{Global, Shared};
use crate::simt::{Bf16, Element};

#[repr(C)]
struct Words(u32, u32, u32, u32);

#[repr(C)]
struct Floats(f32, f32, f32, f32);

#[allow(improper_ctypes)]
unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.mma.m16n8k16.row.col.bf16"]
    #[rustfmt::skip]
    safe fn mma_bf16(
        a0: u32,
        a1: u32,
        a2: u32,
        a3: u32,
        b0: u32,
        b1: u32,
        c0: f32,
        c1: f32,
        c2: f32,
        c3: f32,
    ) -> Floats;
    #[link_name = "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16.p0"]
    fn ldmatrix(row: *const u8) -> Words;
    #[link_name = "llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.trans.b16.p0"]
    fn ldmatrix_trans(row: *const u8) -> Words;
}

#[allow(improper_ctypes)]
unsafe extern "C" {
    #[link_name = "llvm.nvvm.cp.async.commit.group"]
    safe fn cp_async_commit_group();
}

/// a·b + c on the warp's tensor cores; see the [fragments](crate::simt#matrix-fragments) of `m16n8k16`.
#[inline(always)]
pub fn matrix_multiply(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    let d = mma_bf16(a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], c[2], c[3]);
    [d.0, d.1, d.2, d.3]
}

impl Shared<Bf16> {
    /// As a pointer that tells shared memory by its value.
    #[inline(always)]
    fn generic(self, index: u32) -> *const u8 {
        let pointer: *const u8;
        // SAFETY: a conversion of an address.
        unsafe {
            asm!("{{ .reg .b64 wide; cvt.u64.u32 wide, {}; cvta.shared.u64 {}, wide; }}",
                in(reg32) self.at(index), out(reg64) pointer, options(pure, nomem, nostack));
        }
        pointer
    }

    /// Four 8×8 matrices for the warp: lane l names with `index` row l % 8 of matrix l / 8, eight elements
    /// aligned to 16 bytes. Word m holds elements 2·(lane % 4) and the next of row lane / 4 of matrix m.
    #[inline(always)]
    pub fn load_matrices(self, index: u32) -> [u32; 4] {
        self.load_matrices_at(index, 0)
    }

    /// [`Shared::load_matrices`] of `index + offset`. A constant offset is part of the instruction: lanes hold
    /// one address for all loads from the same index.
    #[inline(always)]
    pub fn load_matrices_at(self, index: u32, offset: u32) -> [u32; 4] {
        // SAFETY: inside the block's shared memory and aligned, by the kernel's contract.
        let words = unsafe { ldmatrix(self.generic(index).add(2 * offset as usize)) };
        [words.0, words.1, words.2, words.3]
    }

    /// [`Shared::load_matrices`] with every matrix transposed.
    #[inline(always)]
    pub fn load_matrices_transposed(self, index: u32) -> [u32; 4] {
        self.load_matrices_transposed_at(index, 0)
    }

    /// [`Shared::load_matrices_at`] with every matrix transposed.
    #[inline(always)]
    pub fn load_matrices_transposed_at(self, index: u32, offset: u32) -> [u32; 4] {
        // SAFETY: as for `load_matrices_at`.
        let words = unsafe { ldmatrix_trans(self.generic(index).add(2 * offset as usize)) };
        [words.0, words.1, words.2, words.3]
    }
}

impl<T: Element> Shared<T> {
    /// Starts copying the 16 bytes from `source[from]` on to `self[index]`, both aligned to 16 bytes; zeros
    /// where not `valid`, and nothing is read. They are there once [`wait_copies`] has returned, for other
    /// threads after a barrier behind it.
    #[inline(always)]
    pub fn copy_async(self, index: u32, source: Global<T>, from: usize, valid: bool) {
        let bytes = if valid { 16u32 } else { 0 };
        // SAFETY: both inside their memory and aligned, by the kernel's contract.
        unsafe {
            asm!("{{ .reg .b64 source; cvta.to.global.u64 source, {};",
                "cp.async.cg.shared.global [{}], [source], 16, {}; }}",
                in(reg64) source.address(from), in(reg32) self.at(index), in(reg32) bytes, options(nostack));
        }
    }
}

/// Puts the copies this thread has started since the last call into one group.
#[inline(always)]
pub fn commit_copies() {
    cp_async_commit_group();
}

/// Waits until all but the `LATEST` last groups of this thread's copies are there.
#[inline(always)]
pub fn wait_copies<const LATEST: u32>() {
    // SAFETY: only waits.
    unsafe { asm!("cp.async.wait_group {};", const LATEST, options(nostack)) };
}
