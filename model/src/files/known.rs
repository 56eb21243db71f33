//! Files that must keep their content while a run goes on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::hash_file;
use crate::error::{Error, FileAction, Result};

/// What the system says about a file: while it says the same, the content is not read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStat {
    bytes: u64,
    modified: Option<SystemTime>,
    /// File number and time of the last change of any kind, which no program can set back.
    #[cfg(unix)]
    changed: (u64, i64, i64),
}

impl FileStat {
    fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(Error::file(path, FileAction::Read))?;
        Ok(Self {
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            #[cfg(unix)]
            changed: changed(&metadata),
        })
    }
}

#[cfg(unix)]
fn changed(metadata: &fs::Metadata) -> (u64, i64, i64) {
    use std::os::unix::fs::MetadataExt;
    (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

/// Files as they are before they are read.
#[derive(Debug)]
pub(crate) struct FileSnapshot<'a>(Vec<(&'a Path, FileStat)>);

impl<'a> FileSnapshot<'a> {
    /// Remembers how files are.
    ///
    /// # Errors
    /// The system's, naming the file.
    pub fn of(paths: &'a [PathBuf]) -> Result<Self> {
        let seen = paths.iter().map(|path| Ok((path.as_path(), FileStat::of(path)?)));
        seen.collect::<Result<_>>().map(Self)
    }

    /// Fails unless all files still are as they were: else what was read of them need not be what they hold.
    ///
    /// # Errors
    /// Naming the first that is not.
    pub fn check(&self) -> Result<()> {
        for (path, seen) in &self.0 {
            if FileStat::of(path)? != *seen {
                return Err(changed_while_read(path));
            }
        }
        Ok(())
    }
}

fn changed_while_read(path: &Path) -> Error {
    Error::format(path, "changed while it was read: start again")
}

/// Files with the hash of the content they had.
#[derive(Debug, Default)]
pub struct KnownFiles {
    files: Mutex<BTreeMap<PathBuf, (FileStat, String)>>,
    /// What the system said of files before they were read for the first time.
    seen: Mutex<BTreeMap<PathBuf, FileStat>>,
}

impl KnownFiles {
    /// Remembers how a file is before it is read: unless it stays so until [`KnownFiles::add`] hashes it, what was
    /// read need not be what is hashed. One that is not there is left to whoever reads it.
    pub fn snapshot(&self, path: &Path) {
        if let Ok(stat) = FileStat::of(path) {
            lock(&self.seen).entry(path.to_owned()).or_insert(stat);
        }
    }

    /// Hashes a file, unless it is known already, and remembers it; returns its length in bytes and its BLAKE3
    /// hash in hexadecimal.
    ///
    /// # Errors
    /// The system's, naming the file; it has changed since it was seen.
    pub fn add(&self, path: &Path) -> Result<(u64, String)> {
        // Before the content is read: a change while it is read is then noticed by the next check.
        let stat = FileStat::of(path)?;
        if lock(&self.seen).get(path).is_some_and(|seen| *seen != stat) {
            return Err(changed_while_read(path));
        }
        let known = self.get(path).filter(|(known, _)| *known == stat);
        let hash = match known {
            Some((_, hash)) => hash,
            None => hash_file(path)?.to_hex().to_string(),
        };
        self.insert(path, stat, hash.clone());
        Ok((stat.bytes, hash))
    }

    /// Remembers a file whose content has just been found to have, or was just written with, this hash.
    ///
    /// # Errors
    /// The system's, naming the file.
    pub fn add_hashed(&self, path: &Path, blake3: &str) -> Result<()> {
        self.insert(path, FileStat::of(path)?, blake3.to_owned());
        Ok(())
    }

    /// Fails unless a known file has the content that it had. Called after the file was read once more, it covers
    /// what was read.
    ///
    /// # Errors
    /// The file has other content, or cannot be read. A file that is not known is not looked at.
    pub fn check(&self, path: &Path) -> Result<()> {
        let Some((known, hash)) = self.get(path) else { return Ok(()) };
        let stat = FileStat::of(path)?;
        if stat == known {
            return Ok(());
        }
        if hash_file(path)?.to_hex().as_str() != hash {
            return Err(Difference::Changed.of(path));
        }
        self.insert(path, stat, hash);
        Ok(())
    }

    fn get(&self, path: &Path) -> Option<(FileStat, String)> {
        lock(&self.files).get(path).cloned()
    }

    fn insert(&self, path: &Path, stat: FileStat, hash: String) {
        lock(&self.files).insert(path.to_owned(), (stat, hash));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a file that a run reads is not what it was when the run was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It has other content.
    Changed,
    /// It was not there.
    New,
    /// It is no longer there.
    Gone,
}

impl Difference {
    /// The error that names the file and says what to do.
    pub fn of(self, path: &Path) -> Error {
        let difference = match self {
            Self::Changed => "has changed since the run was begun: put back what it was",
            Self::New => "was not there when the run was begun: remove it",
            Self::Gone => "was there when the run was begun and is gone: put it back",
        };
        let reason = format!(
            "{difference} and continue with --resume, or start a new run (the run's inputs.json says what it was)"
        );
        Error::format(path, reason)
    }
}
