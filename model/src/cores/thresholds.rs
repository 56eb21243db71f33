//! The threshold of every scope: two readings of all tensors.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use cpift_engine::CpuDevice;
use cpift_engine::ops::select::share_of;
use cpift_engine::ops::select::streaming::{Tally, Threshold};
use rayon::prelude::*;

use super::Tensor;
use super::read::{Block, Scratch, Updates, blocks};
use crate::error::Result;

/// Of every scope the least magnitude in the core; none where the share comes to no parameter.
pub(super) struct Thresholds(BTreeMap<usize, Option<Threshold>>);

/// Parameters of a core in every scope.
pub(super) fn core_sizes(tensors: &[Tensor], fraction: f64) -> BTreeMap<usize, u64> {
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    for tensor in tensors {
        if let Some(scope) = tensor.scope {
            *sizes.entry(scope).or_default() += tensor.elements;
        }
    }
    sizes.into_iter().map(|(scope, size)| (scope, share_of(fraction, size) as u64)).collect()
}

impl Thresholds {
    /// Finds them for cores of these sizes, and how far the model is from its base, ‖θi − θ0‖ / ‖θ0‖.
    ///
    /// # Errors
    /// As [`Updates::read`].
    pub fn find(
        cpu: &CpuDevice,
        updates: &Updates<'_, '_>,
        tensors: &[Tensor],
        core_sizes: &BTreeMap<usize, u64>,
    ) -> Result<(Self, f64)> {
        let (mut of_scopes, mut squares) = (BTreeMap::new(), [0.0; 2]);
        let mut add = |more: [f64; 2]| squares.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        for (&scope, &k) in core_sizes {
            let blocks = blocks(tensors, |tensor| tensor.scope == Some(scope));
            let (first, of_scope) = read(cpu, updates, tensors, &blocks, Tally::first)?;
            let threshold = match k {
                0 => None,
                _ => {
                    let bin = first.bin(k);
                    let (second, _) = read(cpu, updates, tensors, &blocks, || Tally::second(bin))?;
                    Some(without_unmoved(second.threshold(bin)))
                }
            };
            of_scopes.insert(scope, threshold);
            add(of_scope);
        }
        // Tensors that are excluded have moved, too.
        let excluded = blocks(tensors, |tensor| tensor.scope.is_none());
        add(read(cpu, updates, tensors, &excluded, Tally::first)?.1);
        let [update, base] = squares.map(f64::sqrt);
        Ok((Self(of_scopes), (update / base.max(f64::MIN_POSITIVE)).min(f64::MAX)))
    }

    /// Of a scope.
    pub fn of(&self, scope: usize) -> Option<Threshold> {
        self.0.get(&scope).copied().flatten()
    }

    /// The numbers of the scopes.
    pub fn scopes(&self) -> impl Iterator<Item = usize> {
        self.0.keys().copied()
    }

    /// The least of all; 0 where there is none.
    pub fn least(&self) -> f32 {
        let least =
            self.0.values().flatten().map(|threshold| threshold.magnitude).fold(f32::INFINITY, f32::min);
        if least.is_finite() { least } else { 0.0 }
    }
}

/// What did not move is in no core: of the magnitude 0 none is taken.
fn without_unmoved(threshold: Threshold) -> Threshold {
    if threshold.magnitude == 0.0 { Threshold { ties: 0, ..threshold } } else { threshold }
}

/// Counts of all updates of these blocks, and the sums of squares of updates and of base.
fn read(
    cpu: &CpuDevice,
    updates: &Updates<'_, '_>,
    tensors: &[Tensor],
    blocks: &[Block],
    fresh: impl Fn() -> Tally + Sync,
) -> Result<(Tally, [f64; 2])> {
    let tallies: Mutex<Vec<Tally>> = Mutex::default();
    let lock = || tallies.lock().unwrap_or_else(PoisonError::into_inner);
    let count = |scratch: &mut Scratch, (number, block): (usize, &Block)| -> Result<[f64; 2]> {
        updates.read(tensors, block, number, scratch)?;
        let taken = lock().pop();
        let mut tally = taken.unwrap_or_else(&fresh);
        tally.add(&scratch.update);
        lock().push(tally);
        Ok([&scratch.update, &scratch.base].map(|values| squares(values)))
    };
    let sums: Vec<Result<[f64; 2]>> =
        cpu.run(|| blocks.par_iter().enumerate().map_init(Scratch::default, count).collect());
    let mut total = [0.0; 2];
    // In the order of the blocks, whichever thread had them.
    for sums in sums {
        total.iter_mut().zip(sums?).for_each(|(total, sum)| *total += sum);
    }
    let mut tallies = tallies.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter();
    let mut tally = tallies.next().unwrap_or_else(&fresh);
    tallies.for_each(|other| tally.join(&other));
    Ok((tally, total))
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value) * f64::from(*value)).sum()
}
