//! Sums of updates: task arithmetic, TIES, DARE.

use cpift_engine::WORD_BITS;
use cpift_engine::ops::merge::tile::{self as sums, TileTerms};
use cpift_engine::ops::select::streaming::{Threshold, count_equal, mark_largest};

use super::della::Drawn;
use super::kernel::{Kernel, Seen};
use super::method::{Keep, Rescale, Term, Updates};
use super::tally::{Largest, Thresholds, each_update, subtracted};
use super::tile::{PART, Scratch, TILE, Tile, WORDS};
use crate::error::Reasoned;

/// Sums of magnitudes below this are not scaled.
const SMALLEST_SUM: f64 = 1e-7;

/// Where a term's thresholds are among all.
#[derive(Debug, Clone, Copy)]
struct Chosen {
    kept: Option<usize>,
    of_which_not: Option<usize>,
}

/// How many of the largest of so many coordinates are kept, and how many of these are not: none where they are chosen
/// otherwise, or there are none.
fn counts(keep: Keep, elements: u64) -> (Option<u64>, Option<u64>) {
    let part = |share: f64| ((share * elements as f64) as u64).min(elements);
    let (kept, dropped) = match keep {
        Keep::Largest(share) => (part(share).max(1).min(elements), 0),
        Keep::Band { share, dropped } => {
            let below = elements.saturating_sub(part(share) + part(dropped));
            (elements - below, elements - below - part(share))
        }
        Keep::All | Keep::None | Keep::Random { .. } | Keep::Ranked { .. } => (0, 0),
    };
    (Some(kept).filter(|kept| *kept > 0), Some(dropped).filter(|dropped| *dropped > 0))
}

/// How often a tensor of so many elements is looked at before its updates are joined.
pub(super) fn looks(updates: &Updates, elements: u64) -> usize {
    let is_chosen = |term: &Term| counts(term.keep, elements) != (None, None);
    // Of what is drawn by rank the sums are known before.
    let is_part = |term: &Term| !matches!(term.keep, Keep::All | Keep::None | Keep::Ranked { .. });
    let rescales = updates.rescale == Rescale::Norm && updates.terms.iter().any(is_part);
    3 * usize::from(updates.terms.iter().any(is_chosen)) + usize::from(rescales)
}

pub(super) struct UpdatesKernel {
    terms: Vec<Term>,
    rescale: Rescale,
    elect: bool,
    normalize: bool,
    scale: f64,
    /// What is chosen by magnitude, and for every term where in it its own is: what is kept, and what of that is not.
    wanted: Vec<Largest>,
    chosen: Vec<Chosen>,
    largest: Thresholds,
    thresholds: Vec<Option<Threshold>>,
    /// For every tile: of the coordinates that equal each threshold, how many are still taken.
    ties: Vec<Vec<u64>>,
    /// What each update is multiplied by.
    factors: Vec<f64>,
    /// What was drawn by rank.
    drawn: Vec<Option<Drawn>>,
}

impl UpdatesKernel {
    pub fn new(updates: &Updates, elements: usize, drawn: Vec<Option<Drawn>>) -> Self {
        let (mut wanted, mut chosen) = (Vec::new(), Vec::new());
        for (model, term) in updates.terms.iter().enumerate() {
            let (outer, inner) = counts(term.keep, elements as u64);
            let mut place = |count: Option<u64>| {
                wanted.push(Largest { model, count: count? });
                Some(wanted.len() - 1)
            };
            chosen.push(Chosen { kept: place(outer), of_which_not: place(inner) });
        }
        let factor = |term: &Term| match (updates.rescale, term.keep) {
            (
                Rescale::Density,
                Keep::Random { share, .. }
                | Keep::Ranked { share, .. }
                | Keep::Largest(share)
                | Keep::Band { share, .. },
            ) => term.weight / share,
            _ => term.weight,
        };
        let mut kernel = Self {
            terms: updates.terms.clone(),
            rescale: updates.rescale,
            elect: updates.elect,
            normalize: updates.normalize,
            scale: updates.scale,
            thresholds: vec![None; wanted.len()],
            largest: Thresholds::new(wanted.clone()),
            wanted,
            chosen,
            ties: Vec::new(),
            factors: updates.terms.iter().map(factor).collect(),
            drawn,
        };
        if kernel.rescale == Rescale::Norm {
            let sums =
                kernel.drawn.iter().map(|drawn| drawn.as_ref().map(|drawn| drawn.magnitudes)).collect();
            kernel.scale_by(sums);
        }
        kernel
    }

