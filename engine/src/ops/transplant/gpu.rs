//! GPU: the mask's copy on the device, and for lists how many coordinates lie before each of its parts.

use cpift_kernels::transplant as kernels;

use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory};
use crate::mask::{Mask, WORD_BITS};

pub(super) fn transplant(
    gpu: &GpuDevice,
    backbone: ViewMut<'_, f32>,
    source: View<'_, f32>,
    mask: &Mask,
) -> Result<()> {
    let count = backbone.len() as u64;
    let (backbone, source) = (backbone.on(gpu), source.on(gpu));
    Ok(kernels::transplant(gpu.launcher(), backbone, source, mask.on(gpu)?, count)?)
}

pub(super) fn gather(gpu: &GpuDevice, source: View<'_, f32>, mask: &Mask) -> Result<Vec<f32>> {
    let (offsets, selected) = offsets(mask);
    let mut values = vec![0.0; selected];
    if selected > 0 {
        let offsets = GpuMemory::from_slice(gpu, &offsets)?;
        let mut target = GpuMemory::zeros(gpu, selected)?;
        kernels::transplant_gather(
            gpu.launcher(),
            source.on(gpu),
            mask.on(gpu)?,
            offsets.all().argument(),
            target.all_mut().argument(),
            source.len() as u64,
            selected as u64,
        )?;
        target.all().read(&mut values)?;
    }
    Ok(values)
}

pub(super) fn scatter(gpu: &GpuDevice, target: ViewMut<'_, f32>, mask: &Mask, values: &[f32]) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    let offsets = GpuMemory::from_slice(gpu, &offsets(mask).0)?;
    let list = GpuMemory::from_slice(gpu, values)?;
    let count = target.len() as u64;
    let (target, offsets, list) = (target.on(gpu), offsets.all().argument(), list.all().argument());
    let selected = values.len() as u64;
    Ok(kernels::transplant_scatter(gpu.launcher(), target, mask.on(gpu)?, offsets, list, count, selected)?)
}

/// The number of coordinates before each run of [`kernels::OFFSET_WORDS`] words of 32 bits, and of all.
fn offsets(mask: &Mask) -> (Vec<u64>, usize) {
    const WORDS: usize = kernels::OFFSET_WORDS * u32::BITS as usize / WORD_BITS;
    let mut before = 0;
    let mut offsets = Vec::with_capacity(mask.words().len().div_ceil(WORDS));
    for words in mask.words().chunks(WORDS) {
        offsets.push(before);
        before += words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
    }
    (offsets, before as usize)
}
