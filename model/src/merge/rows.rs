//! Rows of embeddings and heads in the order of the merged model's tokens.

use std::fmt;
use std::ops::Range;

use super::clock::DiskClock;
use super::convert::widen_finite;
use crate::checkpoint::TensorFolder;
use crate::error::Result;

/// Where the rows of a tensor come from, for each of its sources.
#[derive(Clone, PartialEq)]
pub struct TokenRows {
    /// Elements of a row.
    width: usize,
    /// The stored tensors: number of the model, and name there.
    stored: Vec<(usize, String)>,
    /// For every source, the origin of each row.
    sources: Vec<Vec<Origin>>,
    /// Places of rows whose mean is taken.
    means: Vec<Vec<Place>>,
}

/// A row of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Number of the stored tensor.
    stored: u32,
    row: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// No model has such a row.
    Zero,
    Stored(Place),
    /// The mean of several.
    Mean(u32),
}

impl fmt::Debug for TokenRows {
    /// A digest: there are as many origins as tokens.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{} {:?} {:?}", self.width, self.stored, self.means).as_bytes());
        for origin in self.sources.iter().flatten() {
            let words = match *origin {
                Origin::Zero => [0, 0, 0],
                Origin::Stored(place) => [1, place.stored, place.row],
                Origin::Mean(number) => [2, number, 0],
            };
            for word in words {
                hasher.update(&word.to_le_bytes());
            }
        }
        write!(formatter, "TokenRows({})", hasher.finalize())
    }
}

/// What a tensor's rows are chosen from.
pub(super) struct Choice<'a> {
    /// Elements of a row.
    pub width: usize,
    /// Rows of the merged tensor.
    pub rows: usize,
    /// The stored tensor of every source: number of the model, and name there.
    pub sources: Vec<(usize, String)>,
    /// For every model, the row there of each token.
    pub of_models: &'a [Vec<Option<usize>>],
    /// The stored tensor whose rows tokens have that another model lacks.
    pub preferred: Option<(usize, String)>,
}

impl TokenRows {
    /// Chooses: a model's own row where it has the token. Else that of the preferred model; else that of the only one that
    /// has it, or the mean of all that have it; else zeros.
    pub(super) fn choose(choice: Choice<'_>, models: &[TensorFolder]) -> Self {
        let Choice { width, rows, sources, of_models, preferred } = choice;
        let count = sources.len();
        let mut stored = sources;
        let preferred = preferred.map(|tensor| {
            stored.iter().position(|other| *other == tensor).unwrap_or_else(|| {
                stored.push(tensor);
                stored.len() - 1
            })
        });
        let there: Vec<usize> = stored
            .iter()
            .map(|(model, name)| {
                models[*model].find(name).map_or(0, |(_, info)| info.shape.first().copied().unwrap_or(0))
            })
            .collect();
        let place = |index: usize, token: usize| {
            let row = of_models[stored[index].0][token].filter(|row| *row < there[index])?;
            Some(Place { stored: index as u32, row: row as u32 })
        };
        let mut means = Vec::new();
        let mut of_sources = vec![Vec::with_capacity(rows); count];
        for token in 0..rows {
            let own: Vec<Option<Place>> = (0..count).map(|index| place(index, token)).collect();
            let having: Vec<Place> = own.iter().flatten().copied().collect();
            let of_preferred = preferred.and_then(|index| place(index, token));
            let missing = match (having.as_slice(), of_preferred) {
                _ if having.len() == count => Origin::Zero,
                (_, Some(place)) | (&[place], None) => Origin::Stored(place),
                ([], None) => Origin::Zero,
                (..) => {
                    means.push(having);
                    Origin::Mean(means.len() as u32 - 1)
                }
            };
            for (origins, own) in of_sources.iter_mut().zip(own) {
                origins.push(own.map_or(missing, Origin::Stored));
            }
        }
        Self { width, stored, sources: of_sources, means }
    }

    /// Reads elements of one source; the bytes that were read.
    ///
    /// # Errors
    /// One is NaN or infinite: which of which file; the system's.
    pub(super) fn read(
        &self,
        source: usize,
        elements: Range<usize>,
        (models, clock): (&[TensorFolder], &DiskClock),
        target: &mut [f32],
    ) -> Result<u64> {
        let origins = &self.sources[source];
        let mut reading = Reading { rows: self, models, clock, bytes: 0, memory: Vec::new() };
        let (mut at, mut target) = (elements.start, target);
        while at < elements.end {
            let (first, column) = (at / self.width, at % self.width);
            // Rows that follow one another there too are read at once.
            let mut last = first;
            while (last + 1) * self.width < elements.end && follows(origins[last], origins[last + 1]) {
                last += 1;
            }
            let end = ((last + 1) * self.width).min(elements.end);
            let (part, rest) = std::mem::take(&mut target).split_at_mut(end - at);
            match origins[first] {
                Origin::Zero => part.fill(0.0),
                Origin::Stored(place) => reading.stored(place, column, part)?,
                Origin::Mean(number) => reading.mean(&self.means[number as usize], column, part)?,
            }
            (at, target) = (end, rest);
        }
        Ok(reading.bytes)
    }
}

/// Whether a row is stored behind another.
fn follows(one: Origin, next: Origin) -> bool {
    match (one, next) {
        (Origin::Stored(one), Origin::Stored(next)) => one.stored == next.stored && one.row + 1 == next.row,
        (Origin::Zero, Origin::Zero) => true,
        _ => false,
    }
}

struct Reading<'a> {
    rows: &'a TokenRows,
    models: &'a [TensorFolder],
    clock: &'a DiskClock,
    bytes: u64,
    memory: Vec<u64>,
}

impl Reading<'_> {
    /// Reads from a column of a row on.
    fn stored(&mut self, place: Place, column: usize, target: &mut [f32]) -> Result<()> {
        let (model, name) = &self.rows.stored[place.stored as usize];
        let folder = &self.models[*model];
        let (file, _, dtype) = folder.require_floats(name)?;
        let (start, size) = (place.row as usize * self.rows.width + column, dtype.bytes() as usize);
        let length = target.len() * size;
        self.memory.resize(length.div_ceil(size_of::<u64>()).max(self.memory.len()), 0);
        let bytes: &mut [u8] = &mut bytemuck::cast_slice_mut(&mut self.memory)[..length];
        self.clock.during(|| folder.read(name, start, bytes))?;
        self.bytes += length as u64;
        widen_finite((file, name), start, bytes, dtype, target)
    }

    fn mean(&mut self, places: &[Place], column: usize, target: &mut [f32]) -> Result<()> {
        target.fill(0.0);
        let mut row = vec![0.0; target.len()];
        for place in places {
            self.stored(*place, column, &mut row)?;
            target.iter_mut().zip(&row).for_each(|(sum, value)| *sum += value);
        }
        let count = places.len() as f32;
        target.iter_mut().for_each(|sum| *sum /= count);
        Ok(())
    }
}
