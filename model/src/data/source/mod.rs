//! Files of rows: what form a file has, and its records one after the other.

mod json_lines;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, Reasoned, Result};
use json_lines::JsonLines;

/// Longest record, in bytes. Tokenising a text takes about 200 times its bytes in memory, and a row this long has
/// millions of tokens.
const LONGEST_RECORD: usize = 8 << 20;

/// Bytes after which a block ends, so that its records, which are tokenised at the same time, take no more memory
/// than a few long ones.
const BLOCK_BYTES: usize = 8 << 20;

/// What a position in a file counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Unit {
    /// Lines of a text.
    Line,
    /// Rows of a table, elements of a list.
    Row,
}

/// Where a record stands among the files of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Position {
    /// Index of the file.
    pub file: usize,
    /// What `number` counts.
    pub unit: Unit,
    /// Counted from 1.
    pub number: usize,
}

impl Position {
    /// The position as people read it: `data.jsonl:12` or `data.parquet: row 12`.
    pub fn describe(self, files: &[PathBuf]) -> String {
        let path = files[self.file].display();
        match self.unit {
            Unit::Line => format!("{path}:{}", self.number),
            Unit::Row => format!("{path}: row {}", self.number),
        }
    }

    /// What is wrong with the record there.
    pub fn error(self, files: &[PathBuf], reason: impl std::fmt::Display) -> Error {
        let path = &files[self.file];
        match self.unit {
            Unit::Line => Error::line(path, self.number, reason.to_string()),
            Unit::Row => Error::format(path, format!("row {}: {reason}", self.number)),
        }
    }
}

/// One row of a file as it stands there.
#[derive(Debug)]
pub(crate) struct Record {
    pub position: Position,
    pub content: Content,
}

/// What a file has of a row.
#[derive(Debug)]
pub(crate) enum Content {
    /// Text in JSON.
    Json(Vec<u8>),
    /// Columns by name.
    Columns(Map<String, Value>),
}

impl Content {
    fn bytes(&self) -> usize {
        match self {
            Self::Json(text) => text.len(),
            Self::Columns(columns) => columns.values().map(bytes_of).sum(),
        }
    }

    /// The fields by name.
    pub fn fields(&self) -> Reasoned<Map<String, Value>> {
        match self {
            Self::Columns(columns) => Ok(columns.clone()),
            Self::Json(text) => {
                let text = std::str::from_utf8(text)
                    .map_err(|error| format!("is not UTF-8 (byte {})", error.valid_up_to() + 1))?;
                match serde_json::from_str(text).map_err(|error| describe_json(&error))? {
                    Value::Object(fields) => Ok(fields),
                    _ => Err("is not a JSON object: each row is one `{…}`".into()),
                }
            }
        }
    }
}

fn bytes_of(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(bytes_of).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + bytes_of(value)).sum(),
        _ => 8,
    }
}

fn describe_json(error: &serde_json::Error) -> String {
    let reason = error.to_string();
    // The parser counts lines within the row.
    let reason = reason.split(" at line ").next().unwrap_or_default();
    format!("is not JSON: {reason} (column {})", error.column())
}

/// Reads the records of files, one file after the other, and hashes the files on the way.
pub(crate) struct Records<'a> {
    files: &'a [PathBuf],
    /// Index of the file that is read.
    file: usize,
    reader: Option<JsonLines>,
    hasher: blake3::Hasher,
}

impl<'a> Records<'a> {
    /// The records of these files.
    pub fn new(files: &'a [PathBuf]) -> Self {
        Self { files, file: 0, reader: None, hasher: blake3::Hasher::new() }
    }

    /// Up to `most` records; none at the end.
    ///
    /// # Errors
    /// A file cannot be read, or is of no form that is known.
    pub fn next_block(&mut self, most: usize) -> Result<Vec<Record>> {
        let mut block = Vec::new();
        let mut bytes = 0;
        while block.len() < most && bytes < BLOCK_BYTES {
            let Some(path) = self.files.get(self.file) else { break };
            let reader = match &mut self.reader {
                Some(reader) => reader,
                none => none.insert(JsonLines::open(path, self.file)?),
            };
            match reader.next()? {
                Some(record) => {
                    bytes += record.content.bytes();
                    block.push(record);
                }
                None => {
                    self.hasher.update(reader.hash().as_bytes());
                    self.reader = None;
                    self.file += 1;
                }
            }
        }
        Ok(block)
    }

    /// Hash of the files' contents, once all is read.
    pub fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }
}

/// Hash of the files' contents, as [`Records::hash`].
///
/// # Errors
/// A file cannot be read.
pub(crate) fn hash_files(files: &[PathBuf]) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    for path in files {
        hasher.update(crate::files::hash_file(path)?.as_bytes());
    }
    Ok(hasher.finalize())
}

/// The files as a message names them together.
pub(crate) fn describe_files(files: &[PathBuf]) -> PathBuf {
    match files {
        [] => PathBuf::new(),
        [path] => path.clone(),
        [path, more @ ..] => Path::new(&format!("{} and {} more", path.display(), more.len())).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    fn records(path: &Path) -> Result<Vec<Record>> {
        Records::new(&[path.to_owned()]).next_block(9)
    }

    #[test]
    fn what_is_not_json_lines_is_named() {
        for (content, says) in [
            (b"[{\"text\": \"a\"},\n{\"text\": \"b\"}]".as_slice(), "JSON array"),
            (b"\xEF\xBB\xBF[\n", "JSON array"),
            (b"{\n  \"text\": \"a\"\n}\n", "over several lines"),
            (b"prompt,completion\na,b\n", "CSV"),
            (b"PAR1", "Parquet"),
        ] {
            let error = records(file(content).path()).err().unwrap();
            assert!(error.is_input() && error.to_string().contains(says), "{error}");
        }
        assert!(records(file(b"\xEF\xBB\xBF\n{\"text\": \"a, b\"}\n").path()).is_ok());
    }

    #[test]
    fn a_line_has_a_longest_length_and_a_block_too() {
        let mut content = vec![b'x'; LONGEST_RECORD - 1];
        content.extend(b"\nshort\n");
        content.resize(content.len() + LONGEST_RECORD + 1, b'y');
        let file = file(&content);
        let files = [file.path().to_owned()];
        let mut records = Records::new(&files);
        let numbers =
            |block: &[Record]| block.iter().map(|record| record.position.number).collect::<Vec<_>>();
        assert_eq!(numbers(&records.next_block(9).unwrap()), [1]);
        let error = records.next_block(9).unwrap_err().to_string();
        assert!(error.contains(":3: is longer than 8.0 MiB"), "{error}");
    }
}
