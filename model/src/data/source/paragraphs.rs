//! Plain text: a record a paragraph. Empty lines separate them, as in the text loader of Hugging Face's `datasets` with
//! `sample_by="paragraph"`.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::text::Text;
use super::{Content, LONGEST_RECORD, Position, Record, RecordReader, Unit};
use crate::error::{Error, FileAction, Result};
use crate::files::human_bytes;

/// Reads a text paragraph by paragraph.
pub(super) struct Paragraphs {
    path: PathBuf,
    file: usize,
    text: Text,
    /// Lines read so far.
    lines: usize,
}

impl Paragraphs {
    /// The paragraphs of a text, which is that of the file of this index.
    pub fn new(path: &Path, file: usize, text: Text) -> Self {
        Self { path: path.to_owned(), file, text, lines: 0 }
    }

    /// Appends the next line with its line break, of a paragraph that begins in line `begins`; false at the end.
    fn read_line(&mut self, paragraph: &mut Vec<u8>, begins: usize) -> Result<bool> {
        let most = LONGEST_RECORD + 1 - paragraph.len();
        let mut line = (&mut self.text).take(most as u64);
        let read = line.read_until(b'\n', paragraph).map_err(Error::file(&self.path, FileAction::Read))?;
        if paragraph.len() > LONGEST_RECORD {
            let reason = format!(
                "the paragraph that begins here is longer than {}, the most a row may have: empty lines separate \
                 paragraphs",
                human_bytes(LONGEST_RECORD as u64)
            );
            return Err(Error::line(&self.path, begins, reason));
        }
        self.lines += usize::from(read > 0);
        Ok(read > 0)
    }
}

impl RecordReader for Paragraphs {
    fn next(&mut self) -> Result<Option<Record>> {
        let mut paragraph = Vec::new();
        let mut begins = self.lines + 1;
        loop {
            let before = paragraph.len();
            if !self.read_line(&mut paragraph, begins)? {
                break;
            }
            if matches!(&paragraph[before..], b"\n" | b"\r\n") {
                paragraph.truncate(before);
                if before > 0 {
                    break;
                }
                begins = self.lines + 1;
            }
        }
        if paragraph.is_empty() {
            return Ok(None);
        }
        let position = Position { file: self.file, unit: Unit::Line, number: begins };
        Ok(Some(Record { position, content: Content::Paragraph(paragraph) }))
    }

    fn bytes(&mut self) -> u64 {
        self.text.position()
    }
}
