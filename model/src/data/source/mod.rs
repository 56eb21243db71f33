//! Files of rows: what form a file has, and its records one after the other.

mod json_lines;
mod json_values;
mod paragraphs;
mod parquet;
mod table;
mod text;

use std::io::{Read, Seek};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Error, FileAction, Reasoned, Result};
use crate::files::{hash_file, looks_like, open_input};
use json_lines::JsonLines;
use json_values::{JsonValues, Scanner};
use paragraphs::Paragraphs;
use parquet::Parquet;
use table::Table;
use text::Text;

/// Bytes of a file that say whether it is text.
const MAGIC_BYTES: u64 = 16;

/// How Parquet files begin.
const PARQUET: &[u8] = b"PAR1";

/// Longest record, in bytes. Tokenizing a text takes about 200 times its bytes in memory, and a row this long has
/// millions of tokens.
const LONGEST_RECORD: usize = 8 << 20;

/// Records of a block.
const BLOCK_RECORDS: usize = 2048;

/// Bytes after which a block ends, so that its records, which are tokenized at the same time, take no more memory
/// than a few long ones.
const BLOCK_BYTES: usize = 8 << 20;

/// What a position in a file counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum Unit {
    /// Lines of a text.
    Line,
    /// Rows of a table, elements of a list.
    Row,
}

/// Where a record stands among the files of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
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
    /// Text in JSON, which begins in this line of the file, counted from 1, and may be all of it.
    Json { text: Vec<u8>, line: usize, is_line: bool },
    /// Columns by name.
    Columns(Map<String, Value>),
    /// Lines of a text with their line breaks.
    Paragraph(Vec<u8>),
}

impl Content {
    fn bytes(&self) -> usize {
        match self {
            Self::Json { text, .. } | Self::Paragraph(text) => text.len(),
            Self::Columns(columns) => columns.values().map(bytes_of).sum(),
        }
    }

    /// The fields by name.
    pub fn fields(&self) -> Reasoned<Map<String, Value>> {
        match self {
            Self::Columns(columns) => Ok(columns.clone()),
            Self::Paragraph(text) => paragraph_fields(text),
            Self::Json { text, line, is_line } => {
                let text = std::str::from_utf8(text)
                    .map_err(|error| format!("is not UTF-8 (byte {} of the row)", error.valid_up_to() + 1))?;
                match serde_json::from_str(text).map_err(|error| describe_json(&error, *line, *is_line))? {
                    Value::Object(fields) => Ok(fields),
                    _ => Err("is not a JSON object: each row is one `{…}`".into()),
                }
            }
        }
    }
}

/// A paragraph as it is, and line by line.
fn paragraph_fields(text: &[u8]) -> Reasoned<Map<String, Value>> {
    let text = std::str::from_utf8(text).map_err(|error| {
        format!("is not UTF-8 (byte {} of the paragraph): save the file as UTF-8", error.valid_up_to() + 1)
    })?;
    if text.contains('\0') {
        return Err("has a NUL byte, which no text has".into());
    }
    let lines: Vec<&str> = text.lines().collect();
    Ok(Map::from_iter([("text".to_owned(), lines.join("\n").into()), ("lines".to_owned(), json!(lines))]))
}

fn bytes_of(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(bytes_of).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + bytes_of(value)).sum(),
        _ => 8,
    }
}

/// What is wrong with a text in JSON that begins in this line. Columns are those of the file where the text is a line
/// of it, or another line of the file than the one it begins in.
fn describe_json(error: &serde_json::Error, line: usize, is_line: bool) -> String {
    let reason = error.to_string();
    let reason = reason.split(" at line ").next().unwrap_or_default();
    match error.line() {
        0 | 1 if is_line => format!("is not JSON: {reason} (column {})", error.column()),
        0 | 1 => format!("is not JSON: {reason} (line {line}, byte {} of the row)", error.column()),
        further => format!("is not JSON: {reason} (line {}, column {})", line + further - 1, error.column()),
    }
}

/// Reads the records of one file.
trait RecordReader {
    /// The next record; none at the end.
    fn next(&mut self) -> Result<Option<Record>>;

    /// Bytes of the file read so far, about.
    fn bytes(&mut self) -> u64;
}

/// Opens a file in the form that its content says it has.
fn open(path: &Path, file: usize) -> Result<Box<dyn RecordReader>> {
    let mut input = open_input(path)?;
    let mut beginning = Vec::new();
    let read = (&mut input).take(MAGIC_BYTES).read_to_end(&mut beginning).and_then(|_| input.rewind());
    read.map_err(Error::file(path, FileAction::Read))?;
    if beginning.starts_with(PARQUET) {
        return Ok(Box::new(Parquet::open(path, file)?));
    }
    let (text, beginning) = Text::open(path, input, &beginning)?;
    if let Some(compression) = text.compression().filter(|_| beginning.starts_with(PARQUET)) {
        let reason =
            format!("is a Parquet file within {compression}: unpack it (Parquet is compressed by itself)");
        return Err(Error::format(path, reason));
    }
    // `data.csv.gz` is named by what is within it.
    let name = if text.compression().is_some() { path.with_extension("") } else { path.to_owned() };
    let form = form(&name, &beginning);
    let other = || if form == Form::Paragraphs { None } else { looks_like_other_text(&beginning) };
    if let Some(reason) = looks_like(&beginning).or_else(other) {
        return Err(Error::format(path, reason));
    }
    Ok(match form {
        Form::JsonLines => Box::new(JsonLines::new(path, file, text)),
        Form::JsonValues => Box::new(JsonValues::new(path, file, text)),
        Form::Table(delimiter) => Box::new(Table::new(path, file, text, delimiter)?),
        Form::Paragraphs => Box::new(Paragraphs::new(path, file, text)),
    })
}

