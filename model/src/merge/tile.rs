//! A piece of one tensor of all its sources, in memory as it is stored.

use std::cell::Cell;
use std::ops::Range;

use cpift_engine::WORD_BITS;
use cpift_engine::ops::slerp;

use super::convert::widen;
use crate::checkpoint::WeightType;

/// Elements of a tile.
pub(super) const TILE: usize = slerp::tile::PIECE;

/// Elements that are combined at once: what all sources have of them stays in a core's cache.
pub(super) const PART: usize = 1 << 12;

const _: () =
    assert!(TILE.is_multiple_of(PART) && PART.is_multiple_of(WORD_BITS), "a part begins with a word");

/// Words of a part's masks.
pub(super) const WORDS: usize = PART / WORD_BITS;

/// A tile of a tensor.
pub(super) struct Tile<'a> {
    /// First element in the tensor, a multiple of [`TILE`].
    pub start: usize,
    /// Number of elements.
    pub length: usize,
    sources: &'a [Stored<'a>],
    not_finite: Cell<Option<usize>>,
}

/// What a source has of a tile or of the block that it is in.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    pub bytes: &'a [u8],
    pub dtype: WeightType,
}

impl<'a> Tile<'a> {
    pub fn new(start: usize, length: usize, sources: &'a [Stored<'a>]) -> Self {
        Self { start, length, sources, not_finite: Cell::new(None) }
    }

    /// Number of the tile in its tensor.
    pub fn number(&self) -> usize {
        self.start / TILE
    }

    /// A range of the tile's elements of one source as f32.
    pub fn load<'t>(&self, source: usize, range: &Range<usize>, target: &'t mut [f32]) -> &'t mut [f32] {
        let Stored { bytes, dtype } = self.sources[source];
        let size = dtype.bytes() as usize;
        let target = &mut target[..range.len()];
        if !widen(&bytes[range.start * size..range.end * size], dtype, target)
            && self.not_finite.get().is_none()
        {
            self.not_finite.set(Some(source));
        }
        target
    }

    /// A source that has NaN or infinity, of those that were loaded.
    pub fn not_finite(&self) -> Option<usize> {
        self.not_finite.get()
    }

    /// The tile's elements in parts.
    pub fn parts(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let length = self.length;
        (0..length).step_by(PART).map(move |start| start..length.min(start + PART))
    }
}

/// Memory of a thread that works on a tile. What is in it is left over from tiles before.
pub(super) struct Scratch {
    /// For whole tiles.
    pub tiles: [Vec<f32>; 3],
    /// For a tile's result.
    pub out: Vec<f32>,
    /// For a part of every source.
    pub parts: Vec<f32>,
    /// For sums and counts over a part.
    pub sum: Vec<f32>,
    pub counts: Vec<f32>,
    /// For the masks of a part of every source, and one more.
    pub words: Vec<u64>,
}

impl Scratch {
    /// For a tensor with so many sources.
    pub fn new(sources: usize) -> Self {
        Self {
            tiles: [const { Vec::new() }; 3].map(|_: Vec<f32>| vec![0.0; TILE]),
            out: vec![0.0; TILE],
            parts: vec![0.0; sources * PART],
            sum: vec![0.0; PART],
            counts: vec![0.0; PART],
            words: vec![0; (sources + 1) * WORDS],
        }
    }
}
