//! Files as rows of tokens.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::cache::CacheUse;
use super::content::{Counts, InvalidRow, TokenizedRows};
use super::notice::{FileNotice, Notice};
use super::source::describe_files;
use super::{DataSettings, LongRows, Position, Preparation, Row, RowFormat, load};
use crate::counts::counted;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// The rows of files, in their order, as tokens.
#[derive(Debug, Clone)]
pub struct Dataset {
    files: Vec<PathBuf>,
    content: TokenizedRows,
    cache: CacheUse,
    /// Most tokens of a row.
    pub(super) max_length: usize,
    /// What was done with longer ones.
    pub(super) long_rows: LongRows,
    /// Whether it belongs to a recipe's task, or was named on a command line.
    is_of_task: bool,
    /// Rows of the files that another data set has, held back from this one.
    held_back: usize,
}

/// How the longest length is called, and what to do to have longer rows cut.
fn length_options(is_of_task: bool) -> (&'static str, &'static str) {
    match is_of_task {
        true => ("max_length", "set truncate"),
        false => ("--max-length", "give --truncate"),
    }
}

impl Dataset {
    /// Reads files and tokenizes their rows, or reads the tokens from `cache_folder` if they were made before from
    /// the same content, tokenizer, template and settings.
    ///
    /// # Errors
    /// Names the file, and the line or row where there is one: not of a form that is known, no answer, another
    /// format than the first row's, no supervised token; no rows at all; all rows too long; `messages` without a chat
    /// template.
    pub fn load(
        files: &[PathBuf],
        tokenizer: &Tokenizer,
        settings: &DataSettings,
        cache_folder: Option<&Path>,
    ) -> Result<Self> {
        let preparation = Preparation { cache: cache_folder, ..Preparation::default() };
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
        let (content, cache) = load::load(files, tokenizer, settings, preparation)?;
        Self::checked(files, content, cache, settings)
    }

    /// The rows that the records at some positions of the files become. They are not kept in a cache.
    ///
    /// # Errors
    /// As [`Dataset::load`].
    pub(crate) fn load_records(
        files: &[PathBuf],
        tokenizer: &Tokenizer,
        settings: &DataSettings,
        positions: &HashSet<Position>,
    ) -> Result<Self> {
        let content = load::load_records(files, tokenizer, settings, positions)?;
        Self::checked(files, content, CacheUse::None, settings)
    }

    /// Where the records stand that its rows were made of.
    pub(crate) fn positions(&self) -> HashSet<Position> {
        self.rows().iter().map(|row| row.position).collect()
    }

