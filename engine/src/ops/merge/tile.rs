//! The arithmetic of merges on a run of coordinates in host memory, on the calling thread: what the operations above
//! are made of, and what a program calls that streams models through memory a piece at a time.
//!
//! Words of masks have one bit a coordinate, as [`crate::Mask`] has them; those of a tile begin with its first one.

use crate::cpu::simd::vectorize;
use crate::mask::WORD_BITS;
use crate::random;

/// What of an update is added to a tile, and how much of it.
#[derive(Debug, Clone, Copy)]
pub struct TileTerms<'a> {
    /// Factor of the update.
    pub scale: f64,
    /// What a coordinate that is added adds to its count.
    pub count: f32,
    /// Coordinates to add; all for `None`.
    pub kept: Option<&'a [u64]>,
    /// Of these only the coordinates whose update is above 0 where the bit is set, below 0 where it is not.
    pub signs: Option<&'a [u64]>,
}

/// Adds a model's update to `sum`, and where `counts` is given what the terms say to the count of every coordinate
/// added. Panics when lengths differ.
pub fn add_update(
    sum: &mut [f32],
    counts: Option<&mut [f32]>,
    model: &[f32],
    base: &[f32],
    terms: &TileTerms<'_>,
) {
    assert!(model.len() == sum.len() && base.len() == sum.len(), "as long as the sum");
    if let Some(counts) = &counts {
        assert_eq!(counts.len(), sum.len());
    }
    let words = sum.len().div_ceil(WORD_BITS);
    for mask in [terms.kept, terms.signs].into_iter().flatten() {
        assert!(mask.len() >= words, "a bit for every coordinate");
    }
    match (counts, terms.kept.is_some() || terms.signs.is_some()) {
        (None, false) => vectorize!(|| add_all(sum, model, base, terms.scale)),
        (None, true) => vectorize!(|| add_some::<false>(sum, &mut [], model, base, terms)),
        (Some(counts), _) => vectorize!(|| add_some::<true>(sum, counts, model, base, terms)),
    }
}

#[inline(always)]
fn add_all(sum: &mut [f32], model: &[f32], base: &[f32], scale: f64) {
    for (sum, (model, base)) in sum.iter_mut().zip(model.iter().zip(base)) {
        *sum = (scale * (f64::from(*model) - f64::from(*base)) + f64::from(*sum)) as f32;
    }
}

#[inline(always)]
fn add_some<const COUNTED: bool>(
    sum: &mut [f32],
    counts: &mut [f32],
    model: &[f32],
    base: &[f32],
    terms: &TileTerms<'_>,
) {
    let word_of = |mask: Option<&[u64]>, word: usize| mask.map_or(u64::MAX, |mask| mask[word]);
    let (model, base) = (model.chunks(WORD_BITS), base.chunks(WORD_BITS));
    let mut counts = counts.chunks_mut(WORD_BITS);
    for (word, (sum, (model, base))) in sum.chunks_mut(WORD_BITS).zip(model.zip(base)).enumerate() {
        let kept = word_of(terms.kept, word);
        let added = match terms.signs {
            Some(signs) => kept & agreeing(model, base, signs[word]),
            None => kept,
        };
        for (lane, (sum, (model, base))) in sum.iter_mut().zip(model.iter().zip(base)).enumerate() {
            let total = (terms.scale * (f64::from(*model) - f64::from(*base)) + f64::from(*sum)) as f32;
            *sum = if added >> lane & 1 == 1 { total } else { *sum };
        }
        if COUNTED {
            let counts = counts.next().unwrap_or_default();
            for (lane, count) in counts.iter_mut().enumerate() {
                *count += if added >> lane & 1 == 1 { terms.count } else { 0.0 };
            }
        }
    }
}

/// Bits of the coordinates of one word whose update has the sign that `signs` elects; an update of 0 has none.
#[inline(always)]
fn agreeing(model: &[f32], base: &[f32], signs: u64) -> u64 {
    let (mut above, mut below) = (0, 0);
    for (lane, (model, base)) in model.iter().zip(base).enumerate() {
        above |= u64::from(model > base) << lane;
        below |= u64::from(model < base) << lane;
    }
    (above & signs) | (below & !signs)
}

/// What a model adds to its base, into `update`. Panics when lengths differ.
pub fn subtract(model: &[f32], base: &[f32], update: &mut [f32]) {
    assert!(model.len() == update.len() && base.len() == update.len(), "as long as the update");
    vectorize!(|| for (update, (model, base)) in update.iter_mut().zip(model.iter().zip(base)) {
        *update = model - base;
    });
}

/// Variances of what several models add to their base, coordinate by coordinate, over the models: the mean square of the
/// difference from the mean. Panics when lengths differ.
pub fn variances(models: &[&[f32]], base: &[f32], target: &mut [f32]) {
    assert!(models.iter().all(|model| model.len() == base.len()) && target.len() == base.len());
    let count = models.len().max(1) as f64;
    vectorize!(|| for (index, (target, base)) in target.iter_mut().zip(base).enumerate() {
        let (mut sum, mut squares) = (0.0, 0.0);
        for model in models {
            sum += f64::from(model[index] - base);
        }
        let mean = sum / count;
        for model in models {
            let difference = f64::from(model[index] - base) - mean;
            squares += difference * difference;
        }
        *target = (squares / count) as f32;
    });
}

