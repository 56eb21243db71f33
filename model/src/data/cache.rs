//! Tokenized files on disk, found by the hash of everything that decided their content.
//!
//! Every key has files, its pieces, numbered from 0. A piece has the rows of some consecutive records and what is
//! known after them: `magic, key, hash of key, number and rest, stats as JSON, lengths of rows left out, rows`, all
//! numbers little-endian. It is written whole when its rows are made, so that a preparation that was ended goes on behind the
//! last. One that is damaged, of another version, or of another key or number than its name says is as good as none.
//!
//! The files take 4 bytes a token, and 64 bytes a row with 8 more for each of its parts that is learnt or not.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::content::{ReadStats, TokenizedRows};
use super::tokenize::Row;
use super::{Position, Unit};
use crate::error::{Error, FileAction, Result};
use crate::files::{json_text, write_atomically};

/// How the cache was used for a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheUse {
    /// No folder was given.
    None,
    /// The rows were read from it.
    Read,
    /// The rows were made and written to it.
    Written,
    /// The first rows were read from it, those behind them made and written to it.
    Continued {
        /// Rows of the files, from the first, that were read.
        read: usize,
    },
    /// The rows were made; writing them failed for this reason. Nothing depends on it.
    NotWritten(String),
}

/// Changes whenever tokenization or the format does.
const MAGIC: &[u8; 8] = b"cpiftok9";

/// The pieces of a key, read or written one after the other.
pub(crate) struct Pieces {
    folder: PathBuf,
    key: blake3::Hash,
    /// Tokens after which a piece ends.
    piece_tokens: usize,
    /// Pieces that are on disk, one after the other.
    count: usize,
    /// Rows in them.
    rows: usize,
    /// Lengths of rows left out in them.
    skipped: usize,
}

impl Pieces {
    /// Those of a key in a folder of tokenized data; none is looked at. New ones end after so many tokens.
    pub fn new(cache: &Path, key: blake3::Hash, piece_tokens: usize) -> Self {
        Self { folder: cache.to_owned(), key, piece_tokens, count: 0, rows: 0, skipped: 0 }
    }

    /// Path of the next piece.
    fn next_path(&self) -> PathBuf {
        self.folder.join(format!("{}-{:06}.tokens", &self.key.to_hex()[..32], self.count))
    }

    /// Hash of the next piece's body, and of which piece it is.
    fn seal(&self, body: &[u8]) -> blake3::Hash {
        let number = (self.count as u64).to_le_bytes();
        blake3::Hasher::new().update(self.key.as_bytes()).update(&number).update(body).finalize()
    }

    /// What the pieces have up to the first that is not there, or is not to be trusted: `refused` is told of that one.
    /// No more than one piece is in memory beside the rows.
    pub fn read(&mut self, mut refused: impl FnMut(&Path)) -> Option<TokenizedRows> {
        let mut content: Option<TokenizedRows> = None;
        let mut bytes = Vec::new();
        while content.as_ref().is_none_or(|content| !content.stats.is_complete) {
            let path = self.next_path();
            bytes.clear();
            let read = fs::File::open(&path).and_then(|mut file| file.read_to_end(&mut bytes));
            match read {
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Ok(_) if self.add(&bytes, &mut content).is_some() => self.count += 1,
                _ => {
                    refused(&path);
                    break;
                }
            }
        }
        let content = content?;
        (self.rows, self.skipped) = (content.rows.len(), content.skipped.len());
        Some(content)
    }

    /// Adds what the bytes of the next piece say; nothing where they are not to be trusted.
    fn add(&self, bytes: &[u8], content: &mut Option<TokenizedRows>) -> Option<()> {
        let rest = bytes.strip_prefix(MAGIC)?.strip_prefix(self.key.as_bytes())?;
        let (hash, body) = rest.split_at_checked(32)?;
        if self.seal(body).as_bytes() != hash {
            return None;
        }
        let mut reader = Reader { body };
        let length = reader.number()?;
        let stats: ReadStats = serde_json::from_slice(reader.take(length)?).ok()?;
        let lengths = (0..reader.number()?).map(|_| reader.number()).collect::<Option<Vec<usize>>>()?;
        let rows =
            (0..reader.number()?).map(|_| reader.row()).collect::<Option<Vec<(Row, u128, usize)>>>()?;
        if !reader.body.is_empty() {
            return None;
        }
        let content = content.get_or_insert_with(|| TokenizedRows::new(stats.format));
        content.stats = stats;
        content.skipped.extend(lengths);
        rows.into_iter().for_each(|(row, hash, full_length)| content.push(row, hash, full_length));
        Some(())
    }

