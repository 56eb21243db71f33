//! Records of files to rows of tokens, block by block.

use std::collections::HashSet;
use std::path::PathBuf;

use rayon::prelude::*;

use super::dataset::{Content, InvalidRow};
use super::notice::{FileNotice, Notice, Notices};
use super::rows::RowReader;
use super::source::{Record, Records, describe_files};
use super::tokenize::RowMaker;
use super::{DataProgress, DataSettings, LongRows, Position, Preparation, Row, Shape};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Rows left out by `skip_invalid` that are named; the others are counted.
const NAMED_INVALID: usize = 3;

/// The rows of the files, of some records where `only` names them, and a hash of the files' contents.
pub(super) fn tokenize_files(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    settings: &DataSettings,
    preparation: &Preparation<'_>,
    only: Option<&HashSet<Position>>,
) -> Result<(Content, blake3::Hash)> {
    let mut records = Records::new(files);
    let mut block = records.next_block()?;
    let reader = reader_of(&block, files, tokenizer, settings)?;
    let shape = reader.shape();
    let templates = if shape == Shape::Messages { Some(tokenizer.chat_templates()?) } else { None };
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

    let mut content = Content::new(shape);
    let mut notices = Notices::default();
    let limit = settings.limit.unwrap_or(usize::MAX);
    // Records with a row that is used: one may become several rows.
    let mut used = 0;
    while !block.is_empty() && used < limit {
        if let Some(only) = only {
            block.retain(|record| only.contains(&record.position));
        }
        let made: Vec<_> = block.par_iter().map(make).collect();
        for (record, made) in block.iter().zip(made) {
            match made {
                _ if used >= limit => break,
                Ok((rows, noticed)) => {
                    notices.add(record.position, noticed);
                    let before = content.rows.len();
                    rows.into_iter().for_each(|row| keep(&mut content, row, settings));
                    used += usize::from(content.rows.len() > before);
                }
                Err(invalid) if settings.skip_invalid => {
                    content.counts.invalid += 1;
                    if content.invalid.len() < NAMED_INVALID {
                        content.invalid.push(invalid);
                    }
                }
                Err(InvalidRow { position, reason }) => {
                    let remedy = if settings.is_of_task {
                        " (task.skip_invalid = true leaves out such rows)"
                    } else {
                        ""
                    };
                    return Err(position.error(files, format!("{reason}{remedy}")));
                }
            }
        }
        if let Some(observe) = preparation.observe {
            let (bytes, total_bytes) = records.bytes();
            observe(DataProgress { files, bytes, total_bytes, rows: content.rows.len() });
        }
        block = records.next_block()?;
    }
    content.notices = notices.finish();
    content.notices.extend(endless(&content, tokenizer));
    content.notices.extend(only_ends(&content, tokenizer, files, settings)?);
    Ok((content, records.hash()?))
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
fn endless(content: &Content, tokenizer: &Tokenizer) -> Option<FileNotice> {
    if content.shape == Shape::Text || content.counts.truncated > 0 {
        return None;
    }
    let ends = |row: &Row| {
        row.tokens.last().is_some_and(|&id| {
            row.supervised.last() == Some(&true)
                && (tokenizer.stop_tokens().contains(&id) || tokenizer.is_added(id))
        })
    };
    let first = content.rows.first().filter(|_| !content.rows.iter().any(ends))?.position;
    Some(FileNotice { notice: Notice::Endless, rows: content.rows.len(), first })
}

/// A notice about rows of which only tokens that end generation are learnt; an error when all rows of a task are such.
fn only_ends(
    content: &Content,
    tokenizer: &Tokenizer,
    files: &[PathBuf],
    settings: &DataSettings,
) -> Result<Option<FileNotice>> {
    // A text of one token is learnt as far as it can be.
    if content.shape == Shape::Text {
        return Ok(None);
    }
    let is_only_end = |row: &&Row| {
        let mut learnt = row.tokens.iter().zip(&row.supervised).filter(|(_, supervised)| **supervised);
        learnt.all(|(id, _)| tokenizer.stop_tokens().contains(id))
    };
    let mut found = content.rows.iter().filter(is_only_end);
    let Some(first) = found.next().map(|row| row.position) else { return Ok(None) };
    let rows = 1 + found.count();
    if rows == content.rows.len() && settings.is_of_task {
        return Err(first.error(
            files,
            "nothing would be learnt but the token that ends the answer, here and in every row",
        ));
    }
    Ok(Some(FileNotice { notice: Notice::OnlyEnds, rows, first }))
}

fn keep(content: &mut Content, mut row: Row, settings: &DataSettings) {
    if row.tokens.len() > settings.max_length {
        if settings.long_rows == LongRows::Truncate {
            row.truncate(settings.max_length);
        }
        if settings.long_rows == LongRows::Skip || row.supervised_tokens() == 0 {
            content.counts.too_long += 1;
            return;
        }
        content.counts.truncated += 1;
    }
    content.rows.push(row);
}