    fn checked(
        files: &[PathBuf],
        content: TokenizedRows,
        cache: CacheUse,
        settings: &DataSettings,
    ) -> Result<Self> {
        let max_length = settings.max_length;
        let (key, truncate) = length_options(settings.is_of_task);
        if content.rows.is_empty() {
            let too_long = content.skipped.len();
            if let (0, Some(InvalidRow { position, reason })) = (too_long, content.stats.invalid_rows.first())
            {
                let reason = format!("{reason} (and no row can be used)");
                return Err(position.error(files, reason));
            }
            let shortest = content.skipped.iter().min().copied().unwrap_or_default();
            let reason = match (too_long, settings.long_rows) {
                (0, _) => "has no rows".to_owned(),
                (1, LongRows::Skip) => format!(
                    "its one row is longer than {max_length} tokens (it has {shortest}): raise {key}, or {truncate}"
                ),
                (count, LongRows::Skip) => format!(
                    "all {count} rows are longer than {max_length} tokens (the shortest has {shortest}): raise \
                     {key}, or {truncate}"
                ),
                (1, LongRows::Truncate) => format!(
                    "the prompt of its one row fills {max_length} tokens, which leaves no answer: raise {key}"
                ),
                (count, LongRows::Truncate) => format!(
                    "the prompts of all {count} rows fill {max_length} tokens, which leaves no answer: raise {key}"
                ),
            };
            return Err(Error::format(&describe_files(files), reason));
        }
        let (long_rows, is_of_task) = (settings.long_rows, settings.is_of_task);
        Ok(Self { files: files.to_vec(), content, cache, max_length, long_rows, is_of_task, held_back: 0 })
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

    /// What the rows become.
    pub fn format(&self) -> RowFormat {
        self.content.stats.format
    }

    /// Rows that did not fit.
    pub fn counts(&self) -> Counts {
        self.content.counts()
    }

    /// Adds something that concerns every row.
    pub(crate) fn add_notice(&mut self, notice: Notice) {
        let notice = FileNotice::of(notice, self.rows().iter().map(|row| row.position));
        self.content.notices.extend(notice);
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
        self.notices().iter().map(|notice| notice.describe(&self.files)).chain(self.described_long_rows())
    }

    /// The rows left out or cut because they are too long, as a line for a person, where that is more than half of them.
    fn described_long_rows(&self) -> Option<String> {
        let Counts { too_long, truncated, .. } = self.counts();
        let (all, longer) = (self.len() + self.held_back + too_long, too_long + truncated);
        if 2 * longer <= all {
            return None;
        }
        let what = match (too_long, truncated) {
            (_, 0) => "left out".to_owned(),
            (0, _) => "cut".to_owned(),
            (too_long, truncated) => format!("cut ({truncated}) or left out ({too_long})"),
        };
        let (key, truncate) = length_options(self.is_of_task);
        let remedy = match self.long_rows {
            LongRows::Skip => format!(", or {truncate}"),
            LongRows::Truncate => String::new(),
        };
        let longest = self.full_lengths().max().unwrap_or(0);
        Some(format!(
            "{}: {longer} of {all} rows are longer than {key}, {} tokens, and {what}: raise {key} (the longest row has \
             {longest}){remedy}",
            self.name().display(),
            self.max_length,
        ))
    }

    /// The first rows left out because they cannot be used.
    pub fn invalid_rows(&self) -> &[InvalidRow] {
        &self.content.stats.invalid_rows
    }

    /// The rows left out because they cannot be used, as a line for a person; none where all can.
    fn described_invalid(&self) -> Option<String> {
        let count = self.counts().invalid;
        let named = |row: &InvalidRow| format!("{} {}", row.position.describe(&self.files), row.reason);
        let named: Vec<String> = self.content.stats.invalid_rows.iter().map(named).collect();
        let left_out =
            if count == 1 { "is left out, since it cannot" } else { "are left out, since they cannot" };
        let rows = counted(count as u64, "row");
        (count > 0).then(|| format!("{rows} {left_out} be used: {}", named.join("; ")))
    }

    /// Holds back a share of the rows, chosen by their content: rows of the same content stay together, and which go
    /// does not depend on the others. Returns the rows that stay and those held back.
    ///
    /// # Errors
    /// When either would have no rows.
    pub fn split(self, share: f64) -> Result<(Self, Self)> {
        let is_held_back = |row: usize| (self.content.hashes[row] as u64 as f64) < share * 2f64.powi(64);
        // Rows that one record became stay together.
        let mut held_back = Vec::with_capacity(self.len());
        for record in self.rows().chunk_by(|one, next| one.position == next.position) {
            let rows = held_back.len()..held_back.len() + record.len();
            // The shortest may also stand by itself, as a conversation that ends there.
            let decisive = rows.min_by_key(|&row| self.rows()[row].tokens.len());
            let is_held_back = decisive.is_some_and(is_held_back);
            held_back.resize(held_back.len() + record.len(), is_held_back);
        }
        let count = held_back.iter().filter(|&&is_held_back| is_held_back).count();
        if count == 0 || count == self.len() {
            let reason = format!(
                "a share of {share} of its {} rows leaves none to {}: change task.eval_share, or name a file in \
                 task.eval",
                self.len(),
                if count > 0 { "train on" } else { "evaluate on" }
            );
            return Err(Error::format(&describe_files(&self.files), reason));
        }
        let (content, eval) = self.content.divide(&held_back);
        let eval = Self { files: self.files.clone(), content: eval, cache: self.cache.clone(), ..self };
        let held_back = eval.len();
        Ok((Self { content, held_back, ..self }, eval))
    }

    /// Leaves the rows of the first records.
    pub(crate) fn limit(&mut self, limit: Option<usize>) {
        let records = self.content.rows.chunk_by(|one, next| one.position == next.position);
        let rows = records.take(limit.unwrap_or(usize::MAX)).map(<[Row]>::len).sum();
        self.content.truncate(rows);
    }

    /// A notice about the rows that also stand in one of these to train on.
    pub(crate) fn also_in(&self, training: &[&Self]) -> Option<FileNotice> {
        let known: HashSet<u128> =
            training.iter().flat_map(|training| training.content.hashes.iter().copied()).collect();
        let rows = self.rows().iter().zip(&self.content.hashes).filter(|(_, hash)| known.contains(hash));
        FileNotice::of(Notice::AlsoTrained, rows.map(|(row, _)| row.position))
    }

    /// Adds a notice about some rows.
    pub(crate) fn add_file_notice(&mut self, notice: Option<FileNotice>) {
        self.content.notices.extend(notice);
    }

    /// Tokens of every row before it was cut, and of those left out because they are too long.
    pub(super) fn full_lengths(&self) -> impl Iterator<Item = usize> {
        self.content.full_lengths().into_iter().chain(self.content.skipped.iter().copied())
    }

    /// Rows that have the content of one before them.
    pub fn duplicates(&self) -> usize {
        let different: HashSet<u128> = self.content.hashes.iter().copied().collect();
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
        self.format() != RowFormat::Text
    }

    /// Tokens at which generation of answers to this data ends: the tokenizer's, and those that end the
    /// rows (a chat template may end turns with another).
    pub fn stop_tokens(&self, tokenizer: &Tokenizer) -> Vec<u32> {
        let mut stop = tokenizer.stop_tokens().to_vec();
        let whole_rows = if self.counts().truncated == 0 { self.rows() } else { &[] };
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
