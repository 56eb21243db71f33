//! The backward pass.
//!
//! One pair of a key tile and a query tile takes five products: the scores again, d_output·vᵀ, and the
//! parts of d_v, d_k and d_q. A thread takes a tile of queries of all heads that share keys and values, and goes through
//! the tiles of keys. d_q is its own; to the sums of d_k and d_v of a tile of keys the tiles of queries add one after the
//! other, so that the order of summation does not depend on the threads.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::products::{Part, left_length, multiply, pack_left, pack_right, right_length};
use super::scores::{Scores, Use};
use super::{DOT_ROWS, HostInputs, TILE, TILE_ROWS, Work, first_tile, on_diagonal, tiles, visible};
use crate::cpu::gemm::Task;
use crate::cpu::gemm::kernel::Kernel;
use crate::cpu::math::{dot, exp, tanh};
use crate::cpu::parallel::{SharedMut, for_each, take, wait_until, with_scratch};
use crate::cpu::simd::vectorize;
use crate::cpu::tile::{LANES, Store, Tile, padded};
use crate::device::CpuDevice;
use crate::float::round_slice;
use crate::number::Number;
use crate::ops::attention::{Documents, Shape};

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

pub fn backward<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: HostInputs<T>,
    outputs: HostBackwardInputs<T>,
    gradients: HostGradients<T>,
) {
    T::choose::<TILE_ROWS, DOT_ROWS>(Backward::new(cpu, shape, documents, inputs, outputs, gradients));
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

impl<T: Number> Task<T> for Backward<'_, T> {
    fn run<K: Kernel<Element = T>>(self, kernel: K) {
        let Self { cpu, documents, pass } = self;
        let shape = pass.shape;
        let mut works = tiles(documents, shape);
        let tile_count = works.last().map_or(0, |work| work.tile + 1);
        // Tiles of queries wait for earlier ones of their document alone, and these have been begun before.
        works.sort_by_key(|work| Reverse(work.document.len()));
        let turns = Turns::new(shape.kv_heads, tile_count);
        with_scratch(KeySums::length(shape, documents.tokens()), |memory| {
            let sums = KeySums::new(shape, documents.tokens(), memory);
            cpu.run(|| {
                for_each(works.len(), |index| {
                    with_scratch(Scratch::length::<K>(shape), |memory| {
                        let mut scratch = Scratch::new::<K>(shape, memory);
                        kernel.run(
                            #[inline(always)]
                            || {
                                let _guard = turns.guard();
                                pass.tile(kernel, &works[index], &mut scratch, &sums, &turns);
                            },
                        );
                    });
                });
            });
        });
    }
}

/// Whose turn it is to add to the sums of a tile of keys.
struct Turns {
    /// Tiles of queries that have added, `[key/value heads, tiles of keys]`.
    added: Vec<AtomicUsize>,
    tiles: usize,
    /// That a thread has panicked, for whose turn others would wait for ever.
    panicked: AtomicBool,
}

/// Says so when its thread panics.
struct PanicGuard<'a>(&'a AtomicBool);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Release);
        }
    }
}

impl Turns {
    fn new(kv_heads: usize, tiles: usize) -> Self {
        let added = std::iter::repeat_with(AtomicUsize::default).take(kv_heads * tiles).collect();
        Self { added, tiles, panicked: AtomicBool::new(false) }
    }

    /// To be held while a thread computes a tile of queries.
    fn guard(&self) -> PanicGuard<'_> {
        PanicGuard(&self.panicked)
    }

    /// Returns when the tile of queries of `work` is the next that sees the tile of keys `tile`: every one from that tile
    /// on does, up to the last.
    fn wait(&self, work: &Work, tile: usize) {
        let added = &self.added[work.kv_head * self.tiles + tile];
        let is_next = || added.load(Ordering::Acquire) == work.tile - tile;
        wait_until(|| is_next() || self.panicked.load(Ordering::Acquire));
        assert!(is_next(), "another thread has panicked in this operation");
    }

    /// Passes the turn on.
    fn pass_on(&self, work: &Work, tile: usize) {
        self.added[work.kv_head * self.tiles + tile].fetch_add(1, Ordering::Release);
    }
}

