//! The convolution on the CPU.

use std::ops::Range;

use rayon::prelude::*;

use super::Shape;
use crate::cpu::math::{sigmoid, silu};
use crate::cpu::parallel::{SharedMut, for_each, with_scratch};
use crate::cpu::rows_per_chunk;
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::float::round_slice;
use crate::number::{Number, on_cpu};
use crate::ops::attention::Documents;

on_cpu! {
    /// Types that the convolution computes in.
    fn forward = forward(
        cpu: &CpuDevice,
        shape: &Shape,
        documents: &Documents,
        input: &[Self],
        weight: &[Self],
        output: &mut [Self],
    );
    fn backward = backward(
        cpu: &CpuDevice,
        shape: &Shape,
        documents: &Documents,
        inputs: HostBackwardInputs<'_, Self>,
        d_input: &mut [Self],
        d_weight: &mut [f32],
    );
    fn decode = decode(
        cpu: &CpuDevice,
        shape: &Shape,
        input: &[Self],
        weight: &[Self],
        slots: &[u32],
        states: &mut [Self],
        output: &mut [Self],
    );
}

/// Channels that are computed side by side where a task goes through all tokens.
const LANES: usize = 16;

/// Tokens whose terms of a weight's gradient are added in f32; their sums are added in f64.
const BLOCK: usize = 64;

/// The weight as K rows of channels, so that loops over channels read it in order.
fn taps_by_channel<T: Number>(shape: &Shape, weight: &[T]) -> Vec<f32> {
    let mut taps = vec![0.0; weight.len()];
    for (channel, weight) in weight.chunks_exact(shape.taps).enumerate() {
        for (tap, weight) in weight.iter().enumerate() {
            taps[tap * shape.channels + channel] = weight.to_f32();
        }
    }
    taps
}

pub fn forward<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    documents: &Documents,
    input: &[T],
    weight: &[T],
    output: &mut [T],
) {
    let weight = taps_by_channel(shape, weight);
    let size = rows_per_chunk(shape.channels);
    let chunks = |document: Range<usize>| {
        let end = document.end;
        let chunk = move |first: usize| (document.start, first..(first + size).min(end));
        (document.start..end).step_by(size).map(chunk).collect::<Vec<_>>()
    };
    let chunks: Vec<(usize, Range<usize>)> = documents.ranges().flat_map(chunks).collect();
    let output = SharedMut::new(output);
    let row = |token: usize| token * shape.channels..(token + 1) * shape.channels;
    cpu.run(|| {
        for_each(chunks.len(), |index| {
            let (document_start, tokens) = &chunks[index];
            with_scratch(shape.channels, |sums| {
                for token in tokens.clone() {
                    // SAFETY: a token is in one chunk alone.
                    let output = unsafe { output.range(row(token)) };
                    let seen =
                        document_start.max(&(token + 1).saturating_sub(shape.taps)).to_owned()..token + 1;
                    let inputs =
                        seen.map(|seen| (&input[row(seen)], &weight[row(shape.taps - 1 - (token - seen))]));
                    convolve(inputs, &mut sums[..shape.channels], output);
                }
            });
        });
    });
}

/// One token: Σ input · weight, by channels, and silu of it; `sums` are as many floats as there are channels.
fn convolve<'a, T: Number>(
    inputs: impl Iterator<Item = (&'a [T], &'a [f32])>,
    sums: &mut [f32],
    output: &mut [T],
) {
    sums.fill(0.0);
    for (input, weight) in inputs {
        vectorize!(|| {
            for ((sum, x), &weight) in sums.iter_mut().zip(input).zip(weight) {
                *sum = x.to_f32().mul_add(weight, *sum);
            }
        });
    }
    vectorize!(|| output.iter_mut().zip(sums.iter()).for_each(|(y, &z)| *y = T::from_f32(silu(z))));
}

/// What the backward reads.
#[derive(Clone, Copy)]
pub struct HostBackwardInputs<'a, T> {
    pub input: &'a [T],
    pub weight: &'a [T],
    pub d_output: &'a [T],
}

/// Every task owns some channels and goes through all tokens: one order of the sums whatever the number of threads.
pub fn backward<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: HostBackwardInputs<'_, T>,
    d_input: &mut [T],
    d_weight: &mut [f32],
) {
    let pass = Backward { shape, documents, inputs, d_input: SharedMut::new(d_input) };
    cpu.run(|| {
        d_weight.par_chunks_mut(LANES * shape.taps).enumerate().for_each(|(chunk, d_weight)| {
            let channel = chunk * LANES;
            vectorize!(|| {
                if d_weight.len() == LANES * shape.taps {
                    pass.channels::<LANES>(channel, d_weight);
                } else {
                    for (lane, d_weight) in d_weight.chunks_exact_mut(shape.taps).enumerate() {
                        pass.channels::<1>(channel + lane, d_weight);
                    }
                }
            });
        });
    });
}

struct Backward<'a, T> {
    shape: &'a Shape,
    documents: &'a Documents,
    inputs: HostBackwardInputs<'a, T>,
    d_input: SharedMut<'a, T>,
}

