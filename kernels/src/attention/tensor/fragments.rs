//! Tiles of rows in shared memory, and products of them by the warps of a block.
//!
//! A row of a head has `16·N` elements, in chunks of eight: what one lane copies or names to a load of
//! matrices. Such a load takes the same chunk of eight rows, which therefore must lie in eight different
//! sixteens of bytes modulo 128: [`swizzled`] swizzles the chunks of a row.

use super::super::tile::Rows;
use super::BLOCK;
use crate::simt::*;

/// Elements of a chunk.
const CHUNK: u32 = 8;

/// Chunks of a group, inside of which those of a row are swizzled: the largest power of two in `chunks`, up to 8.
#[inline(always)]
const fn swizzle_group(chunks: u32) -> u32 {
    let z = chunks.trailing_zeros();
    1 << if z < 3 { z } else { 3 }
}

/// Where chunk `chunk` of row `row` lies in a tile of `chunks` chunks a row, an even number.
///
/// Rows that are 8 / [`swizzle_group`] apart begin in the same place modulo 128 bytes. So each such row is swizzled in
/// another way.
#[inline(always)]
const fn swizzled(row: u32, chunk: u32, chunks: u32) -> u32 {
    let group = swizzle_group(chunks);
    row * chunks + (chunk ^ (row / (8 / group) % group))
}

/// A tile of rows of `16·N` elements in shared memory.
#[derive(Clone, Copy)]
pub struct SharedTile<const N: usize> {
    elements: Shared<Bf16>,
    /// The same, by pairs.
    pairs: Shared<u32>,
}

impl<const N: usize> SharedTile<N> {
    /// Chunks of a row.
    const CHUNKS: u32 = 2 * N as u32;

    /// Bytes of a tile.
    pub const fn bytes(rows: u32) -> u32 {
        16 * Self::CHUNKS * rows
    }

    /// `rows` rows from byte `byte` of the block's shared memory on.
    #[inline(always)]
    pub fn new(byte: u32, rows: u32) -> Self {
        let elements = CHUNK * Self::CHUNKS * rows;
        Self { elements: Shared::new(byte, elements), pairs: Shared::new(byte, elements / 2) }
    }

    /// Index of the first element of a chunk.
    #[inline(always)]
    fn chunk(row: u32, chunk: u32) -> u32 {
        CHUNK * swizzled(row, chunk, Self::CHUNKS)
    }

    /// Elements from a chunk to the one `rows` rows, a multiple of 8, and `chunks` chunks, of whole groups, on.
    #[inline(always)]
    fn distance(rows: u32, chunks: u32) -> u32 {
        CHUNK * (rows * Self::CHUNKS + chunks)
    }

    /// Chunk of its group, and chunks before the group, of column `16·k`.
    #[inline(always)]
    fn column(k: usize) -> (u32, u32) {
        let (chunk, group) = (2 * k as u32, swizzle_group(Self::CHUNKS));
        (chunk % group, chunk / group * group)
    }

    /// Starts copying `rows` rows of heads of `head_dim` elements, by all threads of the block together;
    /// zeros behind the last row and behind the heads' last element.
    #[inline(always)]
    pub fn copy(self, source: Rows<Bf16>, rows: u32, head_dim: u32) {
        // Rows copied at once. The remainder tells the compiler the range.
        let step = BLOCK / Self::CHUNKS;
        let thread = thread_idx() % BLOCK;
        let (first, chunk) = (thread / Self::CHUNKS, thread % Self::CHUNKS);
        let count = if CHUNK * chunk < head_dim { source.count } else { 0 };
        let mut from = source.first + first as usize * source.stride + (CHUNK * chunk) as usize;
        let mut done = 0;
        while done < rows {
            let row = first + done;
            // The last threads have none where rows do not divide the block.
            if BLOCK.is_multiple_of(Self::CHUNKS) && rows.is_multiple_of(step) || first < step && row < rows {
                let valid = row < count;
                let safe = if valid { from } else { source.first };
                self.elements.copy_async(Self::chunk(row, chunk), source.data, safe, valid);
            }
            from += step as usize * source.stride;
            done += step;
        }
    }

    /// Columns `16·k..` of the 16 rows from `first` on, as a left operand.
    #[inline(always)]
    pub fn left(self, first: u32, k: usize) -> [u32; 4] {
        let (chunk, before) = Self::column(k);
        let index = Self::chunk(first + lane_id() % 16, chunk + lane_id() / 16);
        self.elements.load_matrices_at(index, Self::distance(0, before))
    }

    /// Columns `16·k..` of the 16 rows from `16·j` on as two right operands: the rows are their columns.
    #[inline(always)]
    fn right_transposed(self, j: usize, k: usize) -> [[u32; 2]; 2] {
        let (lane, (chunk, before)) = (lane_id(), Self::column(k));
        let index = Self::chunk(lane % 8 + lane / 16 * 8, chunk + lane / 8 % 2);
        let offset = Self::distance(16 * j as u32, before);
        let [a, b, c, d] = self.elements.load_matrices_at(index, offset);
        [[a, b], [c, d]]
    }

    /// Columns `16·n..` of the 16 rows from `16·j` on as two right operands, of eight columns each.
    #[inline(always)]
    fn right(self, j: usize, n: usize) -> [[u32; 2]; 2] {
        let (lane, (chunk, before)) = (lane_id(), Self::column(n));
        let index = Self::chunk(lane % 16, chunk + lane / 16);
        let offset = Self::distance(16 * j as u32, before);
        let [a, b, c, d] = self.elements.load_matrices_transposed_at(index, offset);
        [[a, b], [c, d]]
    }

