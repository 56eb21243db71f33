//! Marking what is above the thresholds, and writing it: one bit of every parameter, tensor by tensor.

use std::collections::BTreeMap;
use std::io::Write;

use cpift_engine::CpuDevice;
use cpift_engine::ops::select::streaming::{Threshold, mark_above_and_equal, take_ties};
use rayon::prelude::*;
use safetensors::Dtype;

use super::Tensor;
use super::overlap::ModelSigns;
use super::read::{Block, Scratch, Updates, blocks_of};
use super::thresholds::Thresholds;
use crate::checkpoint::header_of;
use crate::error::{Error, FileAction, Result};
use crate::files::AtomicFolder;
use crate::stages::group::UpdateSigns;
use crate::stages::masks::{MASK_FORMAT, mask_file};

/// What a block has at or above its threshold, and which of its updates are upwards: bits of its elements.
#[derive(Default)]
struct Marked {
    above: Vec<u64>,
    equal: Vec<u64>,
    up: Vec<u64>,
}

/// Writes the core of a model into the folder: parameters of it in each tensor. Ties go to the lower index, as everywhere.
/// The signs of its updates go to `signs`.
///
/// # Errors
/// As [`Updates::read`], or when the file cannot be written.
pub(super) fn write(
    cpu: &CpuDevice,
    writing: &mut AtomicFolder,
    name: &str,
    updates: &Updates<'_, '_>,
    tensors: &[Tensor],
    thresholds: &Thresholds,
    signs: &mut ModelSigns,
) -> Result<Vec<u64>> {
    let shapes: Vec<Vec<usize>> = tensors.iter().map(|tensor| vec![tensor.elements.div_ceil(64)]).collect();
    let entries = tensors.iter().zip(&shapes).map(|(tensor, shape)| (&tensor.name, Dtype::U64, shape));
    let file_name = mask_file(name);
    let path = writing.destination().join(&file_name);
    let header = header_of(entries, Some(MASK_FORMAT)).map_err(|reason| Error::format(&path, reason))?;
    let of_scope = |scope| (scope, thresholds.of(scope).map_or(0, |threshold| threshold.ties));
    let mut ties: BTreeMap<usize, u64> = thresholds.scopes().map(of_scope).collect();
    let mut counts = Vec::with_capacity(tensors.len());
    writing.write(&file_name, |file| {
        let failed = || Error::file(&path, FileAction::Write);
        file.write_all(&header).map_err(failed())?;
        for (index, tensor) in tensors.iter().enumerate() {
            let blocks: Vec<Block> = blocks_of(index, tensor).collect();
            let threshold = tensor.scope.and_then(|scope| thresholds.of(scope));
            let mark = |scratch: &mut Scratch, (number, block): (usize, &Block)| match threshold {
                None => Ok(Marked { above: vec![0; block.elements.len().div_ceil(64)], ..Marked::default() }),
                Some(threshold) => {
                    updates.read(tensors, block, number, scratch)?;
                    Ok(Marked::of(&scratch.update, threshold))
                }
            };
            let marked: Vec<Result<Marked>> =
                cpu.run(|| blocks.par_iter().enumerate().map_init(Scratch::default, mark).collect());
            let mut marked = marked.into_iter().collect::<Result<Vec<Marked>>>()?;
            if let Some(left) = tensor.scope.and_then(|scope| ties.get_mut(&scope)) {
                marked.iter_mut().for_each(|marked| marked.take_ties(left));
            }
            let words = || marked.iter().flat_map(|marked| &marked.above);
            let count: u64 = words().map(|word| u64::from(word.count_ones())).sum();
            let mut of_tensor = UpdateSigns::new(count as usize);
            for marked in &marked {
                file.write_all(bytemuck::cast_slice(&marked.above)).map_err(failed())?;
                marked.directions().for_each(|up| of_tensor.push_moved(up));
            }
            signs.push(of_tensor);
            counts.push(count);
        }
        Ok(())
    })?;
    Ok(counts)
}

impl Marked {
    fn of(update: &[f32], threshold: Threshold) -> Self {
        let (above, equal) = mark_above_and_equal(update, threshold.magnitude);
        let up = |update: &[f32]| {
            let bit = |(lane, update): (usize, &f32)| u64::from(*update > 0.0) << lane;
            update.iter().enumerate().map(bit).fold(0, |word, bit| word | bit)
        };
        Self { above, equal, up: update.chunks(64).map(up).collect() }
    }

    /// Adds the first of those that equal the threshold, as many as are left; `equal` is then all of what it was.
    fn take_ties(&mut self, left: &mut u64) {
        self.above.iter_mut().zip(&self.equal).for_each(|(above, equal)| take_ties(above, *equal, left));
    }

    /// Of each element in the core, whether its update is upwards.
    fn directions(&self) -> impl Iterator<Item = bool> + '_ {
        self.above.iter().zip(&self.up).flat_map(|(&core, &up)| {
            let mut rest = core;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(up >> bit & 1 == 1)
            })
        })
    }
}
