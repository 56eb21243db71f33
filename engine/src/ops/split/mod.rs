//! Splitting f32 weights into two planes of 16 bits, and joining them again, bit for bit.
//!
//! The first plane is the weights rounded by [dither](cpift_kernels::dither), which products in bf16 read; the second is
//! the lower halves of their bits. So a master weight and its rounded one take 4 bytes together. Traffic: 8 bytes per
//! element in either direction. Of a NaN only that it is one is kept.
//!
//! Dither goes by an element's index. So split, every step on the planes and join take all of the weights, or at least
//! the same range of them: joined from another start, they are other numbers.

mod cpu;

use cpift_kernels::elementwise::{join_f32, split_f32};
use half::bf16;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check_length};
use crate::ops::work::Work;

const OP: &str = "split";

/// Both planes, of one length; element 0 is the one that was element 0 when they were [`split`].
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
}

/// The rounded plane of weights that lie split in `memory` ([`Planes::of`]).
pub fn rounded(memory: View<'_, f32>) -> View<'_, bf16> {
    memory.cast::<bf16>().slice(0..memory.len())
}

/// Overwrites `planes` with `weights`, rounded, and the lower halves of their bits.
///
/// # Errors
/// When the lengths differ.
pub fn split(device: &Device, weights: View<'_, f32>, planes: Planes<'_>) -> Result<()> {
    let Planes { rounded, lower } = planes;
    check_length(OP, "rounded", rounded.len(), weights.len())?;
    check_length(OP, "lower", lower.len(), weights.len())?;
    match device {
        Device::Cpu(cpu) => cpu.run(|| cpu::split(weights.host(), rounded.host(), lower.host())),
        Device::Gpu(gpu) => {
            let count = weights.len() as u64;
            split_f32(gpu.launcher(), weights.on(gpu), rounded.on(gpu), lower.on(gpu), count)?;
        }
    }
    Ok(())
}

/// Overwrites `weights` with what was [`split`].
///
/// # Errors
/// When the lengths differ.
pub fn join(device: &Device, planes: &Planes<'_>, weights: ViewMut<'_, f32>) -> Result<()> {
    let (rounded, lower) = (planes.rounded.as_view(), planes.lower.as_view());
    check_length(OP, "rounded", rounded.len(), weights.len())?;
    check_length(OP, "lower", lower.len(), weights.len())?;
    match device {
        Device::Cpu(cpu) => cpu.run(|| cpu::join(rounded.host(), lower.host(), weights.host())),
        Device::Gpu(gpu) => {
            let count = weights.len() as u64;
            join_f32(gpu.launcher(), rounded.on(gpu), lower.on(gpu), weights.on(gpu), count)?;
        }
    }
    Ok(())
}

/// Work of [`split`] and of [`join`] on so many elements.
pub fn work(elements: usize) -> Work {
    Work::new(8 * elements, 0)
}
