//! How cores overlap, tensor by tensor, from the masks that were written and the signs of what is in them.

use cpift_engine::Mask;

use super::Tensor;
use crate::checkpoint::TensorFile;
use crate::error::{Error, Result};
use crate::files::AtomicFolder;
use crate::stages::group::UpdateSigns;
use crate::stages::masks::mask_file;

/// Signs of a model's updates in its core, by tensor.
pub(super) type ModelSigns = Vec<UpdateSigns>;

/// What is known of all cores.
pub(super) struct Overlaps<'a> {
    tensors: &'a [Tensor],
    signs: Vec<ModelSigns>,
}

/// Of every two cores.
pub(super) struct Matrices {
    /// Jaccard index.
    pub jaccard: Vec<Vec<f64>>,
    /// How often what both have moved to the same side.
    pub sign_agreement: Vec<Vec<Option<f64>>>,
}

/// Shared by two cores.
#[derive(Debug, Clone, Copy, Default)]
struct Shared {
    both: u64,
    either: u64,
    agreeing: u64,
}

impl<'a> Overlaps<'a> {
    pub fn new(tensors: &'a [Tensor], models: usize) -> Self {
        Self { tensors, signs: vec![Vec::with_capacity(tensors.len()); models] }
    }

    /// Where a model's signs go, in the order of the tensors.
    pub fn of(&mut self, model: usize) -> &mut ModelSigns {
        &mut self.signs[model]
    }

    /// Jaccard index of every two cores, and how often what they share moved to the same side.
    ///
    /// # Errors
    /// A mask cannot be read.
    pub fn compare(&self, writing: &AtomicFolder, names: &[String]) -> Result<Matrices> {
        let count = names.len();
        let open = |name: &String| TensorFile::open(&writing.path_of(&mask_file(name)));
        let files = names.iter().map(open).collect::<Result<Vec<_>>>()?;
        let mut shared = vec![vec![Shared::default(); count]; count];
        for (index, tensor) in self.tensors.iter().enumerate() {
            let read = |file: &TensorFile| {
                let words = file.read_u64(&tensor.name)?;
                Ok::<_, Error>(Mask::from_words(tensor.elements, words)?)
            };
            let masks = files.iter().map(read).collect::<Result<Vec<Mask>>>()?;
            for i in 0..count {
                for j in i..count {
                    let both = masks[i].intersection_count(&masks[j])?;
                    let shared = &mut shared[i][j];
                    shared.both += both as u64;
                    shared.either += (masks[i].count() + masks[j].count() - both) as u64;
                    let (first, second) = (&self.signs[i][index], &self.signs[j][index]);
                    shared.agreeing += first.agreeing(&masks[i], second, &masks[j])? as u64;
                }
            }
        }
        let pair = |i: usize, j: usize| shared[i.min(j)][i.max(j)];
        let matrix = |i: usize| (0..count).map(move |j| (i, j));
        let jaccard = |(i, j): (usize, usize)| match pair(i, j) {
            Shared { either: 0, .. } => 0.0,
            Shared { both, either, .. } => both as f64 / either as f64,
        };
        let agreement = |(i, j): (usize, usize)| {
            let Shared { both, agreeing, .. } = pair(i, j);
            (both > 0).then(|| agreeing as f64 / both as f64)
        };
        Ok(Matrices {
            jaccard: (0..count).map(|i| matrix(i).map(jaccard).collect()).collect(),
            sign_agreement: (0..count).map(|i| matrix(i).map(agreement).collect()).collect(),
        })
    }
}
