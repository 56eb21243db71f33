//! The chunks of a document from the last to the first: gradients of the states, and of what each token writes.
//!
//! With d_S' the gradient of the state behind a chunk, d_U = scoresᵀ d_output + (e^(c_n − c) k̂) d_S',
//! d_R = solverᵀ d_U, d_read = −β e^c d_R, and d_S = e^c_n d_S' + (e^c q̂)ᵀ d_output + k̂ᵀ d_read.

use super::scan::{BLOCK, Scan};
use super::tile::{Order, Tile, scale_rows};
use super::*;

kernel! {
    /// d_states `[chunks − documents, HV, DK, DV]`, the gradients of the states behind the chunks that are not their
    /// documents' last, in their order, and d_updates = d_R `[N, HV, DV]`; solver, scores, gates and scales are those
    /// that `gated_delta_rule_prepare` left.
    ///
    /// Block (x, y) takes a value head and 32 columns of DV, x, of document y. Every thread reaches every barrier.
    pub fn gated_delta_rule_reverse<E> = gated_delta_rule_reverse_f32, gated_delta_rule_reverse_bf16; {
        block: BLOCK,
        grid: (value_heads * value_dim.div_ceil(u64::from(PART)), document_count),
        shared: super::scan::Memory::shared(key_dim),
        min_blocks: 2,
    } (
        documents: read u32 [document_count * ENTRY],
        qkv: read E [tokens * (2 * key_heads * key_dim + value_heads * value_dim)],
        solver: read f32 [chunk_count * value_heads * SQUARE as u64],
        scores: read f32 [chunk_count * value_heads * SQUARE as u64],
        gates: read f32 [GATES * tokens * value_heads],
        scales: read f32 [2 * tokens * key_heads],
        d_output: read E [tokens * value_heads * value_dim],
        d_states: write f32 [(chunk_count - document_count) * value_heads * key_dim * value_dim],
        d_updates: write f32 [tokens * value_heads * value_dim],
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
        let scan = Scan::new(sizes, documents);
        let Scan { memory, head, start, end, first_chunk, .. } = scan;
        let [values, outputs] = memory.values;
        let tile = Tile::<8>::new();
        scan.clear();
        let mut left_chunks = (end - start).div_ceil(CHUNK);
        while left_chunks > 0 {
            left_chunks -= 1;
            let (first, chunk) = (start + left_chunks * CHUNK, first_chunk + left_chunks);
            sync_threads();
            let is_last = end - first <= CHUNK;
            if !is_last {
                scan.store_state(d_states, sizes.state_behind((chunk, scan.document), head));
            }
            let rows = scan.rows(qkv, (gates, scales), first);
            let square = sizes.square(chunk, head);
            let mut index = thread_idx();
            while index < CHUNK * PART {
                let column = scan.column + index % PART;
                outputs.store(index, rows.of_values(d_output, index / PART, column, head));
                index += BLOCK;
            }

            let mut d_update = [[0.0; 4]; 4];
            let left = |row, d| memory.to_end.load(row) * rows.key(row, d);
            // Behind the last chunk the gradient is 0.
            if !is_last {
                tile.multiply(&mut d_update, key_dim, (Order::Depth, left), (memory.state, PART));
            }
            let left = |row, d| scores.load(square + (d * CHUNK + row) as usize);
            tile.multiply(&mut d_update, rows.count, (Order::Across, left), (outputs, PART));
            tile.keep(&d_update, values, PART);
            let mut d_error = [[0.0; 4]; 4];
            let left = |row, d| solver.load(square + (d * CHUNK + row) as usize);
            tile.multiply(&mut d_error, rows.count, (Order::Across, left), (values, PART));
            scan.store_values(tile, &d_error, d_updates, (first, rows.count));
            scale_rows(&mut d_error, |i| {
                let row = tile.row() + i;
                -memory.beta.load(row) * memory.from_start.load(row)
            });
            sync_threads();
            tile.keep(&d_error, values, PART);

            let whole = memory.from_start.load(rows.count - 1);
            let mut first_row = 0;
            while first_row < key_dim {
                let mut sums = scan.state_rows(tile, first_row, whole);
                let left = |row, d| memory.from_start.load(d) * rows.query(d, first_row + row);
                tile.multiply(&mut sums, rows.count, (Order::Across, left), (outputs, PART));
                let left = |row, d| rows.key(d, first_row + row);
                tile.multiply(&mut sums, rows.count, (Order::Across, left), (values, PART));
                scan.set_state_rows(tile, first_row, &sums);
                first_row += CHUNK;
            }
        }
    }
}
