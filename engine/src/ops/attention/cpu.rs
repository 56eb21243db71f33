//! The forward pass, and what it shares with the backward pass.

pub mod backward;
pub mod decode;
pub mod products;
pub mod scores;

use std::ops::Range;

use self::products::{Part, left_length, multiply, pack_left, pack_right, right_length};
use self::scores::{Scores, Use};
use super::{Documents, Shape};
use crate::cpu::gemm::kernel::Kernel;
use crate::cpu::gemm::{Matrix, Task};
use crate::cpu::math::{exp, max, softcap, sum_lanes};
use crate::cpu::parallel::{SharedMut, for_each, take, with_scratch};
use crate::cpu::simd::vectorize;
use crate::cpu::tile::{LANES, Store, Tile};
use crate::device::CpuDevice;
use crate::number::{Number, on_cpu};

on_cpu! {
    /// Types that attention computes in.
    fn forward = forward(
        cpu: &CpuDevice,
        shape: &Shape,
        documents: &Documents,
        inputs: HostInputs<'_, Self>,
        output: &mut [Self],
        log_sum_exp: &mut [f32],
    );
    fn backward = backward::backward(
        cpu: &CpuDevice,
        shape: &Shape,
        documents: &Documents,
        inputs: HostInputs<'_, Self>,
        outputs: backward::HostBackwardInputs<'_, Self>,
        gradients: backward::HostGradients<'_, Self>,
    );
    fn decode = decode::decode(
        cpu: &CpuDevice,
        shape: &Shape,
        q: &[Self],
        cache: decode::Cache<'_, Self>,
        output: &mut [Self],
    );
}

/// Rows of the micro-kernels' tiles in f32 arithmetic: six of them are few more than [`TILE`]. With 8 the compiler does
/// not make vectors of rows.
pub const TILE_ROWS: usize = 11;
/// Rows of the micro-kernels' tiles by dot products: a divisor of [`TILE`].
pub const DOT_ROWS: usize = 8;
/// Tokens of a tile of queries, and of one of keys.
pub const TILE: usize = 64;

/// The inputs as slices.
#[derive(Clone, Copy)]
pub struct HostInputs<'a, T> {
    pub q: &'a [T],
    pub k: &'a [T],
    pub v: &'a [T],
}

impl<'a, T: Number> HostInputs<'a, T> {
    pub fn new(inputs: &super::Inputs<'a, T>) -> Self {
        Self { q: inputs.q.host(), k: inputs.k.host(), v: inputs.v.host() }
    }
}

impl Shape {
    /// Elements of q, output or a gradient of theirs that belong to this token and query head.
    pub(super) fn query(&self, token: usize, head: usize) -> Range<usize> {
        let first = (token * self.heads + head) * self.head_dim;
        first..first + self.head_dim
    }

    /// Elements of k, v or a gradient of theirs that belong to this token and key/value head.
    pub(super) fn key(&self, token: usize, kv_head: usize) -> Range<usize> {
        let first = (token * self.kv_heads + kv_head) * self.head_dim;
        first..first + self.head_dim
    }

    /// One query head of q, output or a gradient of theirs, for these tokens `[tokens, D]`.
    pub(super) fn query_rows<'a, T>(
        &self,
        data: &'a [T],
        tokens: &Range<usize>,
        head: usize,
    ) -> Matrix<'a, T> {
        let data = &data[self.query(tokens.start, head).start..];
        Matrix::strided(data, tokens.len(), self.head_dim, self.query_width())
    }

    /// One key/value head of k or v, for these tokens `[tokens, D]`.
    pub(super) fn key_rows<'a, T>(
        &self,
        data: &'a [T],
        tokens: &Range<usize>,
        kv_head: usize,
    ) -> Matrix<'a, T> {
        let data = &data[self.key(tokens.start, kv_head).start..];
        Matrix::strided(data, tokens.len(), self.head_dim, self.key_width())
    }

    /// Turns products of queries and keys into scores.
    #[inline(always)]
    pub(super) fn make_scores(&self, products: &mut [f32]) {
        match self.softcap {
            None => {
                for product in products {
                    *product *= self.scale;
                }
            }
            Some(cap) => {
                for product in products {
                    *product = softcap(*product * self.scale, cap);
                }
            }
        }
    }

    /// Query heads that use this key/value head.
    pub(super) fn heads_of(&self, kv_head: usize) -> Range<usize> {
        kv_head * self.group()..(kv_head + 1) * self.group()
    }
}

/// A tile of queries (or of keys) of one document and one key/value head.
#[derive(Debug, Clone)]
pub struct Work {
    /// The document's tokens.
    pub document: Range<usize>,
    /// The tokens of the tile.
    pub tokens: Range<usize>,
    /// Number of the tile among those of all documents.
    pub tile: usize,
    /// The key/value head.
    pub kv_head: usize,
}