    fn selects(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The coordinates of a part that take part of an update, and what of its ties is left; none where all do.
    fn mark<'w>(
        &self,
        model: usize,
        (start, update): (usize, &[f32]),
        ties: &mut [u64],
        words: &'w mut [u64],
    ) -> Option<&'w [u64]> {
        match self.terms[model].keep {
            Keep::All => return None,
            Keep::None => words.fill(0),
            Keep::Random { share, seed } => sums::mark_random(start, update.len(), share, seed, words),
            Keep::Ranked { .. } => {
                let Some(Some(drawn)) = self.drawn.get(model) else { return None };
                let drawn = &drawn.words[start / WORD_BITS..];
                let count = update.len().div_ceil(WORD_BITS);
                words[..count].copy_from_slice(&drawn[..count]);
            }
            Keep::Largest(_) | Keep::Band { .. } => {
                let mut largest = |place: usize, words: &mut [u64]| {
                    let magnitude = self.thresholds[place].map_or(f32::INFINITY, |found| found.magnitude);
                    ties[place] = mark_largest(update, magnitude, ties[place], words);
                };
                let Chosen { kept, of_which_not } = self.chosen[model];
                match kept {
                    Some(place) => largest(place, words),
                    None => words.fill(0),
                }
                if let Some(place) = of_which_not {
                    let mut others = [0; WORDS];
                    largest(place, &mut others);
                    words.iter_mut().zip(others).for_each(|(word, other)| *word &= !other);
                }
            }
        }
        Some(words)
    }

    /// Ties that are left of every update where a tile begins.
    fn ties_at(&self, tile: &Tile<'_>) -> Vec<u64> {
        self.ties.get(tile.number()).cloned().unwrap_or_else(|| vec![0; self.wanted.len()])
    }

    fn look_at_ties(&self, tile: &Tile<'_>, scratch: &mut Scratch) -> Seen {
        let mut equal = vec![0; self.wanted.len()];
        for ((wanted, threshold), equal) in self.wanted.iter().zip(&self.thresholds).zip(&mut equal) {
            // Where all that are equal are taken their places do not matter.
            if let Some(threshold) = threshold.filter(|threshold| threshold.ties < threshold.equal) {
                each_update(tile, wanted.model, scratch, |update| {
                    *equal += count_equal(update, threshold.magnitude)
                });
            }
        }
        Seen::Equal(equal)
    }

    fn learn_ties(&mut self, seen: Vec<Seen>) {
        let mut left: Vec<u64> =
            self.thresholds.iter().map(|threshold| threshold.map_or(0, |threshold| threshold.ties)).collect();
        self.ties.clear();
        for seen in seen {
            self.ties.push(left.clone());
            if let Seen::Equal(equal) = seen {
                left.iter_mut().zip(equal).for_each(|(left, equal)| *left = left.saturating_sub(equal));
            }
        }
    }

    fn look_at_magnitudes(&self, tile: &Tile<'_>, scratch: &mut Scratch) -> Seen {
        let mut left = self.ties_at(tile);
        let mut magnitudes = vec![(0.0, 0.0); self.terms.len()];
        for part in tile.parts() {
            let (base, rest) = scratch.parts.split_at_mut(PART);
            let base = tile.load(0, &part, base);
            for (source, magnitudes) in magnitudes.iter_mut().enumerate() {
                let model = tile.load(source + 1, &part, rest);
                let update = subtracted(model, base, &mut scratch.sum);
                let start = tile.start + part.start;
                if let Some(kept) = self.mark(source, (start, update), &mut left, &mut scratch.words[..WORDS])
                {
                    let (all, some) = sums::magnitudes(model, base, kept);
                    magnitudes.0 += all;
                    magnitudes.1 += some;
                }
            }
        }
        Seen::Magnitudes(magnitudes)
    }

    fn learn_magnitudes(&mut self, seen: Vec<Seen>) {
        let mut totals = vec![(0.0, 0.0); self.terms.len()];
        for seen in seen {
            if let Seen::Magnitudes(magnitudes) = seen {
                for (total, part) in totals.iter_mut().zip(magnitudes) {
                    total.0 += part.0;
                    total.1 += part.1;
                }
            }
        }
        self.scale_by(totals.into_iter().map(Some).collect());
    }

    /// Scales updates to their sums of magnitudes before, where these are given with those after.
    fn scale_by(&mut self, magnitudes: Vec<Option<(f64, f64)>>) {
        for ((factor, term), magnitudes) in self.factors.iter_mut().zip(&self.terms).zip(magnitudes) {
            if let Some((before, after)) = magnitudes
                && before >= SMALLEST_SUM
                && after >= SMALLEST_SUM
            {
                *factor = term.weight * before / after;
            }
        }
    }
}

