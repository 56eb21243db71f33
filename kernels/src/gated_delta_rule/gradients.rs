//! Gradients of what the chunks read, from the states, their gradients and those of the writes.
//!
//! With U, d_R and d_S' as `scan` and `reverse` leave them, d_scores = d_output Uᵀ and d_system = d_R Uᵀ (the gradient of
//! −A) where they are not 0,
//!
//! d_v = β d_R, d_q̂ = e^c d_output Sᵀ + (d_scores E) k̂,
//! d_k̂ = −β e^c d_R Sᵀ + e^(c_n − c) U d_S'ᵀ + (d_scores E)ᵀ q̂ − (β d_system E) k̂ − (β d_system E)ᵀ k̂.
//!
//! c is only in exponents: its gradient is the sum of what it is an exponent of times the gradient of that.

use super::tile::{Order, PITCH, SIDE, STAGING, Sums, Tile};
use super::*;
use crate::chunks::Chunk;

/// Threads of a block, sixteen across the columns of a tile.
const BLOCK: u32 = 256;
/// Where the gradients of the square matrices are in shared memory, behind two staged operands; then k̂ k̂ᵀ and q̂ k̂ᵀ, for
/// which registers do not suffice, and what tokens have.
const D_SCORES: u32 = 2 * STAGING;
const D_SYSTEM: u32 = D_SCORES + 4 * CHUNK * PITCH;
const KEY_PRODUCTS: u32 = D_SYSTEM + 4 * CHUNK * PITCH;
const QUERY_PRODUCTS: u32 = KEY_PRODUCTS + 4 * CHUNK * PITCH;
const GATES_AT: u32 = QUERY_PRODUCTS + 4 * CHUNK * PITCH;
const SCALES_AT: u32 = GATES_AT + GATES_SHARED;
const D_SUMS: u32 = SCALES_AT + SCALES_SHARED;
const D_BETA: u32 = D_SUMS + 8 * CHUNK;
const D_LAST: u32 = D_BETA + 4 * CHUNK;
const BLOCK_SUMS: u32 = D_LAST + 4 * CHUNK;
/// Bytes of shared memory.
const SHARED: u64 = (BLOCK_SUMS + 8 * BLOCK / WARP) as u64;

/// What a block has at hand of a chunk, key head and one of its value heads.
#[derive(Clone, Copy)]
struct Pass<E: Real> {
    rows: Rows<E>,
    /// The chunk, and its number.
    place: Chunk,
    chunk: u32,
    head: u32,
    gates: Gates,
    /// `[64, 64]`, rows [`PITCH`] apart.
    d_scores: Shared<f32>,
    d_system: Shared<f32>,
    /// k̂ k̂ᵀ and q̂ k̂ᵀ, of the same form.
    key_products: Shared<f32>,
    query_products: Shared<f32>,
    /// Of the sums c.
    d_sums: Shared<f64>,
    d_beta: Shared<f32>,
    /// What tokens add to the gradient of the last one's c.
    d_last: Shared<f32>,
    states: Global<f32>,
    d_states: Global<f32>,
    updates: Global<f32>,
    d_updates: Global<f32>,
    d_output: Global<E>,
}

impl<E: Real> Pass<E> {
    /// Where the state before the chunk is, which is not its document's first.
    #[inline(always)]
    fn before(self) -> usize {
        self.rows.sizes.state_before((self.chunk, self.place.document), self.head)
    }

    /// Where the gradient of the state behind the chunk is, which is not its document's last.
    #[inline(always)]
    fn behind(self) -> usize {
        self.rows.sizes.state_behind((self.chunk, self.place.document), self.head)
    }

    /// Element of a state or its gradient, which begins at `base`.
    #[inline(always)]
    fn state(self, states: Global<f32>, base: usize, row: u32, column: u32) -> f32 {
        let sizes = self.rows.sizes;
        if row < sizes.key_dim && column < sizes.value_dim {
            states.load(base + row as usize * sizes.value_dim as usize + column as usize)
        } else {
            0.0
        }
    }

    #[inline(always)]
    fn of_values<T: Real>(self, data: Global<T>, row: u32, column: u32) -> f32 {
        self.rows.of_values(data, row, column, self.head)
    }

