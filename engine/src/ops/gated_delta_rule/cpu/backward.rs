//! The backward pass: the states at the chunks' starts once more, then the chunks from the last to the first.
//!
//! With d_S' the gradient of the state behind a chunk, and the names of the forward,
//!
//! d_U = scoresᵀ d_output + (e^(c_n − c) k̂) d_S', (I + A)ᵀ d_R = d_U, d_error = β d_R, d_read = −e^c d_error,
//! d_scores = d_output Uᵀ and d_A = −d_R Uᵀ where they are not 0,
//! d_S = e^c_n d_S' + (e^c q̂)ᵀ d_output + k̂ᵀ d_read.
//!
//! c is only in exponents, so its gradient is the sum of what it is an exponent of times the gradient of that.

mod gradients;

use super::chunk::{Gates, Keys, Values, query_factor, sigmoid, softplus};
use super::{CHUNK, HostInputs, Shape, Work, works};
use crate::cpu::math::dot;
use crate::cpu::parallel::{SharedMut, for_each, take, with_scratch};
use crate::cpu::simd::vectorize;
use crate::cpu::tile::Tile;
use crate::device::CpuDevice;
use crate::number::Number;
use crate::ops::attention::Documents;
use gradients::{GateGradients, Scratch};

/// The gradients as slices.
pub struct HostGradients<'a, T> {
    pub d_qkv: &'a mut [T],
    pub d_a: &'a mut [T],
    pub d_b: &'a mut [T],
    pub d_a_log: &'a mut [f32],
    pub d_dt_bias: &'a mut [f32],
}

pub fn backward<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    documents: &Documents,
    inputs: HostInputs<'_, T>,
    d_output: &[T],
    gradients: HostGradients<'_, T>,
) {
    let works = works(documents, shape);
    let mut sums = vec![GateSums::default(); documents.len() * shape.value_heads];
    let pass = Pass {
        shape,
        inputs,
        d_output,
        d_qkv: SharedMut::new(gradients.d_qkv),
        d_a: SharedMut::new(gradients.d_a),
        d_b: SharedMut::new(gradients.d_b),
        sums: SharedMut::new(&mut sums),
    };
    cpu.run(|| for_each(works.len(), |index| pass.document(&works[index])));
    // Document after document, whichever thread had them.
    for sums in sums.chunks_exact(shape.value_heads) {
        let heads = gradients.d_a_log.iter_mut().zip(gradients.d_dt_bias.iter_mut());
        for ((d_a_log, d_dt_bias), sums) in heads.zip(sums) {
            *d_a_log += sums.d_a_log as f32;
            *d_dt_bias += sums.d_dt_bias as f32;
        }
    }
}

/// Gradients of a head's `a_log` and `dt_bias` by one document.
#[derive(Debug, Clone, Copy, Default)]
struct GateSums {
    d_a_log: f64,
    d_dt_bias: f64,
}

/// Elements that a thread takes for the gradients of a document of so many chunks.
pub fn length(shape: &Shape, chunks: usize) -> usize {
    Keys::length(shape)
        + Values::length(shape)
        + Scratch::length(shape)
        + (chunks + 1) * shape.group() * shape.state_tile()
}

pub struct Pass<'a, T> {
    shape: &'a Shape,
    inputs: HostInputs<'a, T>,
    d_output: &'a [T],
    d_qkv: SharedMut<'a, T>,
    d_a: SharedMut<'a, T>,
    d_b: SharedMut<'a, T>,
    /// `[documents, HV]`.
    sums: SharedMut<'a, GateSums>,
}

/// A chunk of one value head.
pub struct Place<'a> {
    work: &'a Work,
    first_token: usize,
    head: usize,
    gates: Gates,
}

