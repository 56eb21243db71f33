//! Element by element: fill, copy between precisions, accumulate, subtract, scale.
//!
//! All have one shape: blocks of 256 threads, each thread one group of 4 elements (f32, u32) or 8 (where
//! bf16 takes part), so that the wider side moves 16 bytes at a time; buffers that do not start at a multiple
//! of 16 bytes are walked one element at a time. No shared memory, no barriers, one thread per element.

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Elements of a block, four per thread.
const CHUNK_4: u64 = 4 * BLOCK as u64;
/// Elements of a block, eight per thread.
const CHUNK_8: u64 = 8 * BLOCK as u64;

kernel! {
    /// out[i] = value. Writes 4 B per element.
    pub fn fill_f32 { block: BLOCK, grid: count.div_ceil(CHUNK_4), shared: 0 } (
        out: write f32 [count],
        count: scalar u64,
        value: scalar f32,
    ) {
        cover::<4, BLOCK>(
            count,
            out.is_aligned(),
            |index| out.store_vector(index, F32x4([value; 4])),
            |index| out.store(index, value),
        );
    }
}

kernel! {
    /// out[i] = value. Writes 4 B per element.
    pub fn fill_u32 { block: BLOCK, grid: count.div_ceil(CHUNK_4), shared: 0 } (
        out: write u32 [count],
        count: scalar u64,
        value: scalar u32,
    ) {
        cover::<4, BLOCK>(
            count,
            out.is_aligned(),
            |index| out.store_vector(index, U32x4([value; 4])),
            |index| out.store(index, value),
        );
    }
}

/// y = x, rounded to nearest even where Y is the shorter.
#[inline(always)]
fn cast<X: Pack<N>, Y: Pack<N>, const N: usize>(x: Global<X>, y: GlobalMut<Y>, index: usize) {
    Y::store(y, index, X::load(x, index));
}

kernel! {
    /// y[i] = x[i], rounded to nearest even. Moves 6 B per element.
    pub fn f32_to_bf16 { block: BLOCK, grid: count.div_ceil(CHUNK_8), shared: 0 } (
        x: read f32 [count],
        y: write Bf16 [count],
        count: scalar u64,
    ) {
        cover::<8, BLOCK>(
            count,
            x.is_aligned() && y.is_aligned(),
            |index| cast::<f32, Bf16, 8>(x, y, index),
            |index| cast::<f32, Bf16, 1>(x, y, index),
        );
    }
}

kernel! {
    /// y[i] = x[i], exactly. Moves 6 B per element.
    pub fn bf16_to_f32 { block: BLOCK, grid: count.div_ceil(CHUNK_8), shared: 0 } (
        x: read Bf16 [count],
        y: write f32 [count],
        count: scalar u64,
    ) {
        cover::<8, BLOCK>(
            count,
            x.is_aligned() && y.is_aligned(),
            |index| cast::<Bf16, f32, 8>(x, y, index),
            |index| cast::<Bf16, f32, 1>(x, y, index),
        );
    }
}

/// y += x.
#[inline(always)]
fn add<E: Pack<N>, const N: usize>(x: Global<E>, y: GlobalMut<E>, index: usize) {
    let x = E::load(x, index);
    let mut sum = E::load(y.as_read(), index);
    for lane in 0..N {
        sum[lane] += x[lane];
    }
    E::store(y, index, sum);
}

kernel! {
    /// target[i] −= other[i]. 12 B and one flop per element.
    pub fn subtract_f32 { block: BLOCK, grid: count.div_ceil(CHUNK_4), shared: 0 } (
        target: update f32 [count],
        other: read f32 [count],
        count: scalar u64,
    ) {
        cover::<4, BLOCK>(
            count,
            target.is_aligned() && other.is_aligned(),
            |index| subtract::<4>(target, other, index),
            |index| subtract::<1>(target, other, index),
        );
    }
}

/// target −= other.
#[inline(always)]
fn subtract<const N: usize>(target: GlobalMut<f32>, other: Global<f32>, index: usize)
where
    f32: Pack<N>,
{
    let mut difference = <f32 as Pack<N>>::load(target.as_read(), index);
    let other = <f32 as Pack<N>>::load(other, index);
    for lane in 0..N {
        difference[lane] -= other[lane];
    }
    <f32 as Pack<N>>::store(target, index, difference);
}

/// y *= factor.
#[inline(always)]
fn scale<E: Pack<N>, const N: usize>(y: GlobalMut<E>, factor: f32, index: usize) {
    E::store(y, index, E::load(y.as_read(), index).map(|y| y * factor));
}

macro_rules! arithmetic {
    ($add:ident, $scale:ident, $real:ident, $width:literal, $chunk:ident) => {
        kernel! {
            /// y[i] += x[i], added in f32. Three element moves and one flop per element.
            pub fn $add { block: BLOCK, grid: count.div_ceil($chunk), shared: 0 } (
                x: read $real [count],
                y: update $real [count],
                count: scalar u64,
            ) {
                cover::<$width, BLOCK>(
                    count,
                    x.is_aligned() && y.is_aligned(),
                    |index| add::<$real, $width>(x, y, index),
                    |index| add::<$real, 1>(x, y, index),
                );
            }
        }

        kernel! {
            /// y[i] *= factor, in f32. Two element moves and one flop per element.
            pub fn $scale { block: BLOCK, grid: count.div_ceil($chunk), shared: 0 } (
                y: update $real [count],
                count: scalar u64,
                factor: scalar f32,
            ) {
                cover::<$width, BLOCK>(
                    count,
                    y.is_aligned(),
                    |index| scale::<$real, $width>(y, factor, index),
                    |index| scale::<$real, 1>(y, factor, index),
                );
            }
        }
    };
}
arithmetic!(add_f32, scale_f32, f32, 4, CHUNK_4);
arithmetic!(add_bf16, scale_bf16, Bf16, 8, CHUNK_8);

/// The kernels of this family.
#[cfg(not(target_arch = "nvptx64"))]
pub const KERNELS: &[crate::launch::Kernel] = &[
    fill_f32::KERNEL,
    fill_u32::KERNEL,
    f32_to_bf16::KERNEL,
    bf16_to_f32::KERNEL,
    add_f32::KERNEL,
    add_bf16::KERNEL,
    subtract_f32::KERNEL,
    scale_f32::KERNEL,
    scale_bf16::KERNEL,
];