    /// `d_scores` and `d_system` become the gradients of q̂ k̂ᵀ and k̂ k̂ᵀ; what β and c get of them begins `d_beta` and
    /// `d_sums`. All threads must call it.
    #[inline(always)]
    fn products(self, tile: Tile<16>) {
        let Self { gates, rows, .. } = self;
        let (mut d_scores, mut d_system): (Sums, Sums) = ([[0.0; 4]; 4], [[0.0; 4]; 4]);
        let depth = rows.sizes.value_dim;
        let right = |d, column| self.of_values(self.updates, column, d);
        let left = |row, d| self.of_values(self.d_output, row, d);
        tile.multiply_staged(&mut d_scores, depth, (Order::Depth, left), (Order::Depth, right));
        let left = |row, d| self.of_values(self.d_updates, row, d);
        tile.multiply_staged(&mut d_system, depth, (Order::Depth, left), (Order::Depth, right));
        // The exponents' gradients first, then those of the products in the same place.
        unroll!(i in SIDE {
            let row = tile.row() + i as u32;
            let beta = gates.beta.load(row);
            let (mut d_exponents, mut d_betas) = ([0.0; 4], [0.0; 4]);
            let of_row = |products: Shared<f32>| products.load_vector::<F32x4>(row * PITCH + tile.column()).0;
            let (key_products, query_products) = (of_row(self.key_products), of_row(self.query_products));
            unroll!(j in SIDE {
                let column = tile.column() + j as u32;
                let decay = if column <= row { gates.decay(row, column) } else { 0.0 };
                let of_keys = if column < row { d_system[i][j] * decay } else { 0.0 };
                let of_queries = d_scores[i][j] * decay;
                d_betas[j] = -of_keys * key_products[j];
                if column < row {
                    d_exponents[j] = fma(of_queries, query_products[j], beta * d_betas[j]);
                }
                d_scores[i][j] = of_queries;
                d_system[i][j] = -beta * of_keys;
            });
            self.d_scores.store_vector(row * PITCH + tile.column(), F32x4(d_exponents));
            self.d_system.store_vector(row * PITCH + tile.column(), F32x4(d_betas));
        });
        sync_threads();
        let row = thread_idx();
        if row < CHUNK {
            // In f64: what is added in a row is taken away in a column.
            let (mut d_sum, mut d_beta) = (0.0, 0.0);
            for column in 0..CHUNK {
                let own = f64::from(self.d_scores.load(row * PITCH + column));
                d_sum += own - f64::from(self.d_scores.load(column * PITCH + row));
                d_beta += self.d_system.load(row * PITCH + column);
            }
            self.d_sums.store(row, d_sum);
            self.d_beta.store(row, d_beta);
            self.d_last.store(row, 0.0);
        }
        sync_threads();
        tile.keep(&d_scores, self.d_scores, PITCH);
        tile.keep(&d_system, self.d_system, PITCH);
    }

    /// d_v, and what β gets of the values: a warp has a row. All threads must call it; a barrier must follow.
    #[inline(always)]
    fn values(self, d_qkv: GlobalMut<E>) {
        let Rows { sizes, first, count, .. } = self.rows;
        let mut row = warp_id();
        while row < CHUNK {
            let mut d_beta = 0.0;
            if row < count {
                let beta = self.gates.beta.load(row);
                let mut column = lane_id();
                while column < sizes.value_dim {
                    let d_error = self.of_values(self.d_updates, row, column);
                    d_beta = fma(d_error, self.rows.value(row, column, self.head), d_beta);
                    d_qkv.store(
                        sizes.value(first + row, self.head) + column as usize,
                        E::from_f32(beta * d_error),
                    );
                    column += WARP;
                }
            }
            let d_beta = warp_sum(d_beta);
            if lane_id() == 0 {
                self.d_beta.store(row, self.d_beta.load(row) + d_beta);
            }
            row += BLOCK / WARP;
        }
    }