/// Sums of d_k and d_v, each `[key/value heads, tokens, D]`.
struct KeySums<'a> {
    d_k: SharedMut<'a, f32>,
    d_v: SharedMut<'a, f32>,
    head_dim: usize,
    tokens: usize,
}

impl<'a> KeySums<'a> {
    fn length(shape: &Shape, tokens: usize) -> usize {
        2 * shape.kv_heads * tokens * padded(shape.head_dim)
    }

    fn new(shape: &Shape, tokens: usize, memory: &'a mut [f32]) -> Self {
        let (d_k, d_v) = memory.split_at_mut(Self::length(shape, tokens) / 2);
        Self { d_k: SharedMut::new(d_k), d_v: SharedMut::new(d_v), head_dim: shape.head_dim, tokens }
    }

    /// d_k and d_v of a tile of keys.
    ///
    /// # Safety
    /// While they live, nothing else may access them.
    unsafe fn tiles(&self, kv_head: usize, keys: &Range<usize>) -> [Tile<'_>; 2] {
        let width = padded(self.head_dim);
        let start = (kv_head * self.tokens + keys.start) * width;
        let range = start..start + keys.len() * width;
        // SAFETY: the caller's promise.
        [&self.d_k, &self.d_v].map(|sums| Tile::new(unsafe { sums.range(range.clone()) }, self.head_dim))
    }
}

struct Pass<'a, T> {
    shape: &'a Shape,
    inputs: HostInputs<'a, T>,
    outputs: HostBackwardInputs<'a, T>,
    gradients: HostGradients<'a, T>,
}

/// One thread's memory: operands of a tile of keys and of one of queries, packed, and results.
struct Scratch<'a> {
    /// Right operand Kᵀ `[D, keys]`, for the scores.
    k_columns: &'a mut [f32],
    /// Right operand Vᵀ `[D, keys]`, for d_output·Vᵀ.
    v_columns: &'a mut [f32],
    /// Right operand K `[keys, D]`, for d_q.
    k_rows: &'a mut [f32],
    /// Scores, then probabilities.
    probabilities: Scores<'a>,
    /// Gradient of the probabilities, then of the scores times the scale.
    d_scores: Scores<'a>,
    /// For each query head of the group.
    heads: Vec<HeadScratch<'a>>,
}

/// The tile of queries, of one head.
struct HeadScratch<'a> {
    /// Left operand Q `[queries, D]`.
    q: &'a mut [f32],
    /// Left operand d_output `[queries, D]`.
    d_output: &'a mut [f32],
    /// Right operand Q `[queries, D]`, for d_k.
    q_rows: &'a mut [f32],
    /// Right operand d_output `[queries, D]`, for d_v.
    d_output_rows: &'a mut [f32],
    /// Sums `[queries, D]`.
    d_q: Tile<'a>,
    /// Of each query, its output times the gradient of that.
    delta: [f32; TILE],
    log_sum_exp: [f32; TILE],
}

impl<'a> Scratch<'a> {
    fn length<K: Kernel>(shape: &Shape) -> usize {
        let head_dim = shape.head_dim;
        let (columns, rows) = (right_length::<K>(head_dim, TILE), right_length::<K>(TILE, head_dim));
        let head = 2 * left_length::<K>(TILE, head_dim) + 2 * rows + Tile::length(TILE, head_dim);
        let scores = Scores::length::<K>(Use::Columns) + Scores::length::<K>(Use::Both);
        2 * columns + rows + scores + shape.group() * head
    }

