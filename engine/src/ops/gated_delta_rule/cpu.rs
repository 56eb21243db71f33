//! The forward pass, and what it shares with the backward pass.

pub mod backward;
mod chunk;
pub mod decode;

use std::ops::Range;

use super::{CHUNK, Shape};
use crate::cpu::parallel::{SharedMut, for_each, take, with_scratch};
use crate::cpu::simd::vectorize;
use crate::cpu::tile::{Store, Tile, product_into_tile, product_of_tile};
use crate::device::CpuDevice;
use crate::float::round_slice;
use crate::number::{Number, on_cpu};
use crate::ops::attention::Documents;
use chunk::{Gates, Keys, Values};

on_cpu! {
    /// Types that the rule computes in.
    fn forward = forward(
        cpu: &CpuDevice,
        shape: &Shape,
        documents: &Documents,
        inputs: HostInputs<'_, Self>,
        output: &mut [Self],
        last_states: Option<&mut [f32]>,
    );
    fn backward = backward::backward(
        cpu: &CpuDevice,
        shape: &Shape,
        documents: &Documents,
        inputs: HostInputs<'_, Self>,
        d_output: &[Self],
        gradients: backward::HostGradients<'_, Self>,
    );
    fn decode = decode::decode(
        cpu: &CpuDevice,
        shape: &Shape,
        inputs: HostInputs<'_, Self>,
        slots: &[u32],
        states: &mut [f32],
        output: &mut [Self],
    );
}

/// The inputs as slices.
#[derive(Clone, Copy)]
pub struct HostInputs<'a, T> {
    pub qkv: &'a [T],
    pub a: &'a [T],
    pub b: &'a [T],
    pub a_log: &'a [T],
    pub dt_bias: &'a [T],
}

impl<'a, T: Number> HostInputs<'a, T> {
    pub fn new(inputs: &super::Inputs<'a, T>) -> Self {
        Self {
            qkv: inputs.qkv.host(),
            a: inputs.a.host(),
            b: inputs.b.host(),
            a_log: inputs.a_log.host(),
            dt_bias: inputs.dt_bias.host(),
        }
    }
}

impl Shape {
    /// Elements of a token's query among its queries, keys and values.
    fn query(&self, token: usize, key_head: usize) -> Range<usize> {
        let first = token * self.input_width() + key_head * self.key_dim;
        first..first + self.key_dim
    }

    /// The same of its key.
    fn key(&self, token: usize, key_head: usize) -> Range<usize> {
        self.query(token, self.key_heads + key_head)
    }

    /// The same of its value.
    fn value(&self, token: usize, head: usize) -> Range<usize> {
        let keys = 2 * self.key_heads * self.key_dim;
        let first = token * self.input_width() + keys + head * self.value_dim;
        first..first + self.value_dim
    }

    /// Elements of a token's output.
    fn output(&self, token: usize, head: usize) -> Range<usize> {
        let first = token * self.output_width() + head * self.value_dim;
        first..first + self.value_dim
    }

    /// Value heads of a key head.
    fn heads_of(&self, key_head: usize) -> Range<usize> {
        key_head * self.group()..(key_head + 1) * self.group()
    }

    /// Elements of a state `[DK, DV]` as a tile.
    fn state_tile(&self) -> usize {
        Tile::length(self.key_dim, self.value_dim)
    }
}

/// A document and a key head.
#[derive(Debug, Clone)]
pub struct Work {
    pub document: usize,
    pub tokens: Range<usize>,
    pub key_head: usize,
}

impl Work {
    /// The tokens of its chunks, in order.
    fn chunks(&self) -> impl DoubleEndedIterator<Item = Range<usize>> + ExactSizeIterator + use<> {
        let end = self.tokens.end;
        self.tokens.clone().step_by(CHUNK).map(move |first| first..(first + CHUNK).min(end))
    }
}

