//! Lists of tiles, which hosts make for the kernels.

use std::cmp::Reverse;
use std::ops::Range;

use super::TILE;

/// The tiles of a batch's documents, in the order that blocks take them: those with most to do first, for
/// a long one at the end would leave the rest of the device waiting.
///
/// A tile is four numbers: its first token, its document's first token and the one behind its last, and 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tiles {
    /// `[tiles, 4]`, for kernels whose tiles of queries go over the keys before them.
    pub by_queries: Vec<u32>,
    /// `[tiles, 4]`, for kernels whose tiles of keys go over the queries behind them.
    pub by_keys: Vec<u32>,
}

impl Tiles {
    /// Those of documents that are these ranges of tokens, none empty.
    pub fn new(documents: impl Iterator<Item = Range<u32>>) -> Self {
        let mut tiles: Vec<[u32; 4]> = documents
            .flat_map(|document| {
                let first = document.clone().step_by(TILE as usize);
                first.map(move |first| [first, document.start, document.end, 0])
            })
            .collect();
        tiles.sort_by_key(|&[first, start, ..]| Reverse(first - start));
        let by_queries = tiles.concat();
        tiles.sort_by_key(|&[first, _, end, _]| (Reverse(end - first), first));
        Self { by_queries, by_keys: tiles.concat() }
    }

    /// Number of tiles.
    pub fn count(&self) -> u32 {
        (self.by_queries.len() / 4) as u32
    }
}
