//! One chunk of tokens: what its value heads share, and what each of them writes to its state.

use std::ops::Range;

use super::{CHUNK, HostInputs, Shape};
use crate::cpu::math::{dot, exp};
use crate::cpu::parallel::take;
use crate::cpu::simd::vectorize;
use crate::cpu::tile::{
    LANES, Part, Tile, add_product_of_transposed_tile, pack_columns, pack_rows, padded, panels_length,
    product_into_tile,
};
use crate::float::widen_slice;
use crate::number::Number;
use crate::ops::gated_delta_rule::EPSILON;

pub const ALL: Part = Part::All;
pub const LOWER: Part = Part::Lower;

/// σ(x).
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// ln(1 + e^x).
pub fn softplus(x: f64) -> f64 {
    if x > 40.0 { x } else { x.exp().ln_1p() }
}

/// Decay and β of the tokens of a chunk.
pub struct Gates {
    /// Tokens.
    pub count: usize,
    /// c: the sum of g from the chunk's first token on.
    pub log_decay: [f64; CHUNK],
    /// β.
    pub beta: [f32; CHUNK],
    /// e^c: what is left of the state before the chunk.
    pub from_start: [f32; CHUNK],
    /// e^(c_n − c): what is left of a token's write behind the chunk.
    pub to_end: [f32; CHUNK],
}

impl Gates {
    pub fn new<T: Number>(
        shape: &Shape,
        inputs: HostInputs<'_, T>,
        tokens: &Range<usize>,
        head: usize,
    ) -> Self {
        let count = tokens.len();
        let rate = inputs.a_log[head].to_f64().exp();
        let mut gates = Self {
            count,
            log_decay: [0.0; CHUNK],
            beta: [0.0; CHUNK],
            from_start: [0.0; CHUNK],
            to_end: [0.0; CHUNK],
        };
        let mut sum = 0.0;
        for (row, token) in tokens.clone().enumerate() {
            let place = token * shape.value_heads + head;
            sum -= rate * softplus(inputs.a[place].to_f64() + inputs.dt_bias[head].to_f64());
            gates.log_decay[row] = sum;
            gates.beta[row] = sigmoid(inputs.b[place].to_f64()) as f32;
            gates.from_start[row] = sum.exp() as f32;
        }
        for row in 0..count {
            gates.to_end[row] = (sum - gates.log_decay[row]).exp() as f32;
        }
        gates
    }

    /// e^c_n: what is left of the state behind the chunk.
    pub fn whole(&self) -> f32 {
        self.from_start[self.count - 1]
    }

    /// `decays`\[j\] = e^(c_i − c_j) for the tokens j up to i, and what follows is 0.
    #[inline(always)]
    pub fn decays(&self, row: usize, decays: &mut [f32; CHUNK]) {
        let own = self.log_decay[row];
        let (past, later) = decays.split_at_mut(row + 1);
        for (decay, log_decay) in past.iter_mut().zip(&self.log_decay) {
            *decay = exp((own - log_decay) as f32);
        }
        later.fill(0.0);
    }
}

/// Queries and keys of a chunk, at unit length, and their products.
pub struct Keys<'a> {
    /// q̂ `[n, DK]`.
    pub query: Tile<'a>,
    /// k̂ `[n, DK]`.
    pub key: Tile<'a>,
    /// 1 / √(Σq² + ε).
    pub query_scale: [f32; CHUNK],
    /// 1 / √(Σk² + ε).
    pub key_scale: [f32; CHUNK],
    /// q̂ k̂ᵀ `[n, n]`, on and below the diagonal.
    pub query_products: &'a mut [f32],
    /// k̂ k̂ᵀ `[n, n]`, on and below the diagonal.
    pub key_products: &'a mut [f32],
    /// k̂ᵀ as a right operand.
    columns: &'a mut [f32],
}

impl<'a> Keys<'a> {
    pub fn length(shape: &Shape) -> usize {
        2 * Tile::length(CHUNK, shape.key_dim)
            + 2 * Tile::length(CHUNK, CHUNK)
            + panels_length(shape.key_dim, CHUNK)
    }

