//! The flat parameters in pieces, for what would else take memory that grows with the model.

use std::ops::Range;

use cpift_engine::WORD_BITS;

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
