//! The gated delta rule over packed documents: cases, and their f64 oracle, token for token.

use std::ops::Range;

use cpift_kernels::chunks::Chunks;
use cpift_kernels::gated_delta_rule::*;
use cpift_kernels::launch::{Launch, LaunchError};
use cpift_kernels::simt::Real;

use super::*;

/// Key heads, value heads, elements of a key, elements of a value.
pub type Heads = [u32; 4];

/// Inputs of forward and backward.
pub struct Case<E: Real> {
    pub heads: Heads,
    pub documents: Vec<Range<usize>>,
    pub qkv: Buffer<E>,
    pub a: Buffer<E>,
    pub b: Buffer<E>,
    pub a_log: Buffer<E>,
    pub dt_bias: Buffer<E>,
    pub d_output: Buffer<E>,
}

/// All that forward and backward write; the gradients of `a_log` and `dt_bias` are added to zeros.
pub struct Results<E: Real> {
    pub output: Buffer<E>,
    pub last_states: Buffer<f32>,
    pub d_qkv: Buffer<E>,
    pub d_a: Buffer<E>,
    pub d_b: Buffer<E>,
    pub d_a_log: Buffer<f32>,
    pub d_dt_bias: Buffer<f32>,
}

impl<E: Real> Results<E> {
    pub fn bits(&self) -> [Vec<u32>; 7] {
        [
            to_bits(self.output.as_slice()),
            to_bits(self.last_states.as_slice()),
            to_bits(self.d_qkv.as_slice()),
            to_bits(self.d_a.as_slice()),
            to_bits(self.d_b.as_slice()),
            to_bits(self.d_a_log.as_slice()),
            to_bits(self.d_dt_bias.as_slice()),
        ]
    }
}

/// The same of the oracle, in the order of [`Results`].
pub type Expected = [Vec<f64>; 7];

/// `values` times `factor`, plus `middle`.
fn about<E: Real>(values: Buffer<E>, factor: f32, middle: f32) -> Buffer<E> {
    let mut values = values;
    for value in values.as_mut_slice() {
        *value = E::from_f32(factor * value.to_f32() + middle);
    }
    values
}

impl<E: Real> Case<E> {
    /// `a_log` and `a` are about `decay`.
    pub fn new(heads: Heads, lengths: &[usize], decay: (f32, f32)) -> Self {
        let [_, value_heads, ..] = heads.map(|size| size as usize);
        let mut documents: Vec<Range<usize>> = Vec::new();
        for length in lengths {
            let start = documents.last().map_or(0, |document| document.end);
            documents.push(start..start + length);
        }
        let tokens: usize = lengths.iter().sum();
        Self {
            heads,
            documents,
            qkv: random(1, tokens * width(heads)),
            a: about(random(2, tokens * value_heads), 1.0, decay.1),
            b: about(random(3, tokens * value_heads), 3.0, 0.0),
            a_log: about(random(4, value_heads), 1.0, decay.0),
            dt_bias: random(5, value_heads),
            d_output: random(6, tokens * value_heads * heads[3] as usize),
        }
    }

    fn tokens(&self) -> usize {
        self.documents.last().map_or(0, |document| document.end)
    }

