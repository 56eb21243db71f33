//! Writing named tensors as safetensors, straight from flat memory.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use cpift_engine::{Layout, View};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::iter::{IntoParallelIterator, ParallelIterator};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde::{Deserialize, Serialize};

use super::header::PREFIX;
use super::load::first_not_finite;
use crate::error::{Error, Reasoned, Result};
use crate::files::FileWriter;

/// Elements converted at a time.
const CHUNK: usize = 1 << 20;

/// What a file's metadata call its format.
const FORMAT: &str = "format";

/// Elements looked at by a thread at a time.
const SCAN_CHUNK: usize = 1 << 16;

/// The type floats are stored in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum WeightType {
    /// 32-bit float: exact.
    #[default]
    F32,
    /// 16-bit float, rounded to nearest.
    F16,
    /// Upper half of a 32-bit float, rounded to nearest.
    BF16,
}

impl WeightType {
    /// Name in `config.json`.
    pub fn config_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    /// The type of floats that a file has, of those that are read.
    pub(crate) fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::BF16),
            _ => None,
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        self.dtype().bitsize() as u64 / 8
    }

    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
        }
    }
}

/// A tensor's elements, where they are.
#[derive(Debug, Clone, Copy)]
pub enum TensorData<'a> {
    /// Floats, stored in the type named.
    Floats(View<'a, f32>, WeightType),
    /// bf16 as they are.
    Bf16(View<'a, bf16>),
    /// 64-bit integers: the words of a mask.
    U64(&'a [u64]),
}

impl TensorData<'_> {
    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Self::Floats(_, dtype) => dtype.dtype(),
            Self::Bf16(_) => Dtype::BF16,
            Self::U64(_) => Dtype::U64,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Floats(values, dtype) => values.len() * dtype.bytes() as usize,
            Self::Bf16(values) => values.len() * size_of::<bf16>(),
            Self::U64(values) => size_of_val(*values),
        }
    }
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct NamedTensor<'a> {
    /// Name in the file.
    pub name: String,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// The elements, as many as the shape says.
    pub data: TensorData<'a>,
}

impl NamedTensor<'_> {
    /// Fails unless the shape says how many elements there are.
    fn check_shape(&self) -> Reasoned<()> {
        let Self { name, shape, data } = self;
        let elements = shape.iter().try_fold(1_usize, |product, &size| product.checked_mul(size));
        let bytes = elements.and_then(|elements| elements.checked_mul(data.dtype().bitsize() / 8));
        match bytes == Some(data.bytes()) {
            true => Ok(()),
            false => Err(format!("`{name}` has an invalid shape: {shape:?} for {} bytes", data.bytes())),
        }
    }
}

/// The tensors of a flat allocation, named `prefix` + the layout's names.
///
/// # Errors
/// When `values` does not have [`Layout::len`] elements.
pub fn layout_tensors<'a>(
    layout: &Layout,
    prefix: &str,
    values: View<'a, f32>,
    dtype: WeightType,
) -> Result<Vec<NamedTensor<'a>>> {
    super::check_layout_length(layout, values.len())?;
    let tensor = |segment: &cpift_engine::Segment| NamedTensor {
        name: format!("{prefix}{}", segment.name),
        shape: segment.shape.clone(),
        data: TensorData::Floats(values.slice(segment.range()), dtype),
    };
    Ok(layout.segments().iter().map(tensor).collect())
}

/// The first weight that is too large for the type it is to be stored in, as words for a message; none where all
/// fit.
///
/// # Errors
/// When the weights cannot be read from the device.
pub(crate) fn too_large_for(
    dtype: WeightType,
    layout: &Layout,
    weights: View<'_, f32>,
) -> Result<Option<String>> {
    let Some(index) = first_too_large_for(dtype, weights)? else { return Ok(None) };
    let value = weights.slice(index..index + 1).to_vec()?[0];
    let segment = layout.segments().iter().find(|segment| segment.range().contains(&index));
    Ok(segment.map(|segment| {
        let (name, dtype) = (&segment.name, dtype.config_name());
        format!("`{name}` has {value} at element {}, too large for {dtype}", index - segment.offset)
    }))
}