impl Kernel for UpdatesKernel {
    fn look(&self, look: usize, tile: &Tile<'_>, scratch: &mut Scratch) -> Seen {
        match look {
            0 | 1 if self.selects() => {
                self.largest.add(look, tile, scratch);
                Seen::Nothing
            }
            2 if self.selects() => self.look_at_ties(tile, scratch),
            _ => self.look_at_magnitudes(tile, scratch),
        }
    }

    fn learn(&mut self, look: usize, seen: Vec<Seen>) -> Reasoned<()> {
        match look {
            0 if self.selects() => self.largest.end_first(),
            1 if self.selects() => self.thresholds = self.largest.end_second(),
            2 if self.selects() => self.learn_ties(seen),
            _ => self.learn_magnitudes(seen),
        }
        Ok(())
    }

    fn combine(&self, tile: &Tile<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        debug_assert!(tile.length <= TILE);
        let mut left = self.ties_at(tile);
        for part in tile.parts() {
            let out = &mut out[part.clone()];
            let length = part.len();
            let (base, models) = scratch.parts.split_at_mut(PART);
            let base = tile.load(0, &part, base);
            let (signs, masks) = scratch.words.split_at_mut(WORDS);
            let mut kept: Vec<Option<&[u64]>> = Vec::with_capacity(self.terms.len());
            out.fill(0.0);
            let sources = models.chunks_mut(PART).zip(masks.chunks_mut(WORDS));
            for (source, (model, words)) in sources.enumerate().take(self.terms.len()) {
                let model = tile.load(source + 1, &part, model);
                let update = match self.terms[source].keep {
                    Keep::Largest(_) | Keep::Band { .. } => subtracted(model, base, &mut scratch.sum),
                    _ => &*model,
                };
                let mask = self.mark(source, (tile.start + part.start, update), &mut left, words);
                let terms = TileTerms { scale: self.factors[source], count: 0.0, kept: mask, signs: None };
                sums::add_update(out, None, model, base, &terms);
                kept.push(mask);
            }
            if !self.elect {
                let weights: f64 = self.terms.iter().map(|term| term.weight).sum();
                let divisor = if self.normalize && weights.abs() >= 1e-8 { weights } else { 1.0 };
                sums::finish(out, None, base, self.scale / divisor);
                continue;
            }
            sums::elect(out, signs);
            let counts = &mut scratch.counts[..length];
            counts.fill(0.0);
            out.fill(0.0);
            for (source, (model, mask)) in models.chunks(PART).zip(kept).enumerate() {
                // The sign that counts is that of the update with its weight.
                let is_turned = self.factors[source] < 0.0;
                if is_turned {
                    signs.iter_mut().for_each(|word| *word = !*word);
                }
                let (weight, scale) = (self.terms[source].weight, self.factors[source]);
                let terms = TileTerms { scale, count: weight as f32, kept: mask, signs: Some(signs) };
                let counts = self.normalize.then_some(&mut counts[..]);
                if scale != 0.0 {
                    sums::add_update(out, counts, &model[..length], base, &terms);
                }
                if is_turned {
                    signs.iter_mut().for_each(|word| *word = !*word);
                }
            }
            let counts = self.normalize.then_some(&counts[..]);
            sums::finish(out, counts, base, self.scale);
        }
    }
}
