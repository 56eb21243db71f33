//! Splitting f32 weights into two planes of 16 bits, and joining them again, bit for bit.
//!
//! The first plane is the weights rounded by [dither](cpift_kernels::dither), which products in bf16 read; the second is
//! the lower halves of their bits. So a master weight and its rounded one take 4 bytes together. Traffic: 8 bytes per
//! element in either direction. Of a NaN only that it is one is kept.
//!
//! Dither goes by an element's index. So split, every step on the planes and join take all of the weights, or say where a
//! range of them begins: joined from another start, they are other numbers.
//!
//! [`split_in_place`] and [`join_in_place`] do it in the weights' own memory, with half as much beside it. Where joined
//! weights grow from the start of the memory, they do not reach the lower halves of the first half of them, then of half
//! of the rest, and so on: a logarithm of ranges. The last one's lower halves wait in the memory beside.

mod cpu;

use std::ops::Range;

use cpift_kernels::elementwise::{join_f32, split_f32};
use half::bf16;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check, check_length};
use crate::layout::SEGMENT_ALIGNMENT;
use crate::ops::work::Work;

const OP: &str = "split";

/// Both planes, of one length. Operations that round say which element of the whole, as it was [`split`], is the first.
#[derive(Debug)]
pub struct Planes<'a> {
    /// The weights, rounded.
    pub rounded: ViewMut<'a, bf16>,
    /// The lower halves of their bits.
    pub lower: ViewMut<'a, u16>,
}

impl<'a> Planes<'a> {
    /// The planes that lie, one behind the other, in the memory of as many f32. On a GPU their number has to be a multiple
    /// of 4, as that of a [layout](crate::Layout) is, so that the second plane is aligned.
    pub fn of(memory: ViewMut<'a, f32>) -> Self {
        let length = memory.len();
        let (rounded, lower) = memory.cast::<u16>().split_at(length);
        Self { rounded: rounded.cast(), lower }
    }

    /// Both planes of a range. Panics when it lies outside.
    pub fn slice(self, range: Range<usize>) -> Self {
        Self { rounded: self.rounded.slice(range.clone()), lower: self.lower.slice(range) }
    }
}

