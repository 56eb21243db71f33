//! What a product needs of the instructions it runs on, and how a finished tile reaches C.

use std::ops::Range;

use super::Matrix;
use crate::cpu::parallel::SharedMut;
use crate::float::Float;

/// Packing and the micro-kernel for one type of elements and one set of instructions.
///
/// A panel is a run of words of 4 bytes, whatever they hold: for a block of depth and a panel of rows or
/// columns, zeros standing for those that are not there.
pub trait Kernel: Copy + Send + Sync {
    /// Elements of A and B.
    type Element: Float;
    /// Rows of a tile of C, and of a panel of A.
    const ROWS: usize;
    /// Columns of a tile of C, and of a panel of B.
    const COLUMNS: usize;
    /// Inner indices of a step: panels hold whole ones, with zeros in the rest of the last.
    const STEP: usize;
    /// Words of a row or column in a step.
    const WORDS: usize;
    /// Most inner indices of a panel, and what their number is a multiple of where there are more.
    const DEPTH_BLOCK: (usize, usize);
    /// Most lanes (rows of A or columns of B) of the shared operand packed at once, and most words of them, where
    /// one block of depth has fewer.
    const SHARED: (usize, usize) = (1024, 1 << 20);

    /// Most rows of C that a thread takes at a time, where B is shared, and most columns, where A is: with panels
    /// of `depth` inner indices they stay in its own cache.
    fn item(depth: usize) -> [usize; 2];

    /// Runs `work` compiled with the kernel's instructions where it is inlined.
    fn run<R>(self, work: impl FnOnce() -> R) -> R;

    /// Packs elements `depth` of the rows `rows` of A, panel after panel.
    fn pack_rows(self, a: Matrix<Self::Element>, rows: Range<usize>, depth: Range<usize>, panels: &mut [f32]);

    /// Packs elements `depth` of the columns `columns` of B, given as the rows of `b`, panel after panel.
    fn pack_columns(
        self,
        b: Matrix<Self::Element>,
        columns: Range<usize>,
        depth: Range<usize>,
        panels: &mut [f32],
    );

    /// The tile of C at `target` from one panel of either operand.
    ///
    /// # Safety
    /// Nothing else may access the elements of C and of the sums that `target` names during the call.
    unsafe fn multiply<O: Float>(self, a: &[f32], b: &[f32], target: &Target<'_, O>);

    /// Tiles of C of one panel of rows of A that is not packed, and of panels of B, each with its target: word `w` of
    /// row `r` of A is `a[r * ROW + w * WORD]`, of `words` words. One of the strides is 1. Rows that the targets do not
    /// have may hold anything. `memory` takes a panel of A, where the kernel has to pack it.
    ///
    /// # Safety
    /// Nothing else may access the elements of C that the targets name during the call.
    unsafe fn multiply_strided<'t, const ROW: usize, const WORD: usize>(
        self,
        a: &[f32],
        words: usize,
        tiles: impl Iterator<Item = (&'t [f32], Target<'t, f32>)>,
        memory: &mut [f32],
    );
}

/// Words of a row or column in a panel of `depth` inner indices.
#[inline(always)]
pub fn words<K: Kernel>(depth: usize) -> usize {
    depth.div_ceil(K::STEP) * K::WORDS
}

/// Elements of a row or column that a word holds.
pub const fn elements_per_word<K: Kernel>() -> usize {
    K::STEP / K::WORDS
}

/// A panel of `R` rows of A that is not packed.
#[derive(Debug, Clone, Copy)]
pub struct StridedPanel<'a, const R: usize, const ROW: usize, const WORD: usize> {
    words: &'a [f32],
    length: usize,
}

impl<'a, const R: usize, const ROW: usize, const WORD: usize> StridedPanel<'a, R, ROW, WORD> {
    /// Of `length` words a row, the first row at the start of `words`. Panics unless all of them are there.
    #[inline(always)]
    pub fn new(words: &'a [f32], length: usize) -> Self {
        assert!(
            length == 0 || (R - 1) * ROW + (length - 1) * WORD < words.len(),
            "a panel of {length} words"
        );
        Self { words, length }
    }

    /// For word after word, what reads that of a row below `R`.
    #[inline(always)]
    pub fn readers(self) -> impl Iterator<Item = impl Fn(usize) -> f32 + use<'a, R, ROW, WORD>> {
        (0..self.length).map(
            #[inline(always)]
            move |word| {
                #[inline(always)]
                move |row| {
                    assert!(row < R);
                    // SAFETY: the last word of row R - 1 lies inside, as `new` checked, and the row is not beyond it.
                    unsafe { *self.words.get_unchecked(row * ROW + word * WORD) }
                }
            },
        )
    }
}

/// For word after word of a packed panel, what reads that of a row.
#[inline(always)]
pub fn readers<const R: usize>(panel: &[f32]) -> impl Iterator<Item = impl Fn(usize) -> f32> {
    panel.as_chunks::<R>().0.iter().map(
        #[inline(always)]
        |words| {
            #[inline(always)]
            move |row| words[row]
        },
    )
}

/// Rows at any distance of memory that the threads share.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a, T> {
    /// All of the memory.
    pub memory: SharedMut<'a, T>,
    /// Index of the tile's first element.
    pub start: usize,
    /// From one row to the next.
    pub stride: usize,
}

