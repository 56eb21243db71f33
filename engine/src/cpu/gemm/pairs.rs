//! Products of bf16 by the dot products of AVX-512: two inner indices of 16 elements of C at a time.
//!
//! The instruction adds the product of the odd index, then that of the even one, each rounded to f32, and takes
//! subnormal numbers for zero. On Zen 4 it does twice the multiply-adds of f32's in the same time.

use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};
use std::mem::transmute;
use std::ops::Range;

use half::bf16;

use super::Matrix;
use super::kernel::{Kernel, StridedPanel, Target, readers, words};
use super::pack::{LONGEST, Pairs, pack};
use crate::cpu::simd::{Avx512Bf16, Instructions};
use crate::float::Float;

/// f32 lanes of a register.
pub const LANES: usize = 16;
/// Registers side by side in a tile: with 12 rows, 24 of 32.
const WIDTH: usize = 2;

/// Dot products in tiles of `R` rows.
#[derive(Debug, Clone, Copy)]
pub struct Dots<const R: usize> {
    pub instructions: Avx512Bf16,
}

impl<const R: usize> Kernel for Dots<R> {
    type Element = bf16;
    const ROWS: usize = R;
    const COLUMNS: usize = WIDTH * LANES;
    const STEP: usize = 2;
    const WORDS: usize = 1;
    const DEPTH_BLOCK: (usize, usize) = (2 * LONGEST, 16);

    fn item(_: usize) -> [usize; 2] {
        [48, 32]
    }

    #[inline(always)]
    fn run<Output>(self, work: impl FnOnce() -> Output) -> Output {
        self.instructions.run(work)
    }

    #[inline(always)]
    fn pack_rows(self, a: Matrix<bf16>, rows: Range<usize>, depth: Range<usize>, panels: &mut [f32]) {
        let steps = words::<Self>(depth.len());
        pack::<Pairs, R>(self.instructions, a, rows, depth, steps, panels.as_chunks_mut().0);
    }

    #[inline(always)]
    fn pack_columns(self, b: Matrix<bf16>, columns: Range<usize>, depth: Range<usize>, panels: &mut [f32]) {
        let steps = words::<Self>(depth.len());
        pack::<Pairs, { WIDTH * LANES }>(
            self.instructions,
            b,
            columns,
            depth,
            steps,
            panels.as_chunks_mut().0,
        );
    }

    #[inline(always)]
    unsafe fn multiply<O: Float>(self, a: &[f32], b: &[f32], target: &Target<'_, O>) {
        // SAFETY: the caller's promise.
        unsafe { self.tile(readers::<R>(a), b, target) };
    }

    #[inline(always)]
    unsafe fn multiply_strided<'t, const ROW: usize, const WORD: usize>(
        self,
        a: &[f32],
        words: usize,
        tiles: impl Iterator<Item = (&'t [f32], Target<'t, f32>)>,
        _: &mut [f32],
    ) {
        let panel = StridedPanel::<R, ROW, WORD>::new(a, words);
        for (b, target) in tiles {
            // SAFETY: the caller's promise.
            unsafe { self.tile(panel.readers(), b, &target) };
        }
    }
}

impl<const R: usize> Dots<R> {
    /// The tile of C at `target` from what reads the words of A, and from a panel of B.
    ///
    /// # Safety
    /// As [`Kernel::multiply`].
    #[inline(always)]
    unsafe fn tile<O: Float>(
        self,
        a: impl Iterator<Item = impl Fn(usize) -> f32>,
        b: &[f32],
        target: &Target<'_, O>,
    ) {
        // Either is a function of its own, so that the registers are all the micro-kernel's.
        if target.is_whole::<R, { WIDTH * LANES }>() {
            self.instructions.call(
                #[inline(always)]
                // SAFETY: the caller's promise.
                || unsafe { target.store(&mut sums::<R>(self.instructions, a, b)) },
            );
        } else {
            self.instructions.call(
                #[inline(always)]
                // SAFETY: the caller's promise.
                || unsafe { target.store_part(&mut sums::<R>(self.instructions, a, b)) },
            );
        }
    }
}

/// Sums over the inner dimension in order, from zero, in registers.
#[expect(clippy::needless_range_loop, reason = "with iterators the compiler keeps the sums in memory")]
#[inline(always)]
fn sums<const R: usize>(
    instructions: Avx512Bf16,
    a: impl Iterator<Item = impl Fn(usize) -> f32>,
    b: &[f32],
) -> [[f32; WIDTH * LANES]; R] {
    let b = b.as_chunks::<LANES>().0.as_chunks::<WIDTH>().0;
    let mut sums = [[[0.0f32; LANES]; WIDTH]; R];
    for (a, b) in a.zip(b) {
        for i in 0..R {
            for j in 0..WIDTH {
                sums[i][j] = add_dots(instructions, sums[i][j], [a(i); LANES], b[j]);
            }
        }
    }
    sums.map(bytemuck::cast)
}

/// To each lane's sum its dot product of the pairs in `a` and `b`.
#[inline(always)]
pub fn add_dots(_: Avx512Bf16, sums: [f32; LANES], a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
    // SAFETY: the types are 64 bytes of numbers that any bits are; the proof in the arguments exists only where
    // the processor has the instruction.
    unsafe {
        let (a, b) = (transmute::<[f32; LANES], __m512bh>(a), transmute::<[f32; LANES], __m512bh>(b));
        transmute::<__m512, [f32; LANES]>(_mm512_dpbf16_ps(transmute::<[f32; LANES], __m512>(sums), a, b))
    }
}
