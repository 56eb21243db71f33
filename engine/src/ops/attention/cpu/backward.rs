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

use super::products::{
    Part, left_length, multiply, pack_left, pack_right, right_length, rounded, rounded_length,
};
use super::{HostInputs, TILE, TILE_ROWS, Work, first_tile, on_diagonal, take, tiles, visible};
use crate::cpu::gemm::Task;
use crate::cpu::gemm::kernel::Kernel;
use crate::cpu::math::{dot, exp, tanh};
use crate::cpu::parallel::{SharedMut, for_each, with_scratch};
use crate::cpu::simd::vectorize;
use crate::cpu::tile::{Store, Tile, padded};
use crate::device::CpuDevice;
use crate::ops::attention::{Documents, Shape};
use crate::real::{Real, round_slice};

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
    T::choose::<TILE_ROWS>(Backward::new(cpu, shape, documents, inputs, outputs, gradients));
}

/// What [`backward`] does with any kernel.
pub struct Backward<'a, T> {
    cpu: &'a CpuDevice,
    documents: &'a Documents,
    pass: Pass<'a, T>,
}

impl<'a, T> Backward<'a, T> {
    pub fn new(
        cpu: &'a CpuDevice,
        shape: &'a Shape,
        documents: &'a Documents,
        inputs: HostInputs<'a, T>,
        outputs: HostBackwardInputs<'a, T>,
        gradients: HostGradients<'a, T>,
    ) -> Self {
        Self { cpu, documents, pass: Pass { shape, inputs, outputs, gradients } }
    }
}

impl<T: Real> Task<T> for Backward<'_, T> {
    fn run<K: Kernel<Element = T>>(self, kernel: K) {
        let Self { cpu, documents, pass } = self;
        let shape = pass.shape;
        let run = |works: Vec<Work>, kind: Kind| {
            // Tokens whose d_q is summed.
            let tokens = match kind {
                Kind::Documents => works.iter().map(|work| work.tokens.len()).max().unwrap_or(0),
                Kind::Keys => 0,
                Kind::Queries => TILE,
            };
            for_each(works.len(), |index| {
                with_scratch(Scratch::length::<K>(shape, tokens), |memory| {
                    let mut scratch = Scratch::new::<K>(shape, tokens, memory);
                    kernel.run(
                        #[inline(always)]
                        || match kind {
                            Kind::Queries => pass.queries(kernel, &works[index], &mut scratch),
                            _ => pass.keys(kernel, &works[index], &mut scratch, kind),
                        },
                    );
                });
            });
        };
        let pairs = |work: &Work| work.tokens.len().pow(2);
        let whole_documents = tiles(documents, shape, usize::MAX, pairs);
        cpu.run(|| {
            if whole_documents_balance(&whole_documents, cpu.threads()) {
                run(whole_documents, Kind::Documents);
            } else {
                let cost = |work: &Work| work.document.end - work.tokens.start;
                run(tiles(documents, shape, TILE, cost), Kind::Keys);
                let cost = |work: &Work| work.tokens.end - work.document.start;
                run(tiles(documents, shape, TILE, cost), Kind::Queries);
            }
        });
    }
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

/// What a pass computes of each of its works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// All gradients of a document.
    Documents,
    /// d_k and d_v of a tile of keys.
    Keys,
    /// d_q of a tile of queries.
    Queries,
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
    /// Left operand Q or d_output `[queries, D]`.
    query_left: &'a mut [f32],
    /// Left operand from a tile of scores.
    score_left: &'a mut [f32],
    rounded: &'a mut [f32],
    /// `[queries, keys]`: scores, then probabilities.
    probabilities: &'a mut [f32],
    /// `[queries, keys]`: gradient of the probabilities, then of the scores times the scale.
    d_scores: &'a mut [f32],
    /// `[keys, D]`.
    d_k: Tile<'a>,
    /// `[keys, D]`.
    d_v: Tile<'a>,
    /// Sums of d_q `[heads of the group, tokens, D]`.
    d_q: &'a mut [f32],
    /// Tokens that there are sums of d_q for.
    tokens: usize,
}

impl<'a> Scratch<'a> {
    /// Words for works of at most `tokens` tokens whose d_q is summed.
    fn length<K: Kernel>(shape: &Shape, tokens: usize) -> usize {
        let head_dim = shape.head_dim;
        2 * right_length::<K>(head_dim, TILE)
            + 3 * right_length::<K>(TILE, head_dim)
            + left_length::<K>(TILE, head_dim)
            + left_length::<K>(TILE, TILE)
            + rounded_length::<K::Element>()
            + 2 * Tile::length(TILE, TILE)
            + 2 * Tile::length(TILE, head_dim)
            + Tile::length(shape.group() * tokens, head_dim)
    }

