//! Where each value of a recipe came from, so that errors can say so.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Table;
use toml::de::{DeTable, DeValue};

use super::numbers::{TooLarge, too_large};
use crate::error::{Error, Result};

/// For every key (`train.steps`, `task[0].weight`) its line in the file or its `--set`.
#[derive(Debug, Clone)]
pub struct Origins {
    path: PathBuf,
    places: BTreeMap<String, Origin>,
}

#[derive(Debug, Clone)]
enum Origin {
    Line(usize),
    Override(String),
}

/// Parses TOML text; remembers the line of every key.
///
/// # Errors
/// The first syntax error (duplicate keys are one), with file, line and column.
pub fn parse(path: &Path, text: &str) -> Result<(Table, Origins)> {
    let syntax_error = |error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let column = 1 + text[line_start..start].chars().count();
        let mut reason = error.message().lines().collect::<Vec<_>>().join(", ");
        let line = text[line_start..].lines().next().unwrap_or_default();
        if line.split('#').next().is_some_and(|header| header.trim() == "[task]") {
            reason.push_str(": write [[task]], with two brackets, once per task");
        }
        Error::line(path, line_of(text, &(start..start)), format!("column {column}: {reason}"))
    };
    let spanned = DeTable::parse(text).map_err(syntax_error)?;
    let mut origins = Origins { path: path.to_owned(), places: BTreeMap::new() };
    origins.record_table(text, "", spanned.get_ref());
    for (key, value) in spanned.get_ref() {
        if let Some(TooLarge { place, reason }) = too_large(value.get_ref()) {
            return Err(origins.error(&format!("{}{place}", key.get_ref()), reason));
        }
    }
    let table = text.parse::<Table>().map_err(syntax_error)?;
    Ok((table, origins))
}

impl Origins {
    fn record_table(&mut self, text: &str, prefix: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let full = if prefix.is_empty() {
                key.get_ref().to_string()
            } else {
                format!("{prefix}.{}", key.get_ref())
            };
            self.places.insert(full.clone(), Origin::Line(line_of(text, &key.span())));
            self.record_value(text, &full, value.get_ref());
        }
    }

    fn record_value(&mut self, text: &str, key: &str, value: &DeValue<'_>) {
        match value {
            DeValue::Table(table) => self.record_table(text, key, table),
            DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let full = format!("{key}[{index}]");
                    self.places.insert(full.clone(), Origin::Line(line_of(text, &item.span())));
                    self.record_value(text, &full, item.get_ref());
                }
            }
            _ => {}
        }
    }

    /// Remembers that `key` now has the value of `--set assignment`.
    pub fn set(&mut self, key: &str, assignment: &str) {
        let inside =
            |place: &String| place.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', '[']));
        self.places.retain(|place, _| !inside(place));
        let place = Origin::Override(assignment.to_owned());
        if let Some((section, _)) = key.rsplit_once('.') {
            self.places.entry(section.to_owned()).or_insert_with(|| place.clone());
        }
        self.places.insert(key.to_owned(), place);
    }

    /// An error about `key`, naming its line or its `--set`; for a key that is not there, its section's.
    pub fn error(&self, key: &str, reason: impl std::fmt::Display) -> Error {
        let section = key.rsplit_once('.').map_or("", |(section, _)| section);
        let list = if section.is_empty() { key } else { section };
        let list = list.split('[').next().unwrap_or_default();
        match [key, section, list].iter().find_map(|name| self.places.get(*name)) {
            Some(Origin::Line(line)) => Error::line(&self.path, *line, format!("`{key}`: {reason}")),
            Some(Origin::Override(assignment)) => {
                Error::setting(format!("--set {assignment}"), reason.to_string())
            }
            None => Error::format(&self.path, format!("`{key}`: {reason}")),
        }
    }

    /// An error about what `key` names, which is not there, with the line or `--set` of the key; none where the recipe
    /// was made of arguments, and has neither.
    pub fn about(&self, key: &str, error: &Error) -> Option<Error> {
        self.places.contains_key(key).then(|| self.error(key, error))
    }

    /// Adds to an [`Error::Setting`] the line it is about. Other errors stay as they are.
    pub fn locate(&self, error: Error) -> Error {
        match error {
            Error::Setting { key, reason } => self.error(&key, reason),
            other => other,
        }
    }
}

/// The line, counted from 1, that a span begins on.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    1 + text.as_bytes()[..span.start.min(text.len())].iter().filter(|&&byte| byte == b'\n').count()
}
