//! Products of few rows by a matrix whose columns lie one behind the other: decoding.
//!
//! The large operand is read once, where it lies. The sums of all rows of A are the lanes of registers, so that an
//! element of it is one load for all of them. What bounds such a product is memory: 4 bytes of f32, or 2 of bf16, for
//! 2 flops a row. Sums are made in the same order as in blocked products, to the same bits.

use std::array::from_fn;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use half::bf16;

#[cfg(target_arch = "x86_64")]
use super::kernel::Kernel;
use super::pack::LONGEST;
#[cfg(target_arch = "x86_64")]
use super::pairs::{Dots, LANES, add_dots};
use super::product::even_part;
use super::{Matrix, Multiplication, TILE_ROWS, Update};
use crate::cpu::parallel::{SharedMut, for_each, with_scratch};
#[cfg(target_arch = "x86_64")]
use crate::cpu::simd::Avx512Bf16;
use crate::cpu::simd::Instructions;
use crate::real::Real;

/// Most rows of A.
const MOST_ROWS: usize = 32;
/// Columns of C in a tile: with one register each they leave room for the rows of A.
const TILE: usize = 16;
/// Columns of C that a thread takes at a time: whole tiles.
const ITEM_COLUMNS: usize = 4 * TILE;
/// Products of fewer multiply-adds stay on one thread: waking another costs more.
const SERIAL_BELOW: usize = 1 << 16;

/// Arithmetic on words of 4 bytes: an f32, or a pair of bf16.
pub trait Words: Copy + Send + Sync {
    /// Elements of A and B.
    type Element: Real;
    /// Elements of a word.
    const STEP: usize;
    /// Most inner indices that are summed from zero, and what their number is a multiple of where there are more: as
    /// in blocked products.
    const DEPTH_BLOCK: (usize, usize);

    /// Word `step` of a row.
    fn word(row: &[Self::Element], step: usize) -> f32;

    /// To each lane's sum the product of `word` and the lane's word of `a`.
    fn add<const L: usize>(self, sums: [f32; L], word: f32, a: [f32; L]) -> [f32; L];

    /// Runs `work` compiled with these instructions where it is inlined, as a function of its own.
    fn call<R>(self, work: impl FnOnce() -> R) -> R;
}

/// f32 arithmetic.
#[derive(Debug, Clone, Copy)]
pub struct Singles<I>(pub I);

impl<I: Instructions> Words for Singles<I> {
    type Element = f32;
    const STEP: usize = 1;
    const DEPTH_BLOCK: (usize, usize) = (LONGEST, 8);

    #[inline(always)]
    fn word(row: &[f32], step: usize) -> f32 {
        row[step]
    }

    #[inline(always)]
    fn add<const L: usize>(self, sums: [f32; L], word: f32, a: [f32; L]) -> [f32; L] {
        from_fn(|lane| self.0.multiply_add(word, a[lane], sums[lane]))
    }

    #[inline(always)]
    fn call<R>(self, work: impl FnOnce() -> R) -> R {
        self.0.call(work)
    }
}

#[cfg(target_arch = "x86_64")]
impl Words for Avx512Bf16 {
    type Element = bf16;
    const STEP: usize = 2;
    const DEPTH_BLOCK: (usize, usize) = <Dots<TILE_ROWS> as Kernel>::DEPTH_BLOCK;

    #[inline(always)]
    fn word(row: &[bf16], step: usize) -> f32 {
        bytemuck::cast(row.as_chunks::<2>().0[step])
    }

    #[inline(always)]
    fn add<const L: usize>(self, sums: [f32; L], word: f32, a: [f32; L]) -> [f32; L] {
        let (sums, a) = (sums.as_chunks::<LANES>().0, a.as_chunks::<LANES>().0);
        let mut added = [0.0; L];
        for ((added, sums), a) in added.as_chunks_mut::<LANES>().0.iter_mut().zip(sums).zip(a) {
            *added = add_dots(self, *sums, [word; LANES], *a);
        }
        added
    }

    #[inline(always)]
    fn call<R>(self, work: impl FnOnce() -> R) -> R {
        Instructions::call(self, work)
    }
}

