//! Products of few rows by a matrix whose columns lie one behind the other: decoding.
//!
//! The large operand is read once, where it lies. The sums of all rows of A are the lanes of registers, so that an
//! element of it is one load for all of them. What bounds such a product is memory: 4 bytes of f32, or 2 of bf16, for
//! 2 flops a row. Sums are made in the same order as in blocked products, to the same bits.

use std::array::from_fn;
use std::ops::Range;

use half::bf16;

use super::floats::Floats;
use super::kernel::Kernel;
use super::pairs::{Dots, LANES, add_dots};
use super::product::{even_part, threads};
use super::{Matrix, Multiplication, Update};
use crate::cpu::parallel::{SharedMut, for_each, with_scratch};
use crate::cpu::simd::Instructions;
use crate::float::Float;

/// Most rows of A.
const MOST_ROWS: usize = 32;
/// Columns of C in a tile: with one register each they leave room for the rows of A.
pub const TILE: usize = 16;
/// Columns of C that a thread takes at a time: whole tiles.
const ITEM_COLUMNS: usize = 4 * TILE;

/// A kernel whose panels of A have `L` rows: the lanes of its sums.
pub trait Lanes<const L: usize>: Kernel {
    /// Word `step` of a column of B.
    fn word(column: &[Self::Element], step: usize) -> f32;

    /// To each lane's sum the product of `word` and the lane's word of `a`.
    fn add(self, sums: [f32; L], word: f32, a: [f32; L]) -> [f32; L];

    /// Runs `work` compiled with the kernel's instructions where it is inlined, as a function of its own.
    fn call<R>(self, work: impl FnOnce() -> R) -> R;
}

impl<I: Instructions, const L: usize> Lanes<L> for Floats<f32, I, L, TILE> {
    #[inline(always)]
    fn word(column: &[f32], step: usize) -> f32 {
        column[step]
    }

    #[inline(always)]
    fn add(self, sums: [f32; L], word: f32, a: [f32; L]) -> [f32; L] {
        from_fn(|lane| self.instructions.multiply_add(word, a[lane], sums[lane]))
    }

    #[inline(always)]
    fn call<R>(self, work: impl FnOnce() -> R) -> R {
        self.instructions.call(work)
    }
}

impl Lanes<LANES> for Dots<LANES> {
    #[inline(always)]
    fn word(column: &[bf16], step: usize) -> f32 {
        bytemuck::cast(column.as_chunks::<2>().0[step])
    }

    #[inline(always)]
    fn add(self, sums: [f32; LANES], word: f32, a: [f32; LANES]) -> [f32; LANES] {
        add_dots(self.instructions, sums, [word; LANES], a)
    }

    #[inline(always)]
    fn call<R>(self, work: impl FnOnce() -> R) -> R {
        self.instructions.call(work)
    }
}

/// Whether a product is one of few rows by columns that lie one behind the other, in whole words of `step` elements.
pub fn fits<T, O>(multiplication: &Multiplication<'_, T, O>, step: usize) -> bool {
    let Multiplication { a, b, .. } = multiplication;
    a.rows <= MOST_ROWS && b.row_stride == 1 && a.columns.is_multiple_of(step)
}

