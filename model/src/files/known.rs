//! Files that must keep their content while a run goes on.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::hash_file;
use crate::error::{Error, Result};

/// What the system says about a file: while it says the same, the content is not read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
    /// File number and time of the last change of any kind, which no program can set back.
    #[cfg(unix)]
    changed: (u64, i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(Error::file(path, "read"))?;
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

/// Files with the hash of the content they had.
#[derive(Debug, Default)]
pub struct KnownFiles {
    files: Mutex<BTreeMap<PathBuf, (Stamp, String)>>,
}

impl KnownFiles {
    /// Hashes a file, unless it is known already, and remembers it; returns its length in bytes and its BLAKE3
    /// hash in hexadecimal.
    ///
    /// # Errors
    /// The system's, naming the file.
    pub fn add(&self, path: &Path) -> Result<(u64, String)> {
        // Before the content is read: a change while it is read is then noticed by the next check.
        let stamp = Stamp::of(path)?;
        let known = self.get(path).filter(|(known, _)| *known == stamp);
        let hash = match known {
            Some((_, hash)) => hash,
            None => hash_file(path)?.to_hex().to_string(),
        };
        self.insert(path, stamp, hash.clone());
        Ok((stamp.bytes, hash))
    }

    /// Remembers a file whose content has just been found to have, or was just written with, this hash.
    ///
    /// # Errors
    /// The system's, naming the file.
    pub fn add_hashed(&self, path: &Path, blake3: &str) -> Result<()> {
        self.insert(path, Stamp::of(path)?, blake3.to_owned());
        Ok(())
    }

    /// Fails unless a known file has the content that it had. Called after the file was read once more, it covers
    /// what was read.
    ///
    /// # Errors
    /// The file has other content, or cannot be read. A file that is not known is not looked at.
    pub fn check(&self, path: &Path) -> Result<()> {
        let Some((known, hash)) = self.get(path) else { return Ok(()) };
        let stamp = Stamp::of(path)?;
        if stamp == known {
            return Ok(());
        }
        if hash_file(path)?.to_hex().as_str() != hash {
            let reason = "has changed since the run was begun: put back what it was, or start a new run";
            return Err(Error::format(path, reason));
        }
        self.insert(path, stamp, hash);
        Ok(())
    }

    fn get(&self, path: &Path) -> Option<(Stamp, String)> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    fn insert(&self, path: &Path, stamp: Stamp, hash: String) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), (stamp, hash));
    }
}
