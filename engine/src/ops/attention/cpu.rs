//! The forward pass, and what it shares with the backward pass.

use std::ops::Range;

use super::{Documents, Shape};
use crate::cpu::math::{exp, max, sum_lanes};
use crate::cpu::parallel::{SharedMut, for_each, with_scratch};
use crate::cpu::simd::vectorize;
use crate::cpu::tile::{LANES, Store, Tile, pack_columns, pack_rows, panels_length, product};
use crate::device::CpuDevice;

/// Queries of a tile.
pub const QUERIES: usize = 64;
/// Keys of a tile.
pub const KEYS: usize = 64;

/// The inputs as slices.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}

impl<'a> Inputs<'a> {
    pub fn new(inputs: &super::Inputs<'a>) -> Self {
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
    /// The key/value head.
    pub kv_head: usize,
}

/// All tiles of `size` tokens, those with most to do first: they are dealt out in this order, and a
/// long one at the end would leave the other threads waiting. `cost` is any measure of what to do.
pub fn tiles(documents: &Documents, shape: &Shape, size: usize, cost: impl Fn(&Work) -> usize) -> Vec<Work> {
    let mut works = Vec::new();
    for document in documents.ranges() {
        for start in document.clone().step_by(size) {
            let tokens = start..start.saturating_add(size).min(document.end);
            for kv_head in 0..shape.kv_heads {
                works.push(Work { document: document.clone(), tokens: tokens.clone(), kv_head });
            }
        }
    }
    works.sort_by_key(|work| std::cmp::Reverse(cost(work)));
    works
}

pub fn forward(
    cpu: &CpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: Inputs,
    output: &mut [f32],
    log_sum_exp: &mut [f32],
) {
    let results = Results { output: SharedMut::new(output), log_sum_exp: SharedMut::new(log_sum_exp) };
    let works = tiles(documents, shape, QUERIES, |work| work.tokens.end - work.document.start);
    cpu.run(|| {
        for_each(works.len(), |index| {
            with_scratch(ForwardScratch::length(shape), |memory| {
                let mut scratch = ForwardScratch::new(shape, memory);
                vectorize!(|| forward_tile(shape, &works[index], inputs, &mut scratch, &results));
            });
        });
    });
}

struct Results<'a> {
    output: SharedMut<'a, f32>,
    log_sum_exp: SharedMut<'a, f32>,
}

/// One thread's memory for a tile of queries.
struct ForwardScratch<'a> {
    keys: &'a mut [f32],
    values: &'a mut [f32],
    scores: &'a mut [f32],
    /// For each query head of the group, the rows of the tile.
    heads: Vec<HeadScratch<'a>>,
}

/// The running softmax of one head: for each query the unnormalised output, the largest score so far,
/// and the sum of e^(score − largest).
struct HeadScratch<'a> {
    output: Tile<'a>,
    maximum: [f32; QUERIES],
    sum: [f32; QUERIES],
}

/// Cuts `length` floats off the front of `memory`.
pub fn take<'a>(memory: &mut &'a mut [f32], length: usize) -> &'a mut [f32] {
    memory.split_off_mut(..length).expect("scratch of the length asked for")
}

impl<'a> ForwardScratch<'a> {
    fn length(shape: &Shape) -> usize {
        let head_dim = shape.head_dim;
        panels_length(head_dim, KEYS)
            + panels_length(KEYS, head_dim)
            + Tile::length(QUERIES, KEYS)
            + shape.group() * Tile::length(QUERIES, head_dim)
    }

    fn new(shape: &Shape, mut memory: &'a mut [f32]) -> Self {
        let head_dim = shape.head_dim;
        Self {
            keys: take(&mut memory, panels_length(head_dim, KEYS)),
            values: take(&mut memory, panels_length(KEYS, head_dim)),
            scores: take(&mut memory, Tile::length(QUERIES, KEYS)),
            heads: (0..shape.group())
                .map(|_| HeadScratch {
                    output: Tile::new(take(&mut memory, Tile::length(QUERIES, head_dim)), head_dim),
                    maximum: [f32::NEG_INFINITY; QUERIES],
                    sum: [0.0; QUERIES],
                })
                .collect(),
        }
    }
}

#[inline(always)]
fn forward_tile(shape: &Shape, work: &Work, inputs: Inputs, scratch: &mut ForwardScratch, results: &Results) {
    let Work { document, tokens, kv_head } = work;
    let head_dim = shape.head_dim;
    let ForwardScratch { keys, values, scores, heads } = scratch;
    for head in heads.iter_mut() {
        (0..tokens.len()).for_each(|row| head.output.row_mut(row).fill(0.0));
    }
    for first in (document.start..tokens.end).step_by(KEYS) {
        let seen = first..(first + KEYS).min(tokens.end);
        let key = |s: usize| &inputs.k[shape.key(first + s, *kv_head)];
        let value = |s: usize| &inputs.v[shape.key(first + s, *kv_head)];
        pack_columns(keys, head_dim, seen.len(), key);
        pack_rows(values, seen.len(), head_dim, value);
        let mut scores = Tile::new(scores, seen.len());
        for (head, state) in shape.heads_of(*kv_head).zip(heads.iter_mut()) {
            let query = |row: usize| &inputs.q[shape.query(tokens.start + row, head)];
            product(tokens.len(), head_dim, query, keys, Store::Overwrite, &mut scores);
            for row in 0..tokens.len() {
                let visible = (tokens.start + row + 1).saturating_sub(first).min(seen.len());
                state.add_scores(row, shape.scale, scores.row_mut(row), visible);
            }
            let probability = |row: usize| scores.row(row);
            product(tokens.len(), seen.len(), probability, values, Store::Add, &mut state.output);
        }
    }
    for (head, state) in shape.heads_of(*kv_head).zip(heads) {
        for row in 0..tokens.len() {
            let token = tokens.start + row;
            // SAFETY: this token and head belong to this tile alone.
            let (output, log_sum_exp) = unsafe {
                let entry = token * shape.heads + head;
                (results.output.range(shape.query(token, head)), results.log_sum_exp.range(entry..entry + 1))
            };
            let factor = 1.0 / state.sum[row];
            for (output, value) in output.iter_mut().zip(state.output.row(row)) {
                *output = factor * value;
            }
            log_sum_exp[0] = state.maximum[row] + state.sum[row].ln();
        }
    }
}

impl HeadScratch<'_> {
    /// Takes a row's scores (before the scale; the first `visible` count) into the running softmax and
    /// leaves e^(score − largest so far) in their place, 0 where not visible.
    #[inline(always)]
    fn add_scores(&mut self, row: usize, scale: f32, scores: &mut [f32], visible: usize) {
        scores[visible..].fill(f32::NEG_INFINITY);
        if visible == 0 {
            scores.fill(0.0);
            return;
        }
        // The scale is applied on the way, not in a pass of its own.
        for score in scores.iter_mut() {
            *score *= scale;
        }
        let before = self.maximum[row];
        let tile_maximum = max(scores);
        let maximum = if tile_maximum > before { tile_maximum } else { before };
        let mut sums = [0.0f32; LANES];
        for chunk in scores.as_chunks_mut::<LANES>().0 {
            for (score, sum) in chunk.iter_mut().zip(&mut sums) {
                *score = exp(*score - maximum);
                *sum += *score;
            }
        }
        if maximum > before {
            let shrink = exp(before - maximum);
            self.maximum[row] = maximum;
            self.sum[row] *= shrink;
            self.output.row_mut(row).iter_mut().for_each(|value| *value *= shrink);
        }
        self.sum[row] += sum_lanes(sums);
    }
}