/// The first of some weights that is too large for the type it is to be stored in. On all threads of the rayon pool that it is
/// called in; outside of one on the calling thread alone, as [`crate::files::hash_file`].
///
/// # Errors
/// When the weights cannot be read from the device.
pub(crate) fn first_too_large_for(dtype: WeightType, weights: View<'_, f32>) -> Result<Option<usize>> {
    if dtype == WeightType::F32 {
        return Ok(None);
    }
    let starts = (0..weights.len()).step_by(SCAN_CHUNK);
    let find = |staging: &mut Staging, start: usize| -> Result<Option<usize>> {
        let length = SCAN_CHUNK.min(weights.len() - start);
        staging.single.resize(length, 0.0);
        staging.half.resize(length, 0);
        weights.slice(start..start + length).copy_to_host(&mut staging.single)?;
        Ok(staging.convert(dtype).map(|index| start + index))
    };
    let found = if rayon::current_thread_index().is_some() {
        let starts: Vec<usize> = starts.collect();
        let found = starts
            .into_par_iter()
            .map_init(Staging::default, |staging, start| find(staging, start).transpose());
        found.find_map_first(|found| found)
    } else {
        let mut staging = Staging::default();
        let mut starts = starts;
        starts.find_map(|start| find(&mut staging, start).transpose())
    };
    found.transpose()
}

/// Writes a safetensors file from tensors in memory, a chunk at a time. `format` is what the file's metadata
/// says under that name.
///
/// # Errors
/// A shape that does not fit its elements or a name that occurs twice; floats that are NaN, infinite, or
/// too large for the type they are stored in, by name and index; the system's errors.
pub fn write_tensors(file: &mut FileWriter, tensors: &[NamedTensor<'_>], format: Option<&str>) -> Result<()> {
    // Wide types first, so that every tensor starts at a multiple of its element's size.
    let mut ordered: Vec<_> = tensors.iter().collect();
    ordered.sort_by_key(|tensor| Reverse(tensor.data.dtype()));
    for tensor in &ordered {
        tensor.check_shape().map_err(|reason| not_a_file(file, &reason))?;
    }
    let heads = ordered.iter().map(|tensor| (&tensor.name, tensor.data.dtype(), &tensor.shape));
    let mut writer = TensorWriter::begin(file, heads, format.map(|format| (FORMAT, format)))?;
    for tensor in ordered {
        writer.write(tensor)?;
    }
    Ok(())
}

/// Writes a safetensors file whose tensors are made one after the other.
pub(crate) struct TensorWriter<'f> {
    file: &'f mut FileWriter,
    staging: Staging,
}

impl<'f> TensorWriter<'f> {
    /// Writes what the file begins with: name, type and shape of all its tensors, of which those of wider types come first,
    /// and a note, by its name, for the file's metadata.
    ///
    /// # Errors
    /// A name that occurs twice; the system's errors.
    pub fn begin<'a>(
        file: &'f mut FileWriter,
        tensors: impl IntoIterator<Item = (&'a String, Dtype, &'a Vec<usize>)>,
        note: Option<(&str, &str)>,
    ) -> Result<Self> {
        let header = header_with(tensors, note).map_err(|reason| not_a_file(file, &reason))?;
        file.put(&header)?;
        Ok(Self { file, staging: Staging::default() })
    }

    /// Writes the next tensor.
    ///
    /// # Errors
    /// As [`write_tensors`].
    pub fn write(&mut self, tensor: &NamedTensor<'_>) -> Result<()> {
        let Self { file, staging } = self;
        tensor.check_shape().map_err(|reason| not_a_file(file, &reason))?;
        match tensor.data {
            TensorData::Floats(values, dtype) => staging.write(file, &tensor.name, values, dtype),
            TensorData::Bf16(values) => staging.write_bf16(file, &tensor.name, values),
            TensorData::U64(values) => file.put(bytemuck::cast_slice(values)),
        }
    }
}

fn not_a_file(file: &FileWriter, reason: &str) -> Error {
    Error::Job(format!("{}: {reason}", file.destination().display()))
}

/// Length prefix and header of a file whose tensors, by name, type and shape, follow each other in this order.
pub(crate) fn header_of<'a>(
    tensors: impl IntoIterator<Item = (&'a String, Dtype, &'a Vec<usize>)>,
    format: Option<&str>,
) -> Reasoned<Vec<u8>> {
    header_with(tensors, format.map(|format| (FORMAT, format)))
}

