//! Spherical interpolation of models, in place: two passes over memory with the host in between.
//!
//! Tensors are divided into pieces, one block each: piece i is the `lengths[i]` elements from `starts[i]`
//! on, all in tensor `segments[i]`. Starts are multiples of 32, where mask words begin; pieces do not
//! overlap and leave out padding. [`PIECE`] is a good length. The pieces of a tensor stand together,
//! ascending.
//!
//! 1. `slerp_sums…`: each piece's Σa², Σb², Σa·b and Σ(a−b)² in f64.
//! 2. [`slerp_segment_sums`]: added up by tensor, in a fixed order. The host makes of them each tensor's
//!    angle and two factors.
//! 3. `slerp_apply…`: a ← fa·a + fb·b, in f64, rounded once to f32; the same bits as on the CPU.
//!
//! a and b are the values of `backbone` and `other`; in the `_delta` kernels, what they add to `base`. In
//! the `_skip` kernels, coordinates whose bit in `skip` is set (as in [`crate::mask`]) are in no sum and keep their bits.
//!
//! Traffic per element: 8 bytes, then 12 (in delta space 12, then 16), and a bit of the mask each time.
//! About ten operations in f64.

use crate::simt::*;

/// Elements a piece should have. Part of the sums' last bits: never a function of the device.
pub const PIECE: usize = 1 << 14;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Sums of a piece or tensor: Σa², Σb², Σa·b, Σ(a−b)².
const SUMS: usize = 4;
/// Places in shared memory for a block's sums: each warp's four.
const SCRATCH: u32 = SUMS as u32 * BLOCK / WARP;
/// Bytes of them.
const SHARED: u64 = 8 * SCRATCH as u64;

/// What both passes read, from the start of a piece on.
#[derive(Clone, Copy)]
struct GlobalInputs {
    backbone: Global<f32>,
    other: Global<f32>,
    base: Option<Global<f32>>,
    skip: Option<Global<u32>>,
}

/// Four elements.
#[derive(Clone, Copy)]
struct Four {
    backbone: F32x4,
    other: F32x4,
    base: F32x4,
    /// Of the lowest four bits, those that are set are skipped.
    skip: u32,
}

impl GlobalInputs {
    #[inline(always)]
    fn offset(self, start: usize) -> Self {
        let mut moved =
            Self { backbone: self.backbone.offset(start), other: self.other.offset(start), ..self };
        if let Some(base) = self.base {
            moved.base = Some(base.offset(start));
        }
        if let Some(words) = self.skip {
            moved.skip = Some(words.offset(start / 32));
        }
        moved
    }

    /// The four elements from `first` on; zeros from `length` on, which add nothing to any sum.
    #[inline(always)]
    fn load(self, first: usize, length: usize) -> Four {
        let zeros = F32x4([0.0; 4]);
        let mut four = Four { backbone: zeros, other: zeros, base: zeros, skip: 0 };
        if let Some(words) = self.skip {
            four.skip = words.load(first / 32) >> (first % 32);
        }
        if first + 4 <= length {
            four.backbone = self.backbone.load_vector(first);
            four.other = self.other.load_vector(first);
            if let Some(base) = self.base {
                four.base = base.load_vector(first);
            }
            return four;
        }
        for lane in 0..4 {
            if first + lane < length {
                four.backbone.0[lane] = self.backbone.load(first + lane);
                four.other.0[lane] = self.other.load(first + lane);
                if let Some(base) = self.base {
                    four.base.0[lane] = base.load(first + lane);
                }
            }
        }
        four
    }
}

#[inline(always)]
fn sum_piece(inputs: GlobalInputs, length: usize, sums: GlobalMut<f64>) {
    let mut own = [0.0; SUMS];
    let mut first = 4 * thread_idx() as usize;
    while first < length {
        let four = inputs.load(first, length);
        for lane in 0..4 {
            let skip = lane_mask(four.skip, lane);
            let base = f64::from(blend(skip, 0.0, four.base.0[lane]));
            let a = f64::from(blend(skip, 0.0, four.backbone.0[lane])) - base;
            let b = f64::from(blend(skip, 0.0, four.other.0[lane])) - base;
            own[0] = fma_f64(a, a, own[0]);
            own[1] = fma_f64(b, b, own[1]);
            own[2] = fma_f64(a, b, own[2]);
            own[3] = fma_f64(a - b, a - b, own[3]);
        }
        first += 4 * BLOCK as usize;
    }
    store_sums(own, sums.offset(SUMS * block_idx() as usize));
}

/// Adds the sums of the block's threads up, by warps, then over the warps in order.
#[inline(always)]
fn store_sums([a, b, c, d]: [f64; SUMS], sums: GlobalMut<f64>) {
    let scratch = Shared::<f64>::new(0, SCRATCH);
    // Written out: a loop around shuffles is not unrolled, and would index the array at run time.
    let warp_sums = [warp_sum_f64(a), warp_sum_f64(b), warp_sum_f64(c), warp_sum_f64(d)];
    if lane_id() == 0 {
        for (kind, sum) in (0..).zip(warp_sums) {
            scratch.store(SUMS as u32 * warp_id() + kind, sum);
        }
    }
    sync_threads();
    let kind = thread_idx();
    if kind < SUMS as u32 {
        let mut total = 0.0;
        for warp in 0..BLOCK / WARP {
            total += scratch.load(SUMS as u32 * warp + kind);
        }
        sums.store(kind as usize, total);
    }
}

