//! Lists of tiles, which hosts make for the kernels.

use std::cmp::Reverse;
use std::ops::Range;

use super::{TILE, WIDE_TILE};

/// The tiles of a batch's documents, in the order that blocks take them: those with most to do first, for
/// a long one at the end would leave the rest of the device waiting.
///
/// A tile is four numbers: its first token, its document's first token and the one behind its last, and 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tiles {
    /// `[tiles, 4]`, for kernels whose tiles of queries go over the keys before them.
    pub by_queries: Vec<u32>,
    /// The same of tiles of [`WIDE_TILE`] tokens.
    pub by_wide_queries: Vec<u32>,
    /// `[tiles, 4]`, for kernels whose tiles of keys go over the queries behind them.
    pub by_keys: Vec<u32>,
}

impl Tiles {
    /// Those of documents that are these ranges of tokens, none empty.
    pub fn new(documents: impl Iterator<Item = Range<u32>>) -> Self {
        let documents: Vec<Range<u32>> = documents.collect();
        let tiles = |size: u32| -> Vec<[u32; 4]> {
            let of_document = |document: &Range<u32>| {
                let Range { start, end } = *document;
                (start..end).step_by(size as usize).map(move |first| [first, start, end, 0])
            };
            documents.iter().flat_map(of_document).collect()
        };
        let by_queries = |mut tiles: Vec<[u32; 4]>| {
            tiles.sort_by_key(|&[first, start, ..]| Reverse(first - start));
            tiles.concat()
        };
        let mut by_keys = tiles(TILE);
        by_keys.sort_by_key(|&[first, _, end, _]| (Reverse(end - first), first));
        Self {
            by_queries: by_queries(tiles(TILE)),
            by_wide_queries: by_queries(tiles(WIDE_TILE)),
            by_keys: by_keys.concat(),
        }
    }

    /// Numbers in [`by_queries`](Self::by_queries) and in [`by_keys`](Self::by_keys) of documents of these lengths.
    pub fn length(documents: impl Iterator<Item = usize>) -> usize {
        documents.map(|tokens| 4 * tokens.div_ceil(TILE as usize)).sum()
    }
}