impl<T> Place<'_, T> {
    /// Panics unless a tile of `R` rows and `C` columns lies inside the memory.
    #[inline(always)]
    fn check<const R: usize, const C: usize>(&self) {
        let last_row = self.stride.saturating_mul(R - 1).saturating_add(self.start);
        assert!(last_row.saturating_add(C) <= self.memory.length(), "a tile inside C");
    }

    /// `C` elements of row `row`.
    ///
    /// # Safety
    /// [`check`](Self::check) passed for more rows than `row`, and nothing else accesses them.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's duty")]
    #[inline(always)]
    unsafe fn row<const C: usize>(&self, row: usize) -> &mut [T; C] {
        // SAFETY: the caller's promise.
        unsafe { self.memory.array::<C>(self.start + row * self.stride) }
    }

    /// The first `columns` elements of row `row`. Panics when they lie outside the memory.
    ///
    /// # Safety
    /// Nothing else accesses them.
    #[expect(clippy::mut_from_ref, reason = "disjointness is the caller's duty")]
    #[inline(always)]
    unsafe fn part(&self, row: usize, columns: usize) -> &mut [T] {
        let start = self.start + row * self.stride;
        // SAFETY: the caller's promise.
        unsafe { self.memory.range(start..start + columns) }
    }
}

/// Where a tile goes. Sums over a part of the inner dimension are kept in f32.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a, O> {
    /// C, where it is not f32.
    pub result: Option<Place<'a, O>>,
    /// The sums so far; C itself, where that is f32.
    pub sums: Place<'a, f32>,
    /// What the tile is added to.
    pub start: Start,
    /// Whether the sums are complete: they go to the result, where there is one.
    pub last: bool,
    /// Rows of the tile that there are.
    pub rows: usize,
    /// Columns of the tile that there are.
    pub columns: usize,
}

/// What a tile is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing.
    Zero,
    /// The sums so far.
    Sums,
    /// What the result holds.
    Result,
}

impl<O: Float> Target<'_, O> {
    /// Whether all of a tile of `R` rows and `C` columns is there.
    #[inline(always)]
    pub fn is_whole<const R: usize, const C: usize>(&self) -> bool {
        self.rows == R && self.columns == C
    }

    /// Takes a whole tile's sums, `tile`, which is left with what they were added to. Panics when the tile does not
    /// lie inside C.
    ///
    /// # Safety
    /// Nothing else may access the elements during the call.
    #[expect(clippy::needless_range_loop, reason = "with iterators the compiler keeps the sums in memory")]
    #[inline(always)]
    pub unsafe fn store<const R: usize, const C: usize>(&self, tile: &mut [[f32; C]; R]) {
        self.check::<R, C>();
        // One short loop for each case: unrolled, they leave the tile in registers.
        match (self.start, &self.result) {
            (Start::Zero, _) => {}
            (Start::Sums, _) | (Start::Result, None) => {
                for i in 0..R {
                    // SAFETY: checked above; exclusive by the caller's promise.
                    let before = unsafe { self.sums.row::<C>(i) };
                    for j in 0..C {
                        tile[i][j] += before[j];
                    }
                }
            }
            (Start::Result, Some(result)) => {
                for i in 0..R {
                    // SAFETY: as above.
                    let before = unsafe { result.row::<C>(i) };
                    for j in 0..C {
                        tile[i][j] += before[j].to_f32();
                    }
                }
            }
        }
        match &self.result {
            Some(result) if self.last => {
                for i in 0..R {
                    // SAFETY: as above.
                    *unsafe { result.row::<C>(i) } = tile[i].map(O::from_f32);
                }
            }
            _ => {
                for i in 0..R {
                    // SAFETY: as above.
                    *unsafe { self.sums.row::<C>(i) } = tile[i];
                }
            }
        }
    }

    /// Panics unless a tile of `R` rows and `C` columns lies inside the memory it goes to.
    #[inline(always)]
    fn check<const R: usize, const C: usize>(&self) {
        if let Some(result) = &self.result {
            result.check::<R, C>();
        }
        if self.result.is_none() || self.start == Start::Sums || !self.last {
            self.sums.check::<R, C>();
        }
    }

    /// Takes what there is of a tile that reaches over the edge of C.
    ///
    /// # Safety
    /// As [`store`](Self::store).
    #[inline(always)]
    pub unsafe fn store_part<const C: usize>(&self, tile: &mut [[f32; C]]) {
        for (i, tile) in tile.iter_mut().take(self.rows).enumerate() {
            match (self.start, &self.result) {
                (Start::Zero, _) => {}
                (Start::Sums, _) | (Start::Result, None) => {
                    // SAFETY: the caller's promise.
                    let row = unsafe { self.sums.part(i, self.columns) };
                    tile.iter_mut().zip(row).for_each(|(sum, before)| *sum += *before);
                }
                (Start::Result, Some(result)) => {
                    // SAFETY: the caller's promise.
                    let row = unsafe { result.part(i, self.columns) };
                    tile.iter_mut().zip(row).for_each(|(sum, before)| *sum += before.to_f32());
                }
            }
            match &self.result {
                Some(result) if self.last => {
                    // SAFETY: the caller's promise.
                    let row = unsafe { result.part(i, self.columns) };
                    row.iter_mut().zip(tile).for_each(|(element, sum)| *element = O::from_f32(*sum));
                }
                _ => {
                    // SAFETY: the caller's promise.
                    let row = unsafe { self.sums.part(i, self.columns) };
                    row.copy_from_slice(&tile[..self.columns]);
                }
            }
        }
    }
}
