//! What chunks need that does not depend on the states: scales, gates, solver and scores.

use super::tile::{Order, PITCH, SIDE, STAGING, Sums, Tile};
use super::*;
use crate::chunks::Chunk;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Where A is in shared memory, behind two staged operands; the solver behind it, then gates and scales.
const SYSTEM: u32 = 2 * STAGING;
const SOLVER: u32 = SYSTEM + 4 * CHUNK * PITCH;
const REST: u32 = SOLVER + 4 * CHUNK * PITCH;
/// Bytes of shared memory.
const SHARED: u64 = (REST + GATES_SHARED + SCALES_SHARED) as u64;

/// 1/√(Σx² + ε) of the block's queries and keys, the queries' times `query_factor`; a warp has a row.
#[inline(always)]
fn make_scales<E: Real>(rows: Rows<E>, query_factor: f32, kept: GlobalMut<f32>) {
    let Rows { sizes, qkv, scales, first, count, key_head } = rows;
    let mut row = warp_id();
    while row < CHUNK {
        let (mut query, mut key) = (0.0, 0.0);
        if row < count {
            let length = |start: usize| {
                let mut squares = 0.0;
                let mut column = lane_id();
                while column < sizes.key_dim {
                    let x = qkv.load(start + column as usize).to_f32();
                    squares = fma(x, x, squares);
                    column += WARP;
                }
                squares
            };
            query = length(sizes.query(first + row, key_head));
            key = length(sizes.key(first + row, key_head));
        }
        let query = divide(query_factor, sqrt(warp_sum(query) + EPSILON));
        let key = divide(1.0, sqrt(warp_sum(key) + EPSILON));
        if lane_id() == 0 {
            scales.query.store(row, query);
            scales.key.store(row, key);
            if row < count {
                let index = sizes.scale(first + row, key_head);
                kept.store(index, query);
                kept.store(sizes.tokens as usize * sizes.key_heads as usize + index, key);
            }
        }
        row += BLOCK / WARP;
    }
}

/// solver = (I + A)⁻¹ by substitution: each of 64 threads has a column, whose lower part it goes down.
#[inline(always)]
fn invert(system: Shared<f32>, solver: Shared<f32>) {
    let column = thread_idx();
    if column < CHUNK {
        for row in 0..CHUNK {
            solver.store(row * PITCH + column, if row == column { 1.0 } else { 0.0 });
        }
        // Rows before are 0 in all columns of the warp.
        let first = column / WARP * WARP;
        let mut row = first + 1;
        while row < CHUNK {
            let mut sum = 0.0;
            let mut d = first;
            while d < row {
                let factors = system.load_vector::<F32x4>(row * PITCH + d).0;
                for step in 0..4 {
                    // Behind the diagonal A is 0.
                    sum = fma(factors[step], solver.load((d + step as u32) * PITCH + column), sum);
                }
                d += 4;
            }
            if row > column {
                solver.store(row * PITCH + column, -sum);
            }
            row += 1;
        }
    }
}