impl<T: Number> Backward<'_, T> {
    /// d_input of `WIDTH` channels from `channel` on, and their part of d_weight, `[WIDTH, K]`.
    #[inline(always)]
    fn channels<const WIDTH: usize>(&self, channel: usize, d_weight: &mut [f32]) {
        let taps = self.shape.taps;
        let mut weight = vec![[0.0f32; WIDTH]; taps];
        for (lane, own) in self.inputs.weight[channel * taps..].chunks_exact(taps).take(WIDTH).enumerate() {
            (0..taps).for_each(|tap| weight[tap][lane] = own[tap].to_f32());
        }
        let mut totals = vec![[0.0f64; WIDTH]; taps];
        let mut sums = vec![[0.0f32; WIDTH]; taps];
        // d_input of the latest tokens, each at its number modulo K: what is still added to.
        let mut pending = vec![[0.0f32; WIDTH]; taps];
        for document in self.documents.ranges() {
            for first in document.clone().step_by(BLOCK) {
                sums.fill([0.0; WIDTH]);
                for token in first..(first + BLOCK).min(document.end) {
                    self.token(channel, token, document.start, &weight, (&mut sums, &mut pending));
                }
                for (total, sum) in totals.iter_mut().zip(&sums) {
                    (0..WIDTH).for_each(|lane| total[lane] += f64::from(sum[lane]));
                }
            }
            for token in document.start.max((document.end + 1).saturating_sub(taps))..document.end {
                self.store(channel, token, &pending[token % taps]);
            }
        }
        for (lane, d_weight) in d_weight.chunks_exact_mut(taps).enumerate() {
            (0..taps).for_each(|tap| d_weight[tap] += totals[tap][lane] as f32);
        }
    }

    /// What reaches a token's output goes to the inputs that it depends on, and to the taps.
    #[inline(always)]
    fn token<const WIDTH: usize>(
        &self,
        channel: usize,
        token: usize,
        document_start: usize,
        weight: &[[f32; WIDTH]],
        (sums, pending): (&mut [[f32; WIDTH]], &mut [[f32; WIDTH]]),
    ) {
        let taps = weight.len();
        let place = |token: usize| token * self.shape.channels + channel;
        let lanes = |data: &[T], token: usize| -> [f32; WIDTH] {
            data[place(token)..].first_chunk().expect("the channels of a token").map(T::to_f32)
        };
        let first = document_start.max((token + 1).saturating_sub(taps));
        let tap_of = |seen: usize| taps - 1 - (token - seen);
        let mut z = [0.0f32; WIDTH];
        for seen in first..=token {
            let (x, weight) = (lanes(self.inputs.input, seen), &weight[tap_of(seen)]);
            (0..WIDTH).for_each(|lane| z[lane] = x[lane].mul_add(weight[lane], z[lane]));
        }
        let mut d_z = lanes(self.inputs.d_output, token);
        for lane in 0..WIDTH {
            let sigma = sigmoid(z[lane]);
            // silu' = σ + x σ (1 − σ)
            d_z[lane] *= (z[lane] * sigma).mul_add(1.0 - sigma, sigma);
        }
        for seen in first..=token {
            let x = lanes(self.inputs.input, seen);
            let (weight, sum) = (&weight[tap_of(seen)], &mut sums[tap_of(seen)]);
            let d_x = &mut pending[seen % taps];
            for lane in 0..WIDTH {
                sum[lane] = d_z[lane].mul_add(x[lane], sum[lane]);
                // The token itself is the first that reaches its input.
                let before = if seen == token { 0.0 } else { d_x[lane] };
                d_x[lane] = d_z[lane].mul_add(weight[lane], before);
            }
        }
        // No later token depends on the oldest of them.
        if first + taps == token + 1 {
            self.store(channel, first, &pending[first % taps]);
        }
    }

    /// Leaves the gradient of a token's input in its place.
    #[inline(always)]
    fn store<const WIDTH: usize>(&self, channel: usize, token: usize, d_x: &[f32; WIDTH]) {
        let place = token * self.shape.channels + channel;
        // SAFETY: these channels are those of one task alone.
        let target = unsafe { self.d_input.range(place..place + WIDTH) };
        round_slice(d_x, target);
    }
}

pub fn decode<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    input: &[T],
    weight: &[T],
    slots: &[u32],
    states: &mut [T],
    output: &mut [T],
) {
    let weight = taps_by_channel(shape, weight);
    let (channels, kept) = (shape.channels, shape.taps - 1);
    let mut sums = vec![0.0; channels];
    cpu.run(|| {
        let rows = input.chunks_exact(channels).zip(output.chunks_exact_mut(channels));
        for (&slot, (input, output)) in slots.iter().zip(rows) {
            let state = &mut states[slot as usize * shape.state_length()..][..shape.state_length()];
            let inputs = state.chunks_exact(channels).chain([input]);
            convolve(inputs.zip(weight.chunks_exact(channels)), &mut sums, output);
            if kept > 0 {
                state.copy_within(channels.., 0);
                state[(kept - 1) * channels..].copy_from_slice(input);
            }
        }
    });
}