/// The same with another note than the format.
fn header_with<'a>(
    tensors: impl IntoIterator<Item = (&'a String, Dtype, &'a Vec<usize>)>,
    note: Option<(&str, &str)>,
) -> Reasoned<Vec<u8>> {
    let mut names = BTreeSet::new();
    let mut entries = Vec::new();
    let mut start = 0;
    for (name, dtype, shape) in tensors {
        if !names.insert(name) {
            return Err(format!("`{name}` was to be written twice"));
        }
        let end = start + shape.iter().product::<usize>() * dtype.bitsize() / 8;
        entries.push((name.clone(), TensorInfo { dtype, shape: shape.clone(), data_offsets: (start, end) }));
        start = end;
    }
    // At most one note: the order of several would differ from run to run.
    let notes = note.map(|(name, text)| [(name.to_owned(), text.to_owned())].into());
    let metadata = Metadata::new(notes, entries).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; PREFIX];
    serde_json::to_writer(&mut bytes, &metadata).map_err(|error| error.to_string())?;
    // Spaces, so that the tensors start at a multiple of the prefix's eight bytes.
    bytes.resize(bytes.len().next_multiple_of(PREFIX), b' ');
    let length = (bytes.len() - PREFIX) as u64;
    bytes[..PREFIX].copy_from_slice(&length.to_le_bytes());
    Ok(bytes)
}

/// Memory for one chunk on its way to the file.
#[derive(Default)]
struct Staging {
    single: Vec<f32>,
    half: Vec<u16>,
}

impl Staging {
    /// Converts `single` into `half`; returns the first element that does not fit.
    fn convert(&mut self, dtype: WeightType) -> Option<usize> {
        match dtype {
            WeightType::F32 => None,
            WeightType::BF16 => {
                let half: &mut [bf16] = bytemuck::cast_slice_mut(&mut self.half);
                half.convert_from_f32_slice(&self.single);
                half.iter().position(|value| !value.is_finite())
            }
            WeightType::F16 => {
                let half: &mut [f16] = bytemuck::cast_slice_mut(&mut self.half);
                half.convert_from_f32_slice(&self.single);
                half.iter().position(|value| !value.is_finite())
            }
        }
    }

    fn write(
        &mut self,
        file: &mut FileWriter,
        name: &str,
        values: View<'_, f32>,
        dtype: WeightType,
    ) -> Result<()> {
        for start in (0..values.len()).step_by(CHUNK) {
            let length = CHUNK.min(values.len() - start);
            self.single.resize(length, 0.0);
            self.half.resize(length, 0);
            values.slice(start..start + length).copy_to_host(&mut self.single)?;
            if let Some(index) = first_not_finite(&self.single) {
                return Err(not_written(file, name, self.single[index], start + index));
            }
            if let Some(index) = self.convert(dtype) {
                return Err(Error::Job(format!(
                    "{}: `{name}` has {} at element {}, too large for {}: write float32 instead",
                    file.destination().display(),
                    self.single[index],
                    start + index,
                    dtype.config_name()
                )));
            }
            match dtype {
                WeightType::F32 => file.put(bytemuck::cast_slice(&self.single))?,
                WeightType::F16 | WeightType::BF16 => file.put(bytemuck::cast_slice(&self.half))?,
            }
        }
        Ok(())
    }

    fn write_bf16(&mut self, file: &mut FileWriter, name: &str, values: View<'_, bf16>) -> Result<()> {
        for start in (0..values.len()).step_by(CHUNK) {
            let length = CHUNK.min(values.len() - start);
            self.half.resize(length, 0);
            let half: &mut [bf16] = bytemuck::cast_slice_mut(&mut self.half);
            values.slice(start..start + length).copy_to_host(half)?;
            if let Some(index) = half.iter().position(|value| !value.is_finite()) {
                return Err(not_written(file, name, half[index].to_f32(), start + index));
            }
            file.put(bytemuck::cast_slice(half))?;
        }
        Ok(())
    }
}

fn not_written(file: &FileWriter, name: &str, value: f32, index: usize) -> Error {
    let path = file.destination().display();
    Error::Job(format!("{path}: `{name}` has {value} at element {index}: not written"))
}
