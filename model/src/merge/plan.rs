//! What is written and from what: the tensors of the merged model, in the order of their bytes.

use std::ops::Range;

use safetensors::Dtype;

use super::method::How;
use super::rows::TokenRows;
use crate::checkpoint::{TensorFolder, WeightType, header_of, split};
use crate::error::{Error, Result};

/// One tensor of the merged model.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorPlan {
    /// Name in the merged model.
    pub name: String,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The type it is stored in.
    pub(crate) dtype: Dtype,
    /// What it is made of: the number of a model and the tensor's name there.
    pub sources: Vec<(usize, String)>,
    /// How.
    pub how: How,
    /// Where the sources' rows are stored, if not one behind the other as in the merged model.
    pub rows: Option<TokenRows>,
}

impl TensorPlan {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes in the merged model.
    pub fn bytes(&self) -> u64 {
        (self.elements() * self.dtype.bitsize() / 8) as u64
    }

    /// The type it is stored in, where it holds floats that can be computed with.
    pub(super) fn float(&self) -> Option<WeightType> {
        WeightType::of(self.dtype)
    }
}

/// A file of the merged model.
#[derive(Debug, Clone)]
pub(crate) struct Shard {
    pub name: String,
    /// Its tensors among all.
    pub tensors: Range<usize>,
    pub header: Vec<u8>,
}

impl Shard {
    /// Bytes of the file.
    pub fn bytes(&self, tensors: &[TensorPlan]) -> u64 {
        self.header.len() as u64 + tensors[self.tensors.clone()].iter().map(TensorPlan::bytes).sum::<u64>()
    }
}

/// Puts the tensors in the order in which they are written, and divides them into files.
pub(crate) fn shards(tensors: &mut [TensorPlan], limit: u64, single: &str) -> Result<Vec<Shard>> {
    let ranges = split(&tensors.iter().map(TensorPlan::bytes).collect::<Vec<_>>(), limit);
    let count = ranges.len();
    let shard = |(index, range): (usize, Range<usize>)| {
        let tensors = &mut tensors[range.clone()];
        // Wide types first, so that every tensor starts at a multiple of its element's size.
        tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.dtype));
        let name = match count {
            1 => single.to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let entries = tensors.iter().map(|tensor| (&tensor.name, tensor.dtype, &tensor.shape));
        // `transformers` asks for this note before it takes a file for one of its own.
        let header =
            header_of(entries, Some("pt")).map_err(|reason| Error::Job(format!("{name}: {reason}")))?;
        Ok(Shard { name, tensors: range, header })
    };
    ranges.into_iter().enumerate().map(shard).collect()
}

/// Where a tensor's source is stored.
pub(super) struct Place<'a> {
    pub name: &'a str,
    pub folder: &'a TensorFolder,
}

/// The sources of a tensor.
pub(super) fn places<'a>(tensor: &'a TensorPlan, models: &'a [TensorFolder]) -> Vec<Place<'a>> {
    let place = |(model, name): &'a (usize, String)| Place { name, folder: &models[*model] };
    tensor.sources.iter().map(place).collect()
}
