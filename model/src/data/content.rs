//! The rows of files while they are made, and what is counted beside them.

use serde::{Deserialize, Serialize};

use super::notice::{FileNotice, Notices};
use super::{DataSettings, LongRows, Position, Row, RowFormat};

/// Rows that did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Rows left out because they are too long.
    pub too_long: usize,
    /// Rows of which the end was cut off.
    pub truncated: usize,
    /// Rows left out because they cannot be used.
    pub invalid: usize,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvalidRow {
    /// Where it stands.
    pub position: Position,
    /// What is wrong with it.
    pub reason: String,
}

/// What is known of the records read so far, beside their rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadStats {
    #[serde(rename = "shape")]
    pub format: RowFormat,
    /// Records read.
    pub records: usize,
    /// Records with a row that is used: one may become several rows.
    pub used: usize,
    /// Records left out because they cannot be used.
    pub invalid: usize,
    /// The first of them.
    pub invalid_rows: Vec<InvalidRow>,
    pub notices: Notices,
    /// True when no record is left to be read.
    pub is_complete: bool,
}

/// What files say, tokenized.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TokenizedRows {
    pub stats: ReadStats,
    /// What a person should know, once all records are read.
    pub notices: Vec<FileNotice>,
    pub rows: Vec<Row>,
    /// Of every row what [`content_hash`] gives.
    pub hashes: Vec<u128>,
    /// Indices of the rows that were cut, with the tokens they had.
    pub cut: Vec<(usize, usize)>,
    /// Tokens of every row that is left out because it is too long.
    pub skipped: Vec<usize>,
}

impl TokenizedRows {
    /// No rows of a format.
    pub fn new(format: RowFormat) -> Self {
        let stats = ReadStats {
            format,
            records: 0,
            used: 0,
            invalid: 0,
            invalid_rows: Vec::new(),
            notices: Notices::default(),
            is_complete: false,
        };
        let (notices, rows, hashes, cut, skipped) = Default::default();
        Self { stats, notices, rows, hashes, cut, skipped }
    }

    /// Adds a row, cut where it is too long; the length of one that has to be left out is kept.
    pub fn add(&mut self, mut row: Row, settings: &DataSettings) {
        let length = row.tokens.len();
        if length > settings.max_length {
            if settings.long_rows == LongRows::Truncate {
                row.truncate(settings.max_length);
            }
            if settings.long_rows == LongRows::Skip || row.supervised_tokens() == 0 {
                self.skipped.push(length);
                return;
            }
        }
        let hash = content_hash(&row);
        self.push(row, hash, length);
    }

    /// Adds a row as it is to be used, with its hash and the tokens it had before it was cut.
    pub fn push(&mut self, row: Row, hash: u128, full_length: usize) {
        if full_length > row.tokens.len() {
            self.cut.push((self.rows.len(), full_length));
        }
        self.rows.push(row);
        self.hashes.push(hash);
    }

    /// Tokens of every row before it was cut.
    pub fn full_lengths(&self) -> Vec<usize> {
        let mut lengths: Vec<usize> = self.rows.iter().map(|row| row.tokens.len()).collect();
        self.cut.iter().for_each(|&(row, length)| lengths[row] = length);
        lengths
    }

    /// Rows that did not fit.
    pub fn counts(&self) -> Counts {
        Counts { too_long: self.skipped.len(), truncated: self.cut.len(), invalid: self.stats.invalid }
    }

    /// Divides the rows: those with a flag go, with what is known of each, into a content of their own.
    pub fn divide(self, is_moved: &[bool]) -> (Self, Self) {
        let mut moved = Self::new(self.stats.format);
        let lengths = self.full_lengths();
        let (notices, skipped) = (self.notices, self.skipped);
        let mut rest = Self { stats: self.stats, notices, skipped, ..Self::new(moved.stats.format) };
        let rows = self.rows.into_iter().zip(self.hashes).zip(lengths);
        for (((row, hash), length), is_moved) in rows.zip(is_moved) {
            if *is_moved { &mut moved } else { &mut rest }.push(row, hash, length);
        }
        (rest, moved)
    }

    /// Leaves the first rows.
    pub fn truncate(&mut self, rows: usize) {
        self.rows.truncate(rows);
        self.hashes.truncate(rows);
        self.cut.retain(|(row, _)| *row < rows);
    }
}

/// Hash of a row's tokens and of where its last answer begins. Which of the tokens are learnt does not count.
fn content_hash(row: &Row) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytemuck::cast_slice(&row.tokens));
    hasher.update(&(row.prompt_length as u64).to_le_bytes());
    let mut bytes = [0; 16];
    hasher.finalize_xof().fill(&mut bytes);
    u128::from_le_bytes(bytes)
}
