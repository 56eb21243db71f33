//! The chunks of a document from the first to the last: output, or what the backward needs of them.

use super::tile::{Order, STAGING, STEP, Sums, Tile, scale_rows};
use super::*;

/// Threads of a block, eight across the columns of a part.
pub(super) const BLOCK: u32 = 128;

/// What a block that goes along a document has in shared memory: staged operand, factors of the tokens, tiles of values,
/// and the state.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    pub beta: Shared<f32>,
    pub from_start: Shared<f32>,
    pub to_end: Shared<f32>,
    pub scales: Scales,
    /// `[64, PART]` each.
    pub values: [Shared<f32>; 2],
    /// `[DK, PART]`, with zeros behind, see [`STEP`].
    pub state: Shared<f32>,
}

impl Memory {
    const FACTORS: u32 = STAGING;
    const VALUES: u32 = Self::FACTORS + 12 * CHUNK + SCALES_SHARED;
    const STATE: u32 = Self::VALUES + 2 * 4 * CHUNK * PART;

    #[inline(always)]
    pub fn new(key_dim: u32) -> Self {
        let factors = |index| Shared::new(Self::FACTORS + 4 * CHUNK * index, CHUNK);
        let values = |index| Shared::new(Self::VALUES + 4 * CHUNK * PART * index, CHUNK * PART);
        Self {
            beta: factors(0),
            from_start: factors(1),
            to_end: factors(2),
            scales: Scales::new(Self::FACTORS + 12 * CHUNK),
            values: [values(0), values(1)],
            state: Shared::new(Self::STATE, key_dim.next_multiple_of(STEP) * PART),
        }
    }

    /// Bytes for keys of so many elements.
    #[cfg(not(target_arch = "nvptx64"))]
    pub fn shared(key_dim: u64) -> u64 {
        u64::from(Self::STATE) + 4 * key_dim.next_multiple_of(u64::from(STEP)) * u64::from(PART)
    }
}

/// A block's document, value head and part of DV.
#[derive(Clone, Copy)]
pub(super) struct Scan {
    pub sizes: Sizes,
    pub memory: Memory,
    pub document: u32,
    pub start: u32,
    pub end: u32,
    pub first_chunk: u32,
    pub head: u32,
    /// First column of the part.
    pub column: u32,
}

impl Scan {
    /// That of the block.
    #[inline(always)]
    pub fn new(sizes: Sizes, documents: Global<u32>) -> Self {
        let document = block_idx_y();
        let entry = |part| documents.load(document as usize * ENTRY as usize + part);
        let parts = sizes.value_dim.div_ceil(PART);
        Self {
            sizes,
            memory: Memory::new(sizes.key_dim),
            document,
            start: entry(0),
            end: entry(1),
            first_chunk: entry(2),
            head: block_idx() / parts,
            column: block_idx() % parts * PART,
        }
    }

    /// Sets the state to 0; a barrier must follow.
    #[inline(always)]
    pub fn clear(self) {
        let mut index = thread_idx();
        while index < self.sizes.key_dim.next_multiple_of(STEP) * PART {
            self.memory.state.store(index, 0.0);
            index += BLOCK;
        }
    }

    /// The rows of the chunk from token `first` on, whose gates and scales go to shared memory. All threads must call
    /// it, done with those before; they are seen behind.
    #[inline(always)]
    pub fn rows<E: Real>(
        self,
        qkv: Global<E>,
        (gates, scales): (Global<f32>, Global<f32>),
        first: u32,
    ) -> Rows<E> {
        let Self { sizes, memory, head, .. } = self;
        let (count, key_head) = (CHUNK.min(self.end - first), head / sizes.group());
        let row = thread_idx();
        if row < CHUNK {
            let mut loaded = [0.0; GATES as usize];
            if row < count {
                for part in 0..GATES as usize {
                    loaded[part] = gates.load(part * sizes.entries() + sizes.entry(first + row, head));
                }
            }
            memory.beta.store(row, loaded[0]);
            memory.from_start.store(row, loaded[1]);
            memory.to_end.store(row, loaded[2]);
        }
        memory.scales.load(sizes, scales, (first, count), key_head);
        sync_threads();
        Rows { sizes, qkv, scales: memory.scales, first, count, key_head }
    }

