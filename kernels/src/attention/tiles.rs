//! Lists of tiles, which hosts make for the kernels.

use std::cmp::Reverse;
use std::ops::Range;

use super::{HOPPER_TILE, TILE};

/// The tiles of a batch's documents, in the order that blocks take them: those with most to do first, for
/// a long one at the end would leave the rest of the device waiting.
///
/// A tile is four numbers: its first token, its document's first token and the one behind its last, and 0.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tiles {
    /// `[tiles, 4]`, for kernels whose tiles of queries go over the keys before them.
    pub by_queries: Vec<u32>,
    /// The same of tiles of [`HOPPER_TILE`] tokens.
    pub by_hopper_queries: Vec<u32>,
    /// `[tiles, 4]`, for kernels whose tiles of keys go over the queries behind them.
    pub by_keys: Vec<u32>,
    /// The same of tiles of [`HOPPER_TILE`] tokens.
    pub by_hopper_keys: Vec<u32>,
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
        let by_keys = |mut tiles: Vec<[u32; 4]>| {
            tiles.sort_by_key(|&[first, _, end, _]| (Reverse(end - first), first));
            tiles.concat()
        };
        Self {
            by_queries: by_queries(tiles(TILE)),
            by_hopper_queries: by_queries(tiles(HOPPER_TILE)),
            by_keys: by_keys(tiles(TILE)),
            by_hopper_keys: by_keys(tiles(HOPPER_TILE)),
        }
    }

    /// All lists, one behind the other, of which [`TileLists`](super::TileLists) are made.
    pub fn concat(&self) -> Vec<u32> {
        [&*self.by_queries, &self.by_keys, &self.by_hopper_queries, &self.by_hopper_keys].concat()
    }

    /// Where [`concat`](Self::concat) has the lists of documents of these lengths.
    pub fn ranges(documents: impl Iterator<Item = usize> + Clone) -> [Range<usize>; 4] {
        let length = |tile: u32| documents.clone().map(|tokens| 4 * tokens.div_ceil(tile as usize)).sum();
        let (narrow, wide): (usize, usize) = (length(TILE), length(HOPPER_TILE));
        let ends = [narrow, 2 * narrow, 2 * narrow + wide, 2 * (narrow + wide)];
        [0..ends[0], ends[0]..ends[1], ends[1]..ends[2], ends[2]..ends[3]]
    }
}