/// Runs a product that [`fits`].
pub fn run<K: Lanes<L>, O: Float, const L: usize>(
    kernel: K,
    multiplication: Multiplication<'_, K::Element, O>,
) {
    let Multiplication { cpu, a, b, update, c } = multiplication;
    let (groups, steps) = (a.rows.div_ceil(L), a.columns / K::STEP);
    let (most, multiple) = K::DEPTH_BLOCK;
    let block = even_part(a.columns, most, multiple) / K::STEP;
    with_scratch(groups * steps * L, |packed| {
        // The memory may be longer.
        let packed = &mut packed[..groups * steps * L];
        kernel.run(
            #[inline(always)]
            || kernel.pack_rows(a, 0..a.rows, 0..a.columns, packed),
        );
        let packed = packed.as_chunks().0;
        let product = Product { kernel, a: packed, b, block, update, c: SharedMut::new(c), rows: a.rows };
        let items = b.columns.div_ceil(ITEM_COLUMNS);
        let work = |item: usize| {
            let columns = item * ITEM_COLUMNS..b.columns.min((item + 1) * ITEM_COLUMNS);
            for first in columns.clone().step_by(TILE) {
                let columns = first..columns.end.min(first + TILE);
                for group in 0..groups {
                    kernel.call(
                        #[inline(always)]
                        // SAFETY: no other index has these columns of C.
                        || unsafe { product.tile(group, columns.clone()) },
                    );
                }
            }
        };
        match threads(cpu, [a.rows, a.columns, b.columns]) {
            1 => (0..items).for_each(work),
            _ => cpu.run(|| for_each(items, work)),
        }
    });
}

/// A product under way.
struct Product<'a, K: Kernel, O, const L: usize> {
    kernel: K,
    /// The panels of A.
    a: &'a [[f32; L]],
    b: Matrix<'a, K::Element>,
    /// Words that are summed from zero.
    block: usize,
    update: Update,
    c: SharedMut<'a, O>,
    rows: usize,
}

impl<K: Lanes<L>, O: Float, const L: usize> Product<'_, K, O, L> {
    /// The elements of C in the rows of a group and in `columns`, at most a tile of them.
    ///
    /// # Safety
    /// Nothing else may access them meanwhile.
    #[inline(always)]
    unsafe fn tile(&self, group: usize, columns: Range<usize>) {
        let depth = self.b.rows;
        let steps = depth / K::STEP;
        // The last column stands for those that are not there.
        let column = |index: usize| (columns.start + index).min(columns.end - 1) * self.b.column_stride;
        let b: [&[K::Element]; TILE] = from_fn(|index| &self.b.data[column(index)..][..depth]);
        let a = &self.a[group * steps..][..steps];
        let rows = self.rows.min((group + 1) * L) - group * L;
        let place = |lane: usize, index: usize| (group * L + lane) * self.b.columns + columns.start + index;
        let mut totals = [[0.0f32; L]; TILE];
        if self.update == Update::Accumulate {
            for (index, totals) in totals.iter_mut().take(columns.len()).enumerate() {
                for (lane, total) in totals.iter_mut().take(rows).enumerate() {
                    // SAFETY: the caller's promise.
                    *total = unsafe { self.c.range(place(lane, index)..place(lane, index) + 1) }[0].to_f32();
                }
            }
        }
        for (block, a) in a.chunks(self.block).enumerate() {
            let first = block * self.block * K::STEP;
            let sums = sums(self.kernel, b.map(|row| &row[first..][..a.len() * K::STEP]), a);
            let is_first = block == 0 && self.update == Update::Overwrite;
            for (totals, sums) in totals.iter_mut().zip(sums) {
                *totals = if is_first { sums } else { from_fn(|lane| sums[lane] + totals[lane]) };
            }
        }
        for lane in 0..rows {
            // SAFETY: the caller's promise.
            let row = unsafe { self.c.range(place(lane, 0)..place(lane, columns.len())) };
            for (element, totals) in row.iter_mut().zip(&totals) {
                *element = O::from_f32(totals[lane]);
            }
        }
    }
}

/// Sums over the inner dimension in order, from zero, in registers.
#[inline(always)]
fn sums<K: Lanes<L>, const L: usize>(
    kernel: K,
    b: [&[K::Element]; TILE],
    a: &[[f32; L]],
) -> [[f32; L]; TILE] {
    let mut sums = [[0.0f32; L]; TILE];
    for (step, a) in a.iter().enumerate() {
        for j in 0..TILE {
            sums[j] = kernel.add(sums[j], K::word(b[j], step), *a);
        }
    }
    sums
}
