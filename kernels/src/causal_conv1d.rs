//! Causal convolution of every channel by itself, and silu, over packed documents: with K taps w of each channel and
//! x = 0 before the document, z\[t,c\] = Σ_j w\[c,j\]·x\[t − (K−1) + j, c\] and output = silu(z).
//!
//! Blocks of 256 threads take a chunk of 64 tokens (`chunks`, see [`Chunks`](crate::chunks::Chunks)) and 32 vectors
//! of 16 bytes of channels: a warp takes tokens in turn, a lane a vector. Rows that vectors do not fit are walked one
//! element at a time. The taps lie in shared memory as f32, by taps and channels. A row is read once for each tap that
//! sees it, by warps of one block: from the cache but for the first time. Arithmetic is in f32; E is f32 or bf16.

// Constant indices into arrays keep them in registers.
#![allow(clippy::needless_range_loop)]

use crate::chunks::{CHUNK, Chunk, is_first_row};
use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Warps of a block.
const WARPS: u32 = BLOCK / WARP;
/// Tokens whose gradients are in shared memory at a time.
const STRIP: u32 = 32;
/// Most blocks that leave partial sums of a tap's gradient.
const PARTIAL_BLOCKS: u64 = 64;

/// Most taps that the kernels take: what fits in the shared memory of the smallest devices.
pub const TAPS_LIMIT: u64 = 32;

/// Channels of a block.
const fn group<E: Real>() -> u32 {
    WARP * vector_length::<E>() as u32
}

/// Blocks that leave partial sums in the backward, by the sizes alone.
#[cfg(not(target_arch = "nvptx64"))]
pub fn backward_blocks(chunks: usize) -> u32 {
    (chunks as u64).min(PARTIAL_BLOCKS) as u32
}

/// The sizes, and what a block works on.
#[derive(Clone, Copy)]
struct Place {
    channels: u32,
    taps: u32,
    /// The block's first channel.
    first_channel: u32,
}

/// `N` values in shared memory from `index` on.
#[inline(always)]
fn load<const N: usize>(values: Shared<f32>, index: u32) -> [f32; N] {
    let mut loaded = [0.0; N];
    if N.is_multiple_of(4) {
        for quad in 0..N / 4 {
            let vector = values.load_vector::<F32x4>(index + 4 * quad as u32).0;
            for lane in 0..4 {
                loaded[4 * quad + lane] = vector[lane];
            }
        }
    } else {
        for lane in 0..N {
            loaded[lane] = values.load(index + lane as u32);
        }
    }
    loaded
}

/// Stores `N` values in shared memory from `index` on.
#[inline(always)]
fn store<const N: usize>(values: Shared<f32>, index: u32, stored: [f32; N]) {
    if N.is_multiple_of(4) {
        for quad in 0..N / 4 {
            let at = |lane: usize| stored[4 * quad + lane];
            values.store_vector(index + 4 * quad as u32, F32x4([at(0), at(1), at(2), at(3)]));
        }
    } else {
        for lane in 0..N {
            values.store(index + lane as u32, stored[lane]);
        }
    }
}

impl Place {
    /// That of the block.
    #[inline(always)]
    fn new<E: Real>(channels: u32, taps: u32) -> Self {
        Self { channels, taps, first_channel: block_idx_y() * group::<E>() }
    }

    /// The block's taps `[K, group]` in shared memory, 0 behind the last channel. All threads must call it; a barrier
    /// must follow.
    #[inline(always)]
    fn stage_taps<E: Real>(self, weight: Global<E>) -> Shared<f32> {
        let staged = Shared::<f32>::new(0, self.taps * group::<E>());
        let mut index = thread_idx();
        while index < self.taps * group::<E>() {
            let (channel, tap) = (index / self.taps, index % self.taps);
            let value = if self.first_channel + channel < self.channels {
                weight.load(self.first_channel as usize * self.taps as usize + index as usize).to_f32()
            } else {
                0.0
            };
            staged.store(tap * group::<E>() + channel, value);
            index += BLOCK;
        }
        staged
    }

