//! Tiles of scores `[queries, keys]`, and of what is computed from them, as left operands of products.
//!
//! The micro-kernels read them where they lie. Where a word of an operand holds one element, that is the tile of f32
//! itself, whichever of its sides the product sums over. Where it holds two, those are two of a row where the product
//! sums over keys, and two of a column where it sums over queries: the tile is rounded into either.

use super::TILE;
use super::products::{Part, left_length, multiply_strided};
use crate::cpu::gemm::kernel::{Kernel, elements_per_word, words};
use crate::cpu::parallel::take;
use crate::cpu::tile::{Store, Tile};
use crate::float::Float;

/// Words of a row of pairs.
const PAIRS: usize = TILE / 2;

/// A tile of at most [`TILE`] by [`TILE`] scores.
pub struct Scores<'a> {
    /// In f32, rows of [`TILE`]; rounded, where words hold one element.
    values: &'a mut [f32],
    /// Rounded, rows of [`PAIRS`] words: pairs of a row.
    rows: &'a mut [f32],
    /// Rounded, rows of [`TILE`] words: pairs of a column.
    columns: &'a mut [f32],
    /// For a kernel that packs a panel nevertheless.
    panel: &'a mut [f32],
}

/// Which products a tile is a left operand of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Those that sum over keys.
    Rows,
    /// Those that sum over queries.
    Columns,
    /// Both.
    Both,
}

/// Rows that panels of `K` reach.
const fn rows_of<K: Kernel>() -> usize {
    TILE.next_multiple_of(K::ROWS)
}

/// Words that the three parts of a tile take.
fn lengths<K: Kernel>(used: Use) -> [usize; 3] {
    let values = rows_of::<K>() * TILE;
    if elements_per_word::<K>() == 1 {
        return [values, 0, 0];
    }
    // The last row of pairs is read on for the rows of a panel.
    let columns = PAIRS * TILE + rows_of::<K>() - TILE;
    [
        values,
        if used == Use::Columns { 0 } else { rows_of::<K>() * PAIRS },
        if used == Use::Rows { 0 } else { columns },
    ]
}

impl<'a> Scores<'a> {
    /// Words that a tile takes.
    pub fn length<K: Kernel>(used: Use) -> usize {
        lengths::<K>(used).iter().sum::<usize>() + left_length::<K>(K::ROWS, TILE)
    }

    /// Takes a tile off the front of `memory`.
    pub fn new<K: Kernel>(used: Use, memory: &mut &'a mut [f32]) -> Self {
        let [values, rows, columns] = lengths::<K>(used);
        Self {
            values: take(memory, values),
            rows: take(memory, rows),
            columns: take(memory, columns),
            panel: take(memory, left_length::<K>(K::ROWS, TILE)),
        }
    }

    /// The values, to be overwritten by a product.
    #[inline(always)]
    pub fn tile(&mut self) -> Tile<'_> {
        Tile::new(self.values, TILE)
    }

    /// The values of a row, all of which count as an operand.
    #[inline(always)]
    pub fn row(&mut self, row: usize) -> &mut [f32; TILE] {
        &mut self.values.as_chunks_mut::<TILE>().0[row]
    }

    /// Makes operands of the first `queries` rows.
    #[inline(always)]
    pub fn round<K: Kernel>(&mut self, queries: usize) {
        let values = self.values.as_chunks_mut::<TILE>().0;
        if elements_per_word::<K>() == 1 {
            if size_of::<K::Element>() < size_of::<f32>() {
                for value in values[..queries].as_flattened_mut() {
                    *value = K::Element::from_f32(*value).to_f32();
                }
            }
            return;
        }
        let zeros = [K::Element::from_f32(0.0); TILE];
        let rows = bytemuck::cast_slice_mut::<f32, K::Element>(self.rows).as_chunks_mut::<TILE>().0;
        let columns = self.columns.as_chunks_mut::<TILE>().0;
        for (first, values) in (0..).zip(values[..queries].chunks(2)) {
            let mut pair = [zeros; 2];
            for (index, (values, rounded)) in values.iter().zip(&mut pair).enumerate() {
                for (rounded, value) in rounded.iter_mut().zip(values) {
                    *rounded = K::Element::from_f32(*value);
                }
                if let Some(row) = rows.get_mut(2 * first + index) {
                    *row = *rounded;
                }
            }
            if let Some(column) = columns.get_mut(first) {
                interleave(&pair, column);
            }
        }
        // A kernel may sum over more queries than there are.
        let used = queries.div_ceil(2);
        if !columns.is_empty() {
            columns[used..words::<K>(queries).min(PAIRS)].fill([0.0; TILE]);
        }
    }

    /// C ← S·B or C + S·B, `[queries, keys]` by `[keys, columns]`.
    #[inline(always)]
    pub fn multiply<K: Kernel>(
        &mut self,
        kernel: K,
        size: [usize; 3],
        right: &[f32],
        part: Part,
        store: Store,
        c: &mut Tile,
    ) {
        let panel = &mut *self.panel;
        if elements_per_word::<K>() == 1 {
            multiply_strided::<K, TILE, 1>(kernel, size, (self.values, right), part, store, c, panel);
        } else {
            multiply_strided::<K, PAIRS, 1>(kernel, size, (self.rows, right), part, store, c, panel);
        }
    }

    /// C ← Sᵀ·B or C + Sᵀ·B, `[keys, queries]` by `[queries, columns]`.
    #[inline(always)]
    pub fn multiply_transposed<K: Kernel>(
        &mut self,
        kernel: K,
        size: [usize; 3],
        right: &[f32],
        part: Part,
        store: Store,
        c: &mut Tile,
    ) {
        let left = if elements_per_word::<K>() == 1 { &*self.values } else { &*self.columns };
        multiply_strided::<K, 1, TILE>(kernel, size, (left, right), part, store, c, self.panel);
    }
}

/// Words of the elements of two rows, the first one's in the lower halves.
#[inline(always)]
fn interleave<T: Float>([first, second]: &[[T; TILE]; 2], words: &mut [f32; TILE]) {
    let halves =
        |row: &[T; TILE]| -> [u16; TILE] { bytemuck::cast_slice(row).try_into().expect("pairs of 16 bits") };
    let (first, second) = (halves(first), halves(second));
    for index in 0..TILE {
        words[index] = f32::from_bits(u32::from(second[index]) << 16 | u32::from(first[index]));
    }
}
