//! The lines of a data file, in blocks, with a hash of all of them.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// One line of a file that is not blank.
#[derive(Debug)]
pub(crate) struct Line {
    /// Counted from 1.
    pub number: usize,
    pub bytes: Vec<u8>,
}

/// Reads a file line by line, in blocks, and hashes it on the way.
pub(crate) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    hasher: blake3::Hasher,
    number: usize,
}

impl Lines {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::file(path, "read"))?;
        let reader = BufReader::with_capacity(1 << 20, file);
        Ok(Self { path: path.to_owned(), reader, hasher: blake3::Hasher::new(), number: 0 })
    }

    /// Up to `most` lines that are not blank; none at the end of the file.
    pub fn next_block(&mut self, most: usize) -> Result<Vec<Line>> {
        let mut block = Vec::new();
        while block.len() < most {
            let mut bytes = Vec::new();
            let read = self.reader.read_until(b'\n', &mut bytes).map_err(Error::file(&self.path, "read"))?;
            if read == 0 {
                break;
            }
            self.hasher.update(&bytes);
            self.number += 1;
            let mut content = bytes.as_slice();
            if self.number == 1 {
                content = content.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(content);
            }
            let content = content.trim_ascii();
            if !content.is_empty() {
                block.push(Line { number: self.number, bytes: content.to_vec() });
            }
        }
        Ok(block)
    }

    /// Hash of what has been read.
    pub fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }
}