    /// Adds to the gradients of q̂ and k̂ those of 64 columns from `first` on, or sets them where the head `is_first`. All
    /// threads must call it.
    #[inline(always)]
    fn keys(self, tile: Tile<16>, first: u32, is_first: bool, d_keys: GlobalMut<f32>) {
        let Self { rows, gates, .. } = self;
        let (mut d_query, mut d_key): (Sums, Sums) = ([[0.0; 4]; 4], [[0.0; 4]; 4]);
        let (depth, count) = (rows.sizes.value_dim, rows.count);

        // Of e^c q̂ S and of e^c k̂ S, where the state before the chunk is not 0.
        if !self.place.is_first() {
            let base = self.before();
            let state = |d, column| self.state(self.states, base, first + column, d);
            let mut term: Sums = [[0.0; 4]; 4];
            let left = |row, d| self.of_values(self.d_output, row, d);
            tile.multiply_staged(&mut term, depth, (Order::Depth, left), (Order::Depth, state));
            unroll!(i in SIDE {
                let row = tile.row() + i as u32;
                let (factor, mut along) = (gates.from_start.load(row), 0.0);
                unroll!(j in SIDE {
                    along = fma(rows.query(row, first + tile.column() + j as u32), term[i][j], along);
                    d_query[i][j] = factor * term[i][j];
                });
                self.add_to_row(tile, row, half_warp_sum(along), (factor, 0.0, 0.0));
            });
            let mut term: Sums = [[0.0; 4]; 4];
            let left = |row, d| self.of_values(self.d_updates, row, d);
            tile.multiply_staged(&mut term, depth, (Order::Depth, left), (Order::Depth, state));
            unroll!(i in SIDE {
                let row = tile.row() + i as u32;
                let (decay, beta, mut along) = (gates.from_start.load(row), gates.beta.load(row), 0.0);
                unroll!(j in SIDE {
                    along = fma(rows.key(row, first + tile.column() + j as u32), term[i][j], along);
                    d_key[i][j] = -beta * decay * term[i][j];
                });
                self.add_to_row(tile, row, half_warp_sum(along), (-beta * decay, -decay, 0.0));
            });
        }
        // Of the writes' part in the state behind the chunk, where that has a gradient.
        if !self.place.is_last() {
            let base = self.behind();
            let state = |d, column| self.state(self.d_states, base, first + column, d);
            let mut term: Sums = [[0.0; 4]; 4];
            let left = |row, d| self.of_values(self.updates, row, d);
            tile.multiply_staged(&mut term, depth, (Order::Depth, left), (Order::Depth, state));
            unroll!(i in SIDE {
                let row = tile.row() + i as u32;
                let (factor, mut along) = (gates.to_end.load(row), 0.0);
                unroll!(j in SIDE {
                    along = fma(rows.key(row, first + tile.column() + j as u32), term[i][j], along);
                    d_key[i][j] = fma(factor, term[i][j], d_key[i][j]);
                });
                self.add_to_row(tile, row, half_warp_sum(along), (-factor, 0.0, factor));
            });
        }

        // Of the products of queries and keys.
        let keys = |d, column| rows.key(d, first + column);
        let queries = |d, column| rows.query(d, first + column);
        let (scores, system) = (self.d_scores, self.d_system);
        let left = |row, d| scores.load(row * PITCH + d);
        tile.multiply_staged(&mut d_query, count, (Order::Depth, left), (Order::Across, keys));
        let left = |row, d| scores.load(d * PITCH + row);
        tile.multiply_staged(&mut d_key, count, (Order::Across, left), (Order::Across, queries));
        let left = |row, d| system.load(row * PITCH + d) + system.load(d * PITCH + row);
        tile.multiply_staged(&mut d_key, count, (Order::Depth, left), (Order::Across, keys));
        unroll!(i in SIDE {
            let row = tile.row() + i as u32;
            unroll!(j in SIDE {
                let column = first + tile.column() + j as u32;
                if row < count && column < rows.sizes.key_dim {
                    let (query, key) = self.places(row, column);
                    let before = |place| if is_first { 0.0 } else { d_keys.load(place) };
                    d_keys.store(query, before(query) + d_query[i][j]);
                    d_keys.store(key, before(key) + d_key[i][j]);
                }
            });
        });
    }

    /// Adds a sum over a row's columns, times its factors, to the gradients of the row's c, of its β, and of the last
    /// token's c. By the first of the threads that share the row.
    #[inline(always)]
    fn add_to_row(self, tile: Tile<16>, row: u32, sum: f32, (to_sum, to_beta, to_last): (f32, f32, f32)) {
        if tile.column() == 0 {
            self.d_sums.store(row, self.d_sums.load(row) + f64::from(to_sum * sum));
            self.d_beta.store(row, fma(to_beta, sum, self.d_beta.load(row)));
            self.d_last.store(row, fma(to_last, sum, self.d_last.load(row)));
        }
    }

    /// Where the gradients of q̂ and k̂ are in `[N, 2, HK, DK]`.
    #[inline(always)]
    fn places(self, row: u32, column: u32) -> (usize, usize) {
        let Rows { sizes, first, key_head, .. } = self.rows;
        let of_part = |part: u32| {
            let head =
                (2 * (first + row) as usize + part as usize) * sizes.key_heads as usize + key_head as usize;
            head * sizes.key_dim as usize + column as usize
        };
        (of_part(0), of_part(1))
    }

