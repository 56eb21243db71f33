//! The gated delta rule over packed documents, by chunks of 64 tokens: with S `[DK, DV]` the state of a value head before
//! a chunk, q̂ and k̂ at unit length (q̂ times 1/√DK besides), g = −e^a_log·ln(1 + e^(a + dt_bias)), β = σ(b), c the sum of
//! g from the chunk's first token on, and E\[i,j\] = e^(c_i − c_j) for j ≤ i,
//!
//! | | |
//! |---|---|
//! | A\[i,j\] = β_i (k̂_i·k̂_j) E\[i,j\], j < i; solver = (I + A)⁻¹ | `prepare` |
//! | scores = (q̂ k̂ᵀ) E | `prepare` |
//! | U = solver β (v − e^c k̂ S) | `scan` |
//! | output = e^c q̂ S + scores U | `scan` |
//! | S ← e^c_n S + (e^(c_n − c) k̂)ᵀ U | `scan` |
//!
//! Of a document only the states follow on each other. What does not depend on them is made by blocks of a chunk and key
//! head (`prepare`, `gradients`); blocks of a document, value head and 32 columns of DV go from chunk to chunk, forward
//! (`scan`) and, for the gradients of the states, backward (`reverse`), with the state in shared memory. The backward
//! computes states and U once more and keeps them, as f32, until it is done. It keeps no state before a document's first
//! chunk and no gradient of one behind its last, which are 0: that many short documents take no more than a long one.
//!
//! | kernel | blocks | products of a chunk and value head, multiplications of 64×: |
//! |---|---|---|
//! | prepare | chunks · HK | 128 DK a key head, 64·32 for the solver |
//! | scan | documents · HV · DV/32 | 3 DK DV + 128 DV, without the output 2 DK DV + 64 DV |
//! | reverse | documents · HV · DV/32 | 3 DK DV + 128 DV |
//! | gradients | chunks · HK | 3 DK DV + 128 DV + 256 DK, and 128 DK a key head |
//!
//! Scratch of a token: 4·(2·64 HV + 3 HV + 2 HK) bytes forward; backward 4·(2 DK DV/64 + 2 DV) HV and 8 HK DK besides.
//! All products are of f32 by multiply-add; none is on tensor cores. Sums are in orders that depend on the documents
//! alone. E is f32 or bf16.

// Constant indices into arrays keep them in registers.
#![allow(clippy::needless_range_loop)]

mod decode;
mod gate_sums;
mod gradients;
mod prepare;
mod reverse;
mod scan;
mod tile;

#[cfg(not(target_arch = "nvptx64"))]
pub use decode::*;
#[cfg(not(target_arch = "nvptx64"))]
pub use gate_sums::*;
#[cfg(not(target_arch = "nvptx64"))]
pub use gradients::*;
#[cfg(not(target_arch = "nvptx64"))]
pub use prepare::*;
#[cfg(not(target_arch = "nvptx64"))]
pub use reverse::*;
#[cfg(not(target_arch = "nvptx64"))]
pub use scan::*;

use crate::chunks::CHUNK;
use crate::simt::*;

/// Most elements of a key that the kernels take.
pub const KEY_DIM_LIMIT: u64 = 256;

/// Columns of a state that one block has.
pub const PART: u32 = 32;

/// Added to the squared length of queries and keys.
const EPSILON: f32 = 1e-6;

/// Elements of a chunk's square matrices.
const SQUARE: usize = (CHUNK * CHUNK) as usize;

/// Numbers of an entry of a list of chunks or documents, for the contracts.
const ENTRY: u64 = crate::chunks::ENTRY;

/// Numbers of a token and value head that [`prepare`] leaves: β, e^c, e^(c_n − c).
const GATES: u64 = 3;

/// Heads and their elements.
#[derive(Clone, Copy)]
struct Sizes {
    tokens: u32,
    key_heads: u32,
    value_heads: u32,
    key_dim: u32,
    value_dim: u32,
}

impl Sizes {
    /// Elements of a token's queries, keys and values.
    #[inline(always)]
    fn width(self) -> usize {
        2 * self.key_heads as usize * self.key_dim as usize
            + self.value_heads as usize * self.value_dim as usize
    }

    /// Where a token's query is.
    #[inline(always)]
    fn query(self, token: u32, key_head: u32) -> usize {
        token as usize * self.width() + key_head as usize * self.key_dim as usize
    }

    /// Where a token's key is.
    #[inline(always)]
    fn key(self, token: u32, key_head: u32) -> usize {
        self.query(token, self.key_heads + key_head)
    }

