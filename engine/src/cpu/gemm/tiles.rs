//! Products of bf16 by a unit that multiplies tiles of 16 by 32 and 32 by 16 elements.
//!
//! Two tiles of A and two of B make four of C, so that every tile loaded is used twice. What a thread multiplies
//! comes from its second-level cache: from the third-level one the unit runs at a quarter of its rate.

use std::mem::MaybeUninit;
use std::ops::Range;

use half::bf16;

use super::Matrix;
use super::kernel::{Kernel, Target, words};
use super::pack::{LONGEST, Pairs, pack, pack_blocks};
use crate::cpu::simd::Instructions;
use crate::float::Float;

/// Rows and columns of C that are made at once, two tiles each.
pub const SIDE: usize = 32;
/// Inner indices of a tile.
const DEPTH: usize = 32;
/// Words of a row of A, or of a column of B, in a tile.
pub const WORDS: usize = DEPTH / 2;
/// Words of a panel of A in a step: the pairs of each row.
pub const A_STEP: usize = SIDE * WORDS;
/// Words of a panel of B in a step: each pair of all columns.
pub const B_STEP: usize = WORDS * SIDE;
/// Words of what a thread packs of its own operand: half of a second-level cache of 2 MiB.
const OWN_WORDS: usize = 1 << 18;

/// The part of C that is made at once.
pub type Sums = [[f32; SIDE]; SIDE];

/// What multiplies tiles.
pub trait TileUnit: Copy + Send + Sync {
    /// Runs `work` with the unit ready for use.
    fn run<R>(self, work: impl FnOnce() -> R) -> R;

    /// Overwrites `sums` with the product of a panel of A, step after step 32 rows of 16 pairs, and one of B, step
    /// after step 16 pairs of 32 columns. Panics unless there are as many steps of both, at least one.
    ///
    /// # Safety
    /// Only inside of [`run`](Self::run), on the thread that runs it.
    unsafe fn multiply(self, a: &[[f32; A_STEP]], b: &[[f32; B_STEP]], sums: &mut MaybeUninit<Sums>);
}

/// Products by the tile unit `U`; `I` packs and stores.
#[derive(Debug, Clone, Copy)]
pub struct Tiles<I, U> {
    pub instructions: I,
    pub unit: U,
}

impl<I: Instructions, U: TileUnit> Kernel for Tiles<I, U> {
    type Element = bf16;
    const ROWS: usize = SIDE;
    const COLUMNS: usize = SIDE;
    const STEP: usize = DEPTH;
    const WORDS: usize = WORDS;
    const DEPTH_BLOCK: (usize, usize) = (2 * LONGEST, DEPTH);
    // Every item packs its operand again for each chunk of the other.
    const SHARED: (usize, usize) = (4096, 1 << 22);

    /// A panel of B, which all rows of the item are multiplied by, is read from the shared cache once for them.
    fn item(depth: usize) -> [usize; 2] {
        let rows = OWN_WORDS / (depth.div_ceil(DEPTH) * WORDS) / SIDE * SIDE;
        [rows.max(SIDE), SIDE]
    }

    #[inline(always)]
    fn run<R>(self, work: impl FnOnce() -> R) -> R {
        self.unit.run(
            #[inline(always)]
            || self.instructions.run(work),
        )
    }

    #[inline(always)]
    fn pack_rows(self, a: Matrix<bf16>, rows: Range<usize>, depth: Range<usize>, panels: &mut [f32]) {
        pack_blocks::<Pairs, SIDE, WORDS>(self.instructions, a, rows, depth, panels);
    }

    #[inline(always)]
    fn pack_columns(self, b: Matrix<bf16>, columns: Range<usize>, depth: Range<usize>, panels: &mut [f32]) {
        let steps = words::<Self>(depth.len());
        pack::<Pairs, SIDE>(self.instructions, b, columns, depth, steps, panels.as_chunks_mut().0);
    }

    #[inline(always)]
    unsafe fn multiply<O: Float>(self, a: &[f32], b: &[f32], target: &Target<'_, O>) {
        let mut sums = MaybeUninit::uninit();
        // SAFETY: products are run by `run`; the unit writes all of the sums.
        let sums = unsafe {
            self.unit.multiply(a.as_chunks().0, b.as_chunks().0, &mut sums);
            sums.assume_init_mut()
        };
        self.instructions.call(
            #[inline(always)]
            // SAFETY: the caller's promise.
            || unsafe {
                if target.is_whole::<SIDE, SIDE>() {
                    target.store(sums);
                } else {
                    target.store_part(sums);
                }
            },
        );
    }

    #[inline(always)]
    unsafe fn multiply_strided<'t, const ROW: usize, const WORD: usize>(
        self,
        a: &[f32],
        words: usize,
        tiles: impl Iterator<Item = (&'t [f32], Target<'t, f32>)>,
        memory: &mut [f32],
    ) {
        let panel = &mut memory[..SIDE * words];
        pack_strided::<ROW, WORD>(self.instructions, a, panel.as_chunks_mut::<WORDS>().0.as_chunks_mut().0);
        for (b, target) in tiles {
            // SAFETY: the caller's promise.
            unsafe { self.multiply(panel, b, &target) };
        }
    }
}

/// Packs a panel of A, block after block of the words of a tile's depth: word `w` of row `r` is
/// `a[r * ROW + w * WORD]`, and either stride is 1.
#[inline(always)]
fn pack_strided<const ROW: usize, const WORD: usize>(
    instructions: impl Instructions,
    a: &[f32],
    panel: &mut [[[f32; WORDS]; SIDE]],
) {
    const BLOCK: usize = 8;
    for (block, first) in panel.iter_mut().zip((0..).step_by(WORDS)) {
        if WORD == 1 {
            for (row, target) in block.iter_mut().enumerate() {
                target.copy_from_slice(&a[row * ROW + first..][..WORDS]);
            }
            continue;
        }
        for row in (0..SIDE).step_by(BLOCK) {
            for word in (0..WORDS).step_by(BLOCK) {
                let corner = std::array::from_fn(|i| {
                    let start = row + (first + word + i) * WORD;
                    *a[start..].first_chunk().expect("whole blocks")
                });
                for (i, words) in instructions.transpose(corner).iter().enumerate() {
                    block[row + i][word..][..BLOCK].copy_from_slice(words);
                }
            }
        }
    }
}