/// The rounded plane of weights that lie split in `memory` ([`Planes::of`]).
pub fn rounded(memory: View<'_, f32>) -> View<'_, bf16> {
    memory.cast::<bf16>().slice(0..memory.len())
}

/// Overwrites `planes` with `weights`, rounded, and the lower halves of their bits. The first weight is element `first` of
/// the whole.
///
/// # Errors
/// When the lengths differ.
pub fn split(device: &Device, weights: View<'_, f32>, first: usize, planes: Planes<'_>) -> Result<()> {
    let Planes { rounded, lower } = planes;
    check_length(OP, "rounded", rounded.len(), weights.len())?;
    check_length(OP, "lower", lower.len(), weights.len())?;
    match device {
        Device::Cpu(cpu) => cpu.run(|| cpu::split(weights.host(), first, rounded.host(), lower.host())),
        Device::Gpu(gpu) => {
            let count = weights.len() as u64;
            let (rounded, lower) = (rounded.on(gpu), lower.on(gpu));
            split_f32(gpu.launcher(), weights.on(gpu), rounded, lower, count, first as u64)?;
        }
    }
    Ok(())
}

/// Overwrites `weights` with what was [`split`] as the same elements.
///
/// # Errors
/// When the lengths differ.
pub fn join(device: &Device, planes: &Planes<'_>, first: usize, weights: ViewMut<'_, f32>) -> Result<()> {
    let (rounded, lower) = (planes.rounded.as_view(), planes.lower.as_view());
    join_views(device, rounded, lower, first, weights)
}

fn join_views(
    device: &Device,
    rounded: View<'_, bf16>,
    lower: View<'_, u16>,
    first: usize,
    weights: ViewMut<'_, f32>,
) -> Result<()> {
    check_length(OP, "rounded", rounded.len(), weights.len())?;
    check_length(OP, "lower", lower.len(), weights.len())?;
    match device {
        Device::Cpu(cpu) => cpu.run(|| cpu::join(rounded.host(), lower.host(), first, weights.host())),
        Device::Gpu(gpu) => {
            let count = weights.len() as u64;
            let (rounded, lower) = (rounded.on(gpu), lower.on(gpu));
            join_f32(gpu.launcher(), rounded, lower, weights.on(gpu), count, first as u64)?;
        }
    }
    Ok(())
}

/// Elements below which the rest of the weights is split or joined at once.
const LAST: usize = 1 << 10;
/// Elements that ranges are whole numbers of, so that both planes are aligned.
const STEP: usize = 16;

/// The ranges that `length` weights are joined in, in order: each one's weights end before its lower halves begin, but
/// for the last one's.
fn ranges(length: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut start = 0;
    while start < length {
        let end = (length + start) / 2 / STEP * STEP;
        let end = if start > 0 && end < start + LAST { length } else { end.max(start + STEP).min(length) };
        ranges.push(start..end);
        start = end;
    }
    ranges
}

/// Splits the weights in `memory` ([`Planes::of`]); `scratch` has half its bytes, and is overwritten.
///
/// # Errors
/// Another number of elements in `scratch`, or one that is not a multiple of 64.
pub fn split_in_place(
    device: &Device,
    mut memory: ViewMut<'_, f32>,
    mut scratch: ViewMut<'_, bf16>,
) -> Result<()> {
    split_apart(device, memory.reborrow(), scratch.reborrow())?;
    let length = memory.len();
    memory.cast::<bf16>().slice(0..length).copy_from(scratch.as_view())
}

/// Splits the weights in `memory` into `rounded`, a plane of its own, and the lower halves, which are left in the second
/// half of `memory`; the first half then holds nothing.
///
/// # Errors
/// As [`split_in_place`].
pub fn split_apart(device: &Device, memory: ViewMut<'_, f32>, mut rounded: ViewMut<'_, bf16>) -> Result<()> {
    let length = check_in_place(&memory, &rounded)?;
    let mut memory = memory.cast::<u16>();
    for range in ranges(length).into_iter().rev() {
        let Range { start, end } = range.clone();
        if end == length {
            // Its lower halves would come into its weights. Rounded ones of the first range overwrite them later.
            let (others, of_range) = rounded.reborrow().split_at(start);
            let mut lower = others.slice(0..range.len()).cast::<u16>();
            let weights = memory.as_view().slice(2 * start..2 * end).cast();
            split(device, weights, start, Planes { rounded: of_range, lower: lower.reborrow() })?;
            memory.reborrow().slice(length + start..2 * length).copy_from(lower.as_view())?;
        } else {
            let (weights, lower) = memory.reborrow().split_at(length + start);
            let weights = weights.as_view().slice(2 * start..2 * end).cast();
            let planes = Planes {
                rounded: rounded.reborrow().slice(range.clone()),
                lower: lower.slice(0..range.len()),
            };
            split(device, weights, start, planes)?;
        }
    }
    Ok(())
}

/// Joins the weights that lie split in `memory`; `scratch` is as of [`split_in_place`].
///
/// # Errors
/// As [`split_in_place`].
pub fn join_in_place(
    device: &Device,
    memory: ViewMut<'_, f32>,
    mut scratch: ViewMut<'_, bf16>,
) -> Result<()> {
    check_in_place(&memory, &scratch)?;
    scratch.copy_from(rounded(memory.as_view()))?;
    join_apart(device, memory, scratch)
}

/// Joins what was [split apart](split_apart) to the weights in `memory`. What `rounded` holds is lost.
///
/// # Errors
/// As [`split_in_place`].
pub fn join_apart(device: &Device, memory: ViewMut<'_, f32>, mut rounded: ViewMut<'_, bf16>) -> Result<()> {
    let length = check_in_place(&memory, &rounded)?;
    let mut memory = memory.cast::<u16>();
    for range in ranges(length) {
        let Range { start, end } = range.clone();
        if end == length {
            // The first range has been joined, so its rounded weights are needed no longer.
            let (others, of_range) = rounded.reborrow().split_at(start);
            let mut lower = others.slice(0..range.len()).cast::<u16>();
            lower.copy_from(memory.as_view().slice(length + start..2 * length))?;
            let weights = memory.reborrow().slice(2 * start..2 * end).cast();
            join_views(device, of_range.as_view(), lower.as_view(), start, weights)?;
        } else {
            let (weights, lower) = memory.reborrow().split_at(length + start);
            let (of_range, lower) = (rounded.as_view().slice(range.clone()), lower.slice(0..range.len()));
            let weights = weights.slice(2 * start..2 * end).cast();
            join_views(device, of_range, lower.as_view(), start, weights)?;
        }
    }
    Ok(())
}

/// Number of weights.
fn check_in_place(memory: &ViewMut<'_, f32>, scratch: &ViewMut<'_, bf16>) -> Result<usize> {
    check_length(OP, "scratch", scratch.len(), memory.len())?;
    check(OP, memory.len().is_multiple_of(SEGMENT_ALIGNMENT), || {
        format!("{} weights, not a multiple of {SEGMENT_ALIGNMENT}", memory.len())
    })?;
    Ok(memory.len())
}

/// Work of [`split`] and of [`join`] on so many elements.
pub fn work(elements: usize) -> Work {
    Work::new(8 * elements, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_weights_end_before_the_lower_halves_that_are_still_read() {
        for length in [0, 64, 128, 192, 1024, 4096, 70_016, 1 << 20, 134_515_008] {
            let ranges = ranges(length);
            assert!(ranges.len() < 40, "{length}: {}", ranges.len());
            let mut start = 0;
            for range in &ranges {
                assert_eq!(range.start, start);
                assert!(range.start.is_multiple_of(STEP) && !range.is_empty());
                if range.end < length {
                    assert!(2 * range.end <= length + range.start, "{length}: {range:?}");
                } else {
                    assert!(
                        range.len() <= range.start,
                        "{length}: no room for the lower halves of {range:?}"
                    );
                }
                start = range.end;
            }
            assert_eq!(start, length);
        }
    }
}