    /// Index of the block's channel `column` of `token`.
    #[inline(always)]
    fn index(self, token: u32, column: u32) -> usize {
        token as usize * self.channels as usize + (self.first_channel + column) as usize
    }

    /// z of `N` channels from the block's `column` on.
    #[inline(always)]
    fn convolve<E: Pack<N>, const N: usize>(
        self,
        input: Global<E>,
        taps: Shared<f32>,
        (token, document_start): (u32, u32),
        column: u32,
    ) -> [f32; N] {
        let mut sums = [0.0; N];
        let seen = self.taps.min(token - document_start + 1);
        let mut tap = self.taps - seen;
        while tap < self.taps {
            let x = E::load(input, self.index(token + tap + 1 - self.taps, column));
            let weight = load::<N>(taps, tap * group::<E>() + column);
            for lane in 0..N {
                sums[lane] = fma(x[lane], weight[lane], sums[lane]);
            }
            tap += 1;
        }
        sums
    }

    /// Hands the lane its columns of a row: one vector, or one by one.
    #[inline(always)]
    fn columns<E: Real>(self, by_vectors: bool, vector: impl Fn(u32), scalar: impl Fn(u32)) {
        if by_vectors {
            let column = lane_id() * vector_length::<E>() as u32;
            if self.first_channel + column < self.channels {
                vector(column);
            }
        } else {
            let mut column = lane_id();
            while column < group::<E>() {
                if self.first_channel + column < self.channels {
                    scalar(column);
                }
                column += WARP;
            }
        }
    }
}

/// silu(z), stored.
#[inline(always)]
fn activate<E: Pack<N>, const N: usize>(mut z: [f32; N], output: GlobalMut<E>, index: usize) {
    for lane in 0..N {
        z[lane] *= sigmoid(z[lane]);
    }
    E::store(output, index, z);
}

/// What the backward of a block has at hand.
#[derive(Clone, Copy)]
struct Backward<E: Real> {
    place: Place,
    taps: Shared<f32>,
    /// d_z `[STRIP + K − 1, group]` of a strip of tokens and those behind that see it.
    d_z: Shared<f32>,
    input: Global<E>,
    d_output: Global<E>,
    d_input: GlobalMut<E>,
}

impl<E: Real> Backward<E> {
    /// d_z = d_output·silu'(z) of a token, to row `row`.
    #[inline(always)]
    fn store_d_z<const N: usize>(self, (token, document_start): (u32, u32), row: u32, column: u32)
    where
        E: Pack<N>,
    {
        let z: [f32; N] = self.place.convolve(self.input, self.taps, (token, document_start), column);
        let mut gradient: [f32; N] = E::load(self.d_output, self.place.index(token, column));
        for lane in 0..N {
            let sigma = sigmoid(z[lane]);
            // silu' = σ + z σ (1 − σ)
            gradient[lane] *= fma(z[lane] * sigma, 1.0 - sigma, sigma);
        }
        store(self.d_z, row * group::<E>() + column, gradient);
    }

    /// d_x = Σ of the taps that see row `row`, times d_z of their tokens, which are `rows`.
    #[inline(always)]
    fn store_d_input<const N: usize>(self, token: u32, (row, rows): (u32, u32), column: u32)
    where
        E: Pack<N>,
    {
        let mut sums = [0.0; N];
        let mut later = 0;
        while later < self.place.taps && row + later < rows {
            let gradient = load::<N>(self.d_z, (row + later) * group::<E>() + column);
            let weight = load::<N>(self.taps, (self.place.taps - 1 - later) * group::<E>() + column);
            for lane in 0..N {
                sums[lane] = fma(gradient[lane], weight[lane], sums[lane]);
            }
            later += 1;
        }
        E::store(self.d_input, self.place.index(token, column), sums);
    }

