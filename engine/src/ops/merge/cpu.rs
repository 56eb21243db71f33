//! CPU: in chunks of whole mask words. Every coordinate is by itself, so the division does not show.

use std::ops::Range;

use rayon::prelude::*;

use super::Terms;
use super::tile::{self, TileTerms};
use crate::cpu::pieces::{pieces, split_mut};
use crate::layout::Layout;
use crate::mask::{Mask, WORD_BITS};

/// Elements one thread takes at a time.
const CHUNK: usize = 1 << 16;
const WORDS: usize = CHUNK / WORD_BITS;

pub(super) fn add_update(
    sum: &mut [f32],
    counts: Option<&mut [f32]>,
    model: &[f32],
    base: &[f32],
    terms: &Terms<'_>,
) {
    let add = |index: usize, sum: &mut [f32], counts: Option<&mut [f32]>, model: &[f32], base: &[f32]| {
        let [kept, signs] = [terms.kept, terms.signs]
            .map(|mask: Option<&Mask>| mask.map(|mask| &mask.words()[index * WORDS..]));
        tile::add_update(
            sum,
            counts,
            model,
            base,
            &TileTerms { scale: terms.scale, count: 1.0, kept, signs },
        );
    };
    let chunks = sum.par_chunks_mut(CHUNK).zip(model.par_chunks(CHUNK).zip(base.par_chunks(CHUNK)));
    match counts {
        Some(counts) => {
            chunks.zip(counts.par_chunks_mut(CHUNK)).enumerate().for_each(
                |(index, ((sum, (model, base)), counts))| add(index, sum, Some(counts), model, base),
            );
        }
        None => {
            chunks.enumerate().for_each(|(index, (sum, (model, base)))| add(index, sum, None, model, base));
        }
    }
}

pub(super) fn elected_signs(layout: &Layout, sum: &[f32], words: &mut [u64]) {
    mark(layout, words, |piece, words| tile::elect(&sum[piece], words));
}

pub(super) fn random_mask(layout: &Layout, first: usize, share: f64, seed: u64, words: &mut [u64]) {
    mark(layout, words, |piece, words| {
        tile::mark_random(first + piece.start, piece.len(), share, seed, words);
    });
}

/// Sets the bits of the parameters, padding aside, a piece at a time.
fn mark(layout: &Layout, words: &mut [u64], mark_piece: impl Fn(Range<usize>, &mut [u64]) + Sync) {
    let pieces = pieces(layout, CHUNK);
    let targets = split_mut(words, pieces.iter().map(|piece| piece.words()));
    pieces.par_iter().zip(targets).for_each(|(piece, words)| mark_piece(piece.range.clone(), words));
}

pub(super) fn finish(sum: &mut [f32], counts: Option<&[f32]>, base: &[f32], scale: f64) {
    let chunks = sum.par_chunks_mut(CHUNK).zip(base.par_chunks(CHUNK));
    match counts {
        Some(counts) => chunks
            .zip(counts.par_chunks(CHUNK))
            .for_each(|((sum, base), counts)| tile::finish(sum, Some(counts), base, scale)),
        None => chunks.for_each(|(sum, base)| tile::finish(sum, None, base, scale)),
    }
}
