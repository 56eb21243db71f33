//! Data: JSONL files to rows of tokens, and rows to the batches of each step.
//!
//! Every file has one of four shapes ([`Shape`]). The prompt's tokens are those that
//! generation will see, and the answer's those that follow them in a text of both; only the answer is
//! supervised, with the token that ends it.

mod cache;
mod conversation;
mod evaluation;
mod lines;
mod message_forms;
mod messages;
mod notice;
mod omissions;
pub(crate) mod order;
mod reasoning;
mod rows;
mod sampler;
mod tokenize;
mod turns;

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::recipe::SpecialTokens;
use crate::tokenizer::Tokenizer;
pub use evaluation::{EvaluationBatch, evaluation_batches, is_exact_match};
use lines::{Line, Lines};
use notice::Notices;
pub use notice::{FileNotice, Notice};
pub use rows::{Shape, instruction_prompt};
pub use sampler::{Draw, Sampler, SamplerSettings, Source, StepBatches, balanced_sample};
pub use tokenize::Row;
use tokenize::RowMaker;

/// Lines read and tokenised at a time.
const BLOCK_LINES: usize = 2048;

/// What is done with a row longer than the longest allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LongRows {
    /// It is left out, and counted.
    #[default]
    Skip,
    /// Its end is cut off, and it is counted; a row that loses all its supervised tokens is left out.
    Truncate,
}

/// Rows that did not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Rows left out because they are too long.
    pub too_long: usize,
    /// Rows of which the end was cut off.
    pub truncated: usize,
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

/// What a file says, tokenised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub shape: Shape,
    pub counts: Counts,
    pub notices: Vec<FileNotice>,
    pub rows: Vec<Row>,
}

/// The rows of a file, in file order, as tokens.
#[derive(Debug, Clone)]
pub struct Dataset {
    path: PathBuf,
    content: Content,
    cache: CacheUse,
}

impl Dataset {
    /// Reads a JSONL file and tokenises it, or reads the tokens from `cache_folder` if they were made
    /// before from the same content, tokenizer, template and limits.
    ///
    /// `max_length` is in tokens, EOS included.
    ///
    /// # Errors
    /// Names the file, and the line where there is one: not JSON, no answer, another shape than the first
    /// row's, no supervised token; no rows at all; all rows too long; `messages` without a chat template.
    pub fn load(
        path: &Path,
        tokenizer: &Tokenizer,
        max_length: usize,
        long_rows: LongRows,
        cache_folder: Option<&Path>,
    ) -> Result<Self> {
        Self::load_as(path, tokenizer, max_length, long_rows, SpecialTokens::default(), cache_folder)
    }