    fn new<K: Kernel>(shape: &Shape, tokens: usize, mut memory: &'a mut [f32]) -> Self {
        let head_dim = shape.head_dim;
        let memory = &mut memory;
        Self {
            k_columns: take(memory, right_length::<K>(head_dim, TILE)),
            v_columns: take(memory, right_length::<K>(head_dim, TILE)),
            k_rows: take(memory, right_length::<K>(TILE, head_dim)),
            q_rows: take(memory, right_length::<K>(TILE, head_dim)),
            d_output_rows: take(memory, right_length::<K>(TILE, head_dim)),
            query_left: take(memory, left_length::<K>(TILE, head_dim)),
            score_left: take(memory, left_length::<K>(TILE, TILE)),
            rounded: take(memory, rounded_length::<K::Element>()),
            probabilities: take(memory, Tile::length(TILE, TILE)),
            d_scores: take(memory, Tile::length(TILE, TILE)),
            d_k: Tile::new(take(memory, Tile::length(TILE, head_dim)), head_dim),
            d_v: Tile::new(take(memory, Tile::length(TILE, head_dim)), head_dim),
            d_q: take(memory, Tile::length(shape.group() * tokens, head_dim)),
            tokens,
        }
    }
}

/// A tile of queries of one head against a tile of keys.
struct Pair<'a> {
    document: &'a Range<usize>,
    head: usize,
    queries: &'a Range<usize>,
    keys: &'a Range<usize>,
}

impl Pair<'_> {
    /// `part`, where the pair is on the diagonal.
    fn part(&self, part: Part) -> Part {
        if on_diagonal(self.queries, self.keys) { part } else { Part::All }
    }
}