    /// Writes what no piece has yet, once it is enough for one or nothing will follow.
    pub fn write(&mut self, content: &TokenizedRows) -> Result<()> {
        let rows = &content.rows[self.rows..];
        let tokens: usize = rows.iter().map(|row| row.tokens.len()).sum();
        if tokens < self.piece_tokens && !content.stats.is_complete {
            return Ok(());
        }
        let path = self.next_path();
        let stats = json_text(&path, &content.stats)?;
        let mut body = Vec::with_capacity(stats.len() + 4 * tokens + 96 * rows.len());
        push_number(&mut body, stats.len());
        body.extend(stats.as_bytes());
        let lengths = &content.skipped[self.skipped..];
        push_number(&mut body, lengths.len());
        lengths.iter().for_each(|&length| push_number(&mut body, length));
        push_number(&mut body, rows.len());
        let cut = content.cut.partition_point(|(row, _)| *row < self.rows);
        let mut cut = content.cut[cut..].iter().peekable();
        for (index, row) in (self.rows..).zip(rows) {
            let cut = cut.next_if(|(row, _)| *row == index);
            let full_length = cut.map_or(row.tokens.len(), |(_, length)| *length);
            push_row(&mut body, row, content.hashes[index], full_length);
        }
        fs::create_dir_all(&self.folder).map_err(Error::file(&self.folder, FileAction::CreateFolder))?;
        write_atomically(&path, |file| {
            file.put(MAGIC)?;
            file.put(self.key.as_bytes())?;
            file.put(self.seal(&body).as_bytes())?;
            file.put(&body)
        })?;
        self.count += 1;
        (self.rows, self.skipped) = (content.rows.len(), content.skipped.len());
        Ok(())
    }
}

fn push_number(body: &mut Vec<u8>, number: usize) {
    body.extend((number as u64).to_le_bytes());
}

fn push_row(body: &mut Vec<u8>, row: &Row, hash: u128, full_length: usize) {
    let unit = usize::from(row.position.unit == Unit::Row);
    let parts = || row.supervised.chunk_by(|one, next| one == next);
    let Position { file, number, .. } = row.position;
    for number in [file, unit, number, full_length, row.prompt_length, parts().count()] {
        push_number(body, number);
    }
    // Parts alternate, and the first token is never learnt.
    parts().for_each(|part| push_number(body, part.len()));
    body.extend(hash.to_le_bytes());
    body.extend(row.tokens.iter().flat_map(|token| token.to_le_bytes()));
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

    fn row(&mut self) -> Option<(Row, u128, usize)> {
        let (file, unit, number) = (self.number()?, self.number()?, self.number()?);
        let unit = if unit == 0 { Unit::Line } else { Unit::Row };
        let position = Position { file, unit, number };
        let (full_length, prompt_length, parts) = (self.number()?, self.number()?, self.number()?);
        let mut supervised = Vec::new();
        for part in 0..parts {
            let length = supervised.len().checked_add(self.number()?)?;
            if length > self.body.len() {
                return None;
            }
            supervised.resize(length, part % 2 == 1);
        }
        let hash = u128::from_le_bytes(self.take(16)?.try_into().ok()?);
        let tokens = self.take(supervised.len().checked_mul(4)?)?;
        let tokens: Vec<u32> =
            tokens.chunks_exact(4).map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
        let row = Row { position, tokens, supervised, prompt_length };
        (prompt_length <= row.tokens.len()).then_some((row, hash, full_length))
    }
}
