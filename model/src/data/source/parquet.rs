//! Parquet: a record a row, read page by page.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{ChunkReader, FileReader, Length, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use serde_json::{Map, Value};

use super::{Content, LONGEST_RECORD, Position, Record, RecordReader, Unit};
use crate::contain::contain;
use crate::error::{Error, FileAction, Reasoned, Result};
use crate::files::{human_bytes, open_input};

/// Most bytes of a page, unpacked. Usual are one or a few MiB.
const LONGEST_PAGE: u64 = 256 << 20;

/// Reads a file row by row.
pub(super) struct Parquet {
    path: PathBuf,
    file: usize,
    rows: RowIter<'static>,
    number: usize,
    /// The number of the last row of every row group.
    group_ends: Vec<usize>,
    /// Bytes of the file for every row, on average.
    row_bytes: f64,
}

impl Parquet {
    /// The rows of the file of this index.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn open(path: &Path, file: usize) -> Result<Self> {
        let input = open_input(path)?;
        let length = input.metadata().map_err(Error::file(path, FileAction::Read))?.len();
        let opened = contained(|| {
            let reader = SerializedFileReader::new(BoundedPages { file: input, length })?;
            // Statistics of pages and row groups are not needed, and a schema is checked before any row is read.
            reader.get_row_iter(None)?;
            let mut end = 0_usize;
            let groups = reader.metadata().row_groups().iter().map(|group| {
                end = end.saturating_add(usize::try_from(group.num_rows()).unwrap_or(0));
                end
            });
            let group_ends: Vec<usize> = groups.collect();
            Ok((RowIter::from_file_into(Box::new(reader)), group_ends))
        });
        let (rows, group_ends) = opened.map_err(|reason| Error::format(path, reason))?;
        let row_bytes = length as f64 / group_ends.last().copied().unwrap_or(0).max(1) as f64;
        Ok(Self { path: path.to_owned(), file, rows, number: 0, group_ends, row_bytes })
    }

    /// What is wrong at the present row.
    fn error(&self, reason: &str) -> Error {
        let (number, group) = (self.number, self.group_ends.partition_point(|&end| end < self.number) + 1);
        let group = group.min(self.group_ends.len());
        Error::format(&self.path, format!("row {number} (row group {group}): {reason}"))
    }
}

impl RecordReader for Parquet {
    fn next(&mut self) -> Result<Option<Record>> {
        self.number += 1;
        // A date or a time beyond what the library can write is found when it is written.
        let row = contained(|| Ok(self.rows.next().transpose()?.map(|row| columns(&row))));
        let Some(columns) = row.map_err(|reason| self.error(&reason))? else { return Ok(None) };
        let position = Position { file: self.file, unit: Unit::Row, number: self.number };
        let content = Content::Columns(columns);
        if content.bytes() > LONGEST_RECORD {
            let most = human_bytes(LONGEST_RECORD as u64);
            return Err(self.error(&format!("is longer than {most}, the most a row may have")));
        }
        Ok(Some(Record { position, content }))
    }

    fn bytes(&mut self) -> u64 {
        (self.number as f64 * self.row_bytes) as u64
    }
}

/// A file of which pages are read only where their headers claim possible sizes: the library takes the memory that a
/// header claims before it reads the page.
struct BoundedPages {
    file: File,
    length: u64,
}

impl Length for BoundedPages {
    fn len(&self) -> u64 {
        self.length
    }
}

impl ChunkReader for BoundedPages {
    type T = Box<dyn Read>;

    /// Called where the end of the file begins, and where a page does.
    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        let mut reader = self.file.get_read(start)?;
        let mut beginning = Vec::new();
        reader.by_ref().take(MOST_SIZE_BYTES).read_to_end(&mut beginning)?;
        let is_footer = start + FOOTER >= self.length;
        let sizes = page_sizes(&beginning).filter(|_| !is_footer).unwrap_or_default();
        if let Some(size) = sizes.into_iter().find(|&size| size > LONGEST_PAGE) {
            let (size, most) = (human_bytes(size), human_bytes(LONGEST_PAGE));
            return Err(ParquetError::General(format!("a page claims {size}, and may have {most}")));
        }
        Ok(Box::new(Cursor::new(beginning).chain(reader)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        if start.checked_add(length as u64).is_none_or(|end| end > self.length) {
            return Err(ParquetError::General("a part of it would be beyond its end".to_owned()));
        }
        self.file.get_bytes(start, length)
    }
}

/// Bytes of the end of a file that say where its metadata begin.
const FOOTER: u64 = 8;

/// Bytes in which the sizes of a page end: three fields of a byte and a number.
const MOST_SIZE_BYTES: u64 = 3 * (1 + 10);

/// The two sizes with which a page's header begins behind its type: unpacked and in the file. Each is a field of
/// Thrift's compact protocol: that it is the next field and an `i32`, and its value. Nothing where these bytes are no
/// header; a negative size is the library's to refuse.
fn page_sizes(header: &[u8]) -> Option<[u64; 2]> {
    const NEXT_I32: u8 = 0x15;
    let mut header = header.iter();
    let mut number = || {
        header.next().filter(|&&byte| byte == NEXT_I32)?;
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = *header.next()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                // Zigzag: even numbers are twice the positive ones.
                return Some(if value.is_multiple_of(2) { value / 2 } else { 0 });
            }
        }
        None
    };
    number()?;
    Some([number()?, number()?])
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
