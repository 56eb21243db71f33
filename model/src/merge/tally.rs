//! The largest magnitudes of updates, counted tile by tile on all threads.

use std::sync::{Mutex, PoisonError};

use cpift_engine::ops::merge::tile as sums;
use cpift_engine::ops::select::streaming::{Bin, Tally, Threshold};

use super::tile::{PART, Scratch, Tile};

/// So many of the largest magnitudes of one model's update.
#[derive(Debug, Clone, Copy)]
pub(super) struct Largest {
    /// Number of the model, the base not counted.
    pub model: usize,
    /// How many; for 0 there is no threshold.
    pub count: u64,
}

/// Which magnitude of an update bounds its largest, for several of them found in two readings.
pub(super) struct Thresholds {
    wanted: Vec<Largest>,
    bins: Vec<Option<Bin>>,
    /// Counts of threads, each of all that are wanted.
    tallies: Mutex<Vec<Vec<Option<Tally>>>>,
}

impl Thresholds {
    pub fn new(wanted: Vec<Largest>) -> Self {
        Self { bins: vec![None; wanted.len()], wanted, tallies: Mutex::default() }
    }

    /// Counts a tile: its first source is the base, the others are the models.
    pub fn add(&self, reading: usize, tile: &Tile<'_>, scratch: &mut Scratch) {
        let lock = || self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || {
            let tally = |(wanted, bin): (&Largest, &Option<Bin>)| match (wanted.count, reading, bin) {
                (0, ..) => None,
                (_, 0, _) => Some(Tally::first()),
                (.., bin) => bin.map(Tally::second),
            };
            self.wanted.iter().zip(&self.bins).map(tally).collect::<Vec<_>>()
        };
        let taken = lock().pop();
        let mut tallies = taken.unwrap_or_else(fresh);
        for (wanted, tally) in self.wanted.iter().zip(&mut tallies) {
            if let Some(tally) = tally {
                each_update(tile, wanted.model, scratch, |update| tally.add(update));
            }
        }
        lock().push(tallies);
    }

    /// Ends the first reading.
    pub fn end_first(&mut self) {
        let tallies = self.take();
        for ((bin, tally), wanted) in self.bins.iter_mut().zip(tallies).zip(&self.wanted) {
            *bin = tally.map(|tally| tally.bin(wanted.count));
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

/// The same for scores that a kernel makes itself, of which it counts one sort.
#[derive(Default)]
pub(super) struct Joined {
    reading: Reading,
    tallies: Mutex<Vec<Tally>>,
}

#[derive(Default, Clone, Copy)]
enum Reading {
    #[default]
    First,
    Second(Bin),
    /// Nothing is wanted.
    Nothing,
}

impl Joined {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Tally>> {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's counts; none where nothing is wanted.
    pub fn take(&self) -> Option<Tally> {
        let taken = self.lock().pop();
        match self.reading {
            Reading::First => Some(taken.unwrap_or_else(Tally::first)),
            Reading::Second(bin) => Some(taken.unwrap_or_else(|| Tally::second(bin))),
            Reading::Nothing => None,
        }
    }

    /// Takes a thread's counts back.
    pub fn give_back(&self, tally: Tally) {
        self.lock().push(tally);
    }

    fn join(&mut self) -> Option<Tally> {
        let mut all =
            std::mem::take(self.tallies.get_mut().unwrap_or_else(PoisonError::into_inner)).into_iter();
        let mut total = all.next()?;
        all.for_each(|tally| total.join(&tally));
        Some(total)
    }

    /// Ends the first reading; so many of the largest are wanted.
    pub fn end_first(&mut self, wanted: u64) {
        let tally = self.join().filter(|_| wanted > 0);
        self.reading = tally.map_or(Reading::Nothing, |tally| Reading::Second(tally.bin(wanted)));
    }

    /// Ends the second: the threshold.
    pub fn end_second(&mut self) -> Option<Threshold> {
        let tally = self.join()?;
        match self.reading {
            Reading::Second(bin) => Some(tally.threshold(bin)),
            Reading::First | Reading::Nothing => None,
        }
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
