//! Products in f32 arithmetic, of f32 or of bf16 that is widened while it is packed.

use std::marker::PhantomData;
use std::ops::Range;

use super::Matrix;
use super::kernel::{Kernel, StridedPanel, Target, readers, words};
use super::pack::{LONGEST, Widened, pack};
use crate::cpu::simd::{Instructions, prefetch};
use crate::float::Float;

/// f32 arithmetic with the instructions `I`, in tiles of `R` rows and `C` columns.
#[derive(Debug, Clone, Copy)]
pub struct Floats<T, I, const R: usize, const C: usize> {
    pub(super) instructions: I,
    element: PhantomData<T>,
}

impl<T, I, const R: usize, const C: usize> Floats<T, I, R, C> {
    pub fn new(instructions: I) -> Self {
        Self { instructions, element: PhantomData }
    }
}

impl<T: Float, I: Instructions, const R: usize, const C: usize> Kernel for Floats<T, I, R, C> {
    type Element = T;
    const ROWS: usize = R;
    const COLUMNS: usize = C;
    const STEP: usize = 1;
    const WORDS: usize = 1;
    const DEPTH_BLOCK: (usize, usize) = (LONGEST, 8);

    fn item(_: usize) -> [usize; 2] {
        [48, 32]
    }

    #[inline(always)]
    fn run<Output>(self, work: impl FnOnce() -> Output) -> Output {
        self.instructions.run(work)
    }

    #[inline(always)]
    fn pack_rows(self, a: Matrix<T>, rows: Range<usize>, depth: Range<usize>, panels: &mut [f32]) {
        let steps = words::<Self>(depth.len());
        pack::<Widened<T>, R>(self.instructions, a, rows, depth, steps, panels.as_chunks_mut().0);
    }

    #[inline(always)]
    fn pack_columns(self, b: Matrix<T>, columns: Range<usize>, depth: Range<usize>, panels: &mut [f32]) {
        let steps = words::<Self>(depth.len());
        pack::<Widened<T>, C>(self.instructions, b, columns, depth, steps, panels.as_chunks_mut().0);
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

impl<T: Float, I: Instructions, const R: usize, const C: usize> Floats<T, I, R, C> {
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
        if target.is_whole::<R, C>() {
            self.instructions.call(
                #[inline(always)]
                // SAFETY: the caller's promise.
                || unsafe { target.store(&mut sums::<R, C>(self.instructions, a, b.as_chunks::<C>().0)) },
            );
        } else {
            self.instructions.call(
                #[inline(always)]
                // SAFETY: the caller's promise.
                || unsafe {
                    target.store_part(&mut sums::<R, C>(self.instructions, a, b.as_chunks::<C>().0))
                },
            );
        }
    }
}

/// Steps of the inner dimension by which B's panel is fetched into the first-level cache ahead of its use: a panel is
/// longer than that cache, and the processor's own prefetching stops at each page of 4 KiB.
const PREFETCH_DISTANCE: usize = 12;
/// Elements of a cache line.
const LINE: usize = 16;

/// Sums over the inner dimension in order, from zero, in registers: `R`·`C` of them, loaded with one row of
/// B's panel and, one by one, the elements of A's.
#[expect(clippy::needless_range_loop, reason = "with iterators the compiler keeps the sums in memory")]
#[inline(always)]
fn sums<const R: usize, const C: usize>(
    instructions: impl Instructions,
    a: impl Iterator<Item = impl Fn(usize) -> f32>,
    b: &[[f32; C]],
) -> [[f32; C]; R] {
    let mut sums = [[0.0f32; C]; R];
    for (a, b) in a.zip(b) {
        let ahead = b.as_ptr().wrapping_add(C * PREFETCH_DISTANCE);
        (0..C).step_by(LINE).for_each(|column| prefetch(ahead.wrapping_add(column)));
        for i in 0..R {
            for j in 0..C {
                sums[i][j] = instructions.multiply_add(a(i), b[j], sums[i][j]);
            }
        }
    }
    sums
}
