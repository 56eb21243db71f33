//! The text of a file, unpacked if it is compressed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, FileAction, Result};

/// Bytes of a text that say what form it has.
const BEGINNING: u64 = 64 << 10;

/// Bytes read at a time.
const BUFFER: usize = 1 << 20;

/// What some programs write at the beginning of a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// A file and the bytes read of it.
struct Counted {
    file: File,
    bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

/// How a file is compressed, recognised from its first bytes.
enum Decoder {
    None(Counted),
    Gzip(MultiGzDecoder<BufReader<Counted>>),
    Zstd(zstd::Decoder<'static, BufReader<Counted>>),
}

impl Decoder {
    fn new(file: File, beginning: &[u8]) -> io::Result<Self> {
        let counted = Counted { file, bytes: 0 };
        let buffered = |counted| BufReader::with_capacity(BUFFER, counted);
        Ok(if beginning.starts_with(b"\x1f\x8b") {
            Self::Gzip(MultiGzDecoder::new(buffered(counted)))
        } else if beginning.starts_with(b"\x28\xb5\x2f\xfd") {
            Self::Zstd(zstd::Decoder::with_buffer(buffered(counted))?)
        } else {
            Self::None(counted)
        })
    }

    fn name(&self) -> Option<&'static str> {
        match self {
            Self::None(_) => None,
            Self::Gzip(_) => Some("gzip"),
            Self::Zstd(_) => Some("zstd"),
        }
    }

    fn file(&mut self) -> &mut Counted {
        match self {
            Self::None(counted) => counted,
            Self::Gzip(decoder) => decoder.get_mut().get_mut(),
            Self::Zstd(decoder) => decoder.get_mut().get_mut(),
        }
    }
}

impl Read for Decoder {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match self {
            Self::None(counted) => return counted.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        };
        let name = self.name().unwrap_or_default();
        read.map_err(|error| {
            io::Error::new(error.kind(), format!("its {name} data is damaged or cut off ({error})"))
        })
    }
}

/// The unpacked text of a file.
pub(super) struct Text {
    reader: BufReader<Chain<Cursor<Vec<u8>>, Decoder>>,
    /// Bytes that may still be read of the present record; none without a limit.
    allowed: Option<usize>,
    /// The last byte read that is not white space.
    last_visible: Option<u8>,
}

impl Text {
    /// Opens a file whose first bytes are known; returns the beginning of its text as well.
    ///
    /// # Errors
    /// The file cannot be read or unpacked.
    pub fn open(path: &Path, file: File, beginning: &[u8]) -> Result<(Self, Vec<u8>)> {
        let read = || {
            let mut decoder = Decoder::new(file, beginning)?;
            let mut text = Vec::new();
            (&mut decoder).take(BEGINNING).read_to_end(&mut text)?;
            Ok((decoder, text))
        };
        let (decoder, mut text) = read().map_err(Error::file(path, FileAction::Read))?;
        if text.starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len());
        }
        let reader = BufReader::with_capacity(BUFFER, Cursor::new(text.clone()).chain(decoder));
        Ok((Self { reader, allowed: None, last_visible: None }, text))
    }

    /// Allows this many bytes from now on; to read more is an error.
    pub fn allow(&mut self, bytes: usize) {
        self.allowed = Some(bytes);
    }

    /// The last byte read that is not white space.
    pub fn last_visible(&self) -> Option<u8> {
        self.last_visible
    }

    /// Name of the file's compression; none where it is not compressed.
    pub fn compression(&self) -> Option<&'static str> {
        self.reader.get_ref().get_ref().1.name()
    }

    /// Bytes of the file read so far.
    pub fn position(&mut self) -> u64 {
        self.reader.get_mut().get_mut().1.file().bytes
    }
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        let visible = buffer[..read].iter().rfind(|byte| !byte.is_ascii_whitespace());
        self.last_visible = visible.copied().or(self.last_visible);
        if let Some(allowed) = &mut self.allowed {
            *allowed = allowed.checked_sub(read).ok_or_else(|| {
                io::Error::other(format!(
                    "a row is longer than {}: is a quote not closed?",
                    crate::files::human_bytes(super::LONGEST_RECORD as u64)
                ))
            })?;
        }
        Ok(read)
    }
}

impl BufRead for Text {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.reader.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.reader.consume(bytes);
    }
}