    /// What is left of the state before the chunk behind it, Σ S·d_S', in every thread. All threads must call it.
    #[inline(always)]
    fn kept(self) -> f64 {
        let sizes = self.rows.sizes;
        let mut sum = 0.0;
        if !self.place.is_first() && !self.place.is_last() {
            let (before, behind) = (self.before(), self.behind());
            let mut index = thread_idx();
            while index < sizes.key_dim * sizes.value_dim {
                let (state, d_state) = (before + index as usize, behind + index as usize);
                sum = fma(self.states.load(state), self.d_states.load(d_state), sum);
                index += BLOCK;
            }
        }
        block_sum_f64(f64::from(sum), Shared::new(BLOCK_SUMS, BLOCK / WARP))
    }

    /// Gradients of the gates, and what `a_log` and `dt_bias` get of the chunk's tokens. All threads must call it.
    #[inline(always)]
    fn gates(
        self,
        inputs: GateInputs<E>,
        (d_a, d_b): (GlobalMut<E>, GlobalMut<E>),
        gate_sums: GlobalMut<f32>,
    ) {
        let Rows { sizes, first, count, .. } = self.rows;
        let kept = self.kept();
        let row = thread_idx();
        let (mut d_a_log, mut d_dt_bias) = (0.0, 0.0);
        if row < count {
            // g is in the sums c of its own token and all later ones.
            let whole = self.gates.from_start.load(count - 1);
            let mut d_decay = f64::from(whole) * kept;
            let mut later = CHUNK;
            while later > 0 {
                later -= 1;
                d_decay += f64::from(self.d_last.load(later));
                if later >= row {
                    d_decay += self.d_sums.load(later);
                }
            }
            let (entry, d_decay) = (sizes.entry(first + row, self.head), d_decay as f32);
            let (x, rate) = (inputs.decay_input(entry, self.head), inputs.rate(self.head));
            let d_x = -rate * sigmoid(x) * d_decay;
            d_a_log = f64::from(-rate * softplus(x) * d_decay);
            d_dt_bias = f64::from(d_x);
            d_a.store(entry, E::from_f32(d_x));
            let beta = self.gates.beta.load(row);
            d_b.store(entry, E::from_f32(self.d_beta.load(row) * beta * (1.0 - beta)));
        }
        let scratch = Shared::new(BLOCK_SUMS, BLOCK / WARP);
        let (d_a_log, d_dt_bias) = (block_sum_f64(d_a_log, scratch), block_sum_f64(d_dt_bias, scratch));
        if row == 0 {
            let place = 2 * sizes.entry(self.chunk, self.head);
            gate_sums.store(place, d_a_log as f32);
            gate_sums.store(place + 1, d_dt_bias as f32);
        }
    }

    /// From the gradients of q̂ and k̂ to those of queries and keys: x̂ = x·scale with scale = factor/√(Σx² + ε) gives
    /// d_x = scale (d_x̂ − x̂ (x̂·d_x̂)/factor²). A warp has a row. All threads must call it.
    #[inline(always)]
    fn unscale(self, d_keys: GlobalMut<f32>, d_qkv: GlobalMut<E>) {
        let Self { rows, .. } = self;
        let Rows { sizes, scales, first, count, key_head, .. } = rows;
        let mut row = warp_id();
        while row < CHUNK {
            let (mut along_query, mut along_key) = (0.0, 0.0);
            let mut column = lane_id();
            while row < count && column < sizes.key_dim {
                let (query, key) = self.places(row, column);
                along_query = fma(rows.query(row, column), d_keys.load(query), along_query);
                along_key = fma(rows.key(row, column), d_keys.load(key), along_key);
                column += WARP;
            }
            let along_query = warp_sum(along_query) * sizes.key_dim as f32;
            let along_key = warp_sum(along_key);
            let mut column = lane_id();
            while row < count && column < sizes.key_dim {
                let (query, key) = self.places(row, column);
                let d_query = fma(-rows.query(row, column), along_query, d_keys.load(query));
                let d_key = fma(-rows.key(row, column), along_key, d_keys.load(key));
                let (token, column_place) = (first + row, column as usize);
                let (query_scale, key_scale) = (scales.query.load(row), scales.key.load(row));
                d_qkv.store(sizes.query(token, key_head) + column_place, E::from_f32(query_scale * d_query));
                d_qkv.store(sizes.key(token, key_head) + column_place, E::from_f32(key_scale * d_key));
                column += WARP;
            }
            row += BLOCK / WARP;
        }
    }
}

