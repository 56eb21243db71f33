//! Transplanting cores (docs/algorithm.md, stage 3, steps 2 and 3): copying masked coordinates bit for bit,
//! and taking them out and putting them back as short lists, which is how conflicts between a few
//! tasks are resolved without whole models in memory.
//!
//! Traffic: the mask, and 8 bytes per coordinate in it (whole cache lines where it is dense).

mod cpu;
mod gpu;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check_length};
use crate::mask::Mask;
use crate::ops::work::{Work, mask_bytes, scattered_bytes};

const OP: &str = "transplant";

/// Copies every coordinate in `mask` from `source` into `backbone`, bit for bit, and changes no other.
///
/// # Errors
/// Lengths that differ.
pub fn transplant(
    device: &Device,
    backbone: ViewMut<'_, f32>,
    source: View<'_, f32>,
    mask: &Mask,
) -> Result<()> {
    check_length(OP, "source", source.len(), backbone.len())?;
    check_length(OP, "mask", mask.len(), backbone.len())?;
    match device {
        Device::Cpu(cpu) => cpu.run(|| cpu::transplant(backbone.host(), source.host(), mask.words())),
        Device::Gpu(gpu) => gpu::transplant(gpu, backbone, source, mask)?,
    }
    Ok(())
}

/// The values of the coordinates in `mask`, by ascending index.
///
/// # Errors
/// Lengths that differ.
pub fn gather(device: &Device, source: View<'_, f32>, mask: &Mask) -> Result<Vec<f32>> {
    check_length("gather", "mask", mask.len(), source.len())?;
    match device {
        Device::Cpu(_) => {
            let mut values = Vec::with_capacity(mask.count());
            values.extend(mask.indices().map(|index| source.host()[index]));
            Ok(values)
        }
        Device::Gpu(gpu) => gpu::gather(gpu, source, mask),
    }
}

/// Writes `values` to the coordinates in `mask`, by ascending index: the inverse of [`gather`].
///
/// # Errors
/// Lengths that differ, or another number of values than the mask has coordinates.
pub fn scatter(device: &Device, target: ViewMut<'_, f32>, mask: &Mask, values: &[f32]) -> Result<()> {
    check_length("scatter", "mask", mask.len(), target.len())?;
    check_length("scatter", "values", values.len(), mask.count())?;
    match device {
        Device::Cpu(_) => {
            let target = target.host();
            mask.indices().zip(values).for_each(|(index, &value)| target[index] = value);
        }
        Device::Gpu(gpu) => gpu::scatter(gpu, target, mask, values)?,
    }
    Ok(())
}

/// Work of [`transplant`] of `selected` of so many elements, scattered at random: whole sectors of the source are
/// read, and of the backbone written.
pub fn work(elements: usize, selected: usize) -> Work {
    Work::new(mask_bytes(elements) + 2 * scattered_bytes(elements, selected), 0)
}
