//! What a block of the kernels over tiles works on.

use super::tile::Rows;
use crate::simt::*;

/// What all kernels over tiles are told: sizes, and the block's work.
#[derive(Clone, Copy)]
pub struct WorkTile {
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

impl WorkTile {
    /// The work of block `block_idx()` of a grid of tiles times `blocks_per_tile` heads.
    #[inline(always)]
    pub fn new(
        tiles: Global<u32>,
        blocks_per_tile: u32,
        (heads, kv_heads, head_dim): (u32, u32, u32),
        window: u32,
    ) -> Self {
        Self::at(tiles, block_idx(), blocks_per_tile, (heads, kv_heads, head_dim), window)
    }

    /// The work number `index` of such a grid.
    #[inline(always)]
    pub fn at(
        tiles: Global<u32>,
        index: u32,
        blocks_per_tile: u32,
        (heads, kv_heads, head_dim): (u32, u32, u32),
        window: u32,
    ) -> Self {
        let (tile, head) = (index / blocks_per_tile, index % blocks_per_tile);
        let load = |index| tiles.load(4 * tile as usize + index);
        Self { first: load(0), document: (load(1), load(2)), heads, kv_heads, head_dim, window, head }
    }

    /// The token behind the last of a tile of up to `size` tokens.
    #[inline(always)]
    pub fn end(self, size: u32) -> u32 {
        self.document.1.min(self.first + size)
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

    /// Whether a tile, given by first token and size, of queries does not see all of a tile of keys.
    #[inline(always)]
    pub fn hides(self, queries: (u32, u32), keys: (u32, u32)) -> bool {
        keys.0 + keys.1 - 1 > queries.0 || queries.0 + queries.1 - 1 - keys.0 >= self.window
    }

    /// Up to `size` rows of the document from token `first` on, of q or the like.
    #[inline(always)]
    pub fn queries<E: Pack<8>>(self, data: Global<E>, (first, size): (u32, u32), head: u32) -> Rows<E> {
        self.rows(data, (first, size), (head, self.heads))
    }

    /// Up to `size` rows of the document from token `first` on, of k or v.
    #[inline(always)]
    pub fn keys<E: Pack<8>>(self, data: Global<E>, (first, size): (u32, u32), kv_head: u32) -> Rows<E> {
        self.rows(data, (first, size), (kv_head, self.kv_heads))
    }

    #[inline(always)]
    fn rows<E: Pack<8>>(
        self,
        data: Global<E>,
        (first, size): (u32, u32),
        (head, heads): (u32, u32),
    ) -> Rows<E> {
        let count = size.min(self.document.1 - first);
        let stride = heads as usize * self.head_dim as usize;
        let first = first as usize * stride + head as usize * self.head_dim as usize;
        Rows { data, first, stride, count }
    }

    /// Index of an entry of `[N, H]`.
    #[inline(always)]
    pub fn entry(self, token: u32, head: u32) -> usize {
        token as usize * self.heads as usize + head as usize
    }
}
