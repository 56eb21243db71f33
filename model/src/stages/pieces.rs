//! The flat parameters in pieces, for what would else take memory that grows with the model.

use std::ops::Range;

use cpift_engine::{Layout, SEGMENT_ALIGNMENT, WORD_BITS};

use crate::error::Result;

/// Parameters of a piece.
pub const PIECE: usize = 1 << 18;

const _: () = assert!(PIECE.is_multiple_of(WORD_BITS), "a piece of a mask begins with a word");

/// The flat parameters in pieces of [`PIECE`], in order.
pub fn pieces(length: usize) -> impl Iterator<Item = Range<usize>> {
    pieces_of(length, PIECE)
}

/// The same in pieces of another length.
pub fn pieces_of(length: usize, piece: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(piece).map(move |start| start..length.min(start + piece))
}

/// Parameters that tensors are put together up to, to be worked on as one part.
pub const PART: usize = 1 << 23;

/// Some tensors of a layout, one behind the other, as a layout of their own.
#[derive(Debug, Clone)]
pub struct LayoutPart {
    /// Of these tensors alone.
    pub layout: Layout,
    /// Where it is in the whole.
    pub range: Range<usize>,
    /// Its tensors' numbers among those of the whole.
    pub segments: Range<usize>,
}

impl LayoutPart {
    /// All of a layout.
    pub fn whole(layout: &Layout) -> Self {
        Self { layout: layout.clone(), range: 0..layout.len(), segments: 0..layout.segments().len() }
    }
}

/// The layout in parts of whole tensors, in order: as many together as come to at most [`PART`], at least one.
///
/// # Errors
/// None for parts of a layout that there is.
pub fn parts(layout: &Layout) -> Result<Vec<LayoutPart>> {
    parts_of(layout, PART)
}

/// The same in parts of at most so many parameters, at least a tensor.
///
/// # Errors
/// As [`parts`].
pub fn parts_of(layout: &Layout, most: usize) -> Result<Vec<LayoutPart>> {
    let segments = layout.segments();
    let end_of = |index: usize| segments.get(index).map_or(layout.len(), |segment| segment.offset);
    let mut parts = Vec::new();
    let mut first = 0;
    while first < segments.len() {
        let start = segments[first].offset;
        let mut last = first + 1;
        while last < segments.len() && end_of(last + 1) - start <= most {
            last += 1;
        }
        let tensors =
            segments[first..last].iter().map(|segment| (segment.name.as_str(), segment.shape.clone()));
        parts.push(LayoutPart {
            layout: Layout::new(tensors)?,
            range: start..end_of(last),
            segments: first..last,
        });
        first = last;
    }
    Ok(parts)
}

/// Most parameters that one of the [`parts`] may have.
pub fn longest_part(layout: &Layout) -> usize {
    longest_part_of(layout, PART)
}

/// The same of [`parts_of`].
fn longest_part_of(layout: &Layout, most: usize) -> usize {
    let longest = layout.segments().iter().map(|segment| segment.length).max().unwrap_or(0);
    longest.next_multiple_of(SEGMENT_ALIGNMENT).max(layout.len().min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_tensors_and_make_up_the_layout() {
        let layout = Layout::new([
            ("a", vec![70]),
            ("b", vec![3, 100]),
            ("c", vec![]),
            ("d", vec![0]),
            ("e", vec![9]),
        ]);
        let layout = layout.unwrap();
        for (most, expected) in [(1, 5), (256, 3), (500, 2), (1 << 20, 1)] {
            let parts = parts_of(&layout, most).unwrap();
            assert_eq!(parts.len(), expected, "{most}");
            let (mut end, mut segment) = (0, 0);
            for part in &parts {
                assert_eq!((part.range.start, part.segments.start), (end, segment));
                assert_eq!(part.layout.len(), part.range.len());
                for (own, whole) in
                    part.layout.segments().iter().zip(&layout.segments()[part.segments.clone()])
                {
                    assert_eq!((&own.name, &own.shape), (&whole.name, &whole.shape));
                    assert_eq!(own.offset + part.range.start, whole.offset);
                }
                (end, segment) = (part.range.end, part.segments.end);
            }
            assert_eq!((end, segment), (layout.len(), layout.segments().len()));
            let longest = parts.iter().map(|part| part.range.len()).max().unwrap();
            assert!(longest <= longest_part_of(&layout, most), "{most}: {longest}");
            assert!(longest_part_of(&layout, most) <= layout.len());
        }
    }
}
