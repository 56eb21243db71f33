//! Records of files to rows of tokens, block by block.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::cache::{CacheUse, Pieces};
use super::content::{InvalidRow, TokenizedRows};
use super::notice::{FileNotice, Notice};
use super::rows::RowReader;
use super::source::{Record, Records, describe_files, hash_files};
use super::tokenize::RowMaker;
use super::{DataProgress, DataSettings, Position, Preparation, PreparationEvent, Row, RowFormat};
use crate::error::{Error, Result};
use crate::files::{FileSnapshot, json_text};
use crate::tokenizer::Tokenizer;

/// Rows left out by `skip_invalid` that are named; the others are counted.
const NAMED_INVALID: usize = 3;

/// The rows of the files: from the cache as far as they are there, else made, and then written there piece by piece.
pub(super) fn load(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    settings: &DataSettings,
    preparation: &Preparation<'_>,
) -> Result<(TokenizedRows, CacheUse)> {
    let mut cache = None;
    if let Some(folder) = preparation.cache {
        let before = FileSnapshot::of(files)?;
        cache = Some(Cache {
            pieces: Pieces::new(folder, key(files, tokenizer, settings)?, preparation.piece_tokens),
            before,
            failure: None,
        });
    }
    let refused = |path: &Path| preparation.tell(PreparationEvent::CacheRefused(path));
    let earlier = cache.as_mut().and_then(|cache| cache.pieces.read(refused));
    let read = earlier.as_ref().map_or(0, |content| content.stats.records);
    let (mut content, cache_use) = match earlier {
        Some(content) if content.stats.is_complete => (content, CacheUse::Read),
        earlier => {
            let content = tokenize(files, tokenizer, settings, preparation, earlier, cache.as_mut(), None)?;
            let cache_use = match cache {
                None => CacheUse::None,
                Some(Cache { failure: Some(failure), .. }) => CacheUse::NotWritten(failure),
                Some(_) if read > 0 => CacheUse::Continued { read },
                Some(_) => CacheUse::Written,
            };
            (content, cache_use)
        }
    };
    notice(&mut content, files, tokenizer, settings)?;
    Ok((content, cache_use))
}

/// The rows that the records at some positions become. They are neither read from a cache nor kept in one.
pub(super) fn load_records(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    settings: &DataSettings,
    positions: &HashSet<Position>,
) -> Result<TokenizedRows> {
    let preparation = Preparation::default();
    let mut content = tokenize(files, tokenizer, settings, &preparation, None, None, Some(positions))?;
    notice(&mut content, files, tokenizer, settings)?;
    Ok(content)
}

/// Gathers what a person should know about the rows, once all are made.
fn notice(
    content: &mut TokenizedRows,
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    settings: &DataSettings,
) -> Result<()> {
    content.notices = content.stats.notices.finish();
    content.notices.extend(endless(content, tokenizer));
    content.notices.extend(only_ends(content, tokenizer, files, settings)?);
    Ok(())
}

/// Hash of all that decides the rows.
fn key(files: &[PathBuf], tokenizer: &Tokenizer, settings: &DataSettings) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(hash_files(files)?.as_bytes());
    // A file's name decides the form of a text that begins like no JSON.
    for path in files {
        for name in [path.as_path(), &path.with_extension("")] {
            let extension = name.extension().unwrap_or_default().to_ascii_lowercase();
            hasher.update(extension.as_encoded_bytes());
            hasher.update(&[0]);
        }
    }
    hasher.update(&tokenizer.fingerprint());
    hasher.update(json_text(&describe_files(files), settings)?.as_bytes());
    hasher.update(env!("CARGO_PKG_VERSION").as_bytes());
    Ok(hasher.finalize())
}

/// The cache of files that are being read.
struct Cache<'a> {
    pieces: Pieces,
    before: FileSnapshot<'a>,
    /// Why nothing more is written.
    failure: Option<String>,
}

impl Cache<'_> {
    /// Writes what is enough for a piece. What cannot be written is made again by the next process.
    ///
    /// # Errors
    /// A file has changed since its hash was taken for the key.
    fn write(&mut self, content: &TokenizedRows) -> Result<()> {
        self.before.check()?;
        if self.failure.is_none() {
            self.failure = self.pieces.write(content).err().map(|error| error.to_string());
        }
        Ok(())
    }
}

