//! JSON Lines: a record a line.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::text::Text;
use super::{Content, LONGEST_RECORD, Position, Record, RecordReader, Unit};
use crate::error::{Error, FileAction, Result};
use crate::files::human_bytes;

/// Reads a text line by line.
pub(super) struct JsonLines {
    path: PathBuf,
    file: usize,
    text: Text,
    number: usize,
}

impl JsonLines {
    /// The lines of a text, which is that of the file of this index.
    pub fn new(path: &Path, file: usize, text: Text) -> Self {
        Self { path: path.to_owned(), file, text, number: 0 }
    }
}

impl RecordReader for JsonLines {
    fn next(&mut self) -> Result<Option<Record>> {
        loop {
            let mut bytes = Vec::new();
            let mut line = (&mut self.text).take(LONGEST_RECORD as u64 + 1);
            let read =
                line.read_until(b'\n', &mut bytes).map_err(Error::file(&self.path, FileAction::Read))?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read > LONGEST_RECORD {
                let reason = format!(
                    "is longer than {}, the most a row may have: split it into several rows",
                    human_bytes(LONGEST_RECORD as u64)
                );
                return Err(Error::line(&self.path, self.number, reason));
            }
            let content = bytes.trim_ascii();
            if !content.is_empty() {
                let position = Position { file: self.file, unit: Unit::Line, number: self.number };
                let content = Content::Json { text: content.to_vec(), line: self.number, is_line: true };
                return Ok(Some(Record { position, content }));
            }
        }
    }

    fn bytes(&mut self) -> u64 {
        self.text.position()
    }
}