    fn new<K: Kernel>(shape: &Shape, mut memory: &'a mut [f32]) -> Self {
        let (head_dim, memory) = (shape.head_dim, &mut memory);
        Self {
            k_columns: take(memory, right_length::<K>(head_dim, TILE)),
            v_columns: take(memory, right_length::<K>(head_dim, TILE)),
            k_rows: take(memory, right_length::<K>(TILE, head_dim)),
            probabilities: Scores::new::<K>(Use::Columns, memory),
            d_scores: Scores::new::<K>(Use::Both, memory),
            heads: (0..shape.group())
                .map(|_| HeadScratch {
                    q: take(memory, left_length::<K>(TILE, head_dim)),
                    d_output: take(memory, left_length::<K>(TILE, head_dim)),
                    q_rows: take(memory, right_length::<K>(TILE, head_dim)),
                    d_output_rows: take(memory, right_length::<K>(TILE, head_dim)),
                    d_q: Tile::new(take(memory, Tile::length(TILE, head_dim)), head_dim),
                    delta: [0.0; TILE],
                    log_sum_exp: [0.0; TILE],
                })
                .collect(),
        }
    }
}

impl<T: Number> Pass<'_, T> {
    /// d_q of the tile of queries `work`, and what it adds to d_k and d_v.
    #[inline(always)]
    fn tile<K: Kernel<Element = T>>(
        &self,
        kernel: K,
        work: &Work,
        scratch: &mut Scratch,
        sums: &KeySums,
        turns: &Turns,
    ) {
        let Work { document, tokens: queries, kv_head, .. } = work;
        let shape = self.shape;
        for (head, state) in shape.heads_of(*kv_head).zip(&mut scratch.heads) {
            self.pack_queries(kernel, queries, head, state);
        }
        let first_key = first_tile(shape, queries.start, document);
        for start in (first_key..queries.end).step_by(TILE) {
            let keys = start..(start + TILE).min(document.end);
            let tile = work.tile - (queries.start - start) / TILE;
            self.pack_keys(kernel, scratch, &keys, *kv_head);
            let diagonal = on_diagonal(queries, &keys);
            let part = |part| if diagonal { part } else { Part::All };
            let store = |first| if first { Store::Overwrite } else { Store::Add };
            let Scratch { k_columns, v_columns, k_rows, probabilities, d_scores, heads } = &mut *scratch;
            for (head, state) in heads.iter_mut().enumerate() {
                let size = [queries.len(), shape.head_dim, keys.len()];
                let columns = (part(Part::LowerProduct), Store::Overwrite);
                let scores = &mut probabilities.tile();
                multiply(kernel, size, (state.q, k_columns), columns.0, columns.1, scores);
                let d_probabilities = &mut d_scores.tile();
                multiply(kernel, size, (state.d_output, v_columns), columns.0, columns.1, d_probabilities);
                vectorize!(|| {
                    for (row, token) in queries.clone().enumerate() {
                        let (probabilities, d_scores) = (probabilities.row(row), d_scores.row(row));
                        let visible = visible(shape, token, &keys);
                        state.score_gradients(row, shape, probabilities, d_scores, visible);
                        // Dot products are not summed in the order of delta. Where a query sees itself alone, that
                        // would be all of the difference, and the gradient is zero.
                        if K::STEP > 1 && shape.first_seen(token, document.start) == token {
                            d_scores.fill(0.0);
                        }
                    }
                    probabilities.round::<K>(queries.len());
                    d_scores.round::<K>(queries.len());
                });
                turns.wait(work, tile);
                // SAFETY: it is the turn of this tile of queries.
                let [mut d_k, mut d_v] = unsafe { sums.tiles(*kv_head, &keys) };
                let first = store(diagonal && head == 0);
                let size = [keys.len(), queries.len(), shape.head_dim];
                let upper = part(Part::UpperLeft);
                probabilities.multiply_transposed(kernel, size, state.d_output_rows, upper, first, &mut d_v);
                d_scores.multiply_transposed(kernel, size, state.q_rows, upper, first, &mut d_k);
                let size = [queries.len(), keys.len(), shape.head_dim];
                let (lower, first) = (part(Part::LowerLeft), store(start == first_key));
                d_scores.multiply(kernel, size, k_rows, lower, first, &mut state.d_q);
            }
            let next_sees = queries.end < document.end && shape.first_seen(queries.end, start) < keys.end;
            if !next_sees {
                self.store_keys(sums, keys, *kv_head);
            }
            turns.pass_on(work, tile);
        }
        for (head, state) in shape.heads_of(*kv_head).zip(&scratch.heads) {
            vectorize!(|| for (row, token) in queries.clone().enumerate() {
                // SAFETY: this token and head belong to this tile alone.
                let d_q = unsafe { self.gradients.d_q.range(shape.query(token, head)) };
                round_slice(state.d_q.row(row), d_q);
            });
        }
    }

    #[inline(always)]
    fn pack_queries<K: Kernel<Element = T>>(
        &self,
        kernel: K,
        queries: &Range<usize>,
        head: usize,
        state: &mut HeadScratch,
    ) {
        let q = self.shape.query_rows(self.inputs.q, queries, head);
        let d_output = self.shape.query_rows(self.outputs.d_output, queries, head);
        pack_left(kernel, q, state.q);
        pack_left(kernel, d_output, state.d_output);
        pack_right(kernel, q, state.q_rows);
        pack_right(kernel, d_output, state.d_output_rows);
        vectorize!(|| for (row, token) in queries.clone().enumerate() {
            let place = self.shape.query(token, head);
            state.delta[row] = dot(&self.outputs.d_output[place.clone()], &self.outputs.output[place]);
            state.log_sum_exp[row] = self.outputs.log_sum_exp[token * self.shape.heads + head];
        });
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

    /// d_k and d_v of a tile of keys from their sums.
    fn store_keys(&self, sums: &KeySums, keys: Range<usize>, kv_head: usize) {
        // SAFETY: it is the turn of the last tile of queries that sees these keys.
        let [d_k_sums, d_v_sums] = unsafe { sums.tiles(kv_head, &keys) };
        vectorize!(|| for (row, token) in keys.enumerate() {
            let place = self.shape.key(token, kv_head);
            // SAFETY: as above.
            let (d_k, d_v) =
                unsafe { (self.gradients.d_k.range(place.clone()), self.gradients.d_v.range(place)) };
            round_slice(d_k_sums.row(row), d_k);
            round_slice(d_v_sums.row(row), d_v);
        });
    }
}

