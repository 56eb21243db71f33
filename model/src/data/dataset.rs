//! Files as rows of tokens.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::notice::{FileNotice, Notice};
use super::source::{describe_files, hash_files};
use super::{DataSettings, LongRows, Position, Preparation, Row, Shape, cache, load};
use crate::error::{Error, Result};
use crate::files::json_text;
use crate::tokenizer::Tokenizer;

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

/// How the cache was used for a data set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheUse {
    /// No folder was given.
    None,
    /// The rows were read from it.
    Read,
    /// The rows were made and written to it.
    Written,
    /// The rows were made; writing them failed for this reason. Nothing depends on it.
    NotWritten(String),
}

/// What files say, tokenised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub shape: Shape,
    pub counts: Counts,
    pub notices: Vec<FileNotice>,
    /// The first rows that cannot be used.
    pub invalid: Vec<InvalidRow>,
    pub rows: Vec<Row>,
}

impl Content {
    /// No rows of a shape.
    pub fn new(shape: Shape) -> Self {
        let (counts, notices, invalid, rows) = (Counts::default(), Vec::new(), Vec::new(), Vec::new());
        Self { shape, counts, notices, invalid, rows }
    }
}

/// The rows of files, in their order, as tokens.
#[derive(Debug, Clone)]
pub struct Dataset {
    files: Vec<PathBuf>,
    content: Content,
    cache: CacheUse,
}

impl Dataset {
    /// Reads files and tokenises their rows, or reads the tokens from `cache_folder` if they were made before from
    /// the same content, tokenizer, template and settings.
    ///
    /// # Errors
    /// Names the file, and the line or row where there is one: not of a form that is known, no answer, another
    /// shape than the first row's, no supervised token; no rows at all; all rows too long; `messages` without a chat
    /// template.
    pub fn load(
        files: &[PathBuf],
        tokenizer: &Tokenizer,
        settings: &DataSettings,
        cache_folder: Option<&Path>,
    ) -> Result<Self> {
        let preparation = Preparation { cache: cache_folder, observe: None };
        Self::load_observed(files, tokenizer, settings, &preparation)
    }

