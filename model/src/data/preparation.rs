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

/// Where tokens are kept between runs, and who is told how far their making is.
#[derive(Clone, Copy, Default)]
pub struct Preparation<'a> {
    /// Folder of tokenised data; none makes the tokens anew.
    pub cache: Option<&'a Path>,
    /// Is told after every block of rows.
    pub observe: Option<&'a (dyn Fn(DataProgress<'_>) + Sync)>,
}

impl fmt::Debug for Preparation<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Preparation").field("cache", &self.cache).finish_non_exhaustive()
    }
}
