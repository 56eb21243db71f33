//! Real numbers as a thread moves them: some at a time, f32 in registers, whatever they are in memory.

use crate::simt::{Bf16, Bf16x4, Bf16x8, F32x4, Global, GlobalMut, Real, block_idx, thread_idx};

/// Moves `N` consecutive numbers at a time.
///
/// For more than one the first must be aligned to 16 bytes ([`Global::is_aligned`] for the buffer, a
/// multiple of `N` for the index). With `N` = 1 any index will do: kernels are written once, over `N`, for
/// rows that vectors fit and for those they do not.
pub trait Pack<const N: usize>: Real {
    /// The numbers from element `index` on.
    fn load(buffer: Global<Self>, index: usize) -> [f32; N];

    /// Writes the numbers from element `index` on, rounded to nearest even.
    fn store(buffer: GlobalMut<Self>, index: usize, values: [f32; N]);
}

impl<E: Real> Pack<1> for E {
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(buffer: Global<Self>, index: usize) -> [f32; 1] {
        [buffer.load(index).to_f32()]
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn store(buffer: GlobalMut<Self>, index: usize, [value]: [f32; 1]) {
        buffer.store(index, E::from_f32(value));
    }
}

/// One vector.
impl Pack<4> for f32 {
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(buffer: Global<Self>, index: usize) -> [f32; 4] {
        buffer.load_vector::<F32x4>(index).0
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn store(buffer: GlobalMut<Self>, index: usize, values: [f32; 4]) {
        buffer.store_vector(index, F32x4(values));
    }
}

/// Two vectors, to go with one of bf16.
impl Pack<8> for f32 {
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(buffer: Global<Self>, index: usize) -> [f32; 8] {
        let [a, b, c, d] = buffer.load_vector::<F32x4>(index).0;
        let [e, f, g, h] = buffer.load_vector::<F32x4>(index + 4).0;
        [a, b, c, d, e, f, g, h]
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn store(buffer: GlobalMut<Self>, index: usize, values: [f32; 8]) {
        let [a, b, c, d, e, f, g, h] = values;
        buffer.store_vector(index, F32x4([a, b, c, d]));
        buffer.store_vector(index + 4, F32x4([e, f, g, h]));
    }
}

/// Half a vector.
impl Pack<4> for Bf16 {
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(buffer: Global<Self>, index: usize) -> [f32; 4] {
        buffer.load_vector::<Bf16x4>(index).0.map(Self::to_f32)
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn store(buffer: GlobalMut<Self>, index: usize, values: [f32; 4]) {
        buffer.store_vector(index, Bf16x4(values.map(Self::from_f32)));
    }
}

/// One vector.
impl Pack<8> for Bf16 {
    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn load(buffer: Global<Self>, index: usize) -> [f32; 8] {
        buffer.load_vector::<Bf16x8>(index).0.map(Self::to_f32)
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn store(buffer: GlobalMut<Self>, index: usize, values: [f32; 8]) {
        buffer.store_vector(index, Bf16x8(values.map(Self::from_f32)));
    }
}

/// Hands a block of `THREADS` its `N` · `THREADS` of `count` elements, from block 0 on: `N` at once by
/// `vector`, or one by one by `scalar` where buffers are not `aligned` and in the block that the end lies in.
/// Either way neighbouring threads get neighbouring elements. The choice is the same in all threads of a block.
#[inline(always)]
pub fn cover<const N: usize, const THREADS: u32>(
    count: u64,
    aligned: bool,
    vector: impl Fn(usize),
    scalar: impl Fn(usize),
) {
    let (count, threads, thread) = (count as usize, THREADS as usize, thread_idx() as usize);
    let base = block_idx() as usize * (N * threads);
    if aligned && base + N * threads <= count {
        vector(base + N * thread);
    } else {
        for step in 0..N {
            let index = base + step * threads + thread;
            if index < count {
                scalar(index);
            }
        }
    }
}
