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

use super::cpu::{Inputs, KEYS, QUERIES, Work, take, tiles};
use super::{Documents, Shape};
use crate::cpu::math::{dot, exp};
use crate::cpu::parallel::{SharedMut, for_each, with_scratch};
use crate::cpu::simd::vectorize;
use crate::cpu::tile::{Store, Tile, pack_columns, pack_rows, panels_length, product, transposed_product};
use crate::device::CpuDevice;

/// What the forward pass left and the gradient that reaches it, as slices.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    pub output: &'a [f32],
    pub log_sum_exp: &'a [f32],
    pub d_output: &'a [f32],
}

/// The gradients, of which every thread writes its own rows.
pub struct Gradients<'a> {
    d_q: SharedMut<'a, f32>,
    d_k: SharedMut<'a, f32>,
    d_v: SharedMut<'a, f32>,
}

impl<'a> Gradients<'a> {
    pub fn new(d_q: &'a mut [f32], d_k: &'a mut [f32], d_v: &'a mut [f32]) -> Self {
        Self { d_q: SharedMut::new(d_q), d_k: SharedMut::new(d_k), d_v: SharedMut::new(d_v) }
    }
}

pub fn backward(
    cpu: &CpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: Inputs,
    outputs: Outputs,
    gradients: Gradients,
) {
    let pass = Pass { shape, inputs, outputs, gradients };
    let run = |works: Vec<Work>, tile: &(dyn Fn(&Work, &mut Scratch) + Sync)| {
        for_each(works.len(), |index| {
            with_scratch(Scratch::length(shape), |memory| {
                let mut scratch = Scratch::new(shape, memory);
                tile(&works[index], &mut scratch);
            });
        });
    };
    let pairs = |work: &Work| work.tokens.len().pow(2);
    let whole_documents = tiles(documents, shape, usize::MAX, pairs);
    cpu.run(|| {
        if whole_documents_balance(&whole_documents, cpu.threads()) {
            run(whole_documents, &|work, scratch| {
                vectorize!(|| pass.keys(work, scratch, WithQueries::Yes));
            });
        } else {
            run(
                tiles(documents, shape, KEYS, |work| work.document.end - work.tokens.start),
                &|work, scratch| {
                    vectorize!(|| pass.keys(work, scratch, WithQueries::No));
                },
            );
            run(
                tiles(documents, shape, QUERIES, |work| work.tokens.end - work.document.start),
                &|work, scratch| {
                    vectorize!(|| pass.queries(work, scratch));
                },
            );
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

struct Pass<'a> {
    shape: &'a Shape,
    inputs: Inputs<'a>,
    outputs: Outputs<'a>,
    gradients: Gradients<'a>,
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
    /// `[queries, D]`.
    d_q: Tile<'a>,
    /// `[keys, D]`.
    d_k: Tile<'a>,
    /// `[keys, D]`.
    d_v: Tile<'a>,
}

impl<'a> Scratch<'a> {
    fn length(shape: &Shape) -> usize {
        let head_dim = shape.head_dim;
        2 * panels_length(head_dim, KEYS)
            + panels_length(KEYS, head_dim)
            + 2 * panels_length(QUERIES, head_dim)
            + 2 * Tile::length(QUERIES, KEYS)
            + Tile::length(QUERIES, head_dim)
            + 2 * Tile::length(KEYS, head_dim)
    }

    fn new(shape: &Shape, mut memory: &'a mut [f32]) -> Self {
        let head_dim = shape.head_dim;
        let memory = &mut memory;
        Self {
            k_columns: take(memory, panels_length(head_dim, KEYS)),
            v_columns: take(memory, panels_length(head_dim, KEYS)),
            k_rows: take(memory, panels_length(KEYS, head_dim)),
            q_rows: take(memory, panels_length(QUERIES, head_dim)),
            d_output_rows: take(memory, panels_length(QUERIES, head_dim)),
            probabilities: take(memory, Tile::length(QUERIES, KEYS)),
            d_scores: take(memory, Tile::length(QUERIES, KEYS)),
            d_q: Tile::new(take(memory, Tile::length(QUERIES, head_dim)), head_dim),
            d_k: Tile::new(take(memory, Tile::length(KEYS, head_dim)), head_dim),
            d_v: Tile::new(take(memory, Tile::length(KEYS, head_dim)), head_dim),
        }
    }
}

/// A tile of queries of one head against a tile of keys.
struct Pair<'a> {
    head: usize,
    queries: &'a Range<usize>,
    keys: &'a Range<usize>,
}

impl Pass<'_> {
    /// d_k and d_v of the tokens of `work`, and with queries its whole part of d_q: then `work` has to
    /// be a whole document.
    #[inline(always)]
    fn keys(&self, work: &Work, scratch: &mut Scratch, with_queries: WithQueries) {
        let Work { document, tokens, kv_head } = work;
        for first in tokens.clone().step_by(KEYS) {
            let keys = first..(first + KEYS).min(tokens.end);
            self.pack_keys(scratch, &keys, *kv_head);
            for row in 0..keys.len() {
                scratch.d_k.row_mut(row).fill(0.0);
                scratch.d_v.row_mut(row).fill(0.0);
            }
            let first_queries = document.start + (first - document.start) / QUERIES * QUERIES;
            for first_query in (first_queries..document.end).step_by(QUERIES) {
                let queries = first_query..(first_query + QUERIES).min(document.end);
                for head in self.shape.heads_of(*kv_head) {
                    let pair = Pair { head, queries: &queries, keys: &keys };
                    self.score_gradients(scratch, &pair);
                    self.add_to_keys(scratch, &pair);
                    if with_queries == WithQueries::Yes {
                        self.add_to_queries(scratch, &pair, keys.start == document.start);
                    }
                }
            }
            for (row, token) in keys.enumerate() {
                let target = self.shape.key(token, *kv_head);
                // SAFETY: this token and key/value head belong to this work alone.
                let (d_k, d_v) =
                    unsafe { (self.gradients.d_k.range(target.clone()), self.gradients.d_v.range(target)) };
                d_k.copy_from_slice(&scratch.d_k.row(row)[..self.shape.head_dim]);
                d_v.copy_from_slice(&scratch.d_v.row(row)[..self.shape.head_dim]);
            }
        }
    }

    /// d_q of the tokens of `work`, at most one tile, for all heads of the group.
    #[inline(always)]
    fn queries(&self, work: &Work, scratch: &mut Scratch) {
        let Work { document, tokens, kv_head } = work;
        for first in (document.start..tokens.end).step_by(KEYS) {
            let keys = first..(first + KEYS).min(document.end);
            self.pack_keys(scratch, &keys, *kv_head);
            for head in self.shape.heads_of(*kv_head) {
                let pair = Pair { head, queries: tokens, keys: &keys };
                self.score_gradients(scratch, &pair);
                self.add_to_queries(scratch, &pair, keys.start == document.start);
            }
        }
    }

    #[inline(always)]
    fn pack_keys(&self, scratch: &mut Scratch, keys: &Range<usize>, kv_head: usize) {
        let head_dim = self.shape.head_dim;
        let key = |s: usize| &self.inputs.k[self.shape.key(keys.start + s, kv_head)];
        let value = |s: usize| &self.inputs.v[self.shape.key(keys.start + s, kv_head)];
        pack_columns(scratch.k_columns, head_dim, keys.len(), key);
        pack_columns(scratch.v_columns, head_dim, keys.len(), value);
        pack_rows(scratch.k_rows, keys.len(), head_dim, key);
    }

    /// The pair's probabilities, and the gradient of its scores times the scale.
    #[inline(always)]
    fn score_gradients(&self, scratch: &mut Scratch, pair: &Pair) {
        let (shape, head) = (self.shape, pair.head);
        let query = |row: usize| &self.inputs.q[shape.query(pair.queries.start + row, head)];
        let d_output = |row: usize| &self.outputs.d_output[shape.query(pair.queries.start + row, head)];
        let mut probabilities = Tile::new(scratch.probabilities, pair.keys.len());
        let mut d_scores = Tile::new(scratch.d_scores, pair.keys.len());
        let rows = pair.queries.len();
        product(rows, shape.head_dim, query, scratch.k_columns, Store::Overwrite, &mut probabilities);
        product(rows, shape.head_dim, d_output, scratch.v_columns, Store::Overwrite, &mut d_scores);
        for (row, token) in pair.queries.clone().enumerate() {
            let delta = dot(d_output(row), &self.outputs.output[shape.query(token, head)]);
            let log_sum_exp = self.outputs.log_sum_exp[token * shape.heads + head];
            let visible = (token + 1).saturating_sub(pair.keys.start).min(pair.keys.len());
            let (probabilities, d_scores) = (probabilities.row_mut(row), d_scores.row_mut(row));
            for (probability, d_score) in probabilities.iter_mut().zip(d_scores.iter_mut()) {
                *probability = exp(*probability * shape.scale - log_sum_exp);
                *d_score = *probability * (*d_score - delta) * shape.scale;
            }
            probabilities[visible..].fill(0.0);
            d_scores[visible..].fill(0.0);
        }
    }

    /// d_v += Pᵀ·d_output and d_k += d_scoresᵀ·Q.
    #[inline(always)]
    fn add_to_keys(&self, scratch: &mut Scratch, pair: &Pair) {
        let (shape, head) = (self.shape, pair.head);
        let query = |row: usize| &self.inputs.q[shape.query(pair.queries.start + row, head)];
        let d_output = |row: usize| &self.outputs.d_output[shape.query(pair.queries.start + row, head)];
        let (keys, queries) = (pair.keys.len(), pair.queries.len());
        pack_rows(scratch.q_rows, queries, shape.head_dim, query);
        pack_rows(scratch.d_output_rows, queries, shape.head_dim, d_output);
        let probabilities = Tile::new(scratch.probabilities, keys);
        let d_scores = Tile::new(scratch.d_scores, keys);
        transposed_product(
            keys,
            queries,
            &probabilities,
            scratch.d_output_rows,
            Store::Add,
            &mut scratch.d_v,
        );
        transposed_product(keys, queries, &d_scores, scratch.q_rows, Store::Add, &mut scratch.d_k);
    }

    /// d_q ← or += d_scores·K.
    #[inline(always)]
    fn add_to_queries(&self, scratch: &mut Scratch, pair: &Pair, first: bool) {
        let d_scores = Tile::new(scratch.d_scores, pair.keys.len());
        let d_score = |row: usize| d_scores.row(row);
        product(
            pair.queries.len(),
            pair.keys.len(),
            d_score,
            scratch.k_rows,
            Store::Overwrite,
            &mut scratch.d_q,
        );
        for (row, token) in pair.queries.clone().enumerate() {
            // SAFETY: this token and head belong to the work of one thread, in both plans.
            let d_q = unsafe { self.gradients.d_q.range(self.shape.query(token, pair.head)) };
            let part = &scratch.d_q.row(row)[..self.shape.head_dim];
            if first {
                d_q.copy_from_slice(part);
            } else {
                d_q.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
            }
        }
    }
}
