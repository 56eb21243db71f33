//! Streaming tensors from files into the flat parameters, converted to f32.

use std::ops::Range;

use cpift_engine::cpu::convert::all_finite;
use cpift_engine::{Layout, ViewMut};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

use super::header::TensorFile;
use super::low_rank::{Addition, Product};
use crate::error::{Error, Result};
use crate::files::FILE_BUFFERS;

/// Elements converted at a time: the staging memory of one thread is at most 8 MiB.
const CHUNK: usize = 1 << 20;

const _: () = assert!(cfg!(target_endian = "little"), "safetensors are little-endian, and read as they are");

/// Bytes that reading or writing a model takes at most on so many threads, beside its weights.
pub fn staging_bytes(layout: &Layout, threads: usize) -> usize {
    let longest = layout.segments().iter().map(|segment| segment.length).max().unwrap_or(0);
    let of_thread = longest.min(CHUNK) * (size_of::<u16>() + size_of::<f32>());
    threads * of_thread + FILE_BUFFERS
}

/// A stored tensor; that it holds floats has been checked.
#[derive(Clone, Copy)]
pub(super) struct Stored<'a> {
    pub file: &'a TensorFile,
    /// Name in that file.
    pub name: &'a str,
    /// What is added to it.
    pub addition: Option<Addition<'a>>,
}

/// One tensor to be read.
pub(super) struct Load<'a> {
    pub stored: Stored<'a>,
    /// Elements that the tensor must have.
    pub elements: usize,
    /// The elements of it that are read.
    pub range: Range<usize>,
    /// Where they go.
    pub target: ViewMut<'a, f32>,
}

/// A part of a tensor, read at once.
struct Piece<'a> {
    stored: Stored<'a>,
    product: Option<&'a Product>,
    start: usize,
    target: ViewMut<'a, f32>,
}

/// A thread's memory for one chunk on its way.
#[derive(Default)]
struct Staging {
    half: Vec<u16>,
    single: Vec<f32>,
}

/// Reads all tensors, in parallel. The first error in the order of the tensors is returned.
pub(super) fn run(loads: Vec<Load<'_>>) -> Result<()> {
    let products = products(loads.iter().map(|load| load.stored).collect())?;
    let mut pieces = Vec::new();
    for (Load { stored, elements: expected, range, target }, product) in loads.into_iter().zip(&products) {
        let elements = stored.elements()?;
        if elements != expected || range.end > elements || range.len() != target.len() {
            let reason = format!("`{}` has {elements} elements, expected {expected}", stored.name);
            return Err(Error::format(stored.file.path(), reason));
        }
        let mut rest = target;
        for start in range.clone().step_by(CHUNK) {
            let (target, after) = rest.split_at(CHUNK.min(range.end - start));
            pieces.push(Piece { stored, product: product.as_ref(), start, target });
            rest = after;
        }
    }
    let outcomes: Vec<Result<()>> = pieces.into_par_iter().map_init(Staging::default, load_piece).collect();
    outcomes.into_iter().collect()
}

fn load_piece(staging: &mut Staging, piece: Piece<'_>) -> Result<()> {
    let Piece { stored, product, start, mut target } = piece;
    Ok(target.copy_from_host(staging.read_finite(stored, product, start, target.len())?)?)
}

/// Reads all tensors, in parallel, and keeps nothing: fails on what [`run`] fails on.
pub(super) fn check(tensors: Vec<Stored<'_>>) -> Result<()> {
    let products = products(tensors.clone())?;
    let mut pieces = Vec::new();
    for (stored, product) in tensors.into_iter().zip(&products) {
        let elements = stored.elements()?;
        let piece = |start| (stored, product.as_ref(), start, CHUNK.min(elements - start));
        pieces.extend((0..elements).step_by(CHUNK).map(piece));
    }
    let check_piece = |staging: &mut Staging, (stored, product, start, length)| {
        staging.read_finite(stored, product, start, length).map(drop)
    };
    let outcomes: Vec<Result<()>> = pieces.into_par_iter().map_init(Staging::default, check_piece).collect();
    outcomes.into_iter().collect()
}

/// What is added to each tensor.
fn products(tensors: Vec<Stored<'_>>) -> Result<Vec<Option<Product>>> {
    let products: Vec<Result<_>> = tensors.into_par_iter().map(|stored| stored.product()).collect();
    products.into_iter().collect()
}

impl Stored<'_> {
    /// What is added to it, read.
    fn product(&self) -> Result<Option<Product>> {
        self.addition.map(Addition::read).transpose()
    }

    fn elements(&self) -> Result<usize> {
        Ok(self.file.require(self.name)?.shape.iter().product())
    }
}

impl Addition<'_> {
    /// Reads both matrices.
    pub fn read(self) -> Result<Product> {
        let Self { file, low_rank } = self;
        let read = |name: &str| {
            let stored = Stored { file, name, addition: None };
            let mut staging = Staging::default();
            staging.read_finite(stored, None, 0, stored.elements()?)?;
            Ok::<_, Error>(staging.single)
        };
        let (left, right) = (read(&low_rank.left.name)?, read(&low_rank.right.name)?);
        Ok(Product::new(low_rank, &left, &right))
    }
}