    /// Where a token's value is.
    #[inline(always)]
    fn value(self, token: u32, head: u32) -> usize {
        self.query(token, 2 * self.key_heads) + head as usize * self.value_dim as usize
    }

    /// Where a token's row of `[N, HV, DV]` is.
    #[inline(always)]
    fn output(self, token: u32, head: u32) -> usize {
        self.entry(token, head) * self.value_dim as usize
    }

    /// Index of an entry of `[N, HV]`.
    #[inline(always)]
    fn entry(self, token: u32, head: u32) -> usize {
        token as usize * self.value_heads as usize + head as usize
    }

    /// Where the state of a document's or chunk's head begins in `[.., HV, DK, DV]`.
    #[inline(always)]
    fn state(self, index: u32, head: u32) -> usize {
        self.entry(index, head) * self.key_dim as usize * self.value_dim as usize
    }

    /// Where the state before a chunk that is not its document's first is among those that the backward keeps.
    #[inline(always)]
    fn state_before(self, (chunk, document): (u32, u32), head: u32) -> usize {
        self.state(chunk - document - 1, head)
    }

    /// The same of the gradient of the state behind a chunk that is not its document's last.
    #[inline(always)]
    fn state_behind(self, (chunk, document): (u32, u32), head: u32) -> usize {
        self.state(chunk - document, head)
    }

    /// Where the square matrix of a chunk's head begins in `[chunks, HV, 64, 64]`.
    #[inline(always)]
    fn square(self, chunk: u32, head: u32) -> usize {
        self.entry(chunk, head) * SQUARE
    }

    /// Value heads that share a key head.
    #[inline(always)]
    fn group(self) -> u32 {
        self.value_heads / self.key_heads
    }

    /// Index of the scale of a token's query; that of its key is `tokens · HK` further on.
    #[inline(always)]
    fn scale(self, token: u32, key_head: u32) -> usize {
        token as usize * self.key_heads as usize + key_head as usize
    }

    /// Numbers in `[N, HV]`.
    #[inline(always)]
    fn entries(self) -> usize {
        self.tokens as usize * self.value_heads as usize
    }
}

/// ln(1 + e^x) to within a few roundings, also where it is near 0.
#[inline(always)]
fn softplus(x: f32) -> f32 {
    let y = exp(-abs(x));
    // ln(1 + y) = 2 atanh(z), z = y/(2 + y) ≤ 1/3.
    let z = divide(y, 2.0 + y);
    let square = z * z;
    let mut series = 1.0 / 15.0;
    series = fma(series, square, 1.0 / 13.0);
    series = fma(series, square, 1.0 / 11.0);
    series = fma(series, square, 1.0 / 9.0);
    series = fma(series, square, 1.0 / 7.0);
    series = fma(series, square, 1.0 / 5.0);
    series = fma(series, square, 1.0 / 3.0);
    max(x, 0.0) + 2.0 * z * fma(series, square, 1.0)
}

/// What the gates are made of.
#[derive(Clone, Copy)]
struct GateInputs<E: Real> {
    a: Global<E>,
    b: Global<E>,
    a_log: Global<E>,
    dt_bias: Global<E>,
}

impl<E: Real> GateInputs<E> {
    /// e^a_log.
    #[inline(always)]
    fn rate(self, head: u32) -> f32 {
        exp(self.a_log.load(head as usize).to_f32())
    }

    /// a + dt_bias.
    #[inline(always)]
    fn decay_input(self, entry: usize, head: u32) -> f32 {
        self.a.load(entry).to_f32() + self.dt_bias.load(head as usize).to_f32()
    }

    /// β.
    #[inline(always)]
    fn beta(self, entry: usize) -> f32 {
        sigmoid(self.b.load(entry).to_f32())
    }
}

/// Gates of a chunk's tokens, in shared memory; behind the last token nothing decays and β is 0.
#[derive(Clone, Copy)]
struct Gates {
    /// g.
    log_decay: Shared<f64>,
    /// c.
    sums: Shared<f64>,
    beta: Shared<f32>,
    from_start: Shared<f32>,
    to_end: Shared<f32>,
}

/// Bytes that [`Gates`] take.
const GATES_SHARED: u32 = CHUNK * (2 * 8 + 3 * 4);

impl Gates {
    /// From byte `byte` of shared memory on, a multiple of 16.
    #[inline(always)]
    fn new(byte: u32) -> Self {
        let f32s = byte + 16 * CHUNK;
        Self {
            log_decay: Shared::new(byte, CHUNK),
            sums: Shared::new(byte + 8 * CHUNK, CHUNK),
            beta: Shared::new(f32s, CHUNK),
            from_start: Shared::new(f32s + 4 * CHUNK, CHUNK),
            to_end: Shared::new(f32s + 8 * CHUNK, CHUNK),
        }
    }

