//! Element by element: fill, copy between precisions, accumulate, subtract.

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Elements of a block: four per thread.
const CHUNK: u64 = 4 * BLOCK as u64;

kernel! {
    /// out[i] = value.
    ///
    /// Four elements a thread, those behind the last multiple of four one by one. Writes 4 B per element.
    pub fn fill_f32 { block: BLOCK, grid: count.div_ceil(CHUNK), shared: 0 } (
        out: write f32 [count] align 16,
        count: scalar u64,
        value: scalar f32,
    ) {
        let first = 4 * global_thread_idx();
        let count = count as usize;
        if first + 4 <= count {
            out.store_vector(first, F32x4([value; 4]));
        } else {
            for index in first..count {
                out.store(index, value);
            }
        }
    }
}

/// The kernels of this family.
#[cfg(not(target_arch = "nvptx64"))]
pub const KERNELS: &[crate::launch::Kernel] = &[fill_f32::KERNEL];
