//! Records of files to rows of tokens, block by block.

use std::path::PathBuf;

use rayon::prelude::*;

use super::dataset::{Content, Counts};
use super::notice::{Notice, Notices};
use super::source::{Record, Records, describe_files};
use super::tokenize::RowMaker;
use super::{DataSettings, LongRows, Row, Shape, rows};
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// Records read and tokenised at a time.
const BLOCK_RECORDS: usize = 2048;

/// The rows of the files, and a hash of the files' contents.
pub(super) fn tokenize_files(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    settings: &DataSettings,
) -> Result<(Content, blake3::Hash)> {
    let mut records = Records::new(files);
    let mut block = records.next_block(BLOCK_RECORDS)?;
    let Some(first) = block.first() else {
        return Err(Error::format(&describe_files(files), "is empty: a task needs at least one row"));
    };
    let shape = first
        .content
        .fields()
        .and_then(|fields| Shape::recognise(&fields))
        .map_err(|reason| first.position.error(files, reason))?;
    let templates = if shape == Shape::Messages { Some(tokenizer.chat_templates()?) } else { None };
    let maker =
        RowMaker { tokenizer, templates: templates.as_ref(), special_tokens: settings.special_tokens };
    let shots = settings.shots.examples(shape).map_err(|reason| first.position.error(files, reason))?;
    let make = |record: &Record| -> Result<(Row, Vec<Notice>)> {
        let mut notices = Vec::new();
        let row = record
            .content
            .fields()
            .and_then(|fields| rows::example(fields, shape, &mut notices))
            .and_then(|example| settings.shots.before(example, &shots))
            .and_then(|example| maker.row(record.position, &example, &mut notices))
            .map_err(|reason| record.position.error(files, reason))?;
        Ok((row, notices))
    };

    let mut content = Content { shape, counts: Counts::default(), notices: Vec::new(), rows: Vec::new() };
    let mut notices = Notices::default();
    while !block.is_empty() {
        let made: Vec<Result<(Row, Vec<Notice>)>> = block.par_iter().map(make).collect();
        for made in made {
            let (row, noticed) = made?;
            notices.add(row.position, noticed);
            keep(&mut content, row, settings);
        }
        block = records.next_block(BLOCK_RECORDS)?;
    }
    content.notices = notices.finish();
    Ok((content, records.hash()))
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