    /// Adds what the first `count` tokens of a strip give to the taps' gradients, each by one thread alone.
    #[inline(always)]
    fn add_d_weight(
        self,
        (first, count): (u32, u32),
        document_start: u32,
        partials: GlobalMut<f32>,
        is_new: bool,
    ) {
        let Place { channels, taps, first_channel } = self.place;
        let mut index = thread_idx();
        while index < taps * group::<E>() {
            let (tap, column) = (index / group::<E>(), index % group::<E>());
            if first_channel + column < channels {
                let mut sum = 0.0;
                // Rows whose input for this tap is before the document see 0.
                let mut row = (document_start + taps - 1).saturating_sub(first + tap);
                while row < count {
                    let x = self.input.load(self.place.index(first + row + tap + 1 - taps, column)).to_f32();
                    sum = fma(self.d_z.load(row * group::<E>() + column), x, sum);
                    row += 1;
                }
                let of_block = block_idx() as usize * channels as usize + (first_channel + column) as usize;
                let partial = of_block * taps as usize + tap as usize;
                let before = if is_new { 0.0 } else { partials.load(partial) };
                partials.store(partial, before + sum);
            }
            index += BLOCK;
        }
    }
}

kernel! {
    /// output = silu of the convolution.
    ///
    /// Block (x, y) takes chunk x and group y of channels. Every thread reaches the barrier, behind the taps. Reads and
    /// writes each element once but for what neighbouring chunks share, K − 1 rows; 2 K + 6 flops an element.
    pub fn causal_conv1d<E> = causal_conv1d_f32, causal_conv1d_bf16; {
        block: BLOCK,
        grid: (chunk_count, channels.div_ceil(u64::from(group::<E>()))),
        shared: 4 * taps * u64::from(group::<E>()),
    } (
        chunks: read u32 [chunk_count * crate::chunks::ENTRY],
        input: read E [tokens * channels],
        weight: read E [channels * taps],
        output: write E [tokens * channels],
        tokens: scalar u32,
        chunk_count: scalar u32,
        channels: scalar u32,
        taps: scalar u32,
    ) requires { channels > 0, channels < 1 << 24, taps > 0, taps <= TAPS_LIMIT } {
        let _ = (tokens, chunk_count);
        let place = Place::new::<E>(channels, taps);
        let staged = place.stage_taps(weight);
        sync_threads();
        let chunk = Chunk::load(chunks, block_idx());
        let (first, start) = (chunk.first, chunk.start);
        let by_vectors = input.is_aligned()
            && output.is_aligned()
            && channels.is_multiple_of(vector_length::<E>() as u32);
        let mut token = first + warp_id();
        while token < first + chunk.count() {
            place.columns::<E>(
                by_vectors,
                |column| {
                    let z = place.convolve::<E, { vector_length::<E>() }>(input, staged, (token, start), column);
                    activate(z, output, place.index(token, column));
                },
                |column| {
                    let z = place.convolve::<E, 1>(input, staged, (token, start), column);
                    activate(z, output, place.index(token, column));
                },
            );
            token += WARPS;
        }
    }
}

