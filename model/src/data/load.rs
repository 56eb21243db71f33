//! Records of files to rows of tokens, block by block.

use std::path::PathBuf;

use rayon::prelude::*;

use super::dataset::{Content, InvalidRow};
use super::notice::{FileNotice, Notice, Notices};
use super::source::{Record, Records, describe_files};
use super::tokenize::RowMaker;
use super::{DataSettings, LongRows, Row, Shape, rows};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Records read and tokenised at a time.
const BLOCK_RECORDS: usize = 2048;

/// Rows left out by `skip_invalid` that are named; the others are counted.
const NAMED_INVALID: usize = 3;

/// The rows of the files, and a hash of the files' contents.
pub(super) fn tokenize_files(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    settings: &DataSettings,
) -> Result<(Content, blake3::Hash)> {
    let mut records = Records::new(files);
    let mut block = records.next_block(BLOCK_RECORDS)?;
    let shape = shape_of(&block, files, settings.skip_invalid)?;
    let templates = if shape == Shape::Messages { Some(tokenizer.chat_templates()?) } else { None };
    let maker =
        RowMaker { tokenizer, templates: templates.as_ref(), special_tokens: settings.special_tokens };
    let make = |record: &Record| -> std::result::Result<(Row, Vec<Notice>), InvalidRow> {
        let mut notices = Vec::new();
        let row = record
            .content
            .fields()
            .and_then(|fields| rows::example(fields, shape, &mut notices))
            .and_then(|example| maker.row(record.position, &example, &mut notices))
            .map_err(|reason| InvalidRow { position: record.position, reason })?;
        Ok((row, notices))
    };

    let mut content = Content::new(shape);
    let mut notices = Notices::default();
    let limit = settings.limit.unwrap_or(usize::MAX);
    while !block.is_empty() && content.rows.len() < limit {
        let made: Vec<_> = block.par_iter().map(make).collect();
        for made in made {
            match made {
                _ if content.rows.len() >= limit => break,
                Ok((row, noticed)) => {
                    notices.add(row.position, noticed);
                    keep(&mut content, row, settings);
                }
                Err(invalid) if settings.skip_invalid => {
                    content.counts.invalid += 1;
                    if content.invalid.len() < NAMED_INVALID {
                        content.invalid.push(invalid);
                    }
                }
                Err(invalid) => return Err(invalid.position.error(files, invalid.reason)),
            }
        }
        block = records.next_block(BLOCK_RECORDS)?;
    }
    content.notices = notices.finish();
    content.notices.extend(endless(&content, tokenizer));
    Ok((content, records.hash()?))
}

/// The shape of the first record; of the first that has one, where the others are left out.
fn shape_of(block: &[Record], files: &[PathBuf], skip_invalid: bool) -> Result<Shape> {
    let mut first_error = None;
    for record in block {
        match record.content.fields().and_then(|fields| Shape::recognise(&fields)) {
            Ok(shape) => return Ok(shape),
            Err(reason) => first_error = first_error.or(Some(record.position.error(files, reason))),
        }
        if !skip_invalid {
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
