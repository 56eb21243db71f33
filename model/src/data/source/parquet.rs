//! Parquet: a record a row, read page by page.

use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::{Content, LONGEST_RECORD, Position, Record, RecordReader, Unit};
use crate::contain::contain;
use crate::error::{Error, FileAction, Reasoned, Result};
use crate::files::{human_bytes, open_input};

/// Reads a file row by row.
pub(super) struct Parquet {
    path: PathBuf,
    file: usize,
    rows: RowIter<'static>,
    number: usize,
    /// Bytes of the file for every row, on average.
    row_bytes: f64,
    hash: blake3::Hash,
}

impl Parquet {
    /// The rows of the file of this index.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn open(path: &Path, file: usize) -> Result<Self> {
        let hash = crate::files::hash_file(path)?;
        let input = open_input(path)?;
        let length = input.metadata().map_err(Error::file(path, FileAction::Read))?.len();
        let rows = contained(|| {
            let reader = SerializedFileReader::new(input)?;
            // Statistics of pages and row groups are not needed, and a schema is checked before any row is read.
            reader.get_row_iter(None)?;
            let count = reader.metadata().file_metadata().num_rows();
            Ok((RowIter::from_file_into(Box::new(reader)), count))
        });
        let (rows, count) = rows.map_err(|reason| Error::format(path, reason))?;
        let row_bytes = length as f64 / count.max(1) as f64;
        Ok(Self { path: path.to_owned(), file, rows, number: 0, row_bytes, hash })
    }
}

impl RecordReader for Parquet {
    fn next(&mut self) -> Result<Option<Record>> {
        self.number += 1;
        // A date or a time beyond what the library can write is found when it is written.
        let row = contained(|| Ok(self.rows.next().transpose()?.map(|row| columns(&row))));
        let error = |reason| Error::format(&self.path, format!("row {}: {reason}", self.number));
        let Some(columns) = row.map_err(error)? else { return Ok(None) };
        let position = Position { file: self.file, unit: Unit::Row, number: self.number };
        let content = Content::Columns(columns);
        if content.bytes() > LONGEST_RECORD {
            let most = human_bytes(LONGEST_RECORD as u64);
            return Err(Error::format(
                &self.path,
                format!("row {} is longer than {most}, the most a row may have", self.number),
            ));
        }
        Ok(Some(Record { position, content }))
    }

    fn bytes(&mut self) -> u64 {
        (self.number as f64 * self.row_bytes) as u64
    }

    fn hash(&mut self) -> Result<blake3::Hash> {
        Ok(self.hash)
    }
}

/// Runs an operation of the library, which may panic on a damaged file.
fn contained<T>(operation: impl FnOnce() -> parquet::errors::Result<T>) -> Reasoned<T> {
    let result = contain("parquet", operation).map_err(|reason| format!("is damaged: {reason}"))?;
    result.map_err(|error| {
        let error = error.to_string();
        let reason = error.lines().next().unwrap_or_default();
        format!("is a Parquet file that cannot be read: {reason}")
    })
}

fn columns(row: &Row) -> Map<String, Value> {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

/// A field as JSON. Bytes are text, as programs write them that know no text type.
fn value(field: &Field) -> Value {
    match field {
        Field::Group(row) => Value::Object(columns(row)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let entry = |(key, field): &(Field, Field)| {
                let key = value(key);
                (key.as_str().map_or_else(|| key.to_string(), str::to_owned), value(field))
            };
            Value::Object(map.entries().iter().map(entry).collect())
        }
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => field.to_json_value(),
        },
        other => other.to_json_value(),
    }
}