/// Sum of the squares of an update, over the coordinates that are kept; all for `None`.
pub fn squares(update: &[f32], kept: Option<&[u64]>) -> f64 {
    if let Some(kept) = kept {
        assert!(kept.len() >= update.len().div_ceil(WORD_BITS), "a bit for every coordinate");
    }
    vectorize!(|| sum_squares(update, kept))
}

#[inline(always)]
fn sum_squares(update: &[f32], kept: Option<&[u64]>) -> f64 {
    let mut lanes = [0.0; LANES];
    for (group, update) in update.chunks(LANES).enumerate() {
        let word = |kept: &[u64]| kept[group * LANES / WORD_BITS] >> (group * LANES % WORD_BITS);
        let bits = kept.map_or(u64::MAX, word);
        for (lane, update) in update.iter().enumerate() {
            let square = f64::from(*update) * f64::from(*update);
            lanes[lane] += if bits >> lane & 1 == 1 { square } else { 0.0 };
        }
    }
    lanes.iter().sum()
}

/// Adds `weight · values` to `sum`. Panics when lengths differ.
pub fn add_weighted(sum: &mut [f32], values: &[f32], weight: f64) {
    assert_eq!(values.len(), sum.len());
    vectorize!(|| for (sum, value) in sum.iter_mut().zip(values) {
        *sum = (weight * f64::from(*value) + f64::from(*sum)) as f32;
    });
}

/// Multiplies all values by `factor`.
pub fn scale(values: &mut [f32], factor: f64) {
    vectorize!(|| for value in values {
        *value = (factor * f64::from(*value)) as f32;
    });
}

/// The coordinates whose sum is 0 or more. Bits behind the last coordinate are 0.
pub fn elect(sum: &[f32], words: &mut [u64]) {
    vectorize!(|| for (sum, word) in sum.chunks(WORD_BITS).zip(words) {
        let bit = |(lane, sum): (usize, &f32)| u64::from(*sum >= 0.0) << lane;
        *word = sum.iter().enumerate().map(bit).fold(0, |word, bit| word | bit);
    });
}

/// Replaces `sum` by the merged values: base + scale · sum, divided by the counts where they are given and not 0.
/// Panics when lengths differ.
pub fn finish(sum: &mut [f32], counts: Option<&[f32]>, base: &[f32], scale: f64) {
    assert_eq!(base.len(), sum.len());
    match counts {
        Some(counts) => {
            assert_eq!(counts.len(), sum.len());
            vectorize!(|| for (sum, (base, count)) in sum.iter_mut().zip(base.iter().zip(counts)) {
                let count = if *count == 0.0 { 1.0 } else { f64::from(*count) };
                *sum = (scale / count * f64::from(*sum) + f64::from(*base)) as f32;
            });
        }
        None => vectorize!(|| for (sum, base) in sum.iter_mut().zip(base) {
            *sum = (scale * f64::from(*sum) + f64::from(*base)) as f32;
        }),
    }
}

/// Bits of the coordinates that a random mask of this share and seed has, where the first coordinate of the tile is
/// number `first`: coordinate `j` follows from the seed and `j` alone.
pub fn mark_random(first: usize, length: usize, share: f64, seed: u64, words: &mut [u64]) {
    let start = random::mix(seed);
    // The upper 53 bits, a number in [0, 1) that f64 holds exactly: below `share` where its integer is below this.
    let bound = (share * (1_u64 << 53) as f64).ceil() as u64;
    vectorize!(|| for (word, target) in words.iter_mut().enumerate().take(length.div_ceil(WORD_BITS)) {
        let begin = word * WORD_BITS;
        let mut bits = 0;
        for lane in 0..WORD_BITS {
            let drawn = random::at(start, (first + begin + lane) as u64) >> 11;
            bits |= u64::from(drawn < bound) << lane;
        }
        let inside = length - begin;
        *target = if inside < WORD_BITS { bits & ((1 << inside) - 1) } else { bits };
    });
}

/// Sums of the magnitudes of an update, over all coordinates and over those that are kept. Panics when lengths differ.
pub fn magnitudes(model: &[f32], base: &[f32], kept: &[u64]) -> (f64, f64) {
    assert_eq!(model.len(), base.len());
    assert!(kept.len() >= model.len().div_ceil(WORD_BITS), "a bit for every coordinate");
    vectorize!(|| sum_magnitudes(model, base, kept))
}

const LANES: usize = 8;

#[inline(always)]
fn sum_magnitudes(model: &[f32], base: &[f32], kept: &[u64]) -> (f64, f64) {
    let (mut all, mut some) = ([0.0; LANES], [0.0; LANES]);
    let groups = model.chunks(LANES).zip(base.chunks(LANES));
    for (group, (model, base)) in groups.enumerate() {
        let bits = kept[group * LANES / WORD_BITS] >> (group * LANES % WORD_BITS);
        for (lane, (model, base)) in model.iter().zip(base).enumerate() {
            let magnitude = f64::from((model - base).abs());
            all[lane] += magnitude;
            some[lane] += if bits >> lane & 1 == 1 { magnitude } else { 0.0 };
        }
    }
    (all.iter().sum(), some.iter().sum())
}