    pub fn new(shape: &Shape, memory: &mut &'a mut [f32]) -> Self {
        let tile = Tile::length(CHUNK, shape.key_dim);
        Self {
            query: Tile::new(take(memory, tile), shape.key_dim),
            key: Tile::new(take(memory, tile), shape.key_dim),
            query_scale: [0.0; CHUNK],
            key_scale: [0.0; CHUNK],
            query_products: take(memory, Tile::length(CHUNK, CHUNK)),
            key_products: take(memory, Tile::length(CHUNK, CHUNK)),
            columns: take(memory, panels_length(shape.key_dim, CHUNK)),
        }
    }

    /// Takes in the tokens of a chunk.
    pub fn load<T: Number>(&mut self, shape: &Shape, qkv: &[T], tokens: &Range<usize>, key_head: usize) {
        let (count, key_dim) = (tokens.len(), shape.key_dim);
        let query_factor = query_factor(shape);
        vectorize!(|| for (row, token) in tokens.clone().enumerate() {
            let (query, key) = (&qkv[shape.query(token, key_head)], &qkv[shape.key(token, key_head)]);
            self.query_scale[row] = normalise(query, query_factor, self.query.row_mut(row));
            self.key_scale[row] = normalise(key, 1.0, self.key.row_mut(row));
        });
        pack_columns(self.columns, key_dim, count, self.key.rows());
        let mut products = Tile::new(self.key_products, count);
        product_into_tile(count, key_dim, self.key.rows(), self.columns, &mut products, LOWER);
        let mut products = Tile::new(self.query_products, count);
        product_into_tile(count, key_dim, self.query.rows(), self.columns, &mut products, LOWER);
    }
}

/// 1/√DK.
pub fn query_factor(shape: &Shape) -> f32 {
    1.0 / (shape.key_dim as f32).sqrt()
}

/// `output` = `factor` · `x` at unit length; returns the inverse of its length.
#[inline(always)]
pub fn normalise<T: Number>(x: &[T], factor: f32, output: &mut [f32]) -> f32 {
    let output = &mut output[..x.len()];
    widen_slice(x, output);
    let scale = 1.0 / (dot(output, output) + EPSILON).sqrt();
    output.iter_mut().for_each(|x| *x = *x * scale * factor);
    scale
}

/// What one value head computes of a chunk.
pub struct Values<'a> {
    /// v − e^c k̂ S `[n, DV]`.
    pub error: Tile<'a>,
    /// A `[n, n]`, 0 on and above the diagonal.
    pub system: &'a mut [f32],
    /// (q̂ k̂ᵀ) E `[n, n]`, 0 above the diagonal.
    pub scores: &'a mut [f32],
    /// U `[n, DV]` as a right operand.
    pub update_rows: &'a mut [f32],
    /// S `[DK, DV]` as a right operand.
    pub state_rows: &'a mut [f32],
    /// Keys or queries with a factor each `[n, DK]`.
    pub scaled: Tile<'a>,
}

impl<'a> Values<'a> {
    pub fn length(shape: &Shape) -> usize {
        Tile::length(CHUNK, shape.value_dim)
            + 2 * Tile::length(CHUNK, CHUNK)
            + panels_length(CHUNK, shape.value_dim)
            + panels_length(shape.key_dim, shape.value_dim)
            + Tile::length(CHUNK, shape.key_dim)
    }

    pub fn new(shape: &Shape, memory: &mut &'a mut [f32]) -> Self {
        let (key_dim, value_dim) = (shape.key_dim, shape.value_dim);
        Self {
            error: Tile::new(take(memory, Tile::length(CHUNK, value_dim)), value_dim),
            system: take(memory, Tile::length(CHUNK, CHUNK)),
            scores: take(memory, Tile::length(CHUNK, CHUNK)),
            update_rows: take(memory, panels_length(CHUNK, value_dim)),
            state_rows: take(memory, panels_length(key_dim, value_dim)),
            scaled: Tile::new(take(memory, Tile::length(CHUNK, key_dim)), key_dim),
        }
    }