/// All tiles of these documents, one document after the other.
pub fn tiles(documents: &Documents, shape: &Shape) -> Vec<Work> {
    let (mut works, mut tile) = (Vec::new(), 0);
    for document in documents.ranges() {
        for start in document.clone().step_by(TILE) {
            let tokens = start..(start + TILE).min(document.end);
            for kv_head in 0..shape.kv_heads {
                works.push(Work { document: document.clone(), tokens: tokens.clone(), tile, kv_head });
            }
            tile += 1;
        }
    }
    works
}

pub fn forward<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: HostInputs<T>,
    output: &mut [T],
    log_sum_exp: &mut [f32],
) {
    let results = Results { output: SharedMut::new(output), log_sum_exp: SharedMut::new(log_sum_exp) };
    T::choose::<TILE_ROWS, DOT_ROWS>(Forward { cpu, shape, documents, inputs, results });
}

struct Forward<'a, T> {
    cpu: &'a CpuDevice,
    shape: &'a Shape,
    documents: &'a Documents,
    inputs: HostInputs<'a, T>,
    results: Results<'a, T>,
}

impl<T: Number> Task<T> for Forward<'_, T> {
    fn run<K: Kernel<Element = T>>(self, kernel: K) {
        let Self { cpu, shape, documents, inputs, results } = self;
        let mut works = tiles(documents, shape);
        // Those with most to do first: a long one at the end would leave the other threads waiting.
        works.sort_by_key(|work| std::cmp::Reverse(work.tokens.end - work.document.start));
        cpu.run(|| {
            for_each(works.len(), |index| {
                with_scratch(ForwardScratch::length::<K>(shape), |memory| {
                    let mut scratch = ForwardScratch::new::<K>(shape, memory);
                    kernel.run(
                        #[inline(always)]
                        || forward_tile(kernel, shape, &works[index], inputs, &mut scratch, &results),
                    );
                });
            });
        });
    }
}

/// First token of the first tile of keys that queries of `document` from `token` on see.
pub fn first_tile(shape: &Shape, token: usize, document: &Range<usize>) -> usize {
    document.start + (shape.first_seen(token, document.start) - document.start) / TILE * TILE
}

/// Which keys of a tile the query `token` sees; those of no other tile are nearer to it.
#[inline(always)]
pub fn visible(shape: &Shape, token: usize, keys: &Range<usize>) -> Range<usize> {
    let end = (token + 1).clamp(keys.start, keys.end) - keys.start;
    let first = shape.first_seen(token, keys.start) - keys.start;
    first.min(end)..end
}

/// Whether some query of a tile does not see some key of it because it is later. Tiles of queries and keys have one
/// size and one grid, so a tile is either on the diagonal or wholly below it.
pub fn on_diagonal(queries: &Range<usize>, keys: &Range<usize>) -> bool {
    queries.start == keys.start
}

struct Results<'a, T> {
    output: SharedMut<'a, T>,
    log_sum_exp: SharedMut<'a, f32>,
}

/// One thread's memory for a tile of queries.
struct ForwardScratch<'a> {
    /// Right operand Kᵀ `[D, keys]`.
    keys: &'a mut [f32],
    /// Right operand V `[keys, D]`.
    values: &'a mut [f32],
    /// `[queries, keys]`: scores, then probabilities.
    scores: Scores<'a>,
    /// For each query head of the group, the rows of the tile.
    heads: Vec<HeadScratch<'a>>,
}

/// The running softmax of one head: for each query the unnormalised output, the largest score so far,
/// and the sum of e^(score − largest).
struct HeadScratch<'a> {
    /// Left operand Q `[queries, D]`.
    queries: &'a mut [f32],
    output: Tile<'a>,
    maximum: [f32; TILE],
    sum: [f32; TILE],
}

impl<'a> ForwardScratch<'a> {
    fn length<K: Kernel>(shape: &Shape) -> usize {
        let head_dim = shape.head_dim;
        right_length::<K>(head_dim, TILE)
            + right_length::<K>(TILE, head_dim)
            + Scores::length::<K>(Use::Rows)
            + shape.group() * (left_length::<K>(TILE, head_dim) + Tile::length(TILE, head_dim))
    }

    fn new<K: Kernel>(shape: &Shape, mut memory: &'a mut [f32]) -> Self {
        let head_dim = shape.head_dim;
        Self {
            keys: take(&mut memory, right_length::<K>(head_dim, TILE)),
            values: take(&mut memory, right_length::<K>(TILE, head_dim)),
            scores: Scores::new::<K>(Use::Rows, &mut memory),
            heads: (0..shape.group())
                .map(|_| HeadScratch {
                    queries: take(&mut memory, left_length::<K>(TILE, head_dim)),
                    output: Tile::new(take(&mut memory, Tile::length(TILE, head_dim)), head_dim),
                    maximum: [f32::NEG_INFINITY; TILE],
                    sum: [0.0; TILE],
                })
                .collect(),
        }
    }
}

