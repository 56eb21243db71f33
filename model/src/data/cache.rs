//! Tokenised files on disk, found by the hash of everything that decided their content.
//!
//! A cache file is `magic, key, hash of key and rest, everything but the rows as JSON, rows`, all numbers little-endian. One
//! that is damaged, of another version, or of another key than its name says is as good as none: it is made anew.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::dataset::{Content, Counts, InvalidRow};
use super::notice::FileNotice;
use super::rows::Shape;
use super::tokenize::Row;
use super::{Position, Unit};
use crate::error::{Error, FileAction, Result};
use crate::files::{json_text, write_atomically};

/// Changes whenever tokenisation or the format does.
const MAGIC: &[u8; 8] = b"cpiftok7";

/// What is kept beside the rows.
#[derive(Serialize, Deserialize)]
struct Header {
    shape: Shape,
    counts: Counts,
    notices: Vec<FileNotice>,
    invalid: Vec<InvalidRow>,
}

/// Path of the cache file for a key.
fn path(folder: &Path, key: &blake3::Hash) -> PathBuf {
    folder.join(format!("{}.tokens", &key.to_hex()[..32]))
}

/// Hash of a key and the content kept for it.
fn seal(key: &blake3::Hash, body: &[u8]) -> blake3::Hash {
    blake3::Hasher::new().update(key.as_bytes()).update(body).finalize()
}

/// The rows cached in `folder` for a key, or `None` where there are none that can be trusted.
pub(crate) fn read(folder: &Path, key: &blake3::Hash) -> Option<Content> {
    let bytes = fs::read(path(folder, key)).ok()?;
    let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(key.as_bytes())?;
    let (hash, body) = rest.split_at_checked(32)?;
    if seal(key, body).as_bytes() != hash {
        return None;
    }
    let mut reader = Reader { body };
    let header_length = reader.number()?;
    let header: Header = serde_json::from_slice(reader.take(header_length)?).ok()?;
    let rows = (0..reader.number()?).map(|_| reader.row()).collect::<Option<Vec<Row>>>()?;
    reader.body.is_empty().then_some(Content {
        shape: header.shape,
        counts: header.counts,
        notices: header.notices,
        invalid: header.invalid,
        rows,
    })
}

/// Writes the cache file of a key into `folder`, whole or not at all.
pub(crate) fn write(folder: &Path, key: &blake3::Hash, content: &Content) -> Result<()> {
    let path = &path(folder, key);
    let mut body = Vec::new();
    let header = Header {
        shape: content.shape,
        counts: content.counts,
        notices: content.notices.clone(),
        invalid: content.invalid.clone(),
    };
    let header = json_text(path, &header)?;
    push_number(&mut body, header.len());
    body.extend(header.as_bytes());
    push_number(&mut body, content.rows.len());
    for row in &content.rows {
        let unit = usize::from(row.position.unit == Unit::Row);
        for number in [row.position.file, unit, row.position.number, row.prompt_length, row.tokens.len()] {
            push_number(&mut body, number);
        }
        body.extend(row.tokens.iter().flat_map(|token| token.to_le_bytes()));
        body.extend(row.supervised.iter().map(|&supervised| u8::from(supervised)));
    }
    fs::create_dir_all(folder).map_err(Error::file(folder, FileAction::CreateFolder))?;
    write_atomically(path, |file| {
        file.put(MAGIC)?;
        file.put(key.as_bytes())?;
        file.put(seal(key, &body).as_bytes())?;
        file.put(&body)
    })
}

fn push_number(body: &mut Vec<u8>, number: usize) {
    body.extend((number as u64).to_le_bytes());
}

struct Reader<'a> {
    body: &'a [u8],
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let (taken, rest) = self.body.split_at_checked(length)?;
        self.body = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        let bytes = self.take(8)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    }

    fn row(&mut self) -> Option<Row> {
        let (file, unit, number) = (self.number()?, self.number()?, self.number()?);
        let unit = if unit == 0 { Unit::Line } else { Unit::Row };
        let position = Position { file, unit, number };
        let (prompt_length, length) = (self.number()?, self.number()?);
        let tokens = self.take(length.checked_mul(4)?)?;
        let tokens =
            tokens.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
        let supervised = self.take(length)?.iter().map(|&flag| flag != 0).collect();
        (prompt_length <= length).then_some(Row { position, tokens, supervised, prompt_length })
    }
}
