//! The steps of a chunk's backward, and the memory that they work in.

use super::{Pass, Place};
use crate::cpu::math::dot;
use crate::cpu::parallel::take;
use crate::cpu::simd::vectorize;
use crate::cpu::tile::{
    LANES, Store, Tile, add_product_of_transposed_tile, pack_columns, pack_rows, padded, panels_length,
    product_into_tile, product_of_tile,
};
use crate::float::widen_slice;
use crate::number::Number;
use crate::ops::gated_delta_rule::cpu::chunk::{ALL, Gates, Keys, LOWER, Values, scale_rows};
use crate::ops::gated_delta_rule::{CHUNK, Shape};

/// What a thread has besides [`Keys`] and [`Values`].
pub struct Scratch<'a> {
    /// d_output `[n, DV]`.
    d_output: Tile<'a>,
    /// U `[n, DV]`.
    update: Tile<'a>,
    /// d_U, then d_R `[n, DV]`.
    pub d_update: Tile<'a>,
    /// d_read `[n, DV]`.
    d_read: Tile<'a>,
    /// d_output, d_U, d_R or d_read as a right operand.
    value_rows: &'a mut [f32],
    /// d_output as a right operand.
    d_output_rows: &'a mut [f32],
    /// Uᵀ as a right operand.
    update_columns: &'a mut [f32],
    /// A state or its gradient as a right operand, `[DK, DV]` or `[DV, DK]`.
    state_panels: &'a mut [f32],
    /// k̂ and q̂ as right operands.
    key_rows: &'a mut [f32],
    query_rows: &'a mut [f32],
    /// Gradients of A, then of k̂ k̂ᵀ `[n, n]`.
    d_system: &'a mut [f32],
    /// Gradients of the scores, then of q̂ k̂ᵀ `[n, n]`.
    d_scores: &'a mut [f32],
    /// A term of the gradients of queries or keys `[n, DK]`.
    term: Tile<'a>,
    /// Gradient of q̂ `[n, DK]`.
    pub d_query: Tile<'a>,
    /// Gradient of k̂ `[n, DK]`.
    pub d_key: Tile<'a>,
}

/// Gradients of the gates of a chunk.
pub struct GateGradients {
    pub d_log_decay: [f64; CHUNK],
    pub d_beta: [f64; CHUNK],
}

impl<'a> Scratch<'a> {
    pub fn length(shape: &Shape) -> usize {
        let (key_dim, value_dim) = (shape.key_dim, shape.value_dim);
        4 * Tile::length(CHUNK, value_dim)
            + 2 * panels_length(CHUNK, value_dim)
            + panels_length(value_dim, CHUNK)
            + state_panels_length(shape)
            + 2 * panels_length(CHUNK, key_dim)
            + 2 * Tile::length(CHUNK, CHUNK)
            + 3 * Tile::length(CHUNK, key_dim)
    }

    pub fn new(shape: &Shape, memory: &mut &'a mut [f32]) -> Self {
        let (key_dim, value_dim) = (shape.key_dim, shape.value_dim);
        let value_tile = Tile::length(CHUNK, value_dim);
        let key_tile = Tile::length(CHUNK, key_dim);
        Self {
            d_output: Tile::new(take(memory, value_tile), value_dim),
            update: Tile::new(take(memory, value_tile), value_dim),
            d_update: Tile::new(take(memory, value_tile), value_dim),
            d_read: Tile::new(take(memory, value_tile), value_dim),
            value_rows: take(memory, panels_length(CHUNK, value_dim)),
            d_output_rows: take(memory, panels_length(CHUNK, value_dim)),
            update_columns: take(memory, panels_length(value_dim, CHUNK)),
            state_panels: take(memory, state_panels_length(shape)),
            key_rows: take(memory, panels_length(CHUNK, key_dim)),
            query_rows: take(memory, panels_length(CHUNK, key_dim)),
            d_system: take(memory, Tile::length(CHUNK, CHUNK)),
            d_scores: take(memory, Tile::length(CHUNK, CHUNK)),
            term: Tile::new(take(memory, key_tile), key_dim),
            d_query: Tile::new(take(memory, key_tile), key_dim),
            d_key: Tile::new(take(memory, key_tile), key_dim),
        }
    }
}

fn state_panels_length(shape: &Shape) -> usize {
    let (key_dim, value_dim) = (shape.key_dim, shape.value_dim);
    panels_length(key_dim, value_dim).max(panels_length(value_dim, key_dim))
}

