//! The gate of attention's output on the CPU.

use rayon::prelude::*;

use super::Shape;
use crate::cpu::math::sigmoid;
use crate::cpu::rows_per_chunk;
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::number::{Number, on_cpu};

on_cpu! {
    /// Types that the gate computes in.
    fn take_queries = take_queries(cpu: &CpuDevice, shape: &Shape, joined: &[Self], queries: &mut [Self]);
    fn put_queries = put_queries(cpu: &CpuDevice, shape: &Shape, queries: &[Self], joined: &mut [Self]);
    fn forward = forward(
        cpu: &CpuDevice,
        shape: &Shape,
        joined: &[Self],
        attention: &[Self],
        gated: &mut [Self],
    );
    fn backward = backward(
        cpu: &CpuDevice,
        shape: &Shape,
        inputs: (&[Self], &[Self]),
        gradient: &mut [Self],
        d_joined: &mut [Self],
    );
}

impl Shape {
    /// Heads of tokens that make one task.
    fn heads_per_chunk(&self) -> usize {
        rows_per_chunk(2 * self.head_dim)
    }
}

pub fn take_queries<T: Number>(cpu: &CpuDevice, shape: &Shape, joined: &[T], queries: &mut [T]) {
    let (width, heads) = (shape.head_dim, shape.heads_per_chunk());
    cpu.run(|| {
        let chunks = queries.par_chunks_mut(heads * width).zip(joined.par_chunks(heads * 2 * width));
        chunks.for_each(|(queries, joined)| {
            for (query, joined) in queries.chunks_exact_mut(width).zip(joined.chunks_exact(2 * width)) {
                query.copy_from_slice(&joined[..width]);
            }
        });
    });
}

pub fn put_queries<T: Number>(cpu: &CpuDevice, shape: &Shape, queries: &[T], joined: &mut [T]) {
    let (width, heads) = (shape.head_dim, shape.heads_per_chunk());
    cpu.run(|| {
        let chunks = queries.par_chunks(heads * width).zip(joined.par_chunks_mut(heads * 2 * width));
        chunks.for_each(|(queries, joined)| {
            for (query, joined) in queries.chunks_exact(width).zip(joined.chunks_exact_mut(2 * width)) {
                joined[..width].copy_from_slice(query);
            }
        });
    });
}

pub fn forward<T: Number>(cpu: &CpuDevice, shape: &Shape, joined: &[T], attention: &[T], gated: &mut [T]) {
    let (width, heads) = (shape.head_dim, shape.heads_per_chunk());
    cpu.run(|| {
        let inputs = joined.par_chunks(heads * 2 * width).zip(attention.par_chunks(heads * width));
        gated.par_chunks_mut(heads * width).zip(inputs).for_each(|(gated, (joined, attention))| {
            vectorize!(|| {
                let inputs = joined.chunks_exact(2 * width).zip(attention.chunks_exact(width));
                for (gated, (joined, attention)) in gated.chunks_exact_mut(width).zip(inputs) {
                    let inputs = attention.iter().zip(&joined[width..]);
                    for (gated, (attention, gate)) in gated.iter_mut().zip(inputs) {
                        *gated = T::from_f32(attention.to_f32() * sigmoid(gate.to_f32()));
                    }
                }
            });
        });
    });
}

pub fn backward<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    (joined, attention): (&[T], &[T]),
    gradient: &mut [T],
    d_joined: &mut [T],
) {
    let (width, heads) = (shape.head_dim, shape.heads_per_chunk());
    cpu.run(|| {
        let inputs = joined.par_chunks(heads * 2 * width).zip(attention.par_chunks(heads * width));
        let outputs = d_joined.par_chunks_mut(heads * 2 * width).zip(gradient.par_chunks_mut(heads * width));
        outputs.zip(inputs).for_each(|((d_joined, gradient), (joined, attention))| {
            vectorize!(|| {
                let inputs = joined.chunks_exact(2 * width).zip(attention.chunks_exact(width));
                let outputs = d_joined.chunks_exact_mut(2 * width).zip(gradient.chunks_exact_mut(width));
                for ((d_joined, gradient), (joined, attention)) in outputs.zip(inputs) {
                    let inputs = attention.iter().zip(&joined[width..]);
                    let outputs = d_joined[width..].iter_mut().zip(gradient);
                    for ((d_gate, gradient), (attention, gate)) in outputs.zip(inputs) {
                        let (sigma, d_gated) = (sigmoid(gate.to_f32()), gradient.to_f32());
                        *d_gate = T::from_f32(d_gated * attention.to_f32() * sigma * (1.0 - sigma));
                        *gradient = T::from_f32(d_gated * sigma);
                    }
                }
            });
        });
    });
}
