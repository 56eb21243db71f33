//! The largest magnitudes of updates, counted tile by tile on all threads.

use std::sync::{Mutex, PoisonError};

use cpift_engine::ops::merge::tile as sums;
use cpift_engine::ops::select::streaming::{Bin, Tally, Threshold};

use super::tile::{PART, Scratch, Tile};

/// Which magnitude of each update bounds its largest, found in two readings.
pub(super) struct Thresholds {
    /// How many coordinates of each update are wanted; 0 where none are chosen so.
    wanted: Vec<u64>,
    bins: Vec<Option<Bin>>,
    /// Counts of threads, each of one update after the other.
    tallies: Mutex<Vec<Vec<Option<Tally>>>>,
}

impl Thresholds {
    pub fn new(wanted: Vec<u64>) -> Self {
        Self { bins: vec![None; wanted.len()], wanted, tallies: Mutex::default() }
    }

    /// Counts a tile: its first source is the base, the others are the models.
    pub fn add(&self, reading: usize, tile: &Tile<'_>, scratch: &mut Scratch) {
        let lock = || self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let tally = |(&wanted, bin): (&u64, &Option<Bin>)| match (wanted, reading, bin) {
                (0, ..) => None,
                (_, 0, _) => Some(Tally::first()),
                (.., bin) => bin.map(Tally::second),
            };
            self.wanted.iter().zip(&self.bins).map(tally).collect::<Vec<_>>()
        };
        let taken = lock().pop();
        let mut tallies = taken.unwrap_or_else(fresh);
        for (source, tally) in tallies.iter_mut().enumerate() {
            if let Some(tally) = tally {
                each_update(tile, source, scratch, |update| tally.add(update));
            }
        }
        lock().push(tallies);
    }

    /// Ends the first reading.
    pub fn end_first(&mut self) {
        let tallies = self.take();
        for ((bin, tally), &wanted) in self.bins.iter_mut().zip(tallies).zip(&self.wanted) {
            *bin = tally.map(|tally| tally.bin(wanted));
        }
    }

    /// Ends the second: the thresholds.
    pub fn end_second(&mut self) -> Vec<Option<Threshold>> {
        let tallies = self.take().into_iter().zip(&self.bins);
        tallies.map(|(tally, bin)| tally.zip(*bin).map(|(tally, bin)| tally.threshold(bin))).collect()
    }

    /// What all threads counted.
    fn take(&mut self) -> Vec<Option<Tally>> {
        let all = std::mem::take(self.tallies.get_mut().unwrap_or_else(PoisonError::into_inner));
        let mut total: Vec<Option<Tally>> = vec![None; self.wanted.len()];
        for tallies in all {
            for (total, tally) in total.iter_mut().zip(tallies) {
                match (total, tally) {
                    (Some(total), Some(tally)) => total.join(&tally),
                    (total @ None, tally) => *total = tally,
                    (Some(_), None) => {}
                }
            }
        }
        total
    }
}

/// What a model adds to the base, into `target`.
pub(super) fn subtracted<'t>(model: &[f32], base: &[f32], target: &'t mut [f32]) -> &'t [f32] {
    let target = &mut target[..model.len()];
    sums::subtract(model, base, target);
    target
}

/// A tile's update of one model, a part after the other.
pub(super) fn each_update(
    tile: &Tile<'_>,
    source: usize,
    scratch: &mut Scratch,
    mut use_update: impl FnMut(&[f32]),
) {
    for part in tile.parts() {
        let (base, model) = scratch.parts.split_at_mut(PART);
        let (base, model) = (tile.load(0, &part, base), tile.load(source + 1, &part, model));
        use_update(subtracted(model, base, &mut scratch.sum));
    }
}