    /// Stores the part of the state to `states`, whose head begins at `base`.
    #[inline(always)]
    pub fn store_state(self, states: GlobalMut<f32>, base: usize) {
        let Self { sizes, memory, column, .. } = self;
        let mut index = thread_idx();
        while index < sizes.key_dim * PART {
            let (row, own) = (index / PART, index % PART);
            if column + own < sizes.value_dim {
                let place = base + row as usize * sizes.value_dim as usize + (column + own) as usize;
                states.store(place, memory.state.load(index));
            }
            index += BLOCK;
        }
    }

    /// Stores a tile's rows of tokens to `[N, HV, DV]`.
    #[inline(always)]
    pub fn store_values<T: Real>(
        self,
        tile: Tile<8>,
        sums: &Sums,
        to: GlobalMut<T>,
        (first, count): (u32, u32),
    ) {
        for i in 0..4 {
            let row = tile.row() + i as u32;
            for j in 0..4 {
                let column = self.column + tile.column() + j as u32;
                if row < count && column < self.sizes.value_dim {
                    let place = self.sizes.output(first + row, self.head) + column as usize;
                    to.store(place, T::from_f32(sums[i][j]));
                }
            }
        }
    }

    /// A thread's rows of the state from row `first` on, times `factor`.
    #[inline(always)]
    pub fn state_rows(self, tile: Tile<8>, first: u32, factor: f32) -> Sums {
        let mut sums = [[0.0; 4]; 4];
        for i in 0..4 {
            let row = first + tile.row() + i as u32;
            if row < self.sizes.key_dim {
                sums[i] = self.memory.state.load_vector::<F32x4>(row * PART + tile.column()).0;
            }
        }
        scale_rows(&mut sums, |_| factor);
        sums
    }

    /// Stores them.
    #[inline(always)]
    pub fn set_state_rows(self, tile: Tile<8>, first: u32, sums: &Sums) {
        for i in 0..4 {
            let row = first + tile.row() + i as u32;
            if row < self.sizes.key_dim {
                self.memory.state.store_vector(row * PART + tile.column(), F32x4(sums[i]));
            }
        }
    }
}

/// The error of a chunk, v − e^c k̂ S, times β; and the chunk's U in the first tile of values, behind a barrier.
#[inline(always)]
fn update<E: Real>(scan: Scan, tile: Tile<8>, rows: Rows<E>, solver: Global<f32>, square: usize) -> Sums {
    let Scan { sizes, memory, head, column, .. } = scan;
    let [values, _] = memory.values;
    let mut error = [[0.0; 4]; 4];
    if rows.first > scan.start {
        let keys = |row, d| rows.key(row, d);
        tile.multiply(&mut error, sizes.key_dim, (Order::Depth, keys), (memory.state, PART));
    }
    for i in 0..4 {
        let row = tile.row() + i as u32;
        let (beta, decay) = (memory.beta.load(row), memory.from_start.load(row));
        for j in 0..4 {
            let value = rows.value(row, column + tile.column() + j as u32, head);
            error[i][j] = beta * fma(-decay, error[i][j], value);
        }
    }
    tile.keep(&error, values, PART);
    let mut solved = [[0.0; 4]; 4];
    tile.multiply(
        &mut solved,
        rows.count,
        (Order::Depth, |row, d| solver.load(square + (row * CHUNK + d) as usize)),
        (values, PART),
    );
    sync_threads();
    tile.keep(&solved, values, PART);
    solved
}

/// S ← e^c_n S + (e^(c_n − c) k̂)ᵀ U.
#[inline(always)]
fn advance<E: Real>(scan: Scan, tile: Tile<8>, rows: Rows<E>) {
    let memory = scan.memory;
    let whole = memory.from_start.load(rows.count - 1);
    let mut first = 0;
    while first < scan.sizes.key_dim {
        let mut sums = scan.state_rows(tile, first, whole);
        let left = |row, d| memory.to_end.load(d) * rows.key(d, first + row);
        tile.multiply(&mut sums, rows.count, (Order::Across, left), (memory.values[0], PART));
        scan.set_state_rows(tile, first, &sums);
        first += CHUNK;
    }
}