impl Staging {
    /// As [`Staging::read`]; NaN and infinity are errors.
    fn read_finite(
        &mut self,
        stored: Stored<'_>,
        product: Option<&Product>,
        start: usize,
        length: usize,
    ) -> Result<&[f32]> {
        let values = self.read(stored, product, start, length)?;
        match first_not_finite(values) {
            None => Ok(values),
            Some(index) => {
                let reason = format!("`{}` has {} at element {}", stored.name, values[index], start + index);
                Err(Error::format(stored.file.path(), reason))
            }
        }
    }

    /// Elements `start..start + length` of a tensor of floats as f32, with what is added to them.
    fn read(
        &mut self,
        stored: Stored<'_>,
        product: Option<&Product>,
        start: usize,
        length: usize,
    ) -> Result<&[f32]> {
        self.read_stored(stored, start, length)?;
        if let Some(product) = product {
            product.add_to(start, &mut self.single);
        }
        Ok(&self.single)
    }

    /// The same as they are stored.
    fn read_stored(&mut self, stored: Stored<'_>, start: usize, length: usize) -> Result<()> {
        let Stored { file, name, .. } = stored;
        let tensor = file.require(name)?;
        self.single.resize(length, 0.0);
        if tensor.dtype == Dtype::F32 {
            return file.read(tensor, start, &mut self.single);
        }
        self.half.resize(length, 0);
        file.read(tensor, start, &mut self.half)?;
        if tensor.dtype == Dtype::BF16 {
            bytemuck::cast_slice::<u16, bf16>(&self.half).convert_to_f32_slice(&mut self.single);
        } else {
            bytemuck::cast_slice::<u16, f16>(&self.half).convert_to_f32_slice(&mut self.single);
        }
        Ok(())
    }
}

/// True when two stored tensors of as many floats have exactly the same values.
pub(super) fn are_equal(one: Stored<'_>, other: Stored<'_>) -> Result<bool> {
    let (mut ours, mut theirs) = (Staging::default(), Staging::default());
    let (our_product, their_product) = (one.product()?, other.product()?);
    let elements = one.elements()?;
    for start in (0..elements).step_by(CHUNK) {
        let length = CHUNK.min(elements - start);
        let ours = ours.read(one, our_product.as_ref(), start, length)?;
        if ours != theirs.read(other, their_product.as_ref(), start, length)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first NaN or infinity.
pub(super) fn first_not_finite(values: &[f32]) -> Option<usize> {
    if all_finite(values) {
        return None;
    }
    values.iter().position(|value| !value.is_finite())
}

impl TensorFile {
    /// Reads a tensor of floats that must have this shape, converted to f32.
    ///
    /// # Errors
    /// It is missing, has another shape or type, cannot be read, or holds NaN or infinity.
    pub fn read_floats(&self, name: &str, shape: &[usize], target: ViewMut<'_, f32>) -> Result<()> {
        self.require_floats(name, shape)?;
        let elements = target.len();
        let stored = Stored { file: self, name, addition: None };
        run(vec![Load { stored, elements, range: 0..elements, target }])
    }

    /// Reads a one-dimensional tensor of `target.len()` bf16.
    ///
    /// # Errors
    /// It is missing, has another type or shape, or cannot be read.
    pub fn read_bf16(&self, name: &str, mut target: ViewMut<'_, bf16>) -> Result<()> {
        self.require_floats(name, &[target.len()])?;
        let tensor = self.require(name)?;
        if tensor.dtype != Dtype::BF16 {
            return Err(self.wrong_type(name, tensor.dtype, "BF16 is expected"));
        }
        let mut staging: Vec<bf16> = Vec::new();
        for start in (0..target.len()).step_by(CHUNK) {
            let length = CHUNK.min(target.len() - start);
            staging.resize(length, bf16::ZERO);
            self.read(tensor, start, &mut staging)?;
            target.reborrow().slice(start..start + length).copy_from_host(&staging)?;
        }
        Ok(())
    }

    /// Reads tensors named `prefix` + the layout's names into a flat allocation of that layout
    /// ([`Layout::len`] elements; padding is left as it is): what [`super::layout_tensors`] wrote.
    ///
    /// # Errors
    /// As [`TensorFile::read_floats`].
    pub fn read_layout(&self, layout: &Layout, prefix: &str, mut target: ViewMut<'_, f32>) -> Result<()> {
        super::check_layout_length(layout, target.len())?;
        for segment in layout.segments() {
            let part = target.reborrow().slice(segment.range());
            self.read_floats(&format!("{prefix}{}", segment.name), &segment.shape, part)?;
        }
        Ok(())
    }

    /// Reads a one-dimensional tensor of 64-bit integers.
    ///
    /// # Errors
    /// It is missing, has another type or more dimensions, or cannot be read.
    pub fn read_u64(&self, name: &str) -> Result<Vec<u64>> {
        let tensor = self.require(name)?;
        if tensor.dtype != Dtype::U64 {
            return Err(self.wrong_type(name, tensor.dtype, "U64 is expected"));
        }
        let &[length] = tensor.shape.as_slice() else {
            let reason = format!("`{name}` has the shape {:?}; one dimension is expected", tensor.shape);
            return Err(Error::format(self.path(), reason));
        };
        // The header was checked against the file's length, so this cannot be larger than the file.
        let mut values = vec![0; length];
        self.read(tensor, 0, &mut values)?;
        Ok(values)
    }
}