#[inline(always)]
fn apply_piece(inputs: GlobalInputs, backbone: GlobalMut<f32>, length: usize, factors: Global<f64>) {
    let (own_factor, other_factor) = (factors.load(0), factors.load(1));
    let mut first = 4 * thread_idx() as usize;
    while first < length {
        let four = inputs.load(first, length);
        let mut result = four.backbone;
        for lane in 0..4 {
            let base = f64::from(four.base.0[lane]);
            let (a, b) = (f64::from(four.backbone.0[lane]), f64::from(four.other.0[lane]));
            let combined = match inputs.base {
                Some(_) => fma_f64(own_factor, a - base, fma_f64(other_factor, b - base, base)),
                None => fma_f64(own_factor, a, other_factor * b),
            };
            result.0[lane] = blend(lane_mask(four.skip, lane), four.backbone.0[lane], combined as f32);
        }
        if first + 4 <= length {
            backbone.store_vector(first, result);
        } else {
            for lane in 0..4 {
                if first + lane < length {
                    backbone.store(first + lane, result.0[lane]);
                }
            }
        }
        first += 4 * BLOCK as usize;
    }
}

/// Both kernels of one combination; the names in brackets are their buffers beside those that all have.
macro_rules! slerp {
    ($(#[$meta:meta])* $sums:ident, $apply:ident [$($base:ident)?] [$($skip:ident)?]) => {
        kernel! {
            $(#[$meta])*
            ///
            /// sums[4·i..] = Σa², Σb², Σa·b, Σ(a−b)² of piece i. See [`self`](crate::slerp). All threads of a
            /// block reach its barrier.
            pub fn $sums { block: BLOCK, grid: pieces, shared: SHARED } (
                backbone: read f32 [count] align 16,
                other: read f32 [count] align 16,
                $($base: read f32 [count] align 16,)?
                $($skip: read u32 [count.div_ceil(32)],)?
                starts: read u64 [pieces],
                lengths: read u32 [pieces],
                sums: write f64 [4 * pieces],
                count: scalar u64,
                pieces: scalar u32,
            ) {
                let piece = block_idx() as usize;
                let inputs = GlobalInputs { backbone, other, base: option!($($base)?), skip: option!($($skip)?) };
                sum_piece(inputs.offset(starts.load(piece) as usize), lengths.load(piece) as usize, sums);
            }
        }

        kernel! {
            $(#[$meta])*
            ///
            /// backbone ← factors[2·s]·a + factors[2·s+1]·b, with s the tensor of the piece; in delta space, added
            /// to the base. See [`self`](crate::slerp). No barriers; elements are independent.
            pub fn $apply { block: BLOCK, grid: pieces, shared: 0 } (
                backbone: update f32 [count] align 16,
                other: read f32 [count] align 16,
                $($base: read f32 [count] align 16,)?
                $($skip: read u32 [count.div_ceil(32)],)?
                starts: read u64 [pieces],
                lengths: read u32 [pieces],
                segments: read u32 [pieces],
                factors: read f64 [2 * segment_count],
                count: scalar u64,
                pieces: scalar u32,
                segment_count: scalar u32,
            ) {
                let piece = block_idx() as usize;
                let start = starts.load(piece) as usize;
                let factors = factors.offset(2 * segments.load(piece) as usize);
                let inputs = GlobalInputs {
                    backbone: backbone.as_read(),
                    other,
                    base: option!($($base)?),
                    skip: option!($($skip)?),
                };
                apply_piece(inputs.offset(start), backbone.offset(start), lengths.load(piece) as usize, factors);
            }
        }
    };
}

slerp! { /** In weight space. */ slerp_sums, slerp_apply [] [] }
slerp! { /** In weight space, without the skipped. */ slerp_sums_skip, slerp_apply_skip [] [skip] }
slerp! { /** In delta space. */ slerp_sums_delta, slerp_apply_delta [base] [] }
slerp! { /** In delta space, without the skipped. */ slerp_sums_delta_skip, slerp_apply_delta_skip [base] [skip] }

kernel! {
    /// segment_sums[4·s..] = the sums of the pieces from first_pieces[s] up to first_pieces[s+1], added in a
    /// fixed order. One block per tensor, all of whose threads reach its barrier.
    pub fn slerp_segment_sums { block: BLOCK, grid: segments, shared: SHARED } (
        piece_sums: read f64 [4 * pieces],
        first_pieces: read u32 [segments + 1],
        segment_sums: write f64 [4 * segments],
        pieces: scalar u32,
        segments: scalar u32,
    ) {
        let segment = block_idx() as usize;
        let mut own = [0.0; SUMS];
        let mut piece = first_pieces.load(segment) + thread_idx();
        let end = first_pieces.load(segment + 1);
        while piece < end {
            for (kind, sum) in own.iter_mut().enumerate() {
                *sum += piece_sums.load(SUMS * piece as usize + kind);
            }
            piece += BLOCK;
        }
        store_sums(own, segment_sums.offset(SUMS * segment));
    }
}