kernel! {
    /// output `[N, HV, DV]`, and where `keeps` is 1 the states behind the documents' last tokens, `[documents, HV, DK, DV]`;
    /// solver, scores, gates and scales are those that `gated_delta_rule_prepare` left.
    ///
    /// Block (x, y) takes a value head and 32 columns of DV, x, of document y. Every thread reaches every barrier.
    /// Reads queries and keys once for each part of DV, 32 KiB of matrices a chunk, value head and part.
    pub fn gated_delta_rule<E> = gated_delta_rule_f32, gated_delta_rule_bf16; {
        block: BLOCK,
        grid: (value_heads * value_dim.div_ceil(u64::from(PART)), document_count),
        shared: Memory::shared(key_dim),
        min_blocks: 2,
    } (
        documents: read u32 [document_count * ENTRY],
        qkv: read E [tokens * (2 * key_heads * key_dim + value_heads * value_dim)],
        solver: read f32 [chunk_count * value_heads * SQUARE as u64],
        scores: read f32 [chunk_count * value_heads * SQUARE as u64],
        gates: read f32 [GATES * tokens * value_heads],
        scales: read f32 [2 * tokens * key_heads],
        output: write E [tokens * value_heads * value_dim],
        last_states: write f32 [keeps * document_count * value_heads * key_dim * value_dim],
        tokens: scalar u32,
        chunk_count: scalar u32,
        document_count: scalar u32,
        key_heads: scalar u32,
        value_heads: scalar u32,
        key_dim: scalar u32,
        value_dim: scalar u32,
        keeps: scalar u32,
    ) requires {
        key_heads > 0,
        value_heads.is_multiple_of(key_heads),
        key_dim > 0,
        key_dim <= KEY_DIM_LIMIT,
        value_dim > 0,
        keeps <= 1,
    } {
        let _ = (chunk_count, document_count);
        let sizes = Sizes { tokens, key_heads, value_heads, key_dim, value_dim };
        let scan = Scan::new(sizes, documents);
        let (memory, tile) = (scan.memory, Tile::<8>::new());
        scan.clear();
        let (mut first, mut chunk) = (scan.start, scan.first_chunk);
        while first < scan.end {
            sync_threads();
            let rows = scan.rows(qkv, (gates, scales), first);
            let square = sizes.square(chunk, scan.head);
            let mut read = [[0.0; 4]; 4];
            // Before the first chunk the state is 0.
            if first > scan.start {
                let queries = |row, d| rows.query(row, d);
                tile.multiply(&mut read, key_dim, (Order::Depth, queries), (memory.state, PART));
            }
            scale_rows(&mut read, |i| memory.from_start.load(tile.row() + i));
            update(scan, tile, rows, solver, square);
            tile.multiply(
                &mut read,
                rows.count,
                (Order::Depth, |row, d| scores.load(square + (row * CHUNK + d) as usize)),
                (memory.values[0], PART),
            );
            scan.store_values(tile, &read, output, (first, rows.count));
            advance(scan, tile, rows);
            first += CHUNK;
            chunk += 1;
        }
        sync_threads();
        if keeps == 1 {
            scan.store_state(last_states, sizes.state(scan.document, scan.head));
        }
    }
}

kernel! {
    /// For the backward: the states before the chunks that are not their documents' first, in their order,
    /// `[chunks − documents, HV, DK, DV]`, and U, `[N, HV, DV]`.
    ///
    /// Blocks and inputs as those of `gated_delta_rule`.
    pub fn gated_delta_rule_states<E> = gated_delta_rule_states_f32, gated_delta_rule_states_bf16; {
        block: BLOCK,
        grid: (value_heads * value_dim.div_ceil(u64::from(PART)), document_count),
        shared: Memory::shared(key_dim),
        min_blocks: 2,
    } (
        documents: read u32 [document_count * ENTRY],
        qkv: read E [tokens * (2 * key_heads * key_dim + value_heads * value_dim)],
        solver: read f32 [chunk_count * value_heads * SQUARE as u64],
        gates: read f32 [GATES * tokens * value_heads],
        scales: read f32 [2 * tokens * key_heads],
        states: write f32 [(chunk_count - document_count) * value_heads * key_dim * value_dim],
        updates: write f32 [tokens * value_heads * value_dim],
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
        let tile = Tile::<8>::new();
        scan.clear();
        let (mut first, mut chunk) = (scan.start, scan.first_chunk);
        while first < scan.end {
            sync_threads();
            if first > scan.start {
                scan.store_state(states, sizes.state_before((chunk, scan.document), scan.head));
            }
            let rows = scan.rows(qkv, (gates, scales), first);
            let solved = update(scan, tile, rows, solver, sizes.square(chunk, scan.head));
            scan.store_values(tile, &solved, updates, (first, rows.count));
            advance(scan, tile, rows);
            first += CHUNK;
            chunk += 1;
        }
    }
}