    pub fn run(&self, launcher: &dyn Launch) -> Result<Results<E>, LaunchError> {
        let [key_heads, value_heads, key_dim, value_dim] = self.heads;
        let lists = Chunks::new(self.documents.iter().map(|range| range.start as u32..range.end as u32));
        let (chunk_count, document_count) = ((lists.chunks.len() / 4) as u32, self.documents.len() as u32);
        let (chunks, documents) = (Buffer::from_slice(&lists.chunks), Buffer::from_slice(&lists.documents));
        let tokens = self.tokens() as u32;
        let scratch = |elements: u32| Buffer::<f32>::poisoned(elements as usize);
        let square = chunk_count * value_heads * 64 * 64;
        let (mut solver, mut scores) = (scratch(square), scratch(square));
        let (mut gates, mut scales) = (scratch(3 * tokens * value_heads), scratch(2 * tokens * key_heads));
        let query_factor = 1.0 / (key_dim as f32).sqrt();
        gated_delta_rule_prepare(
            launcher,
            chunks.read(),
            self.qkv.read(),
            self.a.read(),
            self.b.read(),
            self.a_log.read(),
            self.dt_bias.read(),
            solver.write(),
            scores.write(),
            gates.write(),
            scales.write(),
            tokens,
            chunk_count,
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            query_factor,
        )?;
        let values = tokens * value_heads * value_dim;
        let state = value_heads * key_dim * value_dim;
        let mut output = Buffer::<E>::poisoned(values as usize);
        let mut last_states = scratch(document_count * state);
        gated_delta_rule(
            launcher,
            documents.read(),
            self.qkv.read(),
            solver.read(),
            scores.read(),
            gates.read(),
            scales.read(),
            output.write(),
            last_states.write(),
            tokens,
            chunk_count,
            document_count,
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            1,
        )?;
        let (mut states, mut d_states) = (
            scratch((chunk_count - document_count) * state),
            scratch((chunk_count - document_count) * state),
        );
        let (mut updates, mut d_updates) = (scratch(values), scratch(values));
        gated_delta_rule_states(
            launcher,
            documents.read(),
            self.qkv.read(),
            solver.read(),
            gates.read(),
            scales.read(),
            states.write(),
            updates.write(),
            tokens,
            chunk_count,
            document_count,
            key_heads,
            value_heads,
            key_dim,
            value_dim,
        )?;
        gated_delta_rule_reverse(
            launcher,
            documents.read(),
            self.qkv.read(),
            solver.read(),
            scores.read(),
            gates.read(),
            scales.read(),
            self.d_output.read(),
            d_states.write(),
            d_updates.write(),
            tokens,
            chunk_count,
            document_count,
            key_heads,
            value_heads,
            key_dim,
            value_dim,
        )?;
        let mut d_keys = scratch(2 * tokens * key_heads * key_dim);
        let mut gate_sums = scratch(2 * chunk_count * value_heads);
        let mut d_qkv = Buffer::<E>::poisoned(self.qkv.as_slice().len());
        let [mut d_a, mut d_b] = [(); 2].map(|()| Buffer::<E>::poisoned((tokens * value_heads) as usize));
        gated_delta_rule_gradients(
            launcher,
            chunks.read(),
            self.qkv.read(),
            self.a.read(),
            self.b.read(),
            self.a_log.read(),
            self.dt_bias.read(),
            scales.read(),
            states.read(),
            d_states.read(),
            updates.read(),
            d_updates.read(),
            self.d_output.read(),
            d_keys.write(),
            d_qkv.write(),
            d_a.write(),
            d_b.write(),
            gate_sums.write(),
            tokens,
            chunk_count,
            document_count,
            key_heads,
            value_heads,
            key_dim,
            value_dim,
        )?;
        let zeros = vec![0.0; value_heads as usize];
        let [mut d_a_log, mut d_dt_bias] = [(); 2].map(|()| Buffer::from_slice(&zeros));
        let (gate_sums, sums) = (gate_sums.read(), (d_a_log.write(), d_dt_bias.write()));
        gated_delta_rule_gate_sums(launcher, gate_sums, sums.0, sums.1, chunk_count, value_heads)?;
        Ok(Results { output, last_states, d_qkv, d_a, d_b, d_a_log, d_dt_bias })
    }

