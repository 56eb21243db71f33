//! CPU: in chunks of whole mask words. Every coordinate is by itself, so the division does not show.

use rayon::prelude::*;

use super::Terms;
use crate::cpu::pieces::{pieces, split_mut};
use crate::layout::Layout;
use crate::mask::WORD_BITS;
use crate::random;

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
    let words = |index: usize, word: usize| {
        let of = |mask: Option<&crate::mask::Mask>| mask.map(|mask| mask.words()[index * WORDS + word]);
        (of(terms.kept).unwrap_or(u64::MAX), of(terms.signs))
    };
    let chunks = sum.par_chunks_mut(CHUNK).zip(model.par_chunks(CHUNK).zip(base.par_chunks(CHUNK)));
    let add = |index: usize, sum: &mut [f32], mut counts: Option<&mut [f32]>, model: &[f32], base: &[f32]| {
        let blocks = model.chunks(WORD_BITS).zip(base.chunks(WORD_BITS)).enumerate();
        for ((word, (model, base)), sum) in blocks.zip(sum.chunks_mut(WORD_BITS)) {
            let (kept, signs) = words(index, word);
            let added = kept & signs.map_or(u64::MAX, |signs| agreeing(model, base, signs));
            for (lane, sum) in sum.iter_mut().enumerate() {
                if added >> lane & 1 == 1 {
                    let update = f64::from(model[lane]) - f64::from(base[lane]);
                    *sum = (terms.scale * update + f64::from(*sum)) as f32;
                }
            }
            if let Some(counts) = counts.as_deref_mut() {
                for (lane, count) in counts[word * WORD_BITS..].iter_mut().take(model.len()).enumerate() {
                    *count += (added >> lane & 1) as f32;
                }
            }
        }
    };
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

/// Bits of the coordinates of one word whose update has the sign that `signs` elects; an update of 0 has none.
fn agreeing(model: &[f32], base: &[f32], signs: u64) -> u64 {
    let mut bits = 0;
    for (lane, (model, base)) in model.iter().zip(base).enumerate() {
        let agrees = if signs >> lane & 1 == 1 { model > base } else { model < base };
        bits |= u64::from(agrees) << lane;
    }
    bits
}

pub(super) fn elected_signs(layout: &Layout, sum: &[f32], words: &mut [u64]) {
    mark(layout, words, |index| sum[index] >= 0.0);
}

pub(super) fn random_mask(layout: &Layout, first: usize, share: f64, seed: u64, words: &mut [u64]) {
    let start = random::mix(seed);
    // The upper 53 bits, a number in [0, 1) that f64 holds exactly.
    let drawn =
        |index: usize| (random::at(start, (first + index) as u64) >> 11) as f64 / (1_u64 << 53) as f64;
    mark(layout, words, |index| drawn(index) < share);
}

/// Sets the bits of the parameters, padding aside, for which `wanted` holds.
fn mark(layout: &Layout, words: &mut [u64], wanted: impl Fn(usize) -> bool + Sync) {
    let pieces = pieces(layout, CHUNK);
    let targets = split_mut(words, pieces.iter().map(|piece| piece.words()));
    pieces.par_iter().zip(targets).for_each(|(piece, words)| {
        for index in piece.range.clone() {
            let offset = index - piece.range.start;
            words[offset / WORD_BITS] |= u64::from(wanted(index)) << (offset % WORD_BITS);
        }
    });
}

pub(super) fn finish(sum: &mut [f32], counts: Option<&[f32]>, base: &[f32], scale: f64) {
    let merged = |sum: &mut f32, base: &f32, factor: f64| {
        *sum = (factor * f64::from(*sum) + f64::from(*base)) as f32;
    };
    match counts {
        Some(counts) => {
            let values = sum.par_iter_mut().zip(base.par_iter().zip(counts)).with_min_len(CHUNK);
            values.for_each(|(sum, (base, count))| merged(sum, base, scale / f64::from(count.max(1.0))));
        }
        None => {
            let values = sum.par_iter_mut().zip(base).with_min_len(CHUNK);
            values.for_each(|(sum, base)| merged(sum, base, scale));
        }
    }
}
