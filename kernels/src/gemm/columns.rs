//! Sums of columns: the gradient of a bias.

use crate::simt::*;

/// Warps of a block.
const WARPS: u32 = 16;
/// Threads of a block.
pub const BLOCK: u32 = WARPS * WARP;
/// Bytes of shared memory: a sum per thread.
pub const SHARED: u64 = BLOCK as u64 * 4;
/// Loads in flight per thread, and sums that it keeps apart.
const UNROLL: usize = 8;

/// sums\[column\] += Σ over rows of matrix\[row, column\], for the block's 32 columns.
#[inline(always)]
pub fn add_sums<E: Real>(matrix: Global<E>, sums: GlobalMut<f32>, rows: usize, columns: usize) {
    let column = (block_idx() * WARP + lane_id()) as usize;
    let warps = WARPS as usize;
    let mut partial = [0.0; UNROLL];
    if column < columns {
        let mut row = warp_id() as usize;
        while row + (UNROLL - 1) * warps < rows {
            let mut values = [E::from_f32(0.0); UNROLL];
            for (round, value) in values.iter_mut().enumerate() {
                *value = matrix.load((row + round * warps) * columns + column);
            }
            for (partial, value) in partial.iter_mut().zip(&values) {
                *partial += value.to_f32();
            }
            row += UNROLL * warps;
        }
        while row < rows {
            partial[0] += matrix.load(row * columns + column).to_f32();
            row += warps;
        }
    }
    let [a, b, c, d, e, f, g, h] = partial;
    let of_warps = Shared::<f32>::new(0, BLOCK);
    of_warps.store(thread_idx(), ((a + b) + (c + d)) + ((e + f) + (g + h)));
    sync_threads();
    if warp_id() == 0 && column < columns {
        let mut sum = 0.0;
        for warp in 0..WARPS {
            sum += of_warps.load(warp * WARP + lane_id());
        }
        sums.store(column, sums.load(column) + sum);
    }
}
