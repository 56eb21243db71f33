//! The forward pass over one tile of queries.

use core::f32::consts::{LN_2, LOG2_E};

use super::TILE;
use super::tile::{Rows, Sums, Tile, row_max, row_sum, scale_row};
use crate::simt::*;

/// What all kernels over tiles are told: sizes, and the block's work.
#[derive(Clone, Copy)]
pub struct Work {
    /// First token of the tile.
    pub first: u32,
    /// The document's first token, and the one behind its last.
    pub document: (u32, u32),
    /// Query heads.
    pub heads: u32,
    /// Key/value heads.
    pub kv_heads: u32,
    /// Elements of a head.
    pub head_dim: u32,
    /// Most tokens that a token sees, itself included.
    pub window: u32,
    /// The block's query head, or key/value head.
    pub head: u32,
}

impl Work {
    /// The work of block `block_idx()` of a grid of tiles times `blocks_per_tile` heads.
    #[inline(always)]
    pub fn new(
        tiles: Global<u32>,
        blocks_per_tile: u32,
        (heads, kv_heads, head_dim): (u32, u32, u32),
        window: u32,
    ) -> Self {
        let (tile, head) = (block_idx() / blocks_per_tile, block_idx() % blocks_per_tile);
        let U32x4([first, start, end, _]) = tiles.load_vector(4 * tile as usize);
        Self { first, document: (start, end), heads, kv_heads, head_dim, window, head }
    }

    /// Tokens of the document in the tile from token `first` on.
    #[inline(always)]
    pub fn count(self, first: u32) -> u32 {
        TILE.min(self.document.1 - first)
    }

    /// First token of the first tile of `size` keys that queries of the document from `query` on see.
    #[inline(always)]
    pub fn first_keys(self, query: u32, size: u32) -> u32 {
        let seen = (query - self.document.0 + 1).saturating_sub(self.window);
        self.document.0 + seen / size * size
    }

    /// The token behind the last that sees a key of the document before `end`.
    #[inline(always)]
    pub fn end_of_queries(self, end: u32) -> u32 {
        (end - 1).saturating_add(self.window).min(self.document.1)
    }

    /// Whether `query` sees `key`, of the same document.
    #[inline(always)]
    pub fn sees(self, query: u32, key: u32) -> bool {
        key <= query && query - key < self.window
    }

    /// The tile from token `first` on of q or the like.
    #[inline(always)]
    pub fn queries<E: Pack<8>>(self, data: Global<E>, first: u32, head: u32) -> Rows<E> {
        rows(data, (first, self.count(first)), (head, self.heads), self.head_dim)
    }

    /// The tile from token `first` on of k or v.
    #[inline(always)]
    pub fn keys<E: Pack<8>>(self, data: Global<E>, first: u32, kv_head: u32) -> Rows<E> {
        rows(data, (first, self.count(first)), (kv_head, self.kv_heads), self.head_dim)
    }

    /// Index of an entry of `[N, H]`.
    #[inline(always)]
    pub fn entry(self, token: u32, head: u32) -> usize {
        token as usize * self.heads as usize + head as usize
    }
}

#[inline(always)]
fn rows<E: Pack<8>>(
    data: Global<E>,
    (first, count): (u32, u32),
    (head, heads): (u32, u32),
    head_dim: u32,
) -> Rows<E> {
    let stride = heads as usize * head_dim as usize;
    let first = first as usize * stride + head as usize * head_dim as usize;
    Rows { data, first, stride, count }
}

/// Running softmax over tiles of keys, in base 2; see [`super`].
#[inline(always)]
pub fn forward<E: Pack<8>, const ROWS: usize, const N: usize>(
    work: Work,
    (q, k, v): (Global<E>, Global<E>, Global<E>),
    output: GlobalMut<E>,
    log_sum_exp: GlobalMut<f32>,
    scale: f32,
) {
    let tile = Tile::<ROWS>::new(work.head_dim);
    let kv_head = work.head / (work.heads / work.kv_heads);
    let queries = work.queries(q, work.first, work.head);
    let end = work.first + queries.count;
    let mut sums: Sums<ROWS, N> = [[[0.0; 4]; N]; ROWS];
    let mut maximum = [f32::MIN; ROWS];
    // Of this thread's columns alone.
    let mut total = [0.0; ROWS];
    let mut first = work.first_keys(work.first, TILE);
    while first < end {
        let mut scores = tile.dot_products(queries, work.keys(k, first, kv_head));
        unroll!(i in ROWS {
            let query = work.first + tile.row(i);
            let mut largest = maximum[i];
            for j in 0..4 {
                scores[i][j] *= scale * LOG2_E;
                if work.sees(query, first + tile.column(j)) {
                    largest = max(largest, scores[i][j]);
                }
            }
            let largest = row_max(largest);
            let shrink = exp2_approx(maximum[i] - largest);
            maximum[i] = largest;
            total[i] *= shrink;
            for j in 0..4 {
                let visible = work.sees(query, first + tile.column(j));
                scores[i][j] = if visible { exp2_approx(scores[i][j] - largest) } else { 0.0 };
                total[i] += scores[i][j];
            }
            scale_row(&mut sums[i], shrink);
        });
        tile.set_weights(&scores);
        tile.add_weighted_rows(work.keys(v, first, kv_head), &mut sums);
        first += TILE;
    }
    unroll!(i in ROWS {
        let total = row_sum(total[i]);
        scale_row(&mut sums[i], reciprocal_approx(total));
        if tile.leads_rows() && tile.row(i) < queries.count {
            let entry = work.entry(work.first + tile.row(i), work.head);
            log_sum_exp.store(entry, (maximum[i] + log2_approx(total)) * LN_2);
        }
    });
    tile.store(&sums, output, (queries.first, queries.stride, queries.count));
}