    /// Those of `count` tokens from `first` on. All threads must call it; the gates are seen behind, and those before
    /// must be done with.
    #[inline(always)]
    fn load<E: Real>(self, sizes: Sizes, inputs: GateInputs<E>, (first, count): (u32, u32), head: u32) {
        let row = thread_idx();
        if row < CHUNK {
            let (mut log_decay, mut beta) = (0.0, 0.0);
            if row < count {
                let entry = sizes.entry(first + row, head);
                log_decay = -inputs.rate(head) * softplus(inputs.decay_input(entry, head));
                beta = inputs.beta(entry);
            }
            self.log_decay.store(row, f64::from(log_decay));
            self.beta.store(row, beta);
        }
        sync_threads();
        if row < CHUNK {
            // In f64: the difference of two sums is an exponent. Every thread adds in the order of the tokens.
            let (mut sum, mut own) = (0.0, 0.0);
            for token in 0..CHUNK {
                sum += self.log_decay.load(token);
                own = if token == row { sum } else { own };
            }
            self.sums.store(row, own);
            self.from_start.store(row, exp(own as f32));
            self.to_end.store(row, exp((sum - own) as f32));
        }
        sync_threads();
    }

    /// E of a row and a column that is not behind it.
    #[inline(always)]
    fn decay(self, row: u32, column: u32) -> f32 {
        exp((self.sums.load(row) - self.sums.load(column)) as f32)
    }
}

/// Scales of a chunk's queries and keys to unit length, in shared memory; 0 behind the last token.
#[derive(Clone, Copy)]
struct Scales {
    query: Shared<f32>,
    key: Shared<f32>,
}

/// Bytes that [`Scales`] take.
const SCALES_SHARED: u32 = CHUNK * 2 * 4;

impl Scales {
    /// From byte `byte` of shared memory on.
    #[inline(always)]
    fn new(byte: u32) -> Self {
        Self { query: Shared::new(byte, CHUNK), key: Shared::new(byte + 4 * CHUNK, CHUNK) }
    }

    /// Those that `prepare` left of `count` tokens from `first` on. All threads must call it; a barrier must follow.
    #[inline(always)]
    fn load(self, sizes: Sizes, scales: Global<f32>, (first, count): (u32, u32), key_head: u32) {
        let row = thread_idx();
        if row < CHUNK {
            let (mut query, mut key) = (0.0, 0.0);
            if row < count {
                let index = sizes.scale(first + row, key_head);
                query = scales.load(index);
                key = scales.load(sizes.tokens as usize * sizes.key_heads as usize + index);
            }
            self.query.store(row, query);
            self.key.store(row, key);
        }
    }
}

/// Queries, keys and values of a chunk's tokens, 0 behind the last.
#[derive(Clone, Copy)]
struct Rows<E: Real> {
    sizes: Sizes,
    qkv: Global<E>,
    scales: Scales,
    first: u32,
    count: u32,
    key_head: u32,
}

impl<E: Real> Rows<E> {
    /// Element `column` of q̂ of token `row`.
    #[inline(always)]
    fn query(self, row: u32, column: u32) -> f32 {
        if row < self.count && column < self.sizes.key_dim {
            let index = self.sizes.query(self.first + row, self.key_head) + column as usize;
            self.qkv.load(index).to_f32() * self.scales.query.load(row)
        } else {
            0.0
        }
    }

    /// The same of k̂.
    #[inline(always)]
    fn key(self, row: u32, column: u32) -> f32 {
        if row < self.count && column < self.sizes.key_dim {
            let index = self.sizes.key(self.first + row, self.key_head) + column as usize;
            self.qkv.load(index).to_f32() * self.scales.key.load(row)
        } else {
            0.0
        }
    }

    /// Element `column` of v of token `row` and value head `head`.
    #[inline(always)]
    fn value(self, row: u32, column: u32, head: u32) -> f32 {
        if row < self.count && column < self.sizes.value_dim {
            self.qkv.load(self.sizes.value(self.first + row, head) + column as usize).to_f32()
        } else {
            0.0
        }
    }

    /// Element `column` of a row of `[N, HV, DV]`.
    #[inline(always)]
    fn of_values<T: Real>(self, data: Global<T>, row: u32, column: u32, head: u32) -> f32 {
        if row < self.count && column < self.sizes.value_dim {
            data.load(self.sizes.output(self.first + row, head) + column as usize).to_f32()
        } else {
            0.0
        }
    }
}