kernel! {
    /// Of every chunk and value head solver and scores `[chunks, HV, 64, 64]`, identity and 0 behind the last token; of
    /// every token gates `[3, N, HV]` (β, e^c, e^(c_n − c)) and scales `[2, N, HK]` of queries and keys.
    ///
    /// Block (x, y) takes chunk x and key head y, with its value heads one after the other. `query_factor` is 1/√DK. Every
    /// thread reaches every barrier. Writes 32 KiB a chunk and value head.
    pub fn gated_delta_rule_prepare<E> = gated_delta_rule_prepare_f32, gated_delta_rule_prepare_bf16; {
        block: BLOCK,
        grid: (chunk_count, key_heads),
        shared: SHARED,
        min_blocks: 2,
    } (
        chunks: read u32 [chunk_count * ENTRY],
        qkv: read E [tokens * (2 * key_heads * key_dim + value_heads * value_dim)],
        a: read E [tokens * value_heads],
        b: read E [tokens * value_heads],
        a_log: read E [value_heads],
        dt_bias: read E [value_heads],
        solver: write f32 [chunk_count * value_heads * SQUARE as u64] align 16,
        scores: write f32 [chunk_count * value_heads * SQUARE as u64] align 16,
        gates: write f32 [GATES * tokens * value_heads],
        scales: write f32 [2 * tokens * key_heads],
        tokens: scalar u32,
        chunk_count: scalar u32,
        key_heads: scalar u32,
        value_heads: scalar u32,
        key_dim: scalar u32,
        value_dim: scalar u32,
        query_factor: scalar f32,
    ) requires {
        key_heads > 0,
        value_heads.is_multiple_of(key_heads),
        key_dim > 0,
        key_dim <= KEY_DIM_LIMIT,
        value_dim > 0,
    } {
        let _ = chunk_count;
        let sizes = Sizes { tokens, key_heads, value_heads, key_dim, value_dim };
        let (chunk, key_head) = (block_idx(), block_idx_y());
        let place = Chunk::load(chunks, chunk);
        let (first, count) = (place.first, place.count());
        let staged_gates = Gates::new(REST);
        let rows = Rows { sizes, qkv, scales: Scales::new(REST + GATES_SHARED), first, count, key_head };
        make_scales(rows, query_factor, scales);
        sync_threads();

        let tile = Tile::<16>::new();
        let (mut key_products, mut query_products): (Sums, Sums) = ([[0.0; 4]; 4], [[0.0; 4]; 4]);
        let columns = |d, column| rows.key(column, d);
        tile.multiply_staged(
            &mut key_products,
            key_dim,
            (Order::Depth, |row, d| rows.key(row, d)),
            (Order::Depth, columns),
        );
        tile.multiply_staged(
            &mut query_products,
            key_dim,
            (Order::Depth, |row, d| rows.query(row, d)),
            (Order::Depth, columns),
        );

        let (system, inverse) =
            (Shared::<f32>::new(SYSTEM, CHUNK * PITCH), Shared::<f32>::new(SOLVER, CHUNK * PITCH));
        let inputs = GateInputs { a, b, a_log, dt_bias };
        let mut head = key_head * sizes.group();
        while head < (key_head + 1) * sizes.group() {
            staged_gates.load(sizes, inputs, (first, count), head);
            let square = sizes.square(chunk, head);
            unroll!(i in SIDE {
                let row = tile.row() + i as u32;
                let beta = staged_gates.beta.load(row);
                let (mut of_keys, mut of_queries) = ([0.0; 4], [0.0; 4]);
                unroll!(j in SIDE {
                    let column = tile.column() + j as u32;
                    if column <= row {
                        let decay = staged_gates.decay(row, column);
                        of_queries[j] = query_products[i][j] * decay;
                        of_keys[j] = if column < row { beta * key_products[i][j] * decay } else { 0.0 };
                    }
                });
                system.store_vector(row * PITCH + tile.column(), F32x4(of_keys));
                scores.store_vector(square + (row * CHUNK + tile.column()) as usize, F32x4(of_queries));
            });
            let row = thread_idx();
            if row < count {
                let entry = sizes.entry(first + row, head);
                gates.store(entry, staged_gates.beta.load(row));
                gates.store(sizes.entries() + entry, staged_gates.from_start.load(row));
                gates.store(2 * sizes.entries() + entry, staged_gates.to_end.load(row));
            }
            sync_threads();
            invert(system, inverse);
            sync_threads();
            let mut index = 4 * thread_idx();
            while index < CHUNK * CHUNK {
                let values = inverse.load_vector::<F32x4>(index / CHUNK * PITCH + index % CHUNK);
                solver.store_vector(square + index as usize, values);
                index += 4 * BLOCK;
            }
            head += 1;
        }
    }
}