impl HeadScratch<'_> {
    /// Of a row the probabilities from its products, and the gradient of its scores times the scale from those of
    /// d_output and the values; both 0 where not visible.
    #[inline(always)]
    fn score_gradients(
        &self,
        row: usize,
        shape: &Shape,
        probabilities: &mut [f32; TILE],
        d_scores: &mut [f32; TILE],
        visible: Range<usize>,
    ) {
        // Loops, since closures of iterators can become functions of their own, without the caller's instructions.
        if visible == (0..TILE) {
            // A number that the compiler knows.
            for chunk in 0..TILE / LANES {
                self.gradients(row, shape, probabilities, d_scores, chunk);
            }
            return;
        }
        for chunk in 0..visible.end.div_ceil(LANES) {
            self.gradients(row, shape, probabilities, d_scores, chunk);
        }
        for row in [probabilities, d_scores] {
            row[..visible.start].fill(0.0);
            row[visible.end..].fill(0.0);
        }
    }

    /// Of 16 scores of a row.
    #[inline(always)]
    fn gradients(
        &self,
        row: usize,
        shape: &Shape,
        probabilities: &mut [f32; TILE],
        d_scores: &mut [f32; TILE],
        chunk: usize,
    ) {
        let (log_sum_exp, delta) = (self.log_sum_exp[row], self.delta[row]);
        let probabilities = &mut probabilities.as_chunks_mut::<LANES>().0[chunk];
        let d_scores = &mut d_scores.as_chunks_mut::<LANES>().0[chunk];
        match shape.softcap {
            None => {
                for lane in 0..LANES {
                    let probability = exp(probabilities[lane] * shape.scale - log_sum_exp);
                    probabilities[lane] = probability;
                    d_scores[lane] = probability * (d_scores[lane] - delta) * shape.scale;
                }
            }
            Some(cap) => {
                for lane in 0..LANES {
                    let tanh = tanh(probabilities[lane] * shape.scale / cap);
                    let probability = exp(cap * tanh - log_sum_exp);
                    probabilities[lane] = probability;
                    d_scores[lane] =
                        probability * (d_scores[lane] - delta) * (1.0 - tanh * tanh) * shape.scale;
                }
            }
        }
    }
}