kernel! {
    /// d_input, and partials `[blocks, channels, K]` whose sum over the blocks is the gradient of the weight.
    ///
    /// Block (x, y) takes chunks x, x + blocks, … and group y of channels, 32 tokens at a time: their d_z and those of
    /// the K − 1 tokens behind go to shared memory, where d_input and the taps' gradients are summed from. A tap of a
    /// channel is one thread's, which adds its tokens in order: no sum depends on which block was first. Every thread
    /// reaches every barrier. Reads input and d_output, writes d_input; about 6 K + 14 flops an element.
    pub fn causal_conv1d_backward<E> = causal_conv1d_backward_f32, causal_conv1d_backward_bf16; {
        block: BLOCK,
        grid: (blocks, channels.div_ceil(u64::from(group::<E>()))),
        shared: 4 * (2 * taps + u64::from(STRIP) - 1) * u64::from(group::<E>()),
        min_blocks: 2,
    } (
        chunks: read u32 [chunk_count * crate::chunks::ENTRY],
        input: read E [tokens * channels],
        weight: read E [channels * taps],
        d_output: read E [tokens * channels],
        d_input: write E [tokens * channels],
        partials: update f32 [blocks * channels * taps],
        tokens: scalar u32,
        chunk_count: scalar u32,
        channels: scalar u32,
        taps: scalar u32,
        blocks: scalar u32,
    ) requires {
        channels > 0,
        channels < 1 << 24,
        taps > 0,
        taps <= TAPS_LIMIT,
        blocks <= chunk_count,
    } {
        let _ = tokens;
        let place = Place::new::<E>(channels, taps);
        let staged = place.stage_taps(weight);
        let d_z = Shared::<f32>::new(4 * taps * group::<E>(), (STRIP + taps - 1) * group::<E>());
        let pass = Backward { place, taps: staged, d_z, input, d_output, d_input };
        let by_vectors = input.is_aligned()
            && d_output.is_aligned()
            && d_input.is_aligned()
            && channels.is_multiple_of(vector_length::<E>() as u32);
        let mut index = block_idx();
        let mut is_new = true;
        while index < chunk_count {
            let Chunk { first: chunk, start, end, .. } = Chunk::load(chunks, index);
            let mut first = chunk;
            while first < end.min(chunk + CHUNK) {
                let rows = (STRIP + taps - 1).min(end - first);
                // What was staged before may still be in use; the taps are seen behind.
                sync_threads();
                let mut row = warp_id();
                while row < rows {
                    place.columns::<E>(
                        by_vectors,
                        |column| pass.store_d_z::<{ vector_length::<E>() }>((first + row, start), row, column),
                        |column| pass.store_d_z::<1>((first + row, start), row, column),
                    );
                    row += WARPS;
                }
                sync_threads();
                let count = STRIP.min(rows);
                let mut row = warp_id();
                while row < count {
                    place.columns::<E>(
                        by_vectors,
                        |column| pass.store_d_input::<{ vector_length::<E>() }>(first + row, (row, rows), column),
                        |column| pass.store_d_input::<1>(first + row, (row, rows), column),
                    );
                    row += WARPS;
                }
                pass.add_d_weight((first, count), start, partials, is_new);
                is_new = false;
                first += STRIP;
            }
            index += blocks;
        }
    }
}

kernel! {
    /// One new token a row, for generation: output = silu of the convolution of the sequence's latest inputs and the
    /// row's, which `states` `[slots, K − 1, channels]` take in, the oldest first.
    ///
    /// Block (x, y) takes the sequence whose first row is x, all its rows in order, and 256 channels, a thread each; a
    /// row whose sequence an earlier row has is not its sequence's first. No barriers.
    pub fn causal_conv1d_decode<E> = causal_conv1d_decode_f32, causal_conv1d_decode_bf16; {
        block: BLOCK,
        grid: (rows, channels.div_ceil(u64::from(BLOCK))),
        shared: 0,
    } (
        input: read E [rows * channels],
        weight: read E [channels * taps],
        slots: read u32 [rows],
        states: update E [slot_count * (taps - 1) * channels],
        output: write E [rows * channels],
        rows: scalar u32,
        slot_count: scalar u32,
        channels: scalar u32,
        taps: scalar u32,
    ) requires { channels > 0, channels < 1 << 24, taps > 0, taps <= TAPS_LIMIT } {
        let _ = slot_count;
        let channel = block_idx_y() * BLOCK + thread_idx();
        let slot = slots.load(block_idx() as usize);
        if channel < channels && is_first_row(slots, block_idx()) {
            let latest = |tap: u32| {
                (slot as usize * (taps - 1) as usize + tap as usize) * channels as usize + channel as usize
            };
            let mut row = block_idx();
            while row < rows {
                if slots.load(row as usize) == slot {
                    let own = row as usize * channels as usize + channel as usize;
                    let newest = input.load(own);
                    let mut sum = 0.0;
                    for tap in 0..taps {
                        let x = if tap + 1 < taps { states.load(latest(tap)) } else { newest };
                        let tap_weight = weight.load(channel as usize * taps as usize + tap as usize);
                        sum = fma(x.to_f32(), tap_weight.to_f32(), sum);
                        if tap > 0 {
                            states.store(latest(tap - 1), x);
                        }
                    }
                    output.store(own, E::from_f32(sum * sigmoid(sum)));
                }
                row += 1;
            }
        }
    }
}
