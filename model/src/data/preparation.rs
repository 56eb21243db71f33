//! Where tokens are kept between runs, and who is told how far their making is.

use std::fmt;
use std::path::{Path, PathBuf};

/// How far the reading of files is.
#[derive(Debug, Clone, Copy)]
pub struct DataProgress<'a> {
    /// The files.
    pub files: &'a [PathBuf],
    /// Bytes read of all of them.
    pub bytes: u64,
    /// Their bytes.
    pub total_bytes: u64,
    /// Rows made so far.
    pub rows: usize,
}

/// Something that happens while files become tokens.
#[derive(Debug, Clone, Copy)]
pub enum PreparationEvent<'a> {
    /// A preparation that was ended before goes on: its rows are read from the cache.
    Resumed {
        /// The files.
        files: &'a [PathBuf],
        /// Their rows, from the first, that are not read again.
        rows: usize,
    },
    /// A file of the cache is damaged, or not of this data: it is made anew.
    CacheRefused(&'a Path),
    /// A block of rows was made.
    Progress(DataProgress<'a>),
}

/// Where tokens are kept between runs, and who is told how far their making is.
#[derive(Clone, Copy)]
pub struct Preparation<'a> {
    /// Folder of tokenized data; none makes the tokens anew.
    pub cache: Option<&'a Path>,
    /// Tokens after which a file there ends: about a second of tokenizing, which is what is lost when it is ended.
    pub piece_tokens: usize,
    /// Is told what happens.
    pub observe: Option<&'a (dyn Fn(PreparationEvent<'_>) + Sync)>,
}

impl Default for Preparation<'_> {
    fn default() -> Self {
        Self { cache: None, piece_tokens: 1 << 20, observe: None }
    }
}

impl Preparation<'_> {
    /// Tells the observer.
    pub(super) fn tell(&self, event: PreparationEvent<'_>) {
        if let Some(observe) = self.observe {
            observe(event);
        }
    }
}

impl fmt::Debug for Preparation<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Preparation").field("cache", &self.cache).finish_non_exhaustive()
    }
}
