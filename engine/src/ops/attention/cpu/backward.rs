//! The backward pass.
//!
//! One pair of a key tile and a query tile takes five products: the scores again, d_output·vᵀ, and the
//! parts of d_v, d_k and d_q. d_v and d_k sum over queries, d_q over keys, so two threads that worked
//! on one document and key/value head would meet in one of them. Two plans avoid that:
//! - one thread per document and key/value head, five products per pair;
//! - where those are too few or too unequal, first the key tiles (d_v, d_k), then the query tiles
//!   (d_q), each tile by one thread, seven products per pair.
//!
//! Both add the same terms in the same order, so the choice does not show in the bits.

use std::ops::Range;

use super::{HostInputs, TILE, Work, first_tile, part, take, tiles, visible};
use crate::cpu::math::{dot, exp, tanh};
use crate::cpu::parallel::{SharedMut, for_each, with_scratch};
use crate::cpu::simd::vectorize;
use crate::cpu::tile::{
    Part, Store, Tile, add_product_of_transposed_tile, pack_columns, pack_rows, padded, panels_length,
    product_into_tile, product_of_tile,
};
use crate::device::CpuDevice;
use crate::ops::attention::{Documents, Shape};
use crate::real::Real;

/// What the forward pass left and the gradient that reaches it, as slices.
#[derive(Clone, Copy)]
pub struct HostBackwardInputs<'a, T> {
    pub output: &'a [T],
    pub log_sum_exp: &'a [f32],
    pub d_output: &'a [T],
}

/// The gradients, of which every thread writes its own rows.
pub struct HostGradients<'a, T> {
    d_q: SharedMut<'a, T>,
    d_k: SharedMut<'a, T>,
    d_v: SharedMut<'a, T>,
}

impl<'a, T> HostGradients<'a, T> {
    pub fn new(d_q: &'a mut [T], d_k: &'a mut [T], d_v: &'a mut [T]) -> Self {
        Self { d_q: SharedMut::new(d_q), d_k: SharedMut::new(d_k), d_v: SharedMut::new(d_v) }
    }
}

pub fn backward<T: Real>(
    cpu: &CpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: HostInputs<T>,
    outputs: HostBackwardInputs<T>,
    gradients: HostGradients<T>,
) {
    let pass = Pass { shape, inputs, outputs, gradients };
    let run = |works: Vec<Work>, tokens: usize, tile: &(dyn Fn(&Work, &mut Scratch) + Sync)| {
        for_each(works.len(), |index| {
            with_scratch(Scratch::length(shape, tokens), |memory| {
                let mut scratch = Scratch::new(shape, tokens, memory);
                tile(&works[index], &mut scratch);
            });
        });
    };
    let pairs = |work: &Work| work.tokens.len().pow(2);
    let whole_documents = tiles(documents, shape, usize::MAX, pairs);
    cpu.run(|| {
        if whole_documents_balance(&whole_documents, cpu.threads()) {
            let longest = whole_documents.iter().map(|work| work.tokens.len()).max().unwrap_or(0);
            run(whole_documents, longest, &|work, scratch| pass.keys(work, scratch, WithQueries::Yes));
        } else {
            let key_tiles = tiles(documents, shape, TILE, |work| work.document.end - work.tokens.start);
            run(key_tiles, 0, &|work, scratch| pass.keys(work, scratch, WithQueries::No));
            let query_tiles = tiles(documents, shape, TILE, |work| work.tokens.end - work.document.start);
            run(query_tiles, TILE, &|work, scratch| pass.queries(work, scratch));
        }
    });
}

/// Whether whole documents, dealt to the threads, take less time than the tiles' 7/5 of the products.
fn whole_documents_balance(works: &[Work], threads: usize) -> bool {
    let pairs = |work: &Work| work.tokens.len().pow(2);
    let mut loads = vec![0; threads];
    for work in works {
        if let Some(least) = loads.iter_mut().min() {
            *least += pairs(work);
        }
    }
    let total: usize = works.iter().map(pairs).sum();
    let longest = loads.into_iter().max().unwrap_or(0);
    longest * threads * 5 <= total * 7
}