impl Scratch<'_> {
    /// Before the value heads of a chunk.
    pub fn begin(&mut self, shape: &Shape, keys: &Keys<'_>, count: usize) {
        pack_rows(self.key_rows, count, shape.key_dim, keys.key.rows());
        pack_rows(self.query_rows, count, shape.key_dim, keys.query.rows());
        for row in 0..count {
            self.d_query.row_mut(row).fill(0.0);
            self.d_key.row_mut(row).fill(0.0);
        }
    }

    /// `d_update` = d_R; `d_output`, `update`, and both as right operands.
    pub fn d_writes<T: Number>(
        &mut self,
        pass: &Pass<'_, T>,
        place: &Place<'_>,
        keys: &Keys<'_>,
        values: &mut Values<'_>,
        d_state: &Tile<'_>,
    ) {
        let (shape, gates, count) = (pass.shape, &place.gates, place.gates.count);
        let (key_dim, value_dim) = (shape.key_dim, shape.value_dim);
        vectorize!(|| for row in 0..count {
            let d_output = &pass.d_output[shape.output(place.first_token + row, place.head)];
            widen_slice(d_output, self.d_output.row_mut(row));
        });
        pack_rows(self.d_output_rows, count, value_dim, self.d_output.rows());
        scale_rows(&keys.key, &gates.to_end[..count], &mut values.scaled);
        pack_rows(self.state_panels, key_dim, value_dim, d_state.rows());
        product_into_tile(count, key_dim, values.scaled.rows(), self.state_panels, &mut self.d_update, ALL);
        let scores = Tile::new(values.scores, count);
        let size = (count, count);
        add_product_of_transposed_tile(size, &scores, self.d_output_rows, &mut self.d_update, LOWER);

        pack_rows(self.value_rows, count, value_dim, self.d_update.rows());
        let system = Tile::new(values.system, count);
        let panels = &mut self.value_rows[..panels_length(count, value_dim)];
        vectorize!(|| for panel in panels.chunks_exact_mut(count * LANES) {
            substitute_backward(&system, panel.as_chunks_mut::<LANES>().0);
        });
        unpack_rows(panels, count, &mut self.d_update);
        unpack_rows(values.update_rows, count, &mut self.update);
        pack_columns(self.update_columns, value_dim, count, self.update.rows());

        let mut d_scores = Tile::new(self.d_scores, count);
        let d_output = self.d_output.rows();
        product_into_tile(count, value_dim, d_output, self.update_columns, &mut d_scores, LOWER);
        let mut d_system = Tile::new(self.d_system, count);
        let d_solution = self.d_update.rows();
        product_into_tile(count, value_dim, d_solution, self.update_columns, &mut d_system, LOWER);
    }

    /// `d_scores` and `d_system` go from the gradients of scores and −A to those of q̂ k̂ᵀ and k̂ k̂ᵀ.
    pub fn d_products(
        &mut self,
        keys: &Keys<'_>,
        values: &Values<'_>,
        gates: &Gates,
        gradients: &mut GateGradients,
    ) {
        let stride = padded(gates.count);
        vectorize!(|| {
            let mut decays = [0.0; CHUNK];
            for row in 0..gates.count {
                gates.decays(row, &mut decays);
                let (beta, whole_row) = (gates.beta[row], row * stride..(row + 1) * stride);
                let (d_scores, d_system) =
                    (&mut self.d_scores[whole_row.clone()], &mut self.d_system[whole_row.clone()]);
                d_scores[row + 1..].fill(0.0);
                d_system[row..].fill(0.0);
                let (scores, system) = (&values.scores[whole_row.clone()], &values.system[whole_row]);
                let key_products = &keys.key_products[row * stride..][..stride];
                for column in 0..row {
                    // e^(c_i − c_j) times its gradient.
                    let d_exponent = f64::from(d_scores[column] * scores[column])
                        - f64::from(d_system[column] * system[column]);
                    gradients.d_log_decay[row] += d_exponent;
                    gradients.d_log_decay[column] -= d_exponent;
                    gradients.d_beta[row] -=
                        f64::from(d_system[column] * key_products[column] * decays[column]);
                }
                for (column, &decay) in decays[..row + 1].iter().enumerate() {
                    d_scores[column] *= decay;
                    d_system[column] *= -beta * decay;
                }
            }
        });
    }

    /// `d_read`, and what β gets of the errors.
    pub fn d_values(
        &mut self,
        shape: &Shape,
        values: &Values<'_>,
        gates: &Gates,
        gradients: &mut GateGradients,
    ) {
        vectorize!(|| for row in 0..gates.count {
            let (d_solution, error) = (self.d_update.row(row), values.error.row(row));
            let d_beta = dot(&d_solution[..shape.value_dim], &error[..shape.value_dim]);
            gradients.d_beta[row] += f64::from(d_beta);
        });
        let mut factors = [0.0; CHUNK];
        for (factor, (beta, decay)) in factors.iter_mut().zip(gates.beta.iter().zip(&gates.from_start)) {
            *factor = -beta * decay;
        }
        scale_rows(&self.d_update, &factors[..gates.count], &mut self.d_read);
    }

    /// Adds to `d_query` and `d_key`, and to the gradient of c what they are multiplied with.
    pub fn d_keys(
        &mut self,
        shape: &Shape,
        place: &Place<'_>,
        keys: &Keys<'_>,
        (state, d_state): (&Tile<'_>, &Tile<'_>),
        gradients: &mut GateGradients,
    ) {
        let (gates, count) = (&place.gates, place.gates.count);
        let (key_dim, value_dim) = (shape.key_dim, shape.value_dim);
        let ones = [1.0; CHUNK];
        let d_log_decay = &mut gradients.d_log_decay;

        // Of e^c q̂ S and of e^c k̂ S.
        pack_columns(self.state_panels, value_dim, key_dim, state.rows());
        product_into_tile(count, value_dim, self.d_output.rows(), self.state_panels, &mut self.term, ALL);
        let terms = self.term_gradients(&keys.query, &gates.from_start, count, key_dim, Target::Query);
        (0..count).for_each(|row| d_log_decay[row] += f64::from(terms[row]));
        product_into_tile(count, value_dim, self.d_read.rows(), self.state_panels, &mut self.term, ALL);
        let terms = self.term_gradients(&keys.key, &ones, count, key_dim, Target::Key);
        (0..count).for_each(|row| d_log_decay[row] += f64::from(terms[row]));

        // Of what is left of the chunk's writes, and of the state before it, in that behind it.
        pack_columns(self.state_panels, value_dim, key_dim, d_state.rows());
        product_into_tile(count, value_dim, self.update.rows(), self.state_panels, &mut self.term, ALL);
        let terms = self.term_gradients(&keys.key, &gates.to_end, count, key_dim, Target::Key);
        for row in 0..count {
            d_log_decay[row] -= f64::from(terms[row]);
            d_log_decay[count - 1] += f64::from(terms[row]);
        }
        let kept: f64 = vectorize!(|| {
            let row = |row| f64::from(dot(&state.row(row)[..value_dim], &d_state.row(row)[..value_dim]));
            (0..key_dim).map(row).sum()
        });
        d_log_decay[count - 1] += f64::from(gates.whole()) * kept;

        let (d_scores, d_system) = (Tile::new(self.d_scores, count), Tile::new(self.d_system, count));
        let size = (count, count);
        product_of_tile(size, &d_scores, self.key_rows, Store::Add, &mut self.d_query, LOWER);
        product_of_tile(size, &d_system, self.key_rows, Store::Add, &mut self.d_key, LOWER);
        add_product_of_transposed_tile(size, &d_scores, self.query_rows, &mut self.d_key, LOWER);
        add_product_of_transposed_tile(size, &d_system, self.key_rows, &mut self.d_key, LOWER);
    }

    /// Adds `term`, each row times its factor, to a gradient; returns the products of these rows with what it is the
    /// gradient of.
    fn term_gradients(
        &mut self,
        operand: &Tile<'_>,
        factors: &[f32; CHUNK],
        count: usize,
        key_dim: usize,
        target: Target,
    ) -> [f32; CHUNK] {
        let gradient = match target {
            Target::Query => &mut self.d_query,
            Target::Key => &mut self.d_key,
        };
        let mut products = [0.0; CHUNK];
        vectorize!(|| for row in 0..count {
            let term = self.term.row(row);
            products[row] = factors[row] * dot(&operand.row(row)[..key_dim], &term[..key_dim]);
            for (gradient, term) in gradient.row_mut(row).iter_mut().zip(term) {
                *gradient = factors[row].mul_add(*term, *gradient);
            }
        });
        products
    }

    /// `d_state` from that behind the chunk to that before it.
    pub fn d_state(
        &mut self,
        shape: &Shape,
        keys: &Keys<'_>,
        values: &mut Values<'_>,
        gates: &Gates,
        d_state: &mut Tile<'_>,
    ) {
        let (count, decay) = (gates.count, gates.whole());
        vectorize!(|| for row in 0..shape.key_dim {
            d_state.row_mut(row).iter_mut().for_each(|value| *value *= decay);
        });
        scale_rows(&keys.query, &gates.from_start[..count], &mut values.scaled);
        let size = (shape.key_dim, count);
        add_product_of_transposed_tile(size, &values.scaled, self.d_output_rows, d_state, ALL);
        pack_rows(self.value_rows, count, shape.value_dim, self.d_read.rows());
        add_product_of_transposed_tile(size, &keys.key, self.value_rows, d_state, ALL);
    }
}

/// Whose gradient a term belongs to.
#[derive(Clone, Copy)]
enum Target {
    Query,
    Key,
}

/// Solves (I + A)ᵀ x = y in place, for the columns of a panel.
#[inline(always)]
fn substitute_backward(system: &Tile<'_>, panel: &mut [[f32; LANES]]) {
    for row in (0..panel.len()).rev() {
        let (rest, solved) = panel.split_at_mut(row + 1);
        let sums = &mut rest[row];
        for (later, solved) in (row + 1..).zip(solved.iter()) {
            let factor = -system.row(later)[row];
            (0..LANES).for_each(|lane| sums[lane] = factor.mul_add(solved[lane], sums[lane]));
        }
    }
}

/// The rows of a right operand of `count` rows.
fn unpack_rows(panels: &[f32], count: usize, rows: &mut Tile<'_>) {
    for row in 0..count {
        let chunks = rows.row_mut(row).as_chunks_mut::<LANES>().0;
        for (index, chunk) in chunks.iter_mut().enumerate() {
            chunk.copy_from_slice(&panels[(index * count + row) * LANES..][..LANES]);
        }
    }
}