    /// What the tokens of the loaded chunk write, from the state before it: all but `scaled`.
    pub fn solve<T: Number>(
        &mut self,
        shape: &Shape,
        (keys, first_token): (&Keys<'_>, usize),
        gates: &Gates,
        (qkv, head): (&[T], usize),
        state: &Tile<'_>,
    ) {
        let (count, key_dim, value_dim) = (gates.count, shape.key_dim, shape.value_dim);
        self.decayed_products(keys, gates);
        pack_rows(self.state_rows, key_dim, value_dim, state.rows());
        product_into_tile(count, key_dim, keys.key.rows(), self.state_rows, &mut self.error, ALL);
        vectorize!(|| for row in 0..count {
            let (value, decay) = (&qkv[shape.value(first_token + row, head)], gates.from_start[row]);
            for (error, value) in self.error.row_mut(row).iter_mut().zip(value) {
                *error = value.to_f32() - decay * *error;
            }
        });
        pack_rows(self.update_rows, count, value_dim, self.error.rows());
        let system = Tile::new(self.system, count);
        let panels = &mut self.update_rows[..panels_length(count, value_dim)];
        vectorize!(|| for panel in panels.chunks_exact_mut(count * LANES) {
            substitute_forward(&system, &gates.beta, panel.as_chunks_mut::<LANES>().0);
        });
    }

    /// A, and the scores of the queries.
    fn decayed_products(&mut self, keys: &Keys<'_>, gates: &Gates) {
        let stride = padded(gates.count);
        vectorize!(|| {
            let mut decays = [0.0; CHUNK];
            for row in 0..gates.count {
                gates.decays(row, &mut decays);
                let (beta, place) = (gates.beta[row], row * stride..row * stride + row + 1);
                let products = keys.key_products[place.clone()].iter().zip(&keys.query_products[place]);
                let system = self.system[row * stride..][..stride].iter_mut();
                let scores = self.scores[row * stride..][..stride].iter_mut();
                for (((system, score), decay), (key, query)) in system.zip(scores).zip(&decays).zip(products)
                {
                    *system = beta * key * decay;
                    *score = query * decay;
                }
                self.system[row * stride + row..(row + 1) * stride].fill(0.0);
                self.scores[row * stride + row + 1..(row + 1) * stride].fill(0.0);
            }
        });
    }

    /// The state behind the chunk: S ← e^c_n S + (e^(c_n − c) k̂)ᵀ U.
    pub fn advance(&mut self, shape: &Shape, keys: &Keys<'_>, gates: &Gates, state: &mut Tile<'_>) {
        scale_rows(&keys.key, &gates.to_end[..gates.count], &mut self.scaled);
        let decay = gates.whole();
        vectorize!(|| for row in 0..shape.key_dim {
            state.row_mut(row).iter_mut().for_each(|value| *value *= decay);
        });
        let size = (shape.key_dim, gates.count);
        add_product_of_transposed_tile(size, &self.scaled, self.update_rows, state, ALL);
    }
}

/// `output` = the first rows of `input`, each times its factor.
pub fn scale_rows(input: &Tile<'_>, factors: &[f32], output: &mut Tile<'_>) {
    vectorize!(|| for (row, &factor) in factors.iter().enumerate() {
        for (output, value) in output.row_mut(row).iter_mut().zip(input.row(row)) {
            *output = value * factor;
        }
    });
}

/// Solves (I + A) U = β R in place, for the columns of a panel.
#[inline(always)]
fn substitute_forward(system: &Tile<'_>, beta: &[f32; CHUNK], panel: &mut [[f32; LANES]]) {
    for (row, &beta) in beta[..panel.len()].iter().enumerate() {
        let (solved, rest) = panel.split_at_mut(row);
        let mut sums = rest[0].map(|value| value * beta);
        for (factor, solved) in system.row(row).iter().zip(solved.iter()) {
            (0..LANES).for_each(|lane| sums[lane] = (-factor).mul_add(solved[lane], sums[lane]));
        }
        rest[0] = sums;
    }
}
