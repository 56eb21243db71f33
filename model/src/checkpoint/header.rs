//! An open safetensors file: the header, read and checked by the format's own library, and where the
//! tensors' bytes are.
//!
//! Files are read at positions, not mapped: a mapped file that is truncated while it is read kills the
//! process, a read reports it.

use std::cmp::Ordering;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use crate::error::{Error, FileAction, Result};
use crate::files::{known_beginning, open_input};

/// Bytes before the header: its length.
pub(super) const PREFIX: usize = 8;

/// Longest header; the format's own limit.
const LONGEST_HEADER: u64 = 100_000_000;

/// An open safetensors file whose header has been read and checked against the file's length.
#[derive(Debug)]
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// First byte after the header, where the offsets of the tensors count from.
    data_start: u64,
}

impl TensorFile {
    /// Opens a file and checks its header: every tensor has its bytes, no byte is left over.
    ///
    /// # Errors
    /// The file cannot be read, is truncated, or is not safetensors.
    pub fn open(path: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::format(path, reason);
        let file = open_input(path)?;
        let length = file.metadata().map_err(Error::file(path, FileAction::Read))?.len();
        if length < PREFIX as u64 {
            return Err(invalid(format!("{length} bytes long: too short for a safetensors file")));
        }
        let mut beginning = vec![0; length.min(64) as usize];
        read_at(&file, &mut beginning, 0).map_err(Error::file(path, FileAction::Read))?;
        let (prefix, header_beginning) =
            beginning.split_first_chunk::<PREFIX>().expect("as long as checked above");
        let header_bytes = u64::from_le_bytes(*prefix);
        // The format has a header begin with a brace.
        if header_bytes > LONGEST_HEADER || header_beginning.first().is_some_and(|&byte| byte != b'{') {
            let reason = known_beginning(&beginning)
                .unwrap_or("it does not begin with a header and its length; copy or download it again");
            return Err(invalid(format!("not a safetensors file: {reason}")));
        }
        let truncated =
            |expected| invalid(format!("truncated: {length} bytes of {expected}; copy or download it again"));
        let data_start = PREFIX as u64 + header_bytes;
        if data_start > length {
            return Err(truncated(data_start));
        }
        let mut header = vec![0; header_bytes as usize];
        read_at(&file, &mut header, PREFIX as u64).map_err(Error::file(path, FileAction::Read))?;
        // Not `SafeTensors::read_metadata`: that wants the whole file in memory. This checks the same:
        // shapes fit their bytes, and the tensors follow each other without holes.
        let header: Metadata = serde_json::from_slice(&header).map_err(|error| {
            invalid(format!("not a safetensors file, or damaged: {error}; copy or download it again"))
        })?;
        let end = data_start.saturating_add(header.data_len() as u64);
        match end.cmp(&length) {
            Ordering::Equal => Ok(Self { path: path.to_owned(), file, header, data_start }),
            Ordering::Greater => Err(truncated(end)),
            Ordering::Less => Err(invalid(format!(
                "{} bytes follow the last tensor: damaged; copy or download it again",
                length - end
            ))),
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of the tensors, in the order of their bytes.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// A tensor's type and shape, by name.
    pub fn find(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// What the file's metadata say under a name.
    pub(crate) fn note(&self, name: &str) -> Option<&str> {
        self.header.metadata().as_ref()?.get(name).map(String::as_str)
    }

    /// A tensor that must be there.
    pub(super) fn require(&self, name: &str) -> Result<&TensorInfo> {
        self.find(name).ok_or_else(|| Error::format(&self.path, format!("`{name}` is missing")))
    }

    /// A tensor that must be there, have this shape, and hold floats that can be converted.
    pub(super) fn require_floats(&self, name: &str, shape: &[usize]) -> Result<&TensorInfo> {
        let tensor = self.require(name)?;
        if tensor.shape != shape {
            let reason = format!("`{name}` has the shape {:?}, expected {shape:?}", tensor.shape);
            return Err(Error::format(&self.path, reason));
        }
        match tensor.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(tensor),
            other => Err(self.wrong_type(name, other, "F32, F16 and BF16 are supported")),
        }
    }

    pub(super) fn wrong_type(&self, name: &str, dtype: Dtype, expected: &str) -> Error {
        Error::format(&self.path, format!("`{name}` has the type {dtype}; {expected}"))
    }

    /// Fills `target` with a tensor's elements from number `start` on.
    pub(super) fn read<T: bytemuck::Pod>(
        &self,
        tensor: &TensorInfo,
        start: usize,
        target: &mut [T],
    ) -> Result<()> {
        let position = tensor.data_offsets.0 + start * size_of::<T>();
        read_at(&self.file, bytemuck::cast_slice_mut(target), self.data_start + position as u64)
            .map_err(Error::file(&self.path, FileAction::Read))
    }

    /// Fills `target` with a tensor's bytes from number `start` on.
    pub(crate) fn read_bytes(&self, tensor: &TensorInfo, start: usize, target: &mut [u8]) -> Result<()> {
        let position = self.data_start + (tensor.data_offsets.0 + start) as u64;
        read_at(&self.file, target, position).map_err(Error::file(&self.path, FileAction::Read))
    }

    /// Length of the file, and the time of its last change where the system says.
    pub(crate) fn stamp(&self) -> Result<(u64, Option<SystemTime>)> {
        let metadata = self.file.metadata().map_err(Error::file(&self.path, FileAction::Read))?;
        Ok((metadata.len(), metadata.modified().ok()))
    }
}

/// Fills `bytes` from a position in a file. The end of the file, met too early, is an error.
#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, offset)
}

/// As above, where the system's call may read less than asked for.
#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let length = std::os::windows::fs::FileExt::seek_read(file, bytes, offset)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes = &mut bytes[length..];
        offset += length as u64;
    }
    Ok(())
}
