//! A base and a fine-tune of it, tensor by tensor.

use std::path::Path;

use safetensors::Dtype;

use crate::checkpoint::{TensorFolder, is_head};
use crate::error::Result;
use crate::merge::{OutputFiles, Sizes, match_tensors};

/// Both folders, opened and matched.
#[derive(Debug)]
pub(super) struct Pair {
    /// The model, then the base.
    folders: Vec<TensorFolder>,
    /// The model's tensors, in the order in which they are stored.
    pub tensors: Vec<Tensor>,
    /// Whether the model's head is its embedding, where its configuration need not say so.
    tied: Option<bool>,
    /// Whether the base has a head that is not its embedding, and the model has none.
    pub lacks_head: bool,
    pub notices: Vec<String>,
}

/// A tensor that both have.
#[derive(Debug)]
pub(super) struct Tensor {
    /// Name in the model, and in the base.
    pub name: String,
    pub base_name: String,
    pub shape: Vec<usize>,
    /// Type in the model, and in the base: the same, or both floats.
    pub dtype: Dtype,
    pub base_dtype: Dtype,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of an element in the model.
    pub fn width(&self) -> usize {
        self.dtype.bitsize() / 8
    }

    /// Bytes in the model.
    pub fn bytes(&self) -> u64 {
        (self.elements() * self.width()) as u64
    }

    /// Bytes in the base.
    pub fn base_bytes(&self) -> u64 {
        (self.elements() * self.base_dtype.bitsize() / 8) as u64
    }
}

impl Pair {
    /// Opens both folders.
    ///
    /// # Errors
    /// One is no model's, or damaged; tensors that do not match, by name.
    pub fn open(base: &Path, model: &Path) -> Result<Self> {
        let folders = vec![TensorFolder::open(model)?, TensorFolder::open(base)?];
        let matches = match_tensors(&folders, Sizes::All)?;
        let mut tensors = Vec::with_capacity(matches.tensors.len());
        // A head that only the base has is no part of the model.
        for matched in matches.tensors.into_iter().filter(|tensor| folders[0].find(&tensor.name).is_some()) {
            let dtype =
                |folder: usize| folders[folder].require(&matched.names[folder]).map(|(_, info)| info.dtype);
            let (dtype, base_dtype) = (dtype(0)?, dtype(1)?);
            let [name, base_name] = [0, 1].map(|folder| matched.names[folder].clone());
            tensors.push(Tensor { name, base_name, shape: matched.shape, dtype, base_dtype });
        }
        let has_head = |folder: &TensorFolder| folder.names().iter().any(|name| is_head(name));
        let lacks_head = matches.tied == Some(false) && !has_head(&folders[0]);
        // What is said of such a head is of a merged model, which has it.
        let (tied, head_notice) = match lacks_head {
            true => {
                let notice =
                    "the base has a head that is not its embedding, the model has none: it is left out";
                (None, Some(notice.to_owned()))
            }
            false => (matches.tied, matches.head_notice),
        };
        let notices = head_notice.into_iter().chain(matches.notices).collect();
        Ok(Self { folders, tensors, tied, lacks_head, notices })
    }

    /// The fine-tune.
    pub fn model(&self) -> &TensorFolder {
        &self.folders[0]
    }

    /// What it was made from.
    pub fn base(&self) -> &TensorFolder {
        &self.folders[1]
    }

    /// What the model's folder has beside weights.
    pub fn files(&self) -> Result<OutputFiles> {
        OutputFiles::of(self.model(), &[], self.tied)
    }

    /// Elements of the model.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.elements() as u64).sum()
    }

    /// Bytes of the model's tensors, and of the base's.
    pub fn bytes(&self) -> (u64, u64) {
        let sum = |bytes: fn(&Tensor) -> u64| self.tensors.iter().map(bytes).sum();
        (sum(Tensor::bytes), sum(Tensor::base_bytes))
    }
}
