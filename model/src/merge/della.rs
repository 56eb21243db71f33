//! DELLA: coordinates that take part with a probability by the rank of their magnitude in its row.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_engine::random;
use cpift_engine::{CpuDevice, WORD_BITS};
use rayon::prelude::*;

use super::clock::DiskClock;
use super::convert::widen_finite;
use super::method::{How, Keep};
use super::plan::{TensorPlan, places};
use crate::checkpoint::TensorFolder;
use crate::error::Result;

/// Elements that are read at once, in whole slabs.
const CHUNK: usize = 1 << 20;

/// What was drawn of one model's update.
#[derive(Debug, Clone)]
pub(super) struct Drawn {
    /// A bit for every coordinate that takes part.
    pub words: Vec<u64>,
    /// Sums of magnitudes, of all coordinates and of those.
    pub magnitudes: (f64, f64),
}

/// What is drawn of every term of a tensor; nothing for those that are chosen otherwise. And the bytes that were read.
pub(super) fn draw(
    cpu: &CpuDevice,
    tensor: &TensorPlan,
    models: &[TensorFolder],
    (clock, stop): (&DiskClock, &AtomicBool),
) -> Result<(Vec<Option<Drawn>>, u64)> {
    let How::Updates(updates) = &tensor.how else { return Ok((Vec::new(), 0)) };
    let mut read = 0;
    let mut drawn = Vec::with_capacity(updates.terms.len());
    for (source, term) in (1..).zip(&updates.terms) {
        let Keep::Ranked { share, spread, seed } = term.keep else {
            drawn.push(None);
            continue;
        };
        let rows = Rows::of(&tensor.shape);
        let draw = Draw { rows, share, spread, start: random::mix(seed) };
        let mut of_model =
            Drawn { words: vec![0; tensor.elements().div_ceil(WORD_BITS)], magnitudes: (0.0, 0.0) };
        let slabs = (CHUNK / rows.slab().max(1)).max(1) * rows.slab();
        for start in (0..tensor.elements()).step_by(slabs.max(1)) {
            if stop.load(Ordering::Relaxed) {
                // The tensor is not begun: whoever asked sees the same.
                return Ok((Vec::new(), read));
            }
            let length = slabs.min(tensor.elements() - start);
            let base = load((tensor, 0), models, start..start + length, clock)?;
            let mut update = load((tensor, source), models, start..start + length, clock)?;
            read += 2 * (length * size_of::<f32>()) as u64;
            update.iter_mut().zip(&base).for_each(|(update, base)| *update -= base);
            let kept = cpu.run(|| draw.keep(start, &update));
            for (index, (update, kept)) in update.iter().zip(kept).enumerate() {
                let magnitude = f64::from(update.abs());
                of_model.magnitudes.0 += magnitude;
                if kept {
                    of_model.magnitudes.1 += magnitude;
                    let place = start + index;
                    of_model.words[place / WORD_BITS] |= 1 << (place % WORD_BITS);
                }
            }
        }
        drawn.push(Some(of_model));
    }
    Ok((drawn, read))
}

/// Elements of a source as f32.
fn load(
    (tensor, source): (&TensorPlan, usize),
    models: &[TensorFolder],
    elements: Range<usize>,
    clock: &DiskClock,
) -> Result<Vec<f32>> {
    let (start, length) = (elements.start, elements.len());
    if let Some(rows) = &tensor.rows {
        let mut values = vec![0.0; length];
        rows.read(source, elements, (models, clock), &mut values)?;
        return Ok(values);
    }
    let place = &places(tensor, models)[source];
    let (file, _, dtype) = place.folder.require_floats(place.name)?;
    let size = dtype.bytes() as usize;
    let mut memory = vec![0_u64; (length * size).div_ceil(size_of::<u64>())];
    let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut memory)[..length * size];
    clock.during(|| place.folder.read(place.name, start, bytes))?;
    let mut values = vec![0.0; length];
    widen_finite((file, place.name), start, bytes, dtype, &mut values)?;
    Ok(values)
}

/// The rows of a tensor, along its second dimension; of a vector it is all of it.
#[derive(Debug, Clone, Copy)]
struct Rows {
    length: usize,
    /// Elements from one of a row to the next: those of the dimensions behind.
    stride: usize,
}

impl Rows {
    fn of(shape: &[usize]) -> Self {
        match shape {
            [] => Self { length: 1, stride: 1 },
            [length] => Self { length: *length, stride: 1 },
            [_, length, behind @ ..] => Self { length: *length, stride: behind.iter().product() },
        }
    }

    /// Elements that have whole rows.
    fn slab(self) -> usize {
        self.length * self.stride
    }
}

/// With which probability a coordinate takes part, and what says whether it does.
#[derive(Debug, Clone, Copy)]
struct Draw {
    rows: Rows,
    share: f64,
    spread: f64,
    start: u64,
}

impl Draw {
    /// Which coordinates of whole slabs take part.
    fn keep(&self, first: usize, update: &[f32]) -> Vec<bool> {
        let slab = self.rows.slab();
        let mut kept = vec![false; update.len()];
        let slabs = update.par_chunks(slab).zip(kept.par_chunks_mut(slab)).enumerate();
        slabs.for_each(|(number, (update, kept))| {
            let Rows { length, stride } = self.rows;
            let mut order: Vec<usize> = Vec::with_capacity(length);
            for row in 0..stride {
                order.clear();
                order.extend((0..length).map(|index| index * stride + row));
                order.sort_by(|&one, &other| update[one].abs().total_cmp(&update[other].abs()));
                for (rank, &place) in order.iter().enumerate() {
                    // From 0 for the smallest to 1 for the largest.
                    let rank = if length > 1 { rank as f64 / (length - 1) as f64 } else { 0.5 };
                    let probability = self.share - self.spread + 2.0 * self.spread * rank;
                    let drawn = random::at(self.start, (first + number * slab + place) as u64) >> 11;
                    kept[place] = (drawn as f64) < probability * (1_u64 << 53) as f64;
                }
            }
        });
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_magnitudes_of_every_row_are_kept_more_often() {
        let shape = [200, 500, 2];
        let update: Vec<f32> =
            (0..200_000_u32).map(|index| ((index * 7919 % 1009) as f32 - 500.0) * 1e-3).collect();
        let draw = Draw { rows: Rows::of(&shape), share: 0.3, spread: 0.2, start: random::mix(5) };
        let kept = draw.keep(0, &update);
        let share = |wanted: &dyn Fn(f32) -> bool| {
            let of: Vec<bool> = update
                .iter()
                .zip(&kept)
                .filter(|(update, _)| wanted(update.abs()))
                .map(|(_, kept)| *kept)
                .collect();
            of.iter().filter(|kept| **kept).count() as f64 / of.len() as f64
        };
        // Ranks are even in [0, 1]: means of the probabilities, with more than five standard deviations around.
        for (mean, found) in [
            (0.3, share(&|_| true)),
            (0.2, share(&|magnitude| magnitude < 0.25)),
            (0.4, share(&|magnitude| magnitude >= 0.25)),
        ] {
            assert!((found - mean).abs() < 0.01, "{found} instead of {mean}");
        }
        // In pieces the same.
        let half = update.len() / 2;
        assert_eq!([draw.keep(0, &update[..half]), draw.keep(half, &update[half..])].concat(), kept);
        assert_eq!(Rows::of(&[7]).slab(), 7);
    }
}