kernel! {
    /// d_qkv, d_a and d_b; of every chunk and value head what `a_log` and `dt_bias` get, `gate_sums` `[chunks, HV, 2]`. Scales
    /// are those of `gated_delta_rule_prepare`, states and updates those of `gated_delta_rule_states`, their gradients
    /// those of `gated_delta_rule_reverse`.
    ///
    /// Block (x, y) takes chunk x and key head y, with its value heads one after the other, whose gradients of q̂ and k̂
    /// are added in `d_keys` `[N, 2, HK, DK]`. Every thread reaches every barrier.
    pub fn gated_delta_rule_gradients<E> = gated_delta_rule_gradients_f32, gated_delta_rule_gradients_bf16; {
        block: BLOCK,
        grid: (chunk_count, key_heads),
        shared: SHARED,
    } (
        chunks: read u32 [chunk_count * ENTRY],
        qkv: read E [tokens * (2 * key_heads * key_dim + value_heads * value_dim)],
        a: read E [tokens * value_heads],
        b: read E [tokens * value_heads],
        a_log: read E [value_heads],
        dt_bias: read E [value_heads],
        scales: read f32 [2 * tokens * key_heads],
        states: read f32 [(chunk_count - document_count) * value_heads * key_dim * value_dim],
        d_states: read f32 [(chunk_count - document_count) * value_heads * key_dim * value_dim],
        updates: read f32 [tokens * value_heads * value_dim],
        d_updates: read f32 [tokens * value_heads * value_dim],
        d_output: read E [tokens * value_heads * value_dim],
        d_keys: update f32 [2 * tokens * key_heads * key_dim],
        d_qkv: write E [tokens * (2 * key_heads * key_dim + value_heads * value_dim)],
        d_a: write E [tokens * value_heads],
        d_b: write E [tokens * value_heads],
        gate_sums: write f32 [2 * chunk_count * value_heads],
        tokens: scalar u32,
        chunk_count: scalar u32,
        document_count: scalar u32,
        key_heads: scalar u32,
        value_heads: scalar u32,
        key_dim: scalar u32,
        value_dim: scalar u32,
    ) requires {
        key_heads > 0,
        value_heads.is_multiple_of(key_heads),
        key_dim > 0,
        key_dim <= KEY_DIM_LIMIT,
        value_dim > 0,
        document_count <= chunk_count,
    } {
        let _ = (chunk_count, document_count);
        let sizes = Sizes { tokens, key_heads, value_heads, key_dim, value_dim };
        let (chunk, key_head) = (block_idx(), block_idx_y());
        let place = Chunk::load(chunks, chunk);
        let (first, count) = (place.first, place.count());
        let rows = Rows { sizes, qkv, scales: Scales::new(SCALES_AT), first, count, key_head };
        rows.scales.load(sizes, scales, (first, count), key_head);
        sync_threads();
        let square = |byte| Shared::new(byte, CHUNK * PITCH);
        let mut pass = Pass {
            rows,
            place,
            chunk,
            head: key_head * sizes.group(),
            gates: Gates::new(GATES_AT),
            d_scores: square(D_SCORES),
            d_system: square(D_SYSTEM),
            key_products: square(KEY_PRODUCTS),
            query_products: square(QUERY_PRODUCTS),
            d_sums: Shared::new(D_SUMS, CHUNK),
            d_beta: Shared::new(D_BETA, CHUNK),
            d_last: Shared::new(D_LAST, CHUNK),
            states,
            d_states,
            updates,
            d_updates,
            d_output,
        };

        let tile = Tile::<16>::new();
        let columns = |d, column| rows.key(column, d);
        let mut products: Sums = [[0.0; 4]; 4];
        let left = |row, d| rows.key(row, d);
        tile.multiply_staged(&mut products, key_dim, (Order::Depth, left), (Order::Depth, columns));
        tile.keep(&products, pass.key_products, PITCH);
        let mut products: Sums = [[0.0; 4]; 4];
        let left = |row, d| rows.query(row, d);
        tile.multiply_staged(&mut products, key_dim, (Order::Depth, left), (Order::Depth, columns));
        tile.keep(&products, pass.query_products, PITCH);

        let inputs = GateInputs { a, b, a_log, dt_bias };
        while pass.head < (key_head + 1) * sizes.group() {
            pass.gates.load(sizes, inputs, (first, count), pass.head);
            pass.products(tile);
            sync_threads();
            pass.values(d_qkv);
            sync_threads();
            let mut column = 0;
            while column < key_dim {
                pass.keys(tile, column, pass.head == key_head * sizes.group(), d_keys);
                column += CHUNK;
            }
            sync_threads();
            pass.gates(inputs, (d_a, d_b), gate_sums);
            sync_threads();
            pass.head += 1;
        }
        pass.unscale(d_keys, d_qkv);
    }
}
