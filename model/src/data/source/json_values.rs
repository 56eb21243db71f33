//! JSON values over any number of lines: the elements of one array, or objects one behind the other.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::text::Text;
use super::{Content, LONGEST_RECORD, Position, Record, RecordReader, Unit};
use crate::error::{Error, FileAction, Result};
use crate::files::human_bytes;

/// What may come next between values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// The array or the first object.
    Start,
    /// An object, or the end of the file.
    Object,
    /// The first element of the array, or its end.
    First,
    /// A comma or the end of the array.
    Comma,
    /// An element.
    Element,
    /// Nothing but white space.
    End,
}

/// Cuts a text into values, which are parsed elsewhere.
pub(super) struct JsonValues {
    path: PathBuf,
    file: usize,
    text: Text,
    expect: Expect,
    /// Line of the next byte, counted from 1.
    line: usize,
    /// Values so far.
    rows: usize,
}

impl JsonValues {
    /// The values of a text, which is that of the file of this index.
    pub fn new(path: &Path, file: usize, text: Text) -> Self {
        Self { path: path.to_owned(), file, text, expect: Expect::Start, line: 1, rows: 0 }
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        let buffer = self.text.fill_buf().map_err(Error::file(&self.path, FileAction::Read))?;
        Ok(buffer.first().copied())
    }

    fn skip(&mut self, byte: u8) {
        self.line += usize::from(byte == b'\n');
        self.text.consume(1);
    }

    /// The first byte that is not white space; none at the end.
    fn next_byte(&mut self) -> Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(byte) if byte.is_ascii_whitespace() => self.skip(byte),
                other => return Ok(other),
            }
        }
    }

    fn error(&self, reason: String) -> Error {
        Error::line(&self.path, self.line, reason)
    }

    /// The bytes of the value that begins here.
    fn value(&mut self) -> Result<Vec<u8>> {
        let start = self.line;
        let mut value = Vec::new();
        let mut scanner = Scanner::default();
        loop {
            let buffer = self.text.fill_buf().map_err(Error::file(&self.path, FileAction::Read))?;
            if buffer.is_empty() {
                if scanner.is_scalar() {
                    return Ok(value);
                }
                let reason =
                    format!("the file ends within row {}, which begins here: is it cut off?", self.rows);
                return Err(Error::line(&self.path, start, reason));
            }
            let length = scanner.scan(buffer);
            self.line += buffer[..length].iter().filter(|&&byte| byte == b'\n').count();
            value.extend_from_slice(&buffer[..length]);
            let is_whole = scanner.is_whole;
            self.text.consume(length);
            if is_whole {
                return Ok(value);
            }
            if value.len() > LONGEST_RECORD {
                let reason = format!(
                    "row {}, which begins here, is longer than {}, the most a row may have",
                    self.rows,
                    human_bytes(LONGEST_RECORD as u64)
                );
                return Err(Error::line(&self.path, start, reason));
            }
        }
    }
}

impl RecordReader for JsonValues {
    fn next(&mut self) -> Result<Option<Record>> {
        loop {
            let byte = self.next_byte()?;
            self.expect = match (self.expect, byte) {
                (Expect::Object | Expect::End, None) => return Ok(None),
                (Expect::Start, Some(b'[')) => {
                    self.skip(b'[');
                    Expect::First
                }
                (Expect::First | Expect::Comma, Some(b']')) => {
                    self.skip(b']');
                    Expect::End
                }
                (Expect::Comma, Some(b',')) => {
                    self.skip(b',');
                    Expect::Element
                }
                (Expect::Start | Expect::Object, Some(b'{')) => Expect::Object,
                (Expect::First | Expect::Element, Some(byte)) if !matches!(byte, b',' | b']' | b'}') => {
                    Expect::Comma
                }
                (expected, found) => return Err(self.error(misplaced(expected, found))),
            };
            if matches!(self.expect, Expect::Object | Expect::Comma) {
                self.rows += 1;
                let line = self.line;
                let text = self.value()?;
                let position = Position { file: self.file, unit: Unit::Row, number: self.rows };
                return Ok(Some(Record { position, content: Content::Json { text, line, is_line: false } }));
            }
        }
    }

    fn bytes(&mut self) -> u64 {
        self.text.position()
    }
}

fn misplaced(expected: Expect, found: Option<u8>) -> String {
    let found = match found {
        None => return "the file ends within its JSON array: is it cut off?".to_owned(),
        Some(byte) if byte.is_ascii_graphic() => format!("`{}`", char::from(byte)),
        Some(_) => "something else".to_owned(),
    };
    match expected {
        Expect::Comma => format!("is not JSON: {found} where a comma or the array's end is expected"),
        Expect::End => format!("is not JSON: {found} behind the end of the array"),
        Expect::First | Expect::Element => format!("is not JSON: {found} where a row is expected"),
        Expect::Start | Expect::Object => {
            format!("is not JSON: {found} where a row's `{{` is expected")
        }
    }
}

/// Finds the end of a JSON value without understanding it.
#[derive(Default)]
pub(super) struct Scanner {
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    has_begun: bool,
    pub is_whole: bool,
}

impl Scanner {
    /// Bytes of `text` that belong to the value; sets `is_whole` where the value ends with them.
    pub fn scan(&mut self, text: &[u8]) -> usize {
        for (index, &byte) in text.iter().enumerate() {
            if self.in_string {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_string = false,
                    _ => continue,
                }
                if self.in_string || self.depth > 0 {
                    continue;
                }
                return self.end(index + 1);
            }
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' if self.depth == 1 => return self.end(index + 1),
                // Behind a number, `true`, `false` or `null`.
                b',' | b'}' | b']' if self.depth == 0 => return self.end(index),
                byte if byte.is_ascii_whitespace() && self.depth == 0 && self.has_begun => {
                    return self.end(index);
                }
                _ => {}
            }
            self.has_begun = true;
        }
        text.len()
    }

    /// True within a value that is neither a string nor has parts: the end of the text ends it.
    fn is_scalar(&self) -> bool {
        self.has_begun && self.depth == 0 && !self.in_string
    }

    /// True within a string.
    pub fn is_in_string(&self) -> bool {
        self.in_string
    }

    fn end(&mut self, length: usize) -> usize {
        self.is_whole = true;
        length
    }
}
