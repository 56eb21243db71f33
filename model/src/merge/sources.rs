//! What all sources of one tensor have, tile by tile on the device's threads.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use super::convert::{narrow, widen_finite};
use super::kernel::{Kernel, Seen};
use super::plan::{Place, TensorPlan, places};
use super::reader::Block;
use super::tile::{Scratch, Stored, TILE, Tile};
use crate::checkpoint::{TensorFolder, WeightType};
use crate::error::{Error, Result};

/// The sources of one tensor of floats.
pub(super) struct Sources<'a> {
    tensor: &'a TensorPlan,
    models: &'a [TensorFolder],
    dtypes: Vec<WeightType>,
    /// Memory of threads that are not at work on a tile.
    scratches: Mutex<Vec<Scratch>>,
}

impl<'a> Sources<'a> {
    pub fn of(tensor: &'a TensorPlan, models: &'a [TensorFolder]) -> Result<Self> {
        let dtype = |place: Place<'_>| {
            let found = place.folder.find(place.name).and_then(|(_, info)| WeightType::of(info.dtype));
            found.ok_or_else(|| {
                Error::format(
                    place.folder.listing(),
                    format!("`{}` holds no floats that are supported", place.name),
                )
            })
        };
        let dtypes = match tensor.rows {
            Some(_) => vec![WeightType::F32; tensor.sources.len()],
            None => places(tensor, models).into_iter().map(dtype).collect::<Result<_>>()?,
        };
        Ok(Self { tensor, models, dtypes, scratches: Mutex::default() })
    }

    /// What all sources have of a range of a block's elements.
    fn stored<'b>(&self, block: &'b Block, range: &Range<usize>) -> Vec<Stored<'b>> {
        let stored = |(source, dtype): (usize, &WeightType)| block.stored(source, *dtype, range);
        self.dtypes.iter().enumerate().map(stored).collect()
    }

    fn tiles(block: &Block) -> impl IndexedParallelIterator<Item = Range<usize>> {
        let length = block.elements.len();
        (0..length.div_ceil(TILE)).into_par_iter().map(move |tile| tile * TILE..length.min((tile + 1) * TILE))
    }

    /// Lends memory for a tile, as many as there are threads.
    fn with_scratch<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> R {
        let lock = || self.scratches.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = lock().pop();
        let mut scratch = taken.unwrap_or_else(|| Scratch::new(self.dtypes.len()));
        let result = work(&mut scratch);
        lock().push(scratch);
        result
    }

    /// Looks at all tiles of a block.
    pub fn look(&self, kernel: &dyn Kernel, look: usize, block: &Block) -> Result<Vec<Seen>> {
        let look_at = |range: Range<usize>| {
            let stored = self.stored(block, &range);
            let tile = Tile::new(block.elements.start + range.start, range.len(), &stored);
            let seen = self.with_scratch(|scratch| kernel.look(look, &tile, scratch));
            self.require_finite(&tile, &stored).map(|()| seen)
        };
        let seen: Vec<Result<Seen>> = Self::tiles(block).map(look_at).collect();
        seen.into_iter().collect()
    }

    /// Combines all tiles of a block, into the type that is stored.
    pub fn combine(
        &self,
        kernel: &dyn Kernel,
        block: &Block,
        dtype: WeightType,
        target: &mut [u8],
    ) -> Result<()> {
        let size = dtype.bytes() as usize;
        let combine = |(range, target): (Range<usize>, &mut [u8])| {
            let stored = self.stored(block, &range);
            let tile = Tile::new(block.elements.start + range.start, range.len(), &stored);
            self.with_scratch(|scratch| {
                let mut memory = std::mem::take(&mut scratch.out);
                let out = &mut memory[..range.len()];
                kernel.combine(&tile, scratch, out);
                let fits = narrow(out, dtype, target);
                let outcome = self.require_finite(&tile, &stored);
                let outcome = outcome.and_then(|()| match fits {
                    true => Ok(()),
                    false => Err(too_large(&self.tensor.name, out, tile.start, dtype)),
                });
                scratch.out = memory;
                outcome
            })
        };
        let tiles = Self::tiles(block).zip(target.par_chunks_mut(TILE * size));
        let outcomes: Vec<Result<()>> = tiles.map(combine).collect();
        outcomes.into_iter().collect()
    }

    /// Fails where a source of a tile was not finite, naming the element.
    fn require_finite(&self, tile: &Tile<'_>, stored: &[Stored<'_>]) -> Result<()> {
        let Some(source) = tile.not_finite() else { return Ok(()) };
        let (model, name) = &self.tensor.sources[source];
        let (file, _) = self.models[*model].require(name)?;
        let (Stored { bytes, dtype }, mut values) = (stored[source], vec![0.0; tile.length]);
        widen_finite((file, name), tile.start, bytes, dtype, &mut values)
    }
}

/// The error of a tensor's first value that a type cannot hold.
pub(super) fn too_large(name: &str, values: &[f32], start: usize, dtype: WeightType) -> Error {
    // Memory that is aligned for any of the types.
    let mut memory = [0_u64];
    let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut memory)[..dtype.bytes() as usize];
    let mut index = 0;
    while index + 1 < values.len() && narrow(&values[index..=index], dtype, bytes) {
        index += 1;
    }
    let (value, dtype) = (values[index], dtype.config_name());
    Error::Job(format!("`{name}` becomes {value} at element {}, too large for {dtype}", start + index))
}
