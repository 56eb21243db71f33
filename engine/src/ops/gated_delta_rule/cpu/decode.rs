//! One new token per row: its sequence's state decays, takes the token in and is read.

use super::chunk::{normalise, query_factor, sigmoid, softplus};
use super::{HostInputs, Shape};
use crate::cpu::math::exp;
use crate::cpu::parallel::{SharedMut, for_each, take, with_scratch};
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::float::round_slice;
use crate::number::Number;

/// Threads share the key heads; rows are taken in their order.
pub fn decode<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    inputs: HostInputs<'_, T>,
    slots: &[u32],
    states: &mut [f32],
    output: &mut [T],
) {
    let (states, output) = (SharedMut::new(states), SharedMut::new(output));
    cpu.run(|| {
        for_each(shape.key_heads, |key_head| {
            with_scratch(2 * (shape.key_dim + shape.value_dim), |mut memory| {
                let memory = &mut memory;
                let (query, key) = (take(memory, shape.key_dim), take(memory, shape.key_dim));
                let (write, made) = (take(memory, shape.value_dim), take(memory, shape.value_dim));
                for (row, &slot) in slots.iter().enumerate() {
                    vectorize!(|| {
                        normalise(&inputs.qkv[shape.query(row, key_head)], query_factor(shape), query);
                        normalise(&inputs.qkv[shape.key(row, key_head)], 1.0, key);
                    });
                    for head in shape.heads_of(key_head) {
                        let first = slot as usize * shape.state_length() + head * state_elements(shape);
                        // SAFETY: the states and outputs of a key head's value heads are one thread's.
                        let (state, output) = unsafe {
                            (
                                states.range(first..first + state_elements(shape)),
                                output.range(shape.output(row, head)),
                            )
                        };
                        let token = Token { shape, inputs, row, head };
                        vectorize!(|| {
                            token.take_in(query, key, (state, write), made);
                            round_slice(made, output);
                        });
                    }
                }
            });
        });
    });
}

/// Elements of one head's state.
fn state_elements(shape: &Shape) -> usize {
    shape.key_dim * shape.value_dim
}

/// A row's token for one value head.
struct Token<'a, T> {
    shape: &'a Shape,
    inputs: HostInputs<'a, T>,
    row: usize,
    head: usize,
}

impl<T: Number> Token<'_, T> {
    /// ln of what is left of the state, and β.
    fn gates(&self) -> (f32, f32) {
        let place = self.row * self.shape.value_heads + self.head;
        let x = self.inputs.a[place].to_f64() + self.inputs.dt_bias[self.head].to_f64();
        let rate = self.inputs.a_log[self.head].to_f64().exp();
        ((-rate * softplus(x)) as f32, sigmoid(self.inputs.b[place].to_f64()) as f32)
    }

    /// The state takes the token in; `output` is what its query reads.
    #[inline(always)]
    fn take_in(
        &self,
        query: &[f32],
        key: &[f32],
        (state, write): (&mut [f32], &mut [f32]),
        output: &mut [f32],
    ) {
        let width = self.shape.value_dim;
        let (log_decay, beta) = self.gates();
        let decay = exp(log_decay);
        write.fill(0.0);
        for (state, &key) in state.chunks_exact_mut(width).zip(key) {
            for (state, predicted) in state.iter_mut().zip(write.iter_mut()) {
                *state *= decay;
                *predicted = key.mul_add(*state, *predicted);
            }
        }
        let value = &self.inputs.qkv[self.shape.value(self.row, self.head)];
        for (write, value) in write.iter_mut().zip(value) {
            *write = beta * (value.to_f32() - *write);
        }
        output.fill(0.0);
        for (state, (&key, &query)) in state.chunks_exact_mut(width).zip(key.iter().zip(query)) {
            for ((state, write), output) in state.iter_mut().zip(write.iter()).zip(output.iter_mut()) {
                *state = key.mul_add(*write, *state);
                *output = query.mul_add(*state, *output);
            }
        }
    }
}
