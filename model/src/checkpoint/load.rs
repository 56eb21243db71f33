//! Streaming tensors from files into the flat parameters, converted to f32.

use cpift_engine::{Layout, ViewMut};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

use super::header::TensorFile;
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
}

/// One tensor to be read.
pub(super) struct Load<'a> {
    pub stored: Stored<'a>,
    /// Where it goes; as many elements as the tensor has.
    pub target: ViewMut<'a, f32>,
}

/// A part of a tensor, read at once.
struct Piece<'a> {
    stored: Stored<'a>,
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
    let mut pieces = Vec::new();
    for Load { stored, target } in loads {
        let elements = stored.elements()?;
        if elements != target.len() {
            let reason = format!("`{}` has {elements} elements, expected {}", stored.name, target.len());
            return Err(Error::format(stored.file.path(), reason));
        }
        let mut rest = target;
        for start in (0..elements).step_by(CHUNK) {
            let (target, after) = rest.split_at(CHUNK.min(elements - start));
            pieces.push(Piece { stored, start, target });
            rest = after;
        }
    }
    let outcomes: Vec<Result<()>> = pieces.into_par_iter().map_init(Staging::default, load_piece).collect();
    outcomes.into_iter().collect()
}

fn load_piece(staging: &mut Staging, piece: Piece<'_>) -> Result<()> {
    let Piece { stored, start, mut target } = piece;
    Ok(target.copy_from_host(staging.read_finite(stored, start, target.len())?)?)
}

/// Reads all tensors, in parallel, and keeps nothing: fails on what [`run`] fails on.
pub(super) fn check(tensors: Vec<Stored<'_>>) -> Result<()> {
    let mut pieces = Vec::new();
    for stored in tensors {
        let elements = stored.elements()?;
        let piece = |start| (stored, start, CHUNK.min(elements - start));
        pieces.extend((0..elements).step_by(CHUNK).map(piece));
    }
    let check_piece =
        |staging: &mut Staging, (stored, start, length)| staging.read_finite(stored, start, length).map(drop);
    let outcomes: Vec<Result<()>> = pieces.into_par_iter().map_init(Staging::default, check_piece).collect();
    outcomes.into_iter().collect()
}

impl Stored<'_> {
    fn elements(&self) -> Result<usize> {
        Ok(self.file.require(self.name)?.shape.iter().product())
    }
}

impl Staging {
    /// As [`Staging::read`]; NaN and infinity are errors.
    fn read_finite(&mut self, stored: Stored<'_>, start: usize, length: usize) -> Result<&[f32]> {
        let values = self.read(stored, start, length)?;
        match first_not_finite(values) {
            None => Ok(values),
            Some(index) => {
                let reason = format!("`{}` has {} at element {}", stored.name, values[index], start + index);
                Err(Error::format(stored.file.path(), reason))
            }
        }
    }

    /// Elements `start..start + length` of a tensor of floats as f32.
    fn read(&mut self, stored: Stored<'_>, start: usize, length: usize) -> Result<&[f32]> {
        let Stored { file, name } = stored;
        let tensor = file.require(name)?;
        self.single.resize(length, 0.0);
        if tensor.dtype == Dtype::F32 {
            file.read(tensor, start, &mut self.single)?;
            return Ok(&self.single);
        }
        self.half.resize(length, 0);
        file.read(tensor, start, &mut self.half)?;
        if tensor.dtype == Dtype::BF16 {
            bytemuck::cast_slice::<u16, bf16>(&self.half).convert_to_f32_slice(&mut self.single);
        } else {
            bytemuck::cast_slice::<u16, f16>(&self.half).convert_to_f32_slice(&mut self.single);
        }
        Ok(&self.single)
    }
}

/// True when two stored tensors of as many floats have exactly the same values.
pub(super) fn are_equal(one: Stored<'_>, other: Stored<'_>) -> Result<bool> {
    let (mut ours, mut theirs) = (Staging::default(), Staging::default());
    let elements = one.elements()?;
    for start in (0..elements).step_by(CHUNK) {
        let length = CHUNK.min(elements - start);
        if ours.read(one, start, length)? != theirs.read(other, start, length)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first NaN or infinity.
pub(super) fn first_not_finite(values: &[f32]) -> Option<usize> {
    // The largest magnitude as an integer: one pass that vectorises, where `position` does not.
    let magnitude = values.iter().fold(0, |largest, value| (value.to_bits() & 0x7fff_ffff).max(largest));
    if f32::from_bits(magnitude).is_finite() {
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
        run(vec![Load { stored: Stored { file: self, name }, target }])
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