/// Makes the rows behind those that are known from `earlier`; of some records alone where `only` names them.
fn tokenize(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    settings: &DataSettings,
    preparation: &Preparation<'_>,
    earlier: Option<TokenizedRows>,
    mut cache: Option<&mut Cache<'_>>,
    only: Option<&HashSet<Position>>,
) -> Result<TokenizedRows> {
    let mut records = Records::new(files);
    let mut block = records.next_block()?;
    let reader = reader_of(&block, files, tokenizer, settings)?;
    let format = reader.format();
    let templates = if format == RowFormat::Messages { Some(tokenizer.chat_templates()?) } else { None };
    let maker = RowMaker::new(tokenizer, templates.as_ref(), settings);
    let shots = settings
        .shots
        .examples(settings, tokenizer)
        .map_err(|reason| block[0].position.error(files, reason))?;
    let make = |record: &Record| -> std::result::Result<(Vec<Row>, Vec<Notice>), InvalidRow> {
        let mut notices = Vec::new();
        let rows = record
            .content
            .fields()
            .and_then(|fields| reader.example(fields, &mut notices))
            .and_then(|example| settings.shots.before(example, &shots))
            .and_then(|example| maker.rows(record.position, &example, &mut notices))
            .map_err(|reason| InvalidRow { position: record.position, reason })?;
        Ok((rows, notices))
    };

    if let Some(earlier) = &earlier {
        let rows = earlier.stats.records;
        preparation.tell(PreparationEvent::Resumed { files, rows });
        // Pieces end where blocks do.
        let mut skipped = 0;
        while skipped < rows && !block.is_empty() {
            skipped += block.len();
            block = records.next_block()?;
        }
    }
    let mut content = earlier.unwrap_or_else(|| TokenizedRows::new(format));
    let limit = settings.limit.unwrap_or(usize::MAX);
    while !block.is_empty() && content.stats.used < limit {
        if let Some(only) = only {
            block.retain(|record| only.contains(&record.position));
        }
        let made: Vec<_> = block.par_iter().map(make).collect();
        for (record, made) in block.iter().zip(made) {
            match made {
                _ if content.stats.used >= limit => break,
                Ok((rows, noticed)) => {
                    content.stats.notices.add(record.position, noticed);
                    let before = content.rows.len();
                    rows.into_iter().for_each(|row| content.add(row, settings));
                    content.stats.used += usize::from(content.rows.len() > before);
                }
                Err(invalid) if settings.skip_invalid => {
                    content.stats.invalid += 1;
                    if content.stats.invalid_rows.len() < NAMED_INVALID {
                        content.stats.invalid_rows.push(invalid);
                    }
                }
                Err(InvalidRow { position, reason }) => {
                    let remedy = if settings.is_of_task {
                        " (task.skip_invalid = true leaves out such rows)"
                    } else {
                        " (--skip-invalid leaves out such rows)"
                    };
                    return Err(position.error(files, format!("{reason}{remedy}")));
                }
            }
        }
        content.stats.records += block.len();
        let (bytes, total_bytes) = records.bytes();
        let rows = content.rows.len();
        preparation.tell(PreparationEvent::Progress(DataProgress { files, bytes, total_bytes, rows }));
        if let Some(cache) = &mut cache {
            cache.write(&content)?;
        }
        block = records.next_block()?;
    }
    content.stats.is_complete = true;
    if let Some(cache) = cache {
        cache.write(&content)?;
    }
    Ok(content)
}

/// How rows are read, by the first record; by the first that can be read, where the others are left out.
fn reader_of(
    block: &[Record],
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    settings: &DataSettings,
) -> Result<RowReader> {
    let mut first_error = None;
    for record in block {
        let reader = record
            .content
            .fields()
            .and_then(|fields| RowReader::new(&fields, settings, tokenizer.has_chat_template()));
        match reader {
            Ok(reader) => return Ok(reader),
            Err(reason) => first_error = first_error.or(Some(record.position.error(files, reason))),
        }
        if !settings.skip_invalid {
            break;
        }
    }
    Err(first_error
        .unwrap_or_else(|| Error::format(&describe_files(files), "is empty: a task needs at least one row")))
}

/// A notice when no whole row ends with a token that ends generation: a model that learns these answers does not
/// learn to stop.
fn endless(content: &TokenizedRows, tokenizer: &Tokenizer) -> Option<FileNotice> {
    if content.stats.format == RowFormat::Text || content.counts().truncated > 0 {
        return None;
    }
    let ends = |row: &Row| {
        row.tokens.last().is_some_and(|&id| {
            row.supervised.last() == Some(&true)
                && (tokenizer.stop_tokens().contains(&id) || tokenizer.is_added(id))
        })
    };
    let rows = if content.rows.iter().any(ends) { &[] } else { content.rows.as_slice() };
    FileNotice::of(Notice::Endless, rows.iter().map(|row| row.position))
}

/// A notice about rows of which only tokens that end generation are learnt; an error when all rows of a task are such.
fn only_ends(
    content: &TokenizedRows,
    tokenizer: &Tokenizer,
    files: &[PathBuf],
    settings: &DataSettings,
) -> Result<Option<FileNotice>> {
    // A text of one token is learnt as far as it can be.
    if content.stats.format == RowFormat::Text {
        return Ok(None);
    }
    let is_only_end = |row: &&Row| {
        let mut learnt = row.tokens.iter().zip(&row.supervised).filter(|(_, supervised)| **supervised);
        learnt.all(|(id, _)| tokenizer.stop_tokens().contains(id))
    };
    let found = content.rows.iter().filter(is_only_end).map(|row| row.position);
    let notice = FileNotice::of(Notice::OnlyEnds, found);
    match &notice {
        Some(notice) if notice.rows == content.rows.len() && settings.is_of_task => Err(notice.first.error(
            files,
            "nothing would be learnt but the token that ends the answer, here and in every row",
        )),
        _ => Ok(notice),
    }
}
