//! Division of a flat layout into pieces of work that never cross a segment or touch padding.

use std::ops::Range;

use crate::layout::Layout;
use crate::mask::WORD_BITS;

/// A run of elements of one segment. It starts on a mask word, and only the last piece of a segment
/// may end inside one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Index of the segment in the layout.
    pub(crate) segment: usize,
    /// Elements of the flat allocation.
    pub(crate) range: Range<usize>,
}

impl Piece {
    /// The mask words the piece lies in; no other piece lies in them.
    pub(crate) fn words(&self) -> Range<usize> {
        self.range.start / WORD_BITS..self.range.end.div_ceil(WORD_BITS)
    }
}

/// Pieces of at most `chunk` elements (a multiple of [`WORD_BITS`]), by ascending offset.
pub(crate) fn pieces(layout: &Layout, chunk: usize) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(layout.len() / chunk + layout.segments().len());
    for (segment, place) in layout.segments().iter().enumerate() {
        let end = place.offset + place.length;
        pieces.extend(
            (place.offset..end)
                .step_by(chunk)
                .map(|start| Piece { segment, range: start..end.min(start + chunk) }),
        );
    }
    pieces
}

/// Disjoint parts of `data`, given by ascending ranges, each to be written by its own thread.
pub(crate) fn split_mut<T>(
    mut data: &mut [T],
    ranges: impl IntoIterator<Item = Range<usize>>,
) -> Vec<&mut [T]> {
    let mut consumed = 0;
    let mut parts = Vec::new();
    for range in ranges {
        let (part, rest) = data.split_at_mut(range.end - consumed);
        parts.push(&mut part[range.start - consumed..]);
        data = rest;
        consumed = range.end;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_every_parameter_once_and_no_padding() {
        let shapes = [("a", vec![130]), ("b", vec![0]), ("c", vec![64]), ("d", vec![3, 5])];
        let layout = Layout::new(shapes).unwrap();
        let pieces = pieces(&layout, 64);
        let ranges: Vec<_> = pieces.iter().map(|piece| piece.range.clone()).collect();
        assert_eq!(ranges, [0..64, 64..128, 128..130, 192..256, 256..271]);
        assert_eq!(pieces.iter().map(|piece| piece.segment).collect::<Vec<_>>(), [0, 0, 0, 2, 3]);
        assert_eq!(pieces[2].words(), 2..3);

        let mut data: Vec<usize> = (0..layout.len()).collect();
        let parts = split_mut(&mut data, ranges.iter().cloned());
        for (part, range) in parts.into_iter().zip(ranges) {
            assert_eq!(part, range.collect::<Vec<_>>());
        }
    }
}
