//! CSV and its relatives: a record a row, columns named by the header.

use std::path::{Path, PathBuf};

use csv::{ByteRecord, ErrorKind, Reader, ReaderBuilder};
use serde_json::{Map, Value};

use super::text::Text;
use super::{Content, LONGEST_RECORD, Position, Record, RecordReader, Unit};
use crate::error::{Error, Result, clip};

/// Most columns of a table.
const MOST_COLUMNS: usize = 4096;

/// Bytes that the reader takes ahead of a row.
const READ_AHEAD: usize = 1 << 20;

/// Reads a table row by row.
pub(super) struct Table {
    path: PathBuf,
    file: usize,
    reader: Reader<Text>,
    columns: Vec<String>,
    /// The line of the row before, where its last cell has several lines.
    several_lines: Option<usize>,
}

impl Table {
    /// The rows of a text, which is that of the file of this index.
    ///
    /// # Errors
    /// The header cannot be read, or names a column twice.
    pub fn new(path: &Path, file: usize, mut text: Text, delimiter: u8) -> Result<Self> {
        text.allow(LONGEST_RECORD + READ_AHEAD);
        let mut reader =
            ReaderBuilder::new().delimiter(delimiter).buffer_capacity(READ_AHEAD).from_reader(text);
        let header = reader.byte_headers().map_err(|error| describe(path, 1, &error))?.clone();
        if header.len() > MOST_COLUMNS {
            let reason = format!("has {} columns; at most {MOST_COLUMNS} are read", header.len());
            return Err(Error::line(path, 1, reason));
        }
        let mut columns: Vec<String> = Vec::new();
        for (index, name) in header.iter().enumerate() {
            let name = text_of(path, 1, index, name)?.trim();
            // The column of row numbers that pandas writes has no name.
            let name = if name.is_empty() { format!("column {}", index + 1) } else { name.to_owned() };
            if columns.contains(&name) {
                return Err(Error::line(path, 1, format!("has two columns `{}`", clip(&name))));
            }
            columns.push(name);
        }
        Ok(Self { path: path.to_owned(), file, reader, columns, several_lines: None })
    }
}

impl RecordReader for Table {
    fn next(&mut self) -> Result<Option<Record>> {
        let mut record = ByteRecord::new();
        self.reader.get_mut().allow(LONGEST_RECORD + READ_AHEAD);
        let begins = self.reader.position().line() as usize;
        let read = self.reader.read_byte_record(&mut record);
        if !read.map_err(|error| describe(&self.path, begins, &error))? {
            // A cell of several lines is in quotes, so that the file ends with one.
            let line =
                self.several_lines.take().filter(|_| self.reader.get_ref().last_visible() != Some(b'"'));
            let reason = "has a quote that is not closed: the rest of the file would be one cell";
            return line.map_or(Ok(None), |line| Err(Error::line(&self.path, line, reason)));
        }
        let line = record.position().map_or(begins, |position| position.line() as usize);
        let has_several_lines = record.iter().next_back().is_some_and(|cell| cell.contains(&b'\n'));
        self.several_lines = has_several_lines.then_some(line);
        let mut columns = Map::new();
        for (index, (name, cell)) in self.columns.iter().zip(record.iter()).enumerate() {
            let cell = text_of(&self.path, line, index, cell)?;
            columns.insert(name.clone(), Value::String(cell.to_owned()));
        }
        let position = Position { file: self.file, unit: Unit::Line, number: line };
        Ok(Some(Record { position, content: Content::Columns(columns) }))
    }

    fn bytes(&mut self) -> u64 {
        self.reader.get_mut().position()
    }
}

/// A cell as text.
fn text_of<'a>(path: &Path, line: usize, index: usize, cell: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(cell).map_err(|_| {
        Error::line(path, line, format!("column {} is not UTF-8: save the file as UTF-8", index + 1))
    })
}

/// An error of a row that begins in this line.
fn describe(path: &Path, line: usize, error: &csv::Error) -> Error {
    match error.kind() {
        ErrorKind::UnequalLengths { pos, expected_len, len } => {
            let line = pos.as_ref().map_or(0, |position| position.line() as usize);
            let reason = format!(
                "has {len} cells where the header has {expected_len}: a cell with the delimiter or a line break needs \
                 quotes"
            );
            Error::line(path, line, reason)
        }
        ErrorKind::Io(error) => {
            let reason = format!("cannot be read: {error}");
            Error::line(path, line, reason)
        }
        _ => Error::format(path, format!("is not a table that can be read: {error}")),
    }
}

/// What separates the cells of a table, from its header; none for a text that looks like no table. `name` is the
/// file's, which may say that it is one.
pub(super) fn delimiter(name: &Path, beginning: &[u8]) -> Option<u8> {
    let extension = name.extension().unwrap_or_default().to_ascii_lowercase();
    if extension == "tsv" {
        return Some(b'\t');
    }
    let header = beginning.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let found = [b'\t', b',', b';'].into_iter().find(|delimiter| header.contains(delimiter));
    // A table of one column has no delimiter.
    found.or((extension == "csv").then_some(b','))
}

/// What separates the cells of a table that is named as a text: the first line has nothing but names, and the second
/// the same between its cells.
pub(super) fn delimiter_of_names(beginning: &[u8]) -> Option<u8> {
    let mut lines = beginning.split(|&byte| byte == b'\n');
    let (header, row) = (lines.next()?.trim_ascii_end(), lines.next()?);
    // Sentences have no tabs: between them a name may have several words, as `#1 String` of a well-known task.
    let is_name = |cell: &[u8], more: &[u8]| {
        let cell = cell.strip_prefix(b"\"").and_then(|cell| cell.strip_suffix(b"\"")).unwrap_or(cell);
        cell.first().is_some_and(|first| first.is_ascii_alphabetic() || more.contains(first))
            && cell
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(byte) || more.contains(byte))
    };
    let separates = |delimiter: &u8| {
        let more: &[u8] = if *delimiter == b'\t' { b"# " } else { b"" };
        // The first cell of a row may have line breaks within quotes.
        header.contains(delimiter)
            && (row.contains(delimiter) || row.starts_with(b"\""))
            && header.split(|byte| byte == delimiter).all(|cell| is_name(cell, more))
    };
    [b'\t', b',', b';'].into_iter().find(separates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_that_are_named_as_texts_are_known_by_their_headings() {
        for (text, expected) in [
            ("prompt,completion\n1+1=,2\n", Some(b',')),
            ("\"prompt\";\"answer\"\na;b\n", Some(b';')),
            ("prompt,completion\n\"two\nlines\",b\n", Some(b',')),
            ("Quality\t#1 ID\t#1 String\n1\t2\tA text.\n", Some(b'\t')),
            ("Well, yes\nand, no\n", None),
            ("Dear Ann,\nthank you,\n", None),
            ("One line, no more", None),
        ] {
            assert_eq!(delimiter_of_names(text.as_bytes()), expected, "{text}");
        }
    }
}
