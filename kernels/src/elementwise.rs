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

kernel! {
    /// target[i] ← target[i] − other[i], rounded to nearest.
    ///
    /// Four elements a thread, those behind the last multiple of four one by one. 12 B per element.
    pub fn subtract_f32 { block: BLOCK, grid: count.div_ceil(CHUNK), shared: 0 } (
        target: update f32 [count] align 16,
        other: read f32 [count] align 16,
        count: scalar u64,
    ) {
        let first = 4 * global_thread_idx();
        let count = count as usize;
        if first + 4 <= count {
            let mut values = target.load_vector::<F32x4>(first);
            let others = other.load_vector::<F32x4>(first);
            for lane in 0..4 {
                values.0[lane] -= others.0[lane];
            }
            target.store_vector(first, values);
        } else {
            for index in first..count {
                target.store(index, target.load(index) - other.load(index));
            }
        }
    }
}

/// The kernels of this family.
#[cfg(not(target_arch = "nvptx64"))]
pub const KERNELS: &[crate::launch::Kernel] = &[fill_f32::KERNEL, subtract_f32::KERNEL];