    /// The definition, and its derivative by hand; of the gradients of `a_log` and `dt_bias` besides the largest sum of
    /// their terms' magnitudes.
    pub fn oracle(&self) -> (Expected, [f64; 2]) {
        let [key_heads, value_heads, key_dim, value_dim] = self.heads.map(|size| size as usize);
        let (width, state_length) = (width(self.heads), key_dim * value_dim);
        let [qkv, a, b, a_log, dt_bias, d_output] =
            [&self.qkv, &self.a, &self.b, &self.a_log, &self.dt_bias, &self.d_output]
                .map(|values| widen(values.as_slice()));
        let entries = self.tokens() * value_heads;
        let lengths = [entries * value_dim, 0, qkv.len(), entries, entries, value_heads, value_heads];
        let [mut output, mut last, mut d_qkv, mut d_a, mut d_b, mut d_a_log, mut d_dt_bias] =
            lengths.map(|length| vec![0.0; length]);
        let factor = 1.0 / (key_dim as f64).sqrt();
        let mut sizes = vec![[f64::MIN_POSITIVE; 2]; value_heads];
        for (document, head) in
            self.documents.iter().flat_map(|document| (0..value_heads).map(move |head| (document, head)))
        {
            let key_head = head / (value_heads / key_heads);
            let vector = |token: usize, part: usize| {
                let start = token * width + (part * key_heads + key_head) * key_dim;
                start..start + key_dim
            };
            let value_of = |token: usize| {
                let start = token * width + 2 * key_heads * key_dim + head * value_dim;
                start..start + value_dim
            };
            let rate = a_log[head].exp();
            let mut states = vec![vec![0.0; state_length]];
            let mut steps = Vec::new();
            for token in document.clone() {
                let entry = token * value_heads + head;
                let x = a[entry] + dt_bias[head];
                let (decay, beta) = ((-rate * softplus(x)).exp(), sigmoid(b[entry]));
                let (query, query_scale) = unit(&qkv[vector(token, 0)]);
                let (key, key_scale) = unit(&qkv[vector(token, 1)]);
                let query: Vec<f64> = query.iter().map(|q| q * factor).collect();
                let before = states.last().expect("the first one");
                let kept: Vec<f64> = before.iter().map(|s| s * decay).collect();
                let error: Vec<f64> = qkv[value_of(token)]
                    .iter()
                    .enumerate()
                    .map(|(c, v)| v - (0..key_dim).map(|d| key[d] * kept[d * value_dim + c]).sum::<f64>())
                    .collect();
                let state: Vec<f64> = (0..state_length)
                    .map(|i| kept[i] + key[i / value_dim] * beta * error[i % value_dim])
                    .collect();
                for c in 0..value_dim {
                    output[entry * value_dim + c] =
                        (0..key_dim).map(|d| query[d] * state[d * value_dim + c]).sum();
                }
                states.push(state);
                steps.push((x, decay, beta, (query, query_scale), (key, key_scale), error));
            }
            last.extend(states.last().expect("one a token"));
            let mut d_state = vec![0.0; state_length];
            for (step, token) in document.clone().enumerate().rev() {
                let (x, decay, beta, (query, query_scale), (key, key_scale), error) = &steps[step];
                let (before, state) = (&states[step], &states[step + 1]);
                let entry = token * value_heads + head;
                let d_read = &d_output[entry * value_dim..][..value_dim];
                let row = |values: &[f64], d: usize, with: &[f64]| -> f64 {
                    (0..value_dim).map(|c| values[d * value_dim + c] * with[c]).sum()
                };
                let d_query: Vec<f64> = (0..key_dim).map(|d| row(state, d, d_read)).collect();
                for i in 0..state_length {
                    d_state[i] += query[i / value_dim] * d_read[i % value_dim];
                }
                let d_write: Vec<f64> = (0..value_dim)
                    .map(|c| (0..key_dim).map(|d| key[d] * d_state[d * value_dim + c]).sum())
                    .collect();
                let d_key: Vec<f64> = (0..key_dim)
                    .map(|d| beta * (row(&d_state, d, error) - decay * row(before, d, &d_write)))
                    .collect();
                let d_beta: f64 = d_write.iter().zip(error).map(|(d, e)| d * e).sum();
                for (d_value, d_write) in d_qkv[value_of(token)].iter_mut().zip(&d_write) {
                    *d_value = beta * d_write;
                }
                let mut d_decay = 0.0;
                for i in 0..state_length {
                    let d_kept = d_state[i] - key[i / value_dim] * beta * d_write[i % value_dim];
                    d_decay += d_kept * before[i];
                    d_state[i] = decay * d_kept;
                }
                let d_log_decay = d_decay * decay;
                let d_rate = -rate * softplus(*x) * d_log_decay;
                d_a_log[head] += d_rate;
                let d_x = -rate * sigmoid(*x) * d_log_decay;
                sizes[head] = [sizes[head][0] + d_rate.abs(), sizes[head][1] + d_x.abs()];
                d_a[entry] = d_x;
                d_dt_bias[head] += d_x;
                d_b[entry] = d_beta * beta * (1.0 - beta);
                let query: Vec<f64> = query.iter().map(|q| q / factor).collect();
                let d_query: Vec<f64> = d_query.iter().map(|d| d * factor).collect();
                add_unit_backward(&mut d_qkv[vector(token, 0)], (&query, *query_scale), &d_query);
                add_unit_backward(&mut d_qkv[vector(token, 1)], (key, *key_scale), &d_key);
            }
        }
        let largest = |part: usize| sizes.iter().map(|sizes| sizes[part]).fold(1e-30, f64::max);
        ([output, last, d_qkv, d_a, d_b, d_a_log, d_dt_bias], [largest(0), largest(1)])
    }
}

/// Elements of a token's queries, keys and values.
pub fn width([key_heads, value_heads, key_dim, value_dim]: Heads) -> usize {
    (2 * key_heads * key_dim + value_heads * value_dim) as usize
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `x` at unit length, and the inverse of its length.
fn unit(x: &[f64]) -> (Vec<f64>, f64) {
    let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
    (x.iter().map(|x| x * scale).collect(), scale)
}

/// Adds the gradient of x from that of x at unit length.
fn add_unit_backward(d_x: &mut [f64], (unit, scale): (&[f64], f64), d_unit: &[f64]) {
    let along: f64 = unit.iter().zip(d_unit).map(|(u, d)| u * d).sum();
    for (d_x, (unit, d_unit)) in d_x.iter_mut().zip(unit.iter().zip(d_unit)) {
        *d_x += scale * (d_unit - unit * along);
    }
}
