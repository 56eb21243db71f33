//! The safetensors format: eight bytes with the header's length, the header as JSON, the tensors' bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::load::read_at;
use crate::error::{Error, Result};

/// Bytes before the header: its length.
const PREFIX: u64 = 8;

/// Longest header; the format's own limit.
const LONGEST_HEADER: u64 = 100_000_000;

/// How the text begins that stands in for a file that Git LFS has not fetched.
const GIT_LFS_POINTER: &[u8; PREFIX as usize] = b"version ";

/// Element types that are read or written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// The upper half of a 32-bit float.
    BF16,
    /// 64-bit unsigned integer.
    U64,
    /// 32-bit unsigned integer.
    U32,
    /// Byte.
    U8,
    /// Any other: it may be in a file, but is not read.
    Other,
}

impl DataType {
    fn from_name(name: &str) -> Self {
        let known = [Self::F32, Self::F16, Self::BF16, Self::U64, Self::U32, Self::U8];
        known.into_iter().find(|dtype| dtype.name() == name).unwrap_or(Self::Other)
    }

    /// Name in the header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::U64 => "U64",
            Self::U32 => "U32",
            Self::U8 => "U8",
            Self::Other => "unsupported",
        }
    }

    /// Bytes of one element, where known.
    pub fn bytes(self) -> Option<u64> {
        match self {
            Self::U64 => Some(8),
            Self::F32 | Self::U32 => Some(4),
            Self::F16 | Self::BF16 => Some(2),
            Self::U8 => Some(1),
            Self::Other => None,
        }
    }
}

/// One tensor's entry in the header.
#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// A tensor in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// Type of the elements.
    pub dtype: DataType,
    /// The type's name in the file, for messages.
    dtype_name: String,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// First byte in the file.
    pub(super) offset: u64,
    /// Number of bytes.
    pub(super) bytes: u64,
}

impl StoredTensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Fails unless the elements are floats that can be converted.
    pub(super) fn require_float(&self, file: &TensorFile, name: &str) -> Result<()> {
        match self.dtype {
            DataType::F32 | DataType::F16 | DataType::BF16 => Ok(()),
            _ => Err(self.wrong_type(file, name, "F32, F16 and BF16 are supported")),
        }
    }

    pub(super) fn wrong_type(&self, file: &TensorFile, name: &str, expected: &str) -> Error {
        Error::format(file.path(), format!("`{name}` has the type {}; {expected}", self.dtype_name))
    }
}

/// An open safetensors file whose header has been read and checked against the file's length.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    pub(super) file: File,
    tensors: BTreeMap<String, StoredTensor>,
    metadata: BTreeMap<String, String>,
}