impl<T: Real> Pass<'_, T> {
    /// d_k and d_v of the tokens of `work`, and of a whole document d_q.
    #[inline(always)]
    fn keys<K: Kernel<Element = T>>(&self, kernel: K, work: &Work, scratch: &mut Scratch, kind: Kind) {
        let Work { document, tokens, kv_head } = work;
        for first in tokens.clone().step_by(TILE) {
            let keys = first..(first + TILE).min(tokens.end);
            self.pack_keys(kernel, scratch, &keys, *kv_head);
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
                    let pair = Pair { document, head, queries: &queries, keys: &keys };
                    self.score_gradients(kernel, scratch, &pair);
                    self.add_to_keys(kernel, scratch, &pair);
                    if kind == Kind::Documents {
                        self.add_to_queries(kernel, scratch, &pair, work);
                    }
                }
            }
            for (row, token) in keys.enumerate() {
                let target = self.shape.key(token, *kv_head);
                // SAFETY: this token and key/value head belong to this work alone.
                let (d_k, d_v) =
                    unsafe { (self.gradients.d_k.range(target.clone()), self.gradients.d_v.range(target)) };
                round_slice(scratch.d_k.row(row), d_k);
                round_slice(scratch.d_v.row(row), d_v);
            }
        }
        if kind == Kind::Documents {
            self.store_queries(scratch, work);
        }
    }

    /// d_q of the tokens of `work`, at most one tile, for all heads of the group.
    #[inline(always)]
    fn queries<K: Kernel<Element = T>>(&self, kernel: K, work: &Work, scratch: &mut Scratch) {
        let Work { document, tokens, kv_head } = work;
        for first in (first_tile(self.shape, tokens.start, document)..tokens.end).step_by(TILE) {
            let keys = first..(first + TILE).min(document.end);
            self.pack_keys(kernel, scratch, &keys, *kv_head);
            for head in self.shape.heads_of(*kv_head) {
                let pair = Pair { document, head, queries: tokens, keys: &keys };
                self.score_gradients(kernel, scratch, &pair);
                self.add_to_queries(kernel, scratch, &pair, work);
            }
        }
        self.store_queries(scratch, work);
    }

    #[inline(always)]
    fn pack_keys<K: Kernel<Element = T>>(
        &self,
        kernel: K,
        scratch: &mut Scratch,
        keys: &Range<usize>,
        kv_head: usize,
    ) {
        let k = self.shape.key_rows(self.inputs.k, keys, kv_head);
        let v = self.shape.key_rows(self.inputs.v, keys, kv_head);
        pack_right(kernel, k.transposed(), scratch.k_columns);
        pack_right(kernel, v.transposed(), scratch.v_columns);
        pack_right(kernel, k, scratch.k_rows);
    }

    /// The pair's probabilities, and the gradient of its scores times the scale.
    #[inline(always)]
    fn score_gradients<K: Kernel<Element = T>>(&self, kernel: K, scratch: &mut Scratch, pair: &Pair) {
        let shape = self.shape;
        let size = [pair.queries.len(), shape.head_dim, pair.keys.len()];
        let part = pair.part(Part::LowerProduct);
        let Scratch { query_left, k_columns, v_columns, .. } = scratch;
        let mut probabilities = Tile::new(scratch.probabilities, pair.keys.len());
        let mut d_scores = Tile::new(scratch.d_scores, pair.keys.len());
        let q = shape.query_rows(self.inputs.q, pair.queries, pair.head);
        pack_left(kernel, q, query_left);
        multiply(kernel, size, (query_left, k_columns), part, Store::Overwrite, &mut probabilities);
        let d_output = shape.query_rows(self.outputs.d_output, pair.queries, pair.head);
        pack_left(kernel, d_output, query_left);
        multiply(kernel, size, (query_left, v_columns), part, Store::Overwrite, &mut d_scores);
        vectorize!(|| for (row, token) in pair.queries.clone().enumerate() {
            let place = shape.query(token, pair.head);
            let delta = dot(&self.outputs.d_output[place.clone()], &self.outputs.output[place]);
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
            // Dot products are not summed in the order of delta. Where a query sees itself alone, that would be all of
            // the difference, and the gradient is zero.
            if K::STEP > 1 && shape.first_seen(token, pair.document.start) == token {
                d_scores.fill(0.0);
            }
            for row in [probabilities, d_scores] {
                row[..visible.start].fill(0.0);
                row[visible.end..].fill(0.0);
            }
        });
    }

    /// d_v += Pᵀ·d_output and d_k += d_scoresᵀ·Q.
    #[inline(always)]
    fn add_to_keys<K: Kernel<Element = T>>(&self, kernel: K, scratch: &mut Scratch, pair: &Pair) {
        let shape = self.shape;
        let (queries, keys) = (pair.queries.len(), pair.keys.len());
        let (size, part) = ([keys, queries, shape.head_dim], pair.part(Part::UpperLeft));
        let Scratch { q_rows, d_output_rows, score_left, rounded: memory, d_k, d_v, .. } = scratch;
        let rows_of = |data| shape.query_rows(data, pair.queries, pair.head);
        let probabilities = Tile::new(scratch.probabilities, keys);
        pack_right(kernel, rows_of(self.outputs.d_output), d_output_rows);
        pack_left(kernel, rounded(&probabilities, [queries, keys], memory).transposed(), score_left);
        multiply(kernel, size, (score_left, d_output_rows), part, Store::Add, d_v);
        let d_scores = Tile::new(scratch.d_scores, keys);
        pack_right(kernel, rows_of(self.inputs.q), q_rows);
        pack_left(kernel, rounded(&d_scores, [queries, keys], memory).transposed(), score_left);
        multiply(kernel, size, (score_left, q_rows), part, Store::Add, d_k);
    }

    /// The sums of d_q ← or += d_scores·K.
    #[inline(always)]
    fn add_to_queries<K: Kernel<Element = T>>(
        &self,
        kernel: K,
        scratch: &mut Scratch,
        pair: &Pair,
        work: &Work,
    ) {
        let first = pair.keys.start == first_tile(self.shape, pair.queries.start, &work.document);
        let store = if first { Store::Overwrite } else { Store::Add };
        let d_scores = Tile::new(scratch.d_scores, pair.keys.len());
        let head = pair.head - self.shape.heads_of(work.kv_head).start;
        let row = head * scratch.tokens + pair.queries.start - work.tokens.start;
        let head_dim = self.shape.head_dim;
        let mut d_q = Tile::new(&mut scratch.d_q[row * padded(head_dim)..], head_dim);
        let (queries, keys) = (pair.queries.len(), pair.keys.len());
        pack_left(kernel, rounded(&d_scores, [queries, keys], scratch.rounded), scratch.score_left);
        let part = pair.part(Part::LowerLeft);
        multiply(
            kernel,
            [queries, keys, head_dim],
            (scratch.score_left, scratch.k_rows),
            part,
            store,
            &mut d_q,
        );
    }

    /// d_q of the tokens of `work`, for all heads of the group, from its sums.
    fn store_queries(&self, scratch: &mut Scratch, work: &Work) {
        let sums = Tile::new(scratch.d_q, self.shape.head_dim);
        for (index, head) in self.shape.heads_of(work.kv_head).enumerate() {
            for (row, token) in work.tokens.clone().enumerate() {
                // SAFETY: this token and head belong to the work of one thread, in both plans.
                let d_q = unsafe { self.gradients.d_q.range(self.shape.query(token, head)) };
                round_slice(sums.row(index * scratch.tokens + row), d_q);
            }
        }
    }
}