/// Whether a product is one of few rows by columns that lie one behind the other, in whole words.
pub fn fits<W: Words, O>(multiplication: &Multiplication<'_, W::Element, O>) -> bool {
    let Multiplication { a, b, .. } = multiplication;
    a.rows <= MOST_ROWS && b.row_stride == 1 && a.columns.is_multiple_of(W::STEP)
}

/// Runs a product that [`fits`].
pub fn run<W: Words, O: Real, const L: usize>(words: W, multiplication: Multiplication<'_, W::Element, O>) {
    let Multiplication { cpu, a, b, update, c } = multiplication;
    let (groups, steps) = (a.rows.div_ceil(L), a.columns / W::STEP);
    let (most, multiple) = W::DEPTH_BLOCK;
    let block = even_part(a.columns, most, multiple) / W::STEP;
    let threads = if a.rows * a.columns * b.columns < SERIAL_BELOW { 1 } else { cpu.threads() };
    with_scratch(groups * steps * L, |packed| {
        // The memory may be longer.
        let packed = &mut packed.as_chunks_mut::<L>().0[..groups * steps];
        for (group, packed) in packed.chunks_exact_mut(steps).enumerate() {
            pack::<W, L>(a, group * L, packed);
        }
        let product = Product { words, a: packed, b, block, update, c: SharedMut::new(c), rows: a.rows };
        let items = b.columns.div_ceil(ITEM_COLUMNS);
        let work = |item: usize| {
            let columns = item * ITEM_COLUMNS..b.columns.min((item + 1) * ITEM_COLUMNS);
            for first in columns.clone().step_by(TILE) {
                let columns = first..columns.end.min(first + TILE);
                for group in 0..groups {
                    words.call(
                        #[inline(always)]
                        // SAFETY: no other index has these columns of C.
                        || unsafe { product.tile(group, columns.clone()) },
                    );
                }
            }
        };
        match threads {
            1 => (0..items).for_each(work),
            _ => cpu.run(|| for_each(items, work)),
        }
    });
}

/// The words of `L` rows of A from `first` on, step after step; zeros for rows that are not there.
fn pack<W: Words, const L: usize>(a: Matrix<'_, W::Element>, first: usize, packed: &mut [[f32; L]]) {
    let mut elements = [W::Element::default(); 2];
    for (step, lanes) in packed.iter_mut().enumerate() {
        for (lane, word) in lanes.iter_mut().enumerate() {
            let row = first + lane;
            *word = 0.0;
            if row < a.rows {
                for (index, element) in elements[..W::STEP].iter_mut().enumerate() {
                    let column = step * W::STEP + index;
                    *element = a.data[row * a.row_stride + column * a.column_stride];
                }
                *word = W::word(&elements[..W::STEP], 0);
            }
        }
    }
}

/// A product under way.
struct Product<'a, W: Words, O, const L: usize> {
    words: W,
    /// The words of A, group of rows after group.
    a: &'a [[f32; L]],
    b: Matrix<'a, W::Element>,
    /// Words that are summed from zero.
    block: usize,
    update: Update,
    c: SharedMut<'a, O>,
    rows: usize,
}

impl<W: Words, O: Real, const L: usize> Product<'_, W, O, L> {
    /// The elements of C in the rows of a group and in `columns`, at most a tile of them.
    ///
    /// # Safety
    /// Nothing else may access them meanwhile.
    #[inline(always)]
    unsafe fn tile(&self, group: usize, columns: Range<usize>) {
        let depth = self.b.rows;
        let steps = depth / W::STEP;
        // The last column stands for those that are not there.
        let column = |index: usize| (columns.start + index).min(columns.end - 1) * self.b.column_stride;
        let b: [&[W::Element]; TILE] = from_fn(|index| &self.b.data[column(index)..][..depth]);
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
            let first = block * self.block * W::STEP;
            let sums = sums(self.words, b.map(|row| &row[first..][..a.len() * W::STEP]), a);
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
fn sums<W: Words, const L: usize>(words: W, b: [&[W::Element]; TILE], a: &[[f32; L]]) -> [[f32; L]; TILE] {
    let mut sums = [[0.0f32; L]; TILE];
    for (step, a) in a.iter().enumerate() {
        for j in 0..TILE {
            sums[j] = words.add(sums[j], W::word(b[j], step), *a);
        }
    }
    sums
}