#[inline(always)]
fn forward_tile<T: Number, K: Kernel<Element = T>>(
    kernel: K,
    shape: &Shape,
    work: &Work,
    inputs: HostInputs<T>,
    scratch: &mut ForwardScratch,
    results: &Results<T>,
) {
    let Work { document, tokens, kv_head, .. } = work;
    let head_dim = shape.head_dim;
    let ForwardScratch { keys, values, scores, heads } = scratch;
    for (head, state) in shape.heads_of(*kv_head).zip(heads.iter_mut()) {
        pack_left(kernel, shape.query_rows(inputs.q, tokens, head), state.queries);
        for row in 0..tokens.len() {
            state.output.row_mut(row).fill(0.0);
        }
    }
    for first in (first_tile(shape, tokens.start, document)..tokens.end).step_by(TILE) {
        let seen = first..(first + TILE).min(tokens.end);
        pack_right(kernel, shape.key_rows(inputs.k, &seen, *kv_head).transposed(), keys);
        pack_right(kernel, shape.key_rows(inputs.v, &seen, *kv_head), values);
        let (product, left) = match on_diagonal(tokens, &seen) {
            true => (Part::LowerProduct, Part::LowerLeft),
            false => (Part::All, Part::All),
        };
        for state in heads.iter_mut() {
            let size = [tokens.len(), head_dim, seen.len()];
            multiply(kernel, size, (state.queries, keys), product, Store::Overwrite, &mut scores.tile());
            vectorize!(|| {
                for row in 0..tokens.len() {
                    let visible = visible(shape, tokens.start + row, &seen);
                    state.add_scores(row, shape, scores.row(row), visible);
                }
                scores.round::<K>(tokens.len());
            });
            let size = [tokens.len(), seen.len(), head_dim];
            scores.multiply(kernel, size, values, left, Store::Add, &mut state.output);
        }
    }
    for (head, state) in shape.heads_of(*kv_head).zip(heads) {
        for (row, token) in tokens.clone().enumerate() {
            // SAFETY: this token and head belong to this tile alone.
            let (output, log_sum_exp) = unsafe {
                let entry = token * shape.heads + head;
                (results.output.range(shape.query(token, head)), results.log_sum_exp.range(entry..entry + 1))
            };
            let factor = 1.0 / state.sum[row];
            for (output, value) in output.iter_mut().zip(state.output.row(row)) {
                *output = T::from_f32(factor * value);
            }
            log_sum_exp[0] = state.maximum[row] + state.sum[row].ln();
        }
    }
}

impl HeadScratch<'_> {
    /// Takes a row's scores (before the scale; the `visible` count) into the running softmax and
    /// leaves e^(score − largest so far) in their place, 0 where not visible.
    #[inline(always)]
    fn add_scores(&mut self, row: usize, shape: &Shape, scores: &mut [f32; TILE], visible: Range<usize>) {
        if visible == (0..TILE) {
            // A length that the compiler knows.
            self.add_chunks(row, shape, scores.as_chunks_mut().0, visible);
            return;
        }
        let used = visible.end.div_ceil(LANES);
        let (seen, unseen) = scores.as_chunks_mut().0.split_at_mut(used);
        unseen.fill([0.0; LANES]);
        if visible.is_empty() {
            seen.fill([0.0; LANES]);
        } else {
            self.add_chunks(row, shape, seen, visible);
        }
    }

    /// The same of the part of the row that has visible ones.
    #[inline(always)]
    fn add_chunks(&mut self, row: usize, shape: &Shape, chunks: &mut [[f32; LANES]], visible: Range<usize>) {
        let scores = chunks.as_flattened_mut();
        // The scale is applied on the way, not in a pass of its own.
        shape.make_scores(scores);
        scores[..visible.start].fill(f32::NEG_INFINITY);
        scores[visible.end..].fill(f32::NEG_INFINITY);
        let before = self.maximum[row];
        let tile_maximum = max(scores);
        let maximum = if tile_maximum > before { tile_maximum } else { before };
        let mut sums = [0.0f32; LANES];
        for chunk in chunks {
            for lane in 0..LANES {
                chunk[lane] = exp(chunk[lane] - maximum);
                sums[lane] += chunk[lane];
            }
        }
        if maximum > before {
            let shrink = exp(before - maximum);
            self.maximum[row] = maximum;
            self.sum[row] *= shrink;
            for value in self.output.row_mut(row) {
                *value *= shrink;
            }
        }
        self.sum[row] += sum_lanes(sums);
    }
}

#[cfg(test)]
mod tests;