    /// [`Dataset::load`] that tells how far it is.
    ///
    /// # Errors
    /// As [`Dataset::load`].
    pub fn load_observed(
        files: &[PathBuf],
        tokenizer: &Tokenizer,
        settings: &DataSettings,
        preparation: &Preparation<'_>,
    ) -> Result<Self> {
        let cache_folder = preparation.cache;
        let described = json_text(&describe_files(files), settings)?;
        let key = |content_hash: &blake3::Hash| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(content_hash.as_bytes());
            // A file's name decides the form of a text that begins like no JSON.
            for path in files {
                for name in [path.as_path(), &path.with_extension("")] {
                    let extension = name.extension().unwrap_or_default().to_ascii_lowercase();
                    hasher.update(extension.as_encoded_bytes());
                    hasher.update(&[0]);
                }
            }
            hasher.update(&tokenizer.fingerprint());
            hasher.update(described.as_bytes());
            hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
            hasher.finalize()
        };
        if let Some(folder) = cache_folder
            && let Some(content) = cache::read(folder, &key(&hash_files(files)?))
        {
            return Self::checked(files, content, CacheUse::Read, settings);
        }
        let (content, hash) = load::tokenize_files(files, tokenizer, settings, preparation)?;
        let cache = match cache_folder {
            None => CacheUse::None,
            Some(folder) => match cache::write(folder, &key(&hash), &content) {
                Ok(()) => CacheUse::Written,
                Err(error) => CacheUse::NotWritten(error.to_string()),
            },
        };
        Self::checked(files, content, cache, settings)
    }

    fn checked(
        files: &[PathBuf],
        content: Content,
        cache: CacheUse,
        settings: &DataSettings,
    ) -> Result<Self> {
        let max_length = settings.max_length;
        if content.rows.is_empty() {
            if let (0, Some(InvalidRow { position, reason })) =
                (content.counts.too_long, content.invalid.first())
            {
                let reason = format!("{reason} (and no row can be used)");
                return Err(position.error(files, reason));
            }
            let reason = match (content.counts.too_long, settings.long_rows) {
                (0, _) => "has no rows".to_owned(),
                (count, LongRows::Skip) => format!(
                    "all {count} rows are longer than {max_length} tokens: raise max_length, or set truncate"
                ),
                (count, LongRows::Truncate) => format!(
                    "the prompts of all {count} rows fill {max_length} tokens, which leaves no answer to learn: \
                     raise max_length"
                ),
            };
            return Err(Error::format(&describe_files(files), reason));
        }
        Ok(Self { files: files.to_vec(), content, cache })
    }

    /// The files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The files as a message names them together: `a.jsonl and 2 more`.
    pub fn name(&self) -> PathBuf {
        describe_files(&self.files)
    }

    /// What is wrong with a row, which is named.
    pub fn row_error(&self, row: &Row, reason: &str) -> Error {
        row.position.error(&self.files, reason)
    }

    /// Where a row comes from, as people read it: `a.jsonl:12`.
    pub fn describe_row(&self, row: &Row) -> String {
        row.position.describe(&self.files)
    }

    /// The rows, in file order.
    pub fn rows(&self) -> &[Row] {
        &self.content.rows
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.content.rows.len()
    }

    /// Never: a data set has rows.
    pub fn is_empty(&self) -> bool {
        self.content.rows.is_empty()
    }

    /// Shape of the rows.
    pub fn shape(&self) -> Shape {
        self.content.shape
    }

    /// Rows that did not fit.
    pub fn counts(&self) -> Counts {
        self.content.counts
    }

    /// Adds something that concerns every row.
    pub(crate) fn add_notice(&mut self, notice: Notice) {
        let first = self.rows().first().map(|row| row.position);
        self.content.notices.extend(first.map(|first| FileNotice { notice, rows: self.len(), first }));
    }

    /// What a person should know about the rows.
    pub fn notices(&self) -> &[FileNotice] {
        &self.content.notices
    }

    /// The notices, and the rows left out, as lines for a person.
    pub fn described_notices(&self) -> impl Iterator<Item = String> {
        self.file_notices().chain(self.described_invalid())
    }

    /// The notices as lines for a person, each with a file's name.
    pub(super) fn file_notices(&self) -> impl Iterator<Item = String> {
        let name = self.name();
        let line = move |notice: &FileNotice| match self.files.as_slice() {
            [file] => format!("{}: {notice}", file.display()),
            files => format!("{}: {notice} of {}", name.display(), files[notice.first.file].display()),
        };
        self.notices().iter().map(line)
    }

    /// The first rows left out because they cannot be used.
    pub fn invalid_rows(&self) -> &[InvalidRow] {
        &self.content.invalid
    }

    /// The rows left out because they cannot be used, as a line for a person; none where all can.
    fn described_invalid(&self) -> Option<String> {
        let count = self.counts().invalid;
        let named = |row: &InvalidRow| format!("{} {}", row.position.describe(&self.files), row.reason);
        let named: Vec<String> = self.content.invalid.iter().map(named).collect();
        let rows = if count == 1 { "1 row is".to_owned() } else { format!("{count} rows are") };
        (count > 0).then(|| format!("{rows} left out, since they cannot be used: {}", named.join("; ")))
    }

    /// Holds back a share of the rows, chosen by their content: rows of the same content stay together, and which go
    /// does not depend on the others. Returns the rows that stay and those held back.
    ///
    /// # Errors
    /// When either would have no rows.
    pub fn split(self, share: f64) -> Result<(Self, Self)> {
        let is_held_back = |row: &Row| {
            let hash = content_hash(row);
            let number = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap_or_default());
            (number as f64) < share * 2f64.powi(64)
        };
        // Rows that one record became stay together.
        let (mut held_back, mut rows) = (Vec::new(), Vec::new());
        for record in self.content.rows.chunk_by(|one, next| one.position == next.position) {
            // The shortest may also stand by itself, as a conversation that ends there.
            let decisive = record.iter().min_by_key(|row| row.tokens.len());
            let side = if decisive.is_some_and(is_held_back) { &mut held_back } else { &mut rows };
            side.extend_from_slice(record);
        }
        if held_back.is_empty() || rows.is_empty() {
            let reason = format!(
                "a share of {share} of its {} rows leaves none to {}: change task.eval_share, or name a file in \
                 task.eval",
                rows.len() + held_back.len(),
                if rows.is_empty() { "train on" } else { "evaluate on" }
            );
            return Err(Error::format(&describe_files(&self.files), reason));
        }
        let eval = Self {
            files: self.files.clone(),
            // Rows that are cut end nowhere: `stop_tokens` goes by this.
            content: Content {
                rows: held_back,
                counts: Counts { truncated: self.content.counts.truncated, ..Counts::default() },
                ..Content::new(self.content.shape)
            },
            cache: self.cache.clone(),
        };
        let train = Self { files: self.files, content: Content { rows, ..self.content }, cache: self.cache };
        Ok((train, eval))
    }

    /// Leaves the rows of the first records.
    pub(crate) fn limit(&mut self, limit: Option<usize>) {
        let records = self.content.rows.chunk_by(|one, next| one.position == next.position);
        let rows = records.take(limit.unwrap_or(usize::MAX)).map(<[Row]>::len).sum();
        self.content.rows.truncate(rows);
    }

    /// A notice about the rows that also stand in `training`.
    pub(crate) fn also_in(&self, training: &Self) -> Option<FileNotice> {
        let known: HashSet<blake3::Hash> = training.rows().iter().map(content_hash).collect();
        let mut both = self.rows().iter().filter(|row| known.contains(&content_hash(row)));
        let first = both.next()?.position;
        Some(FileNotice { notice: Notice::AlsoTrained, rows: 1 + both.count(), first })
    }

    /// How many rows also stand in `training`, as far as it can be told: before the rows of this data set there may be
    /// examples, which make them others.
    pub(crate) fn rows_also_in(&self, training: &Self) -> usize {
        let known = self.content.notices.iter().find(|notice| notice.notice == Notice::AlsoTrained);
        known.map(|known| known.rows).or_else(|| Some(self.also_in(training)?.rows)).unwrap_or(0)
    }

    /// Adds a notice about some rows.
    pub(crate) fn add_file_notice(&mut self, notice: Option<FileNotice>) {
        self.content.notices.extend(notice);
    }

    /// Rows that have the content of one before them.
    pub fn duplicates(&self) -> usize {
        let different: HashSet<blake3::Hash> = self.rows().iter().map(content_hash).collect();
        self.len() - different.len()
    }

    /// How the cache was used.
    pub fn cache(&self) -> &CacheUse {
        &self.cache
    }

    /// Tokens of all rows.
    pub fn tokens(&self) -> usize {
        self.rows().iter().map(|row| row.tokens.len()).sum()
    }

    /// Supervised tokens of all rows.
    pub fn supervised_tokens(&self) -> usize {
        self.rows().iter().map(Row::supervised_tokens).sum()
    }

    /// Tokens of the longest row.
    pub fn longest_row(&self) -> usize {
        self.rows().iter().map(|row| row.tokens.len()).max().unwrap_or(0)
    }

    /// True when rows have a prompt to answer, so that greedy answers can be compared.
    pub fn has_prompts(&self) -> bool {
        self.shape() != Shape::Text
    }

    /// Tokens at which generation of answers to this data ends: the tokenizer's, and those that end the
    /// rows (a chat template may end turns with another).
    pub fn stop_tokens(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut stop = tokenizer.stop_tokens().to_vec();
        let whole_rows = if self.content.counts.truncated == 0 { self.rows() } else { &[] };
        for id in whole_rows.iter().filter_map(|row| row.tokens.last()) {
            if !stop.contains(id) && tokenizer.is_added(*id) {
                stop.push(*id);
            }
        }
        stop
    }

    /// A row for people to read: decoded with its control tokens, supervised parts between `⟦` and `⟧`.
    pub fn masked_sample(&self, row: usize, tokenizer: &Tokenizer) -> Option<String> {
        let row = self.rows().get(row)?;
        let mark =
            |(part, supervised): (String, bool)| if supervised { format!("⟦{part}⟧") } else { part };
        Some(row.decoded_parts(tokenizer).map(mark).collect())
    }
}

/// Hash of a row's tokens and of where its last answer begins. Which of the tokens are learnt does not count.
fn content_hash(row: &Row) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytemuck::cast_slice(&row.tokens));
    hasher.update(&(row.prompt_length as u64).to_le_bytes());
    hasher.finalize()
}
