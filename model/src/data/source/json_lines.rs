//! JSON Lines: a record a line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::{Content, LONGEST_RECORD, Position, Record, Unit};
use crate::error::{Error, FileAction, Result};
use crate::files::{human_bytes, looks_like, open_input};

/// Reads a file line by line, and hashes it on the way.
pub(super) struct JsonLines {
    path: PathBuf,
    file: usize,
    reader: BufReader<File>,
    hasher: blake3::Hasher,
    number: usize,
}

impl JsonLines {
    /// Opens the file of this index; fails when its beginning shows that it is not JSON Lines.
    pub fn open(path: &Path, file: usize) -> Result<Self> {
        let mut reader = BufReader::with_capacity(1 << 20, open_input(path)?);
        let beginning = reader.fill_buf().map_err(Error::file(path, FileAction::Read))?;
        if let Some(reason) = looks_like(beginning).or_else(|| looks_like_other_text(beginning)) {
            return Err(Error::format(path, reason));
        }
        Ok(Self { path: path.to_owned(), file, reader, hasher: blake3::Hasher::new(), number: 0 })
    }

    /// The next line that is not blank.
    pub fn next(&mut self) -> Result<Option<Record>> {
        loop {
            let mut bytes = Vec::new();
            let mut line = (&mut self.reader).take(LONGEST_RECORD as u64 + 1);
            let read =
                line.read_until(b'\n', &mut bytes).map_err(Error::file(&self.path, FileAction::Read))?;
            if read == 0 {
                return Ok(None);
            }
            self.hasher.update(&bytes);
            self.number += 1;
            if read > LONGEST_RECORD {
                let reason = format!(
                    "is longer than {}, the most a row may have: split it into several rows",
                    human_bytes(LONGEST_RECORD as u64)
                );
                return Err(Error::line(&self.path, self.number, reason));
            }
            let mut content = bytes.as_slice();
            if self.number == 1 {
                content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
            }
            let content = content.trim_ascii();
            if !content.is_empty() {
                let position = Position { file: self.file, unit: Unit::Line, number: self.number };
                return Ok(Some(Record { position, content: Content::Json(content.to_vec()) }));
            }
        }
    }

    /// Hash of what has been read.
    pub fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }
}

/// What some programs write at the beginning of a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// What a text is instead of JSON Lines, from its beginning, and what to do.
fn looks_like_other_text(beginning: &[u8]) -> Option<&'static str> {
    let text = beginning.strip_prefix(BYTE_ORDER_MARK).unwrap_or(beginning).trim_ascii_start();
    let first_line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    match first_line.first()? {
        b'[' => Some(
            "looks like a JSON array: write one object per line \
             (`jq -c '.[]' FILE.json > FILE.jsonl`)",
        ),
        b'{' if first_line == b"{" => Some(
            "looks like one JSON document over several lines: write one object per line \
             (`jq -c . FILE.json > FILE.jsonl`)",
        ),
        b'{' => None,
        _ if first_line.starts_with(b"---") => Some("looks like YAML: convert it to JSON Lines"),
        _ if first_line.contains(&b',') || first_line.contains(&b'\t') => {
            Some("looks like CSV: convert it to JSON Lines, one object per line")
        }
        _ => None,
    }
}