/// Forms of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    JsonLines,
    JsonValues,
    /// With this between cells.
    Table(u8),
    Paragraphs,
}

fn form(name: &Path, beginning: &[u8]) -> Form {
    let text = beginning.trim_ascii_start();
    let extension = name.extension().unwrap_or_default().to_ascii_lowercase();
    if extension == "txt" && !begins_rows_of_json(text) {
        return table::delimiter_of_names(text).map_or(Form::Paragraphs, Form::Table);
    }
    match text.first() {
        Some(b'[') => Form::JsonValues,
        Some(b'{') => {
            let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
            let mut scanner = Scanner::default();
            scanner.scan(line);
            // A line break within a string is a mistake in a line, not an object over several lines.
            let ends_within = line.len() < text.len() && !scanner.is_whole && !scanner.is_in_string();
            if ends_within { Form::JsonValues } else { Form::JsonLines }
        }
        _ => {
            let is_json = ["json", "jsonl", "ndjson"].iter().any(|known| extension == *known);
            match table::delimiter(name, text).filter(|_| !is_json) {
                Some(delimiter) => Form::Table(delimiter),
                None => Form::JsonLines,
            }
        }
    }
}

/// Whether a text begins as rows in JSON do: with an object that has a field or is empty, or an array of objects. Other
/// brackets are those of a text.
fn begins_rows_of_json(text: &[u8]) -> bool {
    let mut visible = text.iter().filter(|byte| !byte.is_ascii_whitespace());
    matches!((visible.next(), visible.next()), (Some(b'{'), Some(b'"' | b'}')) | (Some(b'['), Some(b'{')))
}

/// What a text is instead of rows, from its beginning, and what to do.
fn looks_like_other_text(beginning: &[u8]) -> Option<&'static str> {
    let first_line = beginning.trim_ascii_start().split(|&byte| byte == b'\n').next().unwrap_or_default();
    if first_line.starts_with(b"---") {
        return Some("looks like YAML: convert it to JSON Lines");
    }
    first_line.starts_with(b"<").then_some("looks like XML: convert it to JSON Lines")
}

/// Reads the records of files, one file after the other.
pub(crate) struct Records<'a> {
    files: &'a [PathBuf],
    /// Index of the file that is read.
    file: usize,
    reader: Option<Box<dyn RecordReader>>,
    /// Bytes of every file.
    lengths: Vec<u64>,
}

impl<'a> Records<'a> {
    /// The records of these files.
    pub fn new(files: &'a [PathBuf]) -> Self {
        // What cannot be asked for its length is refused when its turn comes.
        let length = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
        let lengths = files.iter().map(length).collect();
        Self { files, file: 0, reader: None, lengths }
    }

    /// Bytes read of all files, about, and bytes of all files.
    pub fn bytes(&mut self) -> (u64, u64) {
        let before: u64 = self.lengths[..self.file].iter().sum();
        let of_this = self.reader.as_mut().map_or(0, |reader| reader.bytes());
        (before + of_this, self.lengths.iter().sum())
    }

    /// The next records, as many as are worked on at the same time; none at the end.
    ///
    /// # Errors
    /// A file cannot be read, or is of no form that is known.
    pub fn next_block(&mut self) -> Result<Vec<Record>> {
        let mut block = Vec::new();
        let mut bytes = 0;
        while block.len() < BLOCK_RECORDS && bytes < BLOCK_BYTES {
            let Some(path) = self.files.get(self.file) else { break };
            let reader = match &mut self.reader {
                Some(reader) => reader,
                none => none.insert(open(path, self.file)?),
            };
            match reader.next()? {
                Some(record) => {
                    // One for what separates it from the next.
                    bytes += record.content.bytes() + 1;
                    block.push(record);
                }
                None => {
                    self.reader = None;
                    self.file += 1;
                }
            }
        }
        Ok(block)
    }
}

/// Hash of the files' contents.
///
/// # Errors
/// A file cannot be read.
pub(crate) fn hash_files(files: &[PathBuf]) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    for path in files {
        hasher.update(hash_file(path)?.as_bytes());
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
        assert_eq!(numbers(&records.next_block().unwrap()), [1]);
        let error = records.next_block().unwrap_err().to_string();
        assert!(error.contains(":3: is longer than 8.0 MiB"), "{error}");
    }
}