/// All documents and key heads, the longest first.
pub fn works(documents: &Documents, shape: &Shape) -> Vec<Work> {
    let of_document = |(document, tokens): (usize, Range<usize>)| {
        (0..shape.key_heads).map(move |key_head| Work { document, tokens: tokens.clone(), key_head })
    };
    let mut works: Vec<Work> = documents.ranges().enumerate().flat_map(of_document).collect();
    works.sort_by_key(|work| std::cmp::Reverse(work.tokens.len()));
    works
}

/// Elements that a thread takes for [`forward`].
pub fn forward_length(shape: &Shape) -> usize {
    Keys::length(shape)
        + Values::length(shape)
        + shape.group() * shape.state_tile()
        + Tile::length(CHUNK, shape.value_dim)
}

pub fn forward<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: HostInputs<'_, T>,
    output: &mut [T],
    last_states: Option<&mut [f32]>,
) {
    let works = works(documents, shape);
    let (output, last_states) = (SharedMut::new(output), last_states.map(SharedMut::new));
    cpu.run(|| {
        for_each(works.len(), |index| {
            with_scratch(forward_length(shape), |mut memory| {
                let memory = &mut memory;
                let mut keys = Keys::new(shape, memory);
                let mut values = Values::new(shape, memory);
                let states = take(memory, shape.group() * shape.state_tile());
                let mut made = Tile::new(take(memory, Tile::length(CHUNK, shape.value_dim)), shape.value_dim);
                let work = &works[index];
                forward_document(shape, work, inputs, (&mut keys, &mut values, states, &mut made), &output);
                if let Some(last_states) = &last_states {
                    store_states(shape, work, states, last_states);
                }
            });
        });
    });
}

fn forward_document<T: Number>(
    shape: &Shape,
    work: &Work,
    inputs: HostInputs<'_, T>,
    (keys, values, states, made): (&mut Keys<'_>, &mut Values<'_>, &mut [f32], &mut Tile<'_>),
    output: &SharedMut<'_, T>,
) {
    states.fill(0.0);
    for tokens in work.chunks() {
        keys.load(shape, inputs.qkv, &tokens, work.key_head);
        let heads = shape.heads_of(work.key_head).zip(states.chunks_exact_mut(shape.state_tile()));
        for (head, state) in heads {
            let mut state = Tile::new(state, shape.value_dim);
            let gates = Gates::new(shape, inputs, &tokens, head);
            values.solve(shape, (keys, tokens.start), &gates, (inputs.qkv, head), &state);
            read(shape, keys, values, &gates, made);
            for (row, token) in tokens.clone().enumerate() {
                // SAFETY: a document's key head, and with it its value heads, is the work of one thread.
                let output = unsafe { output.range(shape.output(token, head)) };
                vectorize!(|| round_slice(made.row(row), output));
            }
            values.advance(shape, keys, &gates, &mut state);
        }
    }
}

/// `made` = e^c q̂ S + ((q̂ k̂ᵀ) E) U of a chunk.
fn read(shape: &Shape, keys: &Keys<'_>, values: &mut Values<'_>, gates: &Gates, made: &mut Tile<'_>) {
    let count = gates.count;
    product_into_tile(count, shape.key_dim, keys.query.rows(), values.state_rows, made, chunk::ALL);
    vectorize!(|| for (row, &decay) in gates.from_start[..count].iter().enumerate() {
        made.row_mut(row).iter_mut().for_each(|value| *value *= decay);
    });
    let scores = Tile::new(values.scores, count);
    product_of_tile((count, count), &scores, values.update_rows, Store::Add, made, chunk::LOWER);
}

/// Leaves the states of a document in their place.
fn store_states(shape: &Shape, work: &Work, states: &mut [f32], last_states: &SharedMut<'_, f32>) {
    let heads = shape.heads_of(work.key_head).zip(states.chunks_exact_mut(shape.state_tile()));
    for (head, state) in heads {
        let state = Tile::new(state, shape.value_dim);
        let first = (work.document * shape.value_heads + head) * shape.key_dim;
        for row in 0..shape.key_dim {
            let start = (first + row) * shape.value_dim;
            // SAFETY: as the document's outputs.
            let last = unsafe { last_states.range(start..start + shape.value_dim) };
            last.copy_from_slice(&state.row(row)[..shape.value_dim]);
        }
    }
}