    /// [`Dataset::load`] that says what control strings outside of messages are.
    ///
    /// # Errors
    /// As [`Dataset::load`].
    pub fn load_as(
        path: &Path,
        tokenizer: &Tokenizer,
        max_length: usize,
        long_rows: LongRows,
        special_tokens: SpecialTokens,
        cache_folder: Option<&Path>,
    ) -> Result<Self> {
        let settings = format!("{max_length} {long_rows:?} {special_tokens:?} {}", env!("CARGO_PKG_VERSION"));
        let key = |content_hash: &blake3::Hash| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(content_hash.as_bytes());
            hasher.update(&tokenizer.fingerprint());
            hasher.update(settings.as_bytes());
            hasher.finalize()
        };
        if let Some(folder) = cache_folder {
            // What cannot be read as a file is refused by name before it is hashed.
            crate::files::open_input(path)?;
            if let Some(content) = cache::read(folder, &key(&crate::files::hash_file(path)?)) {
                return Self::checked(path, content, CacheUse::Read, max_length, long_rows);
            }
        }
        let (content, hash) = tokenize_file(path, tokenizer, max_length, long_rows, special_tokens)?;
        let cache = match cache_folder {
            None => CacheUse::None,
            Some(folder) => match cache::write(folder, &key(&hash), &content) {
                Ok(()) => CacheUse::Written,
                Err(error) => CacheUse::NotWritten(error.to_string()),
            },
        };
        Self::checked(path, content, cache, max_length, long_rows)
    }

    fn checked(
        path: &Path,
        content: Content,
        cache: CacheUse,
        max_length: usize,
        long_rows: LongRows,
    ) -> Result<Self> {
        if content.rows.is_empty() {
            let reason = match (content.counts.too_long, long_rows) {
                (0, _) => "has no rows".to_owned(),
                (count, LongRows::Skip) => format!(
                    "all {count} rows are longer than {max_length} tokens: raise max_length, or set truncate"
                ),
                (count, LongRows::Truncate) => format!(
                    "the prompts of all {count} rows fill {max_length} tokens, which leaves no answer to learn: \
                     raise max_length"
                ),
            };
            return Err(Error::format(path, reason));
        }
        Ok(Self { path: path.to_owned(), content, cache })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
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

    /// Shape of the file's rows.
    pub fn shape(&self) -> Shape {
        self.content.shape
    }

    /// Rows that did not fit.
    pub fn counts(&self) -> Counts {
        self.content.counts
    }

    /// Adds something that concerns every row.
    pub(crate) fn add_notice(&mut self, notice: Notice) {
        let first_line = self.rows().first().map_or(0, |row| row.line);
        self.content.notices.push(FileNotice { notice, rows: self.len(), first_line });
    }

    /// What a person should know about the file's rows.
    pub fn notices(&self) -> &[FileNotice] {
        &self.content.notices
    }

    /// The notices as lines for a person, each with the file's name.
    pub fn described_notices(&self) -> impl Iterator<Item = String> {
        self.notices().iter().map(|notice| format!("{}: {notice}", self.path.display()))
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
        let mut text = String::new();
        let mut start = 0;
        while start < row.tokens.len() {
            let supervised = row.supervised[start];
            let length = row.supervised[start..].iter().take_while(|&&flag| flag == supervised).count();
            let part = tokenizer.decode_with_control_tokens(&row.tokens[start..start + length]);
            text.push_str(&if supervised { format!("⟦{part}⟧") } else { part });
            start += length;
        }
        Some(text)
    }
}

fn tokenize_file(
    path: &Path,
    tokenizer: &Tokenizer,
    max_length: usize,
    long_rows: LongRows,
    special_tokens: SpecialTokens,
) -> Result<(Content, blake3::Hash)> {
    let mut lines = Lines::open(path)?;
    let mut block = lines.next_block(BLOCK_LINES)?;
    let Some(first) = block.first() else {
        return Err(Error::format(path, "is empty: a task needs at least one row"));
    };
    let bad = |line: &Line, reason: String| Error::line(path, line.number, reason);
    let (shape, _) = rows::parse(&first.bytes, None, &mut Vec::new()).map_err(|reason| bad(first, reason))?;
    let templates = if shape == Shape::Messages { Some(tokenizer.chat_templates()?) } else { None };
    let maker = RowMaker { tokenizer, templates: templates.as_ref(), special_tokens };
    let make = |line: &Line| -> Result<(Row, Vec<Notice>)> {
        let mut notices = Vec::new();
        let row = rows::parse(&line.bytes, Some(shape), &mut notices)
            .and_then(|(_, example)| maker.row(line.number, &example, &mut notices))
            .map_err(|reason| bad(line, reason))?;
        Ok((row, notices))
    };

    let mut content = Content { shape, counts: Counts::default(), notices: Vec::new(), rows: Vec::new() };
    let mut notices = Notices::default();
    while !block.is_empty() {
        let made: Vec<Result<(Row, Vec<Notice>)>> = block.par_iter().map(make).collect();
        for made in made {
            let (row, noticed) = made?;
            notices.add(row.line, noticed);
            keep(&mut content, row, max_length, long_rows);
        }
        block = lines.next_block(BLOCK_LINES)?;
    }
    content.notices = notices.finish();
    Ok((content, lines.hash()))
}

fn keep(content: &mut Content, mut row: Row, max_length: usize, long_rows: LongRows) {
    if row.tokens.len() > max_length {
        if long_rows == LongRows::Truncate {
            row.truncate(max_length);
        }
        if long_rows == LongRows::Skip || row.supervised_tokens() == 0 {
            content.counts.too_long += 1;
            return;
        }
        content.counts.truncated += 1;
    }
    content.rows.push(row);
}
