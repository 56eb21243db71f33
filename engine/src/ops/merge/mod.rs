//! Sums of updates: what plain averaging, task arithmetic, TIES and DARE are made of.
//!
//! A model's update is what it adds to its base, u = θi − θ0. The usual merges differ in which updates they
//! add up and in what they divide by:
//!
//! ```text
//! sum    += scale · u         over the coordinates that are kept (and whose update has the elected sign)
//! counts += 1                 over the same coordinates
//! result  = θ0 + λ · sum, or θ0 + λ · sum / max(counts, 1)
//! ```
//!
//! The models come one at a time, so that memory does not grow with their number. There is no backward: it
//! is never differentiated. Traffic: 16 bytes per coordinate and model, 24 with counts; 12 and 16 at the end.
//! On a GPU these take the way over the host: a merge is made once in a job, between reading files.

mod cpu;
pub mod tile;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check, check_length};
use crate::layout::Layout;
use crate::mask::Mask;

const OP: &str = "merge";

/// What of an update is added, and how much of it.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Factor of the update.
    pub scale: f64,
    /// Coordinates to add; all for `None`.
    pub kept: Option<&'a Mask>,
    /// Of these only the coordinates whose update is above 0 where the bit is set, below 0 where it is not.
    pub signs: Option<&'a Mask>,
}

/// Adds a model's update to `sum`, and where `counts` is given 1 to the count of every coordinate added.
///
/// # Errors
/// Lengths that differ, or a scale that is not finite.
pub fn add_update(
    device: &Device,
    sum: ViewMut<'_, f32>,
    counts: Option<ViewMut<'_, f32>>,
    model: View<'_, f32>,
    base: View<'_, f32>,
    terms: &Terms<'_>,
) -> Result<()> {
    check_length(OP, "model", model.len(), sum.len())?;
    check_length(OP, "base", base.len(), sum.len())?;
    for mask in [terms.kept, terms.signs].into_iter().flatten() {
        check_length(OP, "mask", mask.len(), sum.len())?;
    }
    if let Some(counts) = &counts {
        check_length(OP, "counts", counts.len(), sum.len())?;
    }
    check(OP, terms.scale.is_finite(), || format!("scale = {} must be finite", terms.scale))?;
    match device {
        Device::Cpu(cpu) => {
            let counts = counts.map(ViewMut::host);
            cpu.run(|| cpu::add_update(sum.host(), counts, model.host(), base.host(), terms));
            Ok(())
        }
        Device::Gpu(_) => {
            let (model, base) = (model.to_vec()?, base.to_vec()?);
            change_on_host(sum, |sum| match counts {
                Some(counts) => change_on_host(counts, |counts| {
                    cpu::add_update(sum, Some(counts), &model, &base, terms);
                    Ok(())
                }),
                None => {
                    cpu::add_update(sum, None, &model, &base, terms);
                    Ok(())
                }
            })
        }
    }
}

/// The coordinates whose sum is 0 or more: the sign that TIES elects. `sum` is over the layout's elements.
///
/// # Errors
/// Lengths that differ.
pub fn elected_signs(device: &Device, layout: &Layout, sum: View<'_, f32>) -> Result<Mask> {
    check_length(OP, "sum", sum.len(), layout.len())?;
    let mut mask = Mask::zeros(layout.len());
    match device {
        Device::Cpu(cpu) => cpu.run(|| cpu::elected_signs(layout, sum.host(), mask.words_mut())),
        Device::Gpu(_) => cpu::elected_signs(layout, &sum.to_vec()?, mask.words_mut()),
    }
    Ok(mask)
}

/// Replaces `sum` by the merged model: base + scale · sum, divided by the counts where they are given.
///
/// # Errors
/// Lengths that differ, or a scale that is not finite.
pub fn finish(
    device: &Device,
    sum: ViewMut<'_, f32>,
    counts: Option<View<'_, f32>>,
    base: View<'_, f32>,
    scale: f64,
) -> Result<()> {
    check_length(OP, "base", base.len(), sum.len())?;
    if let Some(counts) = &counts {
        check_length(OP, "counts", counts.len(), sum.len())?;
    }
    check(OP, scale.is_finite(), || format!("scale = {scale} must be finite"))?;
    match device {
        Device::Cpu(cpu) => {
            let counts = counts.map(|counts| counts.host());
            cpu.run(|| cpu::finish(sum.host(), counts, base.host(), scale));
            Ok(())
        }
        Device::Gpu(_) => {
            let counts = counts.map(|counts| counts.to_vec()).transpose()?;
            let base = base.to_vec()?;
            change_on_host(sum, |sum| {
                cpu::finish(sum, counts.as_deref(), &base, scale);
                Ok(())
            })
        }
    }
}

/// Every coordinate of the layout with probability `share`, each for itself: what DARE keeps. The layout may be a part of
/// another, beginning at its coordinate `first`: coordinate `j` follows from the seed and `first + j` alone.
///
/// # Errors
/// A share outside [0, 1].
pub fn random_mask(layout: &Layout, first: usize, share: f64, seed: u64) -> Result<Mask> {
    check(OP, (0.0..=1.0).contains(&share), || format!("share = {share} must be in [0, 1]"))?;
    let mut mask = Mask::zeros(layout.len());
    cpu::random_mask(layout, first, share, seed, mask.words_mut());
    Ok(mask)
}

fn change_on_host(mut view: ViewMut<'_, f32>, change: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
    let mut values = view.as_view().to_vec()?;
    change(&mut values)?;
    view.copy_from_host(&values)
}
