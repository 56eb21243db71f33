//! Opening what a person names: regular files of a sensible size, and what a file that cannot be used looks
//! like.

use std::fs::{self, File, FileType};
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::human_bytes;
use crate::error::{Error, FileAction, Result};

/// Most bytes of a configuration, a chat template, or an index of shards.
pub const MOST_TEXT_BYTES: u64 = 64 << 20;

/// Most bytes of a `tokenizer.json`.
pub const MOST_TOKENIZER_BYTES: u64 = 1 << 30;

/// Bytes of a file's beginning that say what it is.
const BEGINNING: usize = 512;

/// How the text begins that stands in for a file that Git LFS has not fetched.
const GIT_LFS_POINTER: &[u8] = b"version https://git-lfs";

/// Beginnings of files that are often given instead of the right one: what the file is, and what to do.
const BEGINNINGS: &[(&[u8], &str)] = &[
    (GIT_LFS_POINTER, "is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`"),
    (b"PAR1", "looks like Parquet: convert it to JSON Lines first"),
    (b"ARROW1", "looks like Arrow: convert it to JSON Lines first"),
    (b"\x1f\x8b", "looks like gzip: unpack it first (`gunzip`)"),
    (b"\x28\xb5\x2f\xfd", "looks like zstd: unpack it first (`unzstd`)"),
    (b"\xfd7zXZ\0", "looks like xz: unpack it first (`unxz`)"),
    (b"BZh", "looks like bzip2: unpack it first (`bunzip2`)"),
    (b"PK\x03\x04", "looks like a zip archive or a PyTorch file: unpack or convert it first"),
    (b"GGUF", "looks like GGUF, which is not read: use the model's safetensors"),
    (b"SQLite format 3\0", "looks like an SQLite database: convert it to JSON Lines first"),
    (b"%PDF-", "looks like a PDF: convert it first"),
    (b"\xff\xfe", "looks like UTF-16: save it as UTF-8"),
    (b"\xfe\xff", "looks like UTF-16: save it as UTF-8"),
];

/// Opens a file to be read. Only regular files: a pipe or a device has no end to wait for, and cannot be read
/// twice.
///
/// # Errors
/// It is missing, is a folder, a pipe or a device, or cannot be read.
pub fn open_input(path: &Path) -> Result<File> {
    let metadata = fs::metadata(path).map_err(Error::file(path, FileAction::Read))?;
    if !metadata.is_file() {
        return Err(Error::format(path, kind(metadata.file_type())));
    }
    File::open(path).map_err(Error::file(path, FileAction::Read))
}

/// Reads a file of at most `most` bytes.
///
/// # Errors
/// As [`open_input`]; it is larger.
pub fn read_input(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open_input(path)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).map_err(Error::file(path, FileAction::Read))?;
    if bytes.len() as u64 > most {
        let reason = format!("is larger than {}, which no file of its kind is", human_bytes(most));
        return Err(Error::format(path, reason));
    }
    Ok(bytes)
}

/// Reads a text file of at most [`MOST_TEXT_BYTES`].
///
/// # Errors
/// As [`read_input`]; it is not text in UTF-8.
pub fn read_input_text(path: &Path) -> Result<String> {
    let bytes = read_input(path, MOST_TEXT_BYTES)?;
    if let Some(reason) = looks_like(&bytes) {
        return Err(Error::format(path, reason));
    }
    String::from_utf8(bytes).map_err(|error| {
        let reason = format!("is not UTF-8 (byte {})", error.utf8_error().valid_up_to() + 1);
        Error::format(path, reason)
    })
}

/// The parsed JSON of an input file, or `None` where there is none.
///
/// # Errors
/// When it cannot be read, is larger than [`MOST_TEXT_BYTES`], or is not JSON.
pub fn read_input_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_input(path, MOST_TEXT_BYTES)?;
    match serde_json::from_slice(&bytes) {
        Ok(json) => Ok(Some(json)),
        Err(error) => Err(Error::format(path, format!("is not JSON: {error}"))),
    }
}

/// What a file is instead of text, from its first bytes, and what to do; `None` when nothing speaks against
/// text.
pub fn looks_like(bytes: &[u8]) -> Option<&'static str> {
    let has_nul = bytes[..bytes.len().min(BEGINNING)].contains(&0);
    known_beginning(bytes).or(has_nul.then_some("looks like a binary file: it has NUL bytes"))
}

/// What kind of file begins with these bytes, of those that are given by mistake.
pub fn known_beginning(bytes: &[u8]) -> Option<&'static str> {
    if let Some((_, reason)) = BEGINNINGS.iter().find(|(beginning, _)| bytes.starts_with(beginning)) {
        return Some(reason);
    }
    let beginning = &bytes[..bytes.len().min(BEGINNING)];
    let text = beginning.trim_ascii_start().to_ascii_lowercase();
    let is_page = text.starts_with(b"<!doctype") || text.starts_with(b"<html");
    is_page.then_some("looks like a web page: a download that went wrong?")
}

/// What something that is not a regular file is, and what to do.
fn kind(kind: FileType) -> &'static str {
    if kind.is_dir() {
        return "is a folder; a file is expected";
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "is a pipe, not a regular file: write its content to a file first";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "is a device, not a regular file";
        }
    }
    "is not a regular file"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_mistakes_are_named() {
        for (bytes, says) in [
            (b"PAR1\x15\x04".as_slice(), "Parquet"),
            (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
            (b"\x1f\x8b\x08", "gunzip"),
            (b"\n <!DOCTYPE html>", "web page"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"{\"a\": 1}\0", "NUL"),
        ] {
            assert!(looks_like(bytes).is_some_and(|reason| reason.contains(says)), "{says}");
        }
        assert_eq!(looks_like("{\"text\": \"ä\"}".as_bytes()), None);
        assert_eq!(looks_like(b""), None);
    }

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let folder = std::env::temp_dir();
        let error = open_input(&folder).unwrap_err();
        assert!(error.is_input() && error.to_string().contains("is a folder"), "{error}");
        if cfg!(unix) {
            let error = open_input(Path::new("/dev/zero")).unwrap_err();
            assert!(error.is_input() && error.to_string().contains("is a device"), "{error}");
        }
    }

    #[test]
    fn text_is_read_up_to_its_limit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "12345").unwrap();
        assert_eq!(read_input(file.path(), 5).unwrap(), b"12345");
        assert_eq!(read_input_text(file.path()).unwrap(), "12345");
        assert!(read_input(file.path(), 4).unwrap_err().to_string().contains("larger than 4 bytes"));
    }
}