impl TensorFile {
    /// Opens a file and checks its header: every tensor has its bytes, no byte is left over.
    ///
    /// # Errors
    /// The file cannot be read, is truncated, or is not safetensors.
    pub fn open(path: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::format(path, reason);
        let file = File::open(path).map_err(Error::file(path, "read"))?;
        let length = file.metadata().map_err(Error::file(path, "read"))?.len();
        if length < PREFIX {
            return Err(invalid(format!("{length} bytes long: too short for a safetensors file")));
        }
        let mut prefix = [0; PREFIX as usize];
        read_at(&file, &mut prefix, 0).map_err(Error::file(path, "read"))?;
        if &prefix == GIT_LFS_POINTER {
            return Err(invalid(
                "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`".to_owned(),
            ));
        }
        let header_bytes = u64::from_le_bytes(prefix);
        if header_bytes > LONGEST_HEADER {
            return Err(invalid(
                "not a safetensors file: it does not begin with a header's length".to_owned(),
            ));
        }
        let data_start = PREFIX + header_bytes;
        if data_start > length {
            return Err(truncated(path, data_start, length));
        }
        let mut header = vec![0; header_bytes as usize];
        read_at(&file, &mut header, PREFIX).map_err(Error::file(path, "read"))?;
        let header: Map<String, Value> = serde_json::from_slice(&header)
            .map_err(|error| invalid(format!("not a safetensors file: the header is not JSON: {error}")))?;

        let mut tensors = BTreeMap::new();
        let mut metadata = BTreeMap::new();
        for (name, value) in header {
            if name == "__metadata__" {
                metadata = serde_json::from_value(value)
                    .map_err(|error| invalid(format!("the header's metadata: {error}")))?;
            } else {
                let tensor = parse_entry(value, data_start)
                    .map_err(|reason| invalid(format!("the header's entry for `{name}`: {reason}")))?;
                tensors.insert(name, tensor);
            }
        }
        check_contiguous(path, &tensors, data_start, length)?;
        Ok(Self { path: path.to_owned(), file, tensors, metadata })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor by name.
    pub fn find(&self, name: &str) -> Option<&StoredTensor> {
        self.tensors.get(name)
    }

    /// What the writer noted beside the tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// A tensor that must be there and have this shape.
    pub(super) fn require(&self, name: &str, shape: &[usize]) -> Result<&StoredTensor> {
        let tensor = self.require_name(name)?;
        if tensor.shape == shape {
            return Ok(tensor);
        }
        let reason = format!("`{name}` has the shape {:?}, expected {shape:?}", tensor.shape);
        Err(Error::format(&self.path, reason))
    }

    pub(super) fn require_name(&self, name: &str) -> Result<&StoredTensor> {
        self.find(name).ok_or_else(|| Error::format(&self.path, format!("`{name}` is missing")))
    }
}

/// Checks one entry by itself: sizes fit the type, offsets are in order.
fn parse_entry(value: Value, data_start: u64) -> std::result::Result<StoredTensor, String> {
    let entry: Entry = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let (start, end) = entry.data_offsets;
    let bytes =
        end.checked_sub(start).ok_or_else(|| format!("it ends at {end}, before its start {start}"))?;
    let offset = data_start.checked_add(start).ok_or_else(|| format!("it starts at {start}: too far"))?;
    let dtype = DataType::from_name(&entry.dtype);
    let elements = entry.shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size));
    let elements = elements.filter(|&elements| usize::try_from(elements).is_ok());
    let elements = elements.ok_or_else(|| format!("the shape {:?} overflows", entry.shape))?;
    if let Some(size) = dtype.bytes()
        && elements.checked_mul(size) != Some(bytes)
    {
        return Err(format!("{} {:?} does not take the {bytes} bytes it has", entry.dtype, entry.shape));
    }
    let shape = entry.shape.iter().map(|&size| usize::try_from(size)).collect::<std::result::Result<_, _>>();
    let shape = shape.map_err(|_| format!("the shape {:?} overflows", entry.shape))?;
    Ok(StoredTensor { dtype, dtype_name: entry.dtype, shape, offset, bytes })
}

/// The format has no holes: tensors follow each other from the header to the end of the file.
fn check_contiguous(
    path: &Path,
    tensors: &BTreeMap<String, StoredTensor>,
    data_start: u64,
    length: u64,
) -> Result<()> {
    let mut by_offset: Vec<_> = tensors.iter().collect();
    by_offset.sort_by_key(|(_, tensor)| (tensor.offset, tensor.bytes));
    let mut end = data_start;
    for (name, tensor) in by_offset {
        if tensor.offset != end {
            let reason = format!("`{name}` does not start where the tensor before it ends: damaged");
            return Err(Error::format(path, reason));
        }
        end = tensor
            .offset
            .checked_add(tensor.bytes)
            .ok_or_else(|| Error::format(path, format!("`{name}` ends too far: damaged")))?;
    }
    match end.cmp(&length) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(truncated(path, end, length)),
        std::cmp::Ordering::Less => {
            Err(Error::format(path, format!("{} bytes follow the last tensor: damaged", length - end)))
        }
    }
}

fn truncated(path: &Path, expected: u64, length: u64) -> Error {
    let reason = format!("truncated: {length} bytes of {expected}; copy or download it again");
    Error::format(path, reason)
}