    /// A·Bᵀ, where the rows of B are the first `16·J` of this tile and `left(k)` are columns `16·k..` of the
    /// 16 rows of A.
    #[inline(always)]
    pub fn product_transposed<const J: usize>(self, left: impl Fn(usize) -> [u32; 4]) -> Accumulators<J> {
        let mut sums = [[[0.0; 4]; 2]; J];
        unroll!(k in N {
            let a = left(k);
            unroll!(j in J {
                let [low, high] = self.right_transposed(j, k);
                sums[j][0] = matrix_multiply(a, low, sums[j][0]);
                sums[j][1] = matrix_multiply(a, high, sums[j][1]);
            });
        });
        sums
    }

    /// sums += A·B, where the rows of B are the first `16·J` of this tile.
    #[inline(always)]
    pub fn add_product<const J: usize>(self, left: &AFragments<J>, sums: &mut Accumulators<N>) {
        unroll!(j in J {
            let a = left[j];
            unroll!(n in N {
                let [low, high] = self.right(j, n);
                sums[n][0] = matrix_multiply(a, low, sums[n][0]);
                sums[n][1] = matrix_multiply(a, high, sums[n][1]);
            });
        });
    }

    /// Writes a warp's sums, rounded, to `out` by way of the 16 rows of this tile from `first` on, which no
    /// other warp may use. Row `first + i` goes to index `target.0 + i·target.1`, as far as i < `target.2`
    /// and a head has elements.
    #[inline(always)]
    pub fn write(
        self,
        first: u32,
        sums: &Accumulators<N>,
        out: GlobalMut<Bf16>,
        target: (usize, usize, u32),
        head_dim: u32,
    ) {
        let (start, stride, count) = target;
        sync_warp();
        unroll!(n in N {
            for half in 0..2 {
                let [a, b, c, d] = sums[n][half];
                let chunk = 2 * n as u32 + half as u32;
                let pair = |row: u32| Self::chunk(first + row, chunk) / 2 + lane_id() % 4;
                self.pairs.store(pair(lane_id() / 4), pack_bf16(a, b));
                self.pairs.store(pair(lane_id() / 4 + 8), pack_bf16(c, d));
            }
        });
        sync_warp();
        let mut index = lane_id();
        while index < 16 * Self::CHUNKS {
            let (row, chunk) = (index / Self::CHUNKS, index % Self::CHUNKS);
            if row < count && CHUNK * chunk < head_dim {
                let values = self.elements.load_vector::<Bf16x8>(Self::chunk(first + row, chunk));
                out.store_vector(start + row as usize * stride + (CHUNK * chunk) as usize, values);
            }
            index += WARP;
        }
    }
}

/// Sums as left operands of the next product: what a lane holds of the one is what it holds of the other.
#[inline(always)]
pub fn to_operands<const J: usize>(sums: &Accumulators<J>) -> AFragments<J> {
    let mut operands = [[0; 4]; J];
    unroll!(j in J {
        let [[a, b, c, d], [e, f, g, h]] = sums[j];
        operands[j] = [pack_bf16(a, b), pack_bf16(c, d), pack_bf16(e, f), pack_bf16(g, h)];
    });
    operands
}

/// Row, of 16, that this lane holds in elements `2·half..` of sums.
#[inline(always)]
pub fn sum_row(half: usize) -> u32 {
    lane_id() / 4 + 8 * half as u32
}

/// First of the two columns that this lane holds in half `half` of sums `j`.
#[inline(always)]
pub fn sum_column(j: usize, half: usize) -> u32 {
    16 * j as u32 + 8 * half as u32 + lane_id() % 4 * 2
}

/// Sum over the four lanes that share a row, the same bits in each.
#[inline(always)]
pub fn row_sum(mut value: f32) -> f32 {
    value += shuffle_xor(value, 2);
    value + shuffle_xor(value, 1)
}

/// Largest value of the four lanes that share a row.
#[inline(always)]
pub fn row_max(mut value: f32) -> f32 {
    value = max(value, shuffle_xor(value, 2));
    max(value, shuffle_xor(value, 1))
}

/// Multiplies the two rows that a lane holds by a factor each.
#[inline(always)]
pub fn scale_rows<const N: usize>(sums: &mut Accumulators<N>, factors: [f32; 2]) {
    unroll!(n in N {
        for half in 0..2 {
            for element in 0..4 {
                sums[n][half][element] *= factors[element / 2];
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row lengths of heads of 64, 80, 96, 128 and 256, and the even ones between.
    #[test]
    fn eight_rows_of_a_chunk_share_no_banks() {
        for chunks in (2..=32).step_by(2) {
            for first in (0..64).step_by(8) {
                for chunk in 0..chunks {
                    let banks = (first..first + 8).map(|row| swizzled(row, chunk, chunks) % 8);
                    let used = banks.fold(0, |used, bank| used | 1 << bank);
                    assert_eq!(used, 0xff, "{chunks} chunks a row, chunk {chunk} of rows {first}..");
                }
            }
        }
    }

    #[test]
    fn every_chunk_has_a_place_of_its_own() {
        for chunks in (2..=32).step_by(2) {
            let rows = 0..16u32;
            let mut places: Vec<u32> =
                rows.flat_map(|row| (0..chunks).map(move |chunk| swizzled(row, chunk, chunks))).collect();
            places.sort_unstable();
            assert!(places.into_iter().eq(0..16 * chunks), "{chunks} chunks a row");
        }
    }
}
