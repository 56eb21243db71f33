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

impl Thresholds {
    /// Finds them, and how far the model is from its base, ‖θi − θ0‖ / ‖θ0‖.
    ///
    /// # Errors
    /// As [`Updates::read`].
    pub fn find(
        cpu: &CpuDevice,
        updates: &Updates<'_, '_>,
        tensors: &[Tensor],
        fraction: f64,
    ) -> Result<(Self, f64)> {
        let mut eligible: BTreeMap<usize, usize> = BTreeMap::new();
        for tensor in tensors {
            if let Some(scope) = tensor.scope {
                *eligible.entry(scope).or_default() += tensor.elements;
            }
        }
        let (mut found, mut squares) = (BTreeMap::new(), [0.0; 2]);
        let mut add = |more: [f64; 2]| squares.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        for (&scope, &count) in &eligible {
            let blocks = blocks(tensors, |tensor| tensor.scope == Some(scope));
            let (first, of_scope) = read(cpu, updates, tensors, &blocks, Tally::first)?;
            let k = share_of(fraction, count) as u64;
            let threshold = match k {
                0 => None,
                _ => {
                    let bin = first.bin(k);
                    let (second, _) = read(cpu, updates, tensors, &blocks, || Tally::second(bin))?;
                    Some(second.threshold(bin))
                }
            };
            found.insert(scope, threshold);
            add(of_scope);
        }
        // Tensors that are excluded have moved, too.
        let excluded = blocks(tensors, |tensor| tensor.scope.is_none());
        add(read(cpu, updates, tensors, &excluded, Tally::first)?.1);
        let [update, base] = squares.map(f64::sqrt);
        Ok((Self(found), update / base.max(f64::MIN_POSITIVE)))
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
    let count = |scratch: &mut Scratch, block: &Block| -> Result<[f64; 2]> {
        updates.read(tensors, block, scratch)?;
        let taken = lock().pop();
        let mut tally = taken.unwrap_or_else(&fresh);
        tally.add(&scratch.update);
        lock().push(tally);
        Ok([&scratch.update, &scratch.base].map(|values| squares(values)))
    };
    let sums: Vec<Result<[f64; 2]>> =
        cpu.run(|| blocks.par_iter().map_init(Scratch::default, count).collect());
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
