//! SCE: the coordinates whose updates vary most, weighted by their energy, those of the elected sign.

use cpift_engine::ops::merge::tile::{self as sums, TileTerms};
use cpift_engine::ops::select::streaming::{Threshold, count_equal, mark_largest};

use super::kernel::{Kernel, Seen};
use super::tally::{Joined, subtracted};
use super::tile::{PART, Scratch, Tile, WORDS};
use crate::error::Reasoned;

/// Sums of weights count as this at least; below it all models weigh the same.
const SMALLEST: f64 = 1e-6;

pub(super) struct Sce {
    /// Models beside the base.
    models: usize,
    /// Share of the coordinates that vary, of which all others are left out; none for all coordinates.
    share: Option<f64>,
    elements: usize,
    tallies: Joined,
    /// The least variance of those that are kept.
    threshold: Option<Threshold>,
    /// Ties that are left at every tile.
    ties: Vec<u64>,
    weights: Vec<f64>,
}

impl Sce {
    pub fn new(models: usize, share: f64, elements: usize) -> Self {
        let share = Some(share).filter(|share| *share < 1.0);
        let weights = vec![1.0 / models as f64; models];
        let (tallies, threshold, ties) = (Joined::default(), None, Vec::new());
        Self { models, share, elements, tallies, threshold, ties, weights }
    }

    /// What of a part is kept; none for everything. `scores` receives the variances.
    fn kept<'w>(
        &self,
        scratch: &mut Scratch,
        length: usize,
        ties: &mut u64,
        words: &'w mut [u64],
    ) -> Option<&'w [u64]> {
        self.share?;
        let Some(threshold) = self.threshold else {
            words.fill(0);
            return Some(words);
        };
        *ties = mark_largest(self.variances(scratch, length), threshold.magnitude, *ties, words);
        Some(words)
    }

    /// Variances over the models of a part that is loaded.
    fn variances<'s>(&self, scratch: &'s mut Scratch, length: usize) -> &'s [f32] {
        let Scratch { parts, sum, .. } = scratch;
        let (base, models) = parts.split_at(PART);
        let models: Vec<&[f32]> =
            models.chunks(PART).take(self.models).map(|model| &model[..length]).collect();
        sums::variances(&models, &base[..length], &mut sum[..length]);
        &sum[..length]
    }

    fn load(&self, tile: &Tile<'_>, part: &std::ops::Range<usize>, scratch: &mut Scratch) {
        for (source, values) in scratch.parts.chunks_mut(PART).enumerate().take(self.models + 1) {
            tile.load(source, part, values);
        }
    }

    /// Weights by the models' energies.
    fn weigh(&mut self, squares: &[f64]) {
        let elements = self.elements.max(1) as f64;
        let total: f64 = squares.iter().map(|square| square / elements).sum();
        if total.abs() >= SMALLEST {
            self.weights = squares.iter().map(|square| square / elements / total).collect();
        }
    }

    /// Which of the looks at a tensor of which only a share is kept this is; the last is the only one otherwise.
    fn step(&self, look: usize) -> usize {
        if self.share.is_some() { look } else { 3 }
    }
}

impl Kernel for Sce {
    fn look(&self, look: usize, tile: &Tile<'_>, scratch: &mut Scratch) -> Seen {
        let mut seen = match self.step(look) {
            0 | 2 => Seen::Equal(vec![0]),
            3 => Seen::Products(vec![0.0; self.models]),
            _ => Seen::Nothing,
        };
        let mut tally = if self.step(look) < 2 { self.tallies.take() } else { None };
        // Of variances: in the first look those that are 0, later those at the threshold.
        let equal_to = match self.step(look) {
            0 => Some(0.0),
            _ => self.threshold.map(|threshold| threshold.magnitude),
        };
        let mut left = self.ties.get(tile.number()).copied().unwrap_or_default();
        for part in tile.parts() {
            self.load(tile, &part, scratch);
            let length = part.len();
            if let Some(tally) = &mut tally {
                tally.add(self.variances(scratch, length));
            }
            match &mut seen {
                Seen::Equal(equal) => {
                    if let Some(magnitude) = equal_to {
                        equal[0] += count_equal(self.variances(scratch, length), magnitude);
                    }
                }
                Seen::Products(squares) => {
                    let mut words = [0; WORDS];
                    let kept = self.kept(scratch, length, &mut left, &mut words);
                    for (model, square) in squares.iter_mut().enumerate() {
                        let values = &scratch.parts[(model + 1) * PART..][..length];
                        let update = subtracted(values, &scratch.parts[..length], &mut scratch.sum);
                        *square += sums::squares(update, kept);
                    }
                }
                _ => {}
            }
        }
        if let Some(tally) = tally {
            self.tallies.give_back(tally);
        }
        seen
    }

    fn learn(&mut self, look: usize, seen: Vec<Seen>) -> Reasoned<()> {
        match self.step(look) {
            0 => {
                let zeros = |seen: &Seen| if let Seen::Equal(equal) = seen { equal[0] } else { 0 };
                let varying = self.elements as u64 - seen.iter().map(zeros).sum::<u64>();
                self.tallies.end_first((varying as f64 * self.share.unwrap_or(1.0)) as u64);
            }
            1 => self.threshold = self.tallies.end_second(),
            2 => {
                let mut left = self.threshold.map_or(0, |threshold| threshold.ties);
                self.ties.clear();
                for seen in seen {
                    self.ties.push(left);
                    if let Seen::Equal(equal) = seen {
                        left = left.saturating_sub(equal[0]);
                    }
                }
            }
            _ => {
                let mut squares = vec![0.0; self.models];
                for seen in seen {
                    if let Seen::Products(part) = seen {
                        squares.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
                    }
                }
                self.weigh(&squares);
            }
        }
        Ok(())
    }

    fn combine(&self, tile: &Tile<'_>, scratch: &mut Scratch, out: &mut [f32]) {
        let mut left = self.ties.get(tile.number()).copied().unwrap_or_default();
        for part in tile.parts() {
            self.load(tile, &part, scratch);
            let (length, out) = (part.len(), &mut out[part.clone()]);
            let (mut words, mut signs) = ([0; WORDS], [0; WORDS]);
            let kept = self.kept(scratch, length, &mut left, &mut words);
            let (base, models) = scratch.parts.split_at(PART);
            let base = &base[..length];
            let models = models.chunks(PART).map(|model| &model[..length]);
            out.fill(0.0);
            for model in models.clone().take(self.models) {
                let terms = TileTerms { scale: 1.0, count: 0.0, kept, signs: None };
                sums::add_update(out, None, model, base, &terms);
            }
            sums::elect(out, &mut signs);
            let counts = &mut scratch.counts[..length];
            counts.fill(0.0);
            out.fill(0.0);
            for (model, weight) in models.zip(&self.weights) {
                let terms = TileTerms { scale: *weight, count: *weight as f32, kept, signs: Some(&signs) };
                sums::add_update(out, Some(counts), model, base, &terms);
            }
            // Where nothing was added both are 0.
            counts.iter_mut().for_each(|count| *count = count.max(SMALLEST as f32));
            sums::finish(out, Some(counts), base, 1.0);
        }
    }
}