/// Whether a pass over key tiles also adds to d_q.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WithQueries {
    Yes,
    No,
}

struct Pass<'a, T> {
    shape: &'a Shape,
    inputs: HostInputs<'a, T>,
    outputs: HostBackwardInputs<'a, T>,
    gradients: HostGradients<'a, T>,
}

/// One thread's memory: operands of a tile pair, packed, and its results.
struct Scratch<'a> {
    /// Right operand Kᵀ `[D, keys]`, for the scores.
    k_columns: &'a mut [f32],
    /// Right operand Vᵀ `[D, keys]`, for d_output·Vᵀ.
    v_columns: &'a mut [f32],
    /// Right operand K `[keys, D]`, for d_q.
    k_rows: &'a mut [f32],
    /// Right operand Q `[queries, D]`, for d_k.
    q_rows: &'a mut [f32],
    /// Right operand d_output `[queries, D]`, for d_v.
    d_output_rows: &'a mut [f32],
    /// `[queries, keys]`: scores, then probabilities.
    probabilities: &'a mut [f32],
    /// `[queries, keys]`: gradient of the probabilities, then of the scores times the scale.
    d_scores: &'a mut [f32],
    /// Left operand Q `[queries, D]`, for the scores.
    q: Tile<'a>,
    /// Left operand d_output `[queries, D]`, for d_output·Vᵀ.
    d_output: Tile<'a>,
    /// `[queries, D]`.
    output: Tile<'a>,
    /// Sums of d_q `[heads of the group, tokens, D]`.
    d_q: &'a mut [f32],
    /// Tokens that there are sums of d_q for.
    tokens: usize,
    /// `[keys, D]`.
    d_k: Tile<'a>,
    /// `[keys, D]`.
    d_v: Tile<'a>,
}

impl<'a> Scratch<'a> {
    /// Floats for works of at most `tokens` tokens whose d_q is summed.
    fn length(shape: &Shape, tokens: usize) -> usize {
        let head_dim = shape.head_dim;
        2 * panels_length(head_dim, TILE)
            + 3 * panels_length(TILE, head_dim)
            + 2 * Tile::length(TILE, TILE)
            + 5 * Tile::length(TILE, head_dim)
            + Tile::length(shape.group() * tokens, head_dim)
    }

    fn new(shape: &Shape, tokens: usize, mut memory: &'a mut [f32]) -> Self {
        let head_dim = shape.head_dim;
        let memory = &mut memory;
        Self {
            k_columns: take(memory, panels_length(head_dim, TILE)),
            v_columns: take(memory, panels_length(head_dim, TILE)),
            k_rows: take(memory, panels_length(TILE, head_dim)),
            q_rows: take(memory, panels_length(TILE, head_dim)),
            d_output_rows: take(memory, panels_length(TILE, head_dim)),
            probabilities: take(memory, Tile::length(TILE, TILE)),
            d_scores: take(memory, Tile::length(TILE, TILE)),
            q: Tile::new(take(memory, Tile::length(TILE, head_dim)), head_dim),
            d_output: Tile::new(take(memory, Tile::length(TILE, head_dim)), head_dim),
            output: Tile::new(take(memory, Tile::length(TILE, head_dim)), head_dim),
            d_q: take(memory, Tile::length(shape.group() * tokens, head_dim)),
            tokens,
            d_k: Tile::new(take(memory, Tile::length(TILE, head_dim)), head_dim),
            d_v: Tile::new(take(memory, Tile::length(TILE, head_dim)), head_dim),
        }
    }
}

/// A tile of queries of one head against a tile of keys.
struct Pair<'a> {
    head: usize,
    queries: &'a Range<usize>,
    keys: &'a Range<usize>,
}

impl Pair<'_> {
    fn part(&self) -> Part {
        part(self.queries, self.keys)
    }
}

