//! The lines of a data file, in blocks, with a hash of all of them.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::error::{Error, FileAction, Result};
use crate::files::{human_bytes, looks_like, open_input};

/// Longest line, in bytes. Tokenising a text takes about 200 times its bytes in memory, and a row this long has
/// millions of tokens.
const LONGEST_LINE: usize = 8 << 20;

/// Bytes after which a block ends, so that its lines, which are tokenised at the same time, take no more memory
/// than a few long ones.
const BLOCK_BYTES: usize = 8 << 20;

/// One line of a file that is not blank.
#[derive(Debug)]
pub(crate) struct Line {
    /// Counted from 1.
    pub number: usize,
    pub bytes: Vec<u8>,
}

/// Reads a file line by line, in blocks, and hashes it on the way.
pub(crate) struct Lines {
    path: PathBuf,
    reader: BufReader<File>,
    hasher: blake3::Hasher,
    number: usize,
}

impl Lines {
    /// Opens a file; fails when its beginning shows that it is not JSON Lines.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_input(path)?;
        let mut reader = BufReader::with_capacity(1 << 20, file);
        let beginning = reader.fill_buf().map_err(Error::file(path, FileAction::Read))?;
        if let Some(reason) = looks_like(beginning).or_else(|| looks_like_other_text(beginning)) {
            return Err(Error::format(path, reason));
        }
        Ok(Self { path: path.to_owned(), reader, hasher: blake3::Hasher::new(), number: 0 })
    }

    /// Up to `most` lines that are not blank; none at the end of the file.
    pub fn next_block(&mut self, most: usize) -> Result<Vec<Line>> {
        let mut block = Vec::new();
        let mut length = 0;
        while block.len() < most && length < BLOCK_BYTES {
            let mut bytes = Vec::new();
            let mut line = (&mut self.reader).take(LONGEST_LINE as u64 + 1);
            let read =
                line.read_until(b'\n', &mut bytes).map_err(Error::file(&self.path, FileAction::Read))?;
            if read == 0 {
                break;
            }
            self.hasher.update(&bytes);
            self.number += 1;
            length += read;
            if read > LONGEST_LINE {
                let reason = format!(
                    "is longer than {}, the most a row may have: split it into several rows",
                    human_bytes(LONGEST_LINE as u64)
                );
                return Err(Error::line(&self.path, self.number, reason));
            }
            let mut content = bytes.as_slice();
            if self.number == 1 {
                content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
            }
            let content = content.trim_ascii();
            if !content.is_empty() {
                block.push(Line { number: self.number, bytes: content.to_vec() });
            }
        }
        Ok(block)
    }

    /// Hash of what has been read.
    pub fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }
}

/// What some programs write at the beginning of a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// What a text is instead of JSON Lines, from its beginning, and what to do.
fn looks_like_other_text(beginning: &[u8]) -> Option<&'static str> {
    let text = beginning.strip_prefix(BYTE_ORDER_MARK).unwrap_or(beginning).trim_ascii_start();
    let first_line = text.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    match first_line.first()? {
        b'[' => Some(
            "looks like a JSON array: write one object per line \
             (`jq -c '.[]' FILE.json > FILE.jsonl`)",
        ),
        b'{' if first_line == b"{" => Some(
            "looks like one JSON document over several lines: write one object per line \
             (`jq -c . FILE.json > FILE.jsonl`)",
        ),
        b'{' => None,
        _ if first_line.starts_with(b"---") => Some("looks like YAML: convert it to JSON Lines"),
        _ if first_line.contains(&b',') || first_line.contains(&b'\t') => {
            Some("looks like CSV: convert it to JSON Lines, one object per line")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    #[test]
    fn what_is_not_json_lines_is_named() {
        for (content, says) in [
            (b"[{\"text\": \"a\"},\n{\"text\": \"b\"}]".as_slice(), "JSON array"),
            (b"\xEF\xBB\xBF[\n", "JSON array"),
            (b"{\n  \"text\": \"a\"\n}\n", "over several lines"),
            (b"prompt,completion\na,b\n", "CSV"),
            (b"PAR1", "Parquet"),
        ] {
            let error = Lines::open(file(content).path()).err().unwrap();
            assert!(error.is_input() && error.to_string().contains(says), "{error}");
        }
        assert!(Lines::open(file(b"\xEF\xBB\xBF\n{\"text\": \"a, b\"}\n").path()).is_ok());
    }

    #[test]
    fn a_line_has_a_longest_length_and_a_block_too() {
        let mut content = vec![b'x'; LONGEST_LINE - 1];
        content.extend(b"\nshort\n");
        content.resize(content.len() + LONGEST_LINE + 1, b'y');
        let file = file(&content);
        let mut lines = Lines::open(file.path()).unwrap();
        let numbers = |block: &[Line]| block.iter().map(|line| line.number).collect::<Vec<_>>();
        assert_eq!(numbers(&lines.next_block(9).unwrap()), [1]);
        let error = lines.next_block(9).unwrap_err().to_string();
        assert!(error.contains(":3: is longer than 8.0 MiB"), "{error}");
    }
}
