//! Where a block's tile of C lies, and how it is written, whatever computes it.

use crate::simt::*;

/// Rows of tiles that are done column by column before the next rows: their operands stay in the cache.
const GROUP: u32 = 16;

/// Elements of C that a thread writes at once.
const EIGHT: usize = 8;

/// Sizes of a product: C is `[m, n]`, sums have k terms.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rows of C.
    pub m: u32,
    /// Columns of C.
    pub n: u32,
    /// Terms of a sum.
    pub k: u32,
}

/// First row and column of tile `tile`, of tiles of `height` by `width`.
#[inline(always)]
pub fn origin(sizes: Sizes, tile: u32, height: u32, width: u32) -> (u32, u32) {
    let (rows, columns) = (sizes.m.div_ceil(height), sizes.n.div_ceil(width));
    let group = tile / (GROUP * columns);
    let inside = tile % (GROUP * columns);
    let tall = (rows - group * GROUP).min(GROUP);
    ((group * GROUP + inside % tall) * height, inside / tall * width)
}

/// What becomes of a product.
pub enum Epilogue<C: Real> {
    /// C is the product.
    Write,
    /// The product is added to C.
    Add,
    /// C is the product plus this in every row.
    AddBias(Global<C>),
}

impl<C: Real> Epilogue<C> {
    /// Whether eight consecutive elements of C, the first a multiple of eight, can be moved at once.
    #[inline(always)]
    pub fn is_whole(&self, out: GlobalMut<C>, sizes: Sizes) -> bool {
        let bias = if let Self::AddBias(bias) = self { bias.is_aligned() } else { true };
        bias && out.is_aligned() && sizes.n.is_multiple_of(8)
    }
}

/// Writes eight sums to row and column `at` of C and the columns behind, those that are inside. `whole`: as
/// [`Epilogue::is_whole`] says.
#[inline(always)]
pub fn write_eight<C: Pack<8>>(
    mut sums: [f32; EIGHT],
    at: (u32, u32),
    out: GlobalMut<C>,
    sizes: Sizes,
    how: &Epilogue<C>,
    whole: bool,
) {
    let (row, column) = at;
    if row >= sizes.m || column >= sizes.n {
        return;
    }
    let index = row as usize * sizes.n as usize + column as usize;
    if whole {
        let more = match how {
            Epilogue::Write => [0.0; EIGHT],
            Epilogue::Add => C::load(out.as_read(), index),
            Epilogue::AddBias(bias) => C::load(*bias, column as usize),
        };
        for lane in 0..EIGHT {
            sums[lane] += more[lane];
        }
        C::store(out, index, sums);
    } else {
        let inside = (sizes.n - column) as usize;
        unroll!(lane in EIGHT {
            if lane < inside {
                let more = match how {
                    Epilogue::Write => 0.0,
                    Epilogue::Add => out.load(index + lane).to_f32(),
                    Epilogue::AddBias(bias) => bias.load(column as usize + lane).to_f32(),
                };
                out.store(index + lane, C::from_f32(sums[lane] + more));
            }
        });
    }
}