impl<T: Real> Pass<'_, T> {
    /// d_k and d_v of the tokens of `work`, and with queries its whole part of d_q: then `work` has to
    /// be a whole document.
    fn keys(&self, work: &Work, scratch: &mut Scratch, with_queries: WithQueries) {
        let Work { document, tokens, kv_head } = work;
        for first in tokens.clone().step_by(TILE) {
            let keys = first..(first + TILE).min(tokens.end);
            self.pack_keys(scratch, &keys, *kv_head);
            for row in 0..keys.len() {
                scratch.d_k.row_mut(row).fill(0.0);
                scratch.d_v.row_mut(row).fill(0.0);
            }
            for first_query in (first..document.end).step_by(TILE) {
                if self.shape.first_seen(first_query, keys.start) >= keys.end {
                    break;
                }
                let queries = first_query..(first_query + TILE).min(document.end);
                for head in self.shape.heads_of(*kv_head) {
                    let pair = Pair { head, queries: &queries, keys: &keys };
                    self.score_gradients(scratch, &pair);
                    self.add_to_keys(scratch, &pair);
                    if with_queries == WithQueries::Yes {
                        self.add_to_queries(scratch, &pair, work);
                    }
                }
            }
            for (row, token) in keys.enumerate() {
                let target = self.shape.key(token, *kv_head);
                // SAFETY: this token and key/value head belong to this work alone.
                let (d_k, d_v) =
                    unsafe { (self.gradients.d_k.range(target.clone()), self.gradients.d_v.range(target)) };
                round(scratch.d_k.row(row), d_k);
                round(scratch.d_v.row(row), d_v);
            }
        }
        if with_queries == WithQueries::Yes {
            self.store_queries(scratch, work);
        }
    }

    /// d_q of the tokens of `work`, at most one tile, for all heads of the group.
    fn queries(&self, work: &Work, scratch: &mut Scratch) {
        let Work { document, tokens, kv_head } = work;
        for first in (first_tile(self.shape, tokens.start, document)..tokens.end).step_by(TILE) {
            let keys = first..(first + TILE).min(document.end);
            self.pack_keys(scratch, &keys, *kv_head);
            for head in self.shape.heads_of(*kv_head) {
                let pair = Pair { head, queries: tokens, keys: &keys };
                self.score_gradients(scratch, &pair);
                self.add_to_queries(scratch, &pair, work);
            }
        }
        self.store_queries(scratch, work);
    }

    fn pack_keys(&self, scratch: &mut Scratch, keys: &Range<usize>, kv_head: usize) {
        let head_dim = self.shape.head_dim;
        let k = self.shape.key_rows(self.inputs.k, keys.start, kv_head);
        let v = self.shape.key_rows(self.inputs.v, keys.start, kv_head);
        pack_columns(scratch.k_columns, head_dim, keys.len(), k);
        pack_columns(scratch.v_columns, head_dim, keys.len(), v);
        pack_rows(scratch.k_rows, keys.len(), head_dim, k);
    }

    /// The pair's probabilities, and the gradient of its scores times the scale.
    fn score_gradients(&self, scratch: &mut Scratch, pair: &Pair) {
        let shape = self.shape;
        let (rows, keys, head_dim) = (pair.queries.len(), pair.keys.len(), shape.head_dim);
        let rows_of = |data| shape.query_rows(data, pair.queries.start, pair.head);
        let Scratch { q, d_output, output, k_columns, v_columns, probabilities, d_scores, .. } = scratch;
        q.fill(rows, head_dim, rows_of(self.inputs.q));
        d_output.fill(rows, head_dim, rows_of(self.outputs.d_output));
        output.fill(rows, head_dim, rows_of(self.outputs.output));
        let mut probabilities = Tile::new(probabilities, keys);
        let mut d_scores = Tile::new(d_scores, keys);
        product_into_tile(rows, head_dim, q.rows(), k_columns, &mut probabilities, pair.part());
        product_into_tile(rows, head_dim, d_output.rows(), v_columns, &mut d_scores, pair.part());
        vectorize!(|| for (row, token) in pair.queries.clone().enumerate() {
            let delta = dot(&d_output.row(row)[..head_dim], &output.row(row)[..head_dim]);
            let log_sum_exp = self.outputs.log_sum_exp[token * shape.heads + pair.head];
            let visible = visible(shape, token, pair.keys);
            let (probabilities, d_scores) = (probabilities.row_mut(row), d_scores.row_mut(row));
            let used = ..padded(visible.end);
            let pairs = probabilities[used].iter_mut().zip(&mut d_scores[used]);
            match shape.softcap {
                None => pairs.for_each(|(probability, d_score)| {
                    *probability = exp(*probability * shape.scale - log_sum_exp);
                    *d_score = *probability * (*d_score - delta) * shape.scale;
                }),
                Some(cap) => pairs.for_each(|(probability, d_score)| {
                    let tanh = tanh(*probability * shape.scale / cap);
                    *probability = exp(cap * tanh - log_sum_exp);
                    *d_score = *probability * (*d_score - delta) * (1.0 - tanh * tanh) * shape.scale;
                }),
            }
            for row in [probabilities, d_scores] {
                row[..visible.start].fill(0.0);
                row[visible.end..].fill(0.0);
            }
        });
    }

    /// d_v += Pᵀ·d_output and d_k += d_scoresᵀ·Q.
    fn add_to_keys(&self, scratch: &mut Scratch, pair: &Pair) {
        let shape = self.shape;
        let (queries, keys) = (pair.queries.len(), pair.keys.len());
        let rows_of = |data| shape.query_rows(data, pair.queries.start, pair.head);
        pack_rows(scratch.q_rows, queries, shape.head_dim, rows_of(self.inputs.q));
        pack_rows(scratch.d_output_rows, queries, shape.head_dim, rows_of(self.outputs.d_output));
        let probabilities = Tile::new(scratch.probabilities, keys);
        let d_scores = Tile::new(scratch.d_scores, keys);
        let (size, part) = ((keys, queries), pair.part());
        let d_v = &mut scratch.d_v;
        add_product_of_transposed_tile(size, &probabilities, scratch.d_output_rows, d_v, part);
        add_product_of_transposed_tile(size, &d_scores, scratch.q_rows, &mut scratch.d_k, part);
    }

    /// The sums of d_q ← or += d_scores·K.
    fn add_to_queries(&self, scratch: &mut Scratch, pair: &Pair, work: &Work) {
        let first = pair.keys.start == first_tile(self.shape, pair.queries.start, &work.document);
        let store = if first { Store::Overwrite } else { Store::Add };
        let d_scores = Tile::new(scratch.d_scores, pair.keys.len());
        let head = pair.head - self.shape.heads_of(work.kv_head).start;
        let row = head * scratch.tokens + pair.queries.start - work.tokens.start;
        let head_dim = self.shape.head_dim;
        let mut d_q = Tile::new(&mut scratch.d_q[row * padded(head_dim)..], head_dim);
        let size = (pair.queries.len(), pair.keys.len());
        product_of_tile(size, &d_scores, scratch.k_rows, store, &mut d_q, pair.part());
    }

    /// d_q of the tokens of `work`, for all heads of the group, from its sums.
    fn store_queries(&self, scratch: &mut Scratch, work: &Work) {
        let sums = Tile::new(scratch.d_q, self.shape.head_dim);
        for (index, head) in self.shape.heads_of(work.kv_head).enumerate() {
            for (row, token) in work.tokens.clone().enumerate() {
                // SAFETY: this token and head belong to the work of one thread, in both plans.
                let d_q = unsafe { self.gradients.d_q.range(self.shape.query(token, head)) };
                round(sums.row(index * scratch.tokens + row), d_q);
            }
        }
    }
}

/// The first elements of `sums`.
fn round<T: Real>(sums: &[f32], target: &mut [T]) {
    target.iter_mut().zip(sums).for_each(|(target, &sum)| *target = T::from_f32(sum));
}