impl<T: Number> Pass<'_, T> {
    fn document(&self, work: &Work) {
        let shape = self.shape;
        let group_states = shape.group() * shape.state_tile();
        let chunks = work.chunks().len();
        with_scratch(length(shape, chunks), |mut memory| {
            let memory = &mut memory;
            let mut keys = Keys::new(shape, memory);
            let mut values = Values::new(shape, memory);
            let mut scratch = Scratch::new(shape, memory);
            let states = take(memory, chunks * group_states);
            let d_states = take(memory, group_states);
            self.states(work, &mut keys, &mut values, states);
            d_states.fill(0.0);
            for (tokens, states) in work.chunks().zip(states.chunks_exact_mut(group_states)).rev() {
                keys.load(shape, self.inputs.qkv, &tokens, work.key_head);
                scratch.begin(shape, &keys, tokens.len());
                let states = states.chunks_exact_mut(shape.state_tile());
                let states = states.zip(d_states.chunks_exact_mut(shape.state_tile()));
                for (head, (state, d_state)) in shape.heads_of(work.key_head).zip(states) {
                    let gates = Gates::new(shape, self.inputs, &tokens, head);
                    let place = Place { work, first_token: tokens.start, head, gates };
                    let state = Tile::new(state, shape.value_dim);
                    let mut d_state = Tile::new(d_state, shape.value_dim);
                    self.chunk(&place, (&keys, &mut values), &state, &mut d_state, &mut scratch);
                }
                self.store_keys(work, tokens.start, &keys, &scratch);
            }
        });
    }

    /// The states of the value heads before every chunk, `[chunks, group]` tiles.
    fn states(&self, work: &Work, keys: &mut Keys<'_>, values: &mut Values<'_>, states: &mut [f32]) {
        let shape = self.shape;
        let group_states = shape.group() * shape.state_tile();
        states[..group_states].fill(0.0);
        // The state behind the last chunk is of no use.
        for (chunk, tokens) in work.chunks().enumerate().take(work.chunks().len() - 1) {
            keys.load(shape, self.inputs.qkv, &tokens, work.key_head);
            let (before, behind) = states[chunk * group_states..].split_at_mut(group_states);
            behind[..group_states].copy_from_slice(before);
            let behind = behind[..group_states].chunks_exact_mut(shape.state_tile());
            for (head, state) in shape.heads_of(work.key_head).zip(behind) {
                let gates = Gates::new(shape, self.inputs, &tokens, head);
                let mut state = Tile::new(state, shape.value_dim);
                values.solve(shape, (keys, tokens.start), &gates, (self.inputs.qkv, head), &state);
                values.advance(shape, keys, &gates, &mut state);
            }
        }
    }

    /// One value head of a chunk: its gradients, and `d_state` from that behind the chunk to that before it.
    fn chunk(
        &self,
        place: &Place<'_>,
        (keys, values): (&Keys<'_>, &mut Values<'_>),
        state: &Tile<'_>,
        d_state: &mut Tile<'_>,
        scratch: &mut Scratch<'_>,
    ) {
        let (shape, gates) = (self.shape, &place.gates);
        values.solve(shape, (keys, place.first_token), gates, (self.inputs.qkv, place.head), state);
        scratch.d_writes(self, place, keys, values, d_state);
        let mut gradients = GateGradients { d_log_decay: [0.0; CHUNK], d_beta: [0.0; CHUNK] };
        scratch.d_products(keys, values, gates, &mut gradients);
        scratch.d_values(shape, values, gates, &mut gradients);
        self.store_values(place, scratch);
        scratch.d_keys(shape, place, keys, (state, d_state), &mut gradients);
        scratch.d_state(shape, keys, values, gates, d_state);
        self.store_gates(place, &gradients);
    }

    fn store_values(&self, place: &Place<'_>, scratch: &Scratch<'_>) {
        for row in 0..place.gates.count {
            let target = self.shape.value(place.first_token + row, place.head);
            // SAFETY: a document's key head, and with it its value heads, is the work of one thread.
            let d_value = unsafe { self.d_qkv.range(target) };
            let beta = place.gates.beta[row];
            for (d_value, d_update) in d_value.iter_mut().zip(scratch.d_update.row(row)) {
                *d_value = T::from_f32(beta * d_update);
            }
        }
    }

    /// Gradients of queries and keys before they were scaled to unit length.
    fn store_keys(&self, work: &Work, first_token: usize, keys: &Keys<'_>, scratch: &Scratch<'_>) {
        let shape = self.shape;
        let factor = query_factor(shape);
        for row in 0..CHUNK.min(work.tokens.end - first_token) {
            let token = first_token + row;
            // SAFETY: as in `store_values`.
            let (d_query, d_key) = unsafe {
                (
                    self.d_qkv.range(shape.query(token, work.key_head)),
                    self.d_qkv.range(shape.key(token, work.key_head)),
                )
            };
            let query = (keys.query.row(row), keys.query_scale[row]);
            vectorize!(|| {
                normalise_backward(query, factor, scratch.d_query.row(row), d_query);
                let key = (keys.key.row(row), keys.key_scale[row]);
                normalise_backward(key, 1.0, scratch.d_key.row(row), d_key);
            });
        }
    }

    /// Gradients of `a`, `b` and what a head's gates share.
    fn store_gates(&self, place: &Place<'_>, gradients: &GateGradients) {
        let Place { work, first_token, head, gates } = place;
        let rate = self.inputs.a_log[*head].to_f64().exp();
        let place = work.document * self.shape.value_heads + head;
        // SAFETY: as in `store_values`.
        let sums = unsafe { &mut self.sums.range(place..place + 1)[0] };
        // g is in the sums c of its own token and all later ones.
        let mut d_decay = 0.0;
        for row in (0..gates.count).rev() {
            let place = (first_token + row) * self.shape.value_heads + head;
            d_decay += gradients.d_log_decay[row];
            let x = self.inputs.a[place].to_f64() + self.inputs.dt_bias[*head].to_f64();
            let d_x = -rate * sigmoid(x) * d_decay;
            sums.d_a_log -= rate * softplus(x) * d_decay;
            sums.d_dt_bias += d_x;
            let beta = sigmoid(self.inputs.b[place].to_f64());
            // SAFETY: as above.
            let (d_a, d_b) = unsafe { (self.d_a.range(place..place + 1), self.d_b.range(place..place + 1)) };
            d_a[0] = T::from_f32(d_x as f32);
            d_b[0] = T::from_f32((gradients.d_beta[row] * beta * (1.0 - beta)) as f32);
        }
    }
}

/// From the gradient `d_output` of `output` = `factor` · x · `scale`, where `scale` is 1/√(Σx² + ε).
#[inline(always)]
fn normalise_backward<T: Number>(
    (output, scale): (&[f32], f32),
    factor: f32,
    d_output: &[f32],
    d_x: &mut [T],
) {
    let width = d_x.len();
    let along = dot(&output[..width], &d_output[..width]);
    for ((d_x, output), d_output) in d_x.iter_mut().zip(output).zip(d_output) {
        *d_x = T::from_f32(scale * (factor * d_output - output / factor * along));
    }
}
