//! Folders that one process works in.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::path::Path;

use super::{create_folders, write_error};
use crate::error::{Error, FileAction, Result};

/// Name of the file that a folder is locked through.
pub(super) const LOCK: &str = ".lock";

/// A folder held by this process, until dropped or killed: two runs must not write to one folder.
#[derive(Debug)]
pub struct FolderLock {
    /// The system releases the lock when the file is closed.
    _file: File,
}

impl FolderLock {
    /// Locks a folder that a process has locked before; none where no process has.
    ///
    /// # Errors
    /// As [`FolderLock::take`].
    pub fn take_again(folder: &Path) -> Result<Option<Self>> {
        Self::was_locked(folder).then(|| Self::take(folder)).transpose()
    }

    /// Whether a process has locked a folder, now or before.
    pub fn was_locked(folder: &Path) -> bool {
        folder.join(LOCK).exists()
    }

    /// Locks a folder through the file `.lock` in it.
    ///
    /// # Errors
    /// Another process holds the folder, or the file cannot be created.
    pub fn take(folder: &Path) -> Result<Self> {
        Self::try_with(folder, File::try_lock)?.ok_or_else(|| is_in_use(folder))
    }

    /// Locks a folder beside others that share it, so that none can take it for itself.
    ///
    /// # Errors
    /// Another process has taken the folder, or the file cannot be created.
    pub fn share(folder: &Path) -> Result<Self> {
        Self::try_with(folder, File::try_lock_shared)?.ok_or_else(|| is_in_use(folder))
    }

    /// As [`FolderLock::take`], but none where another process holds the folder.
    ///
    /// # Errors
    /// The file cannot be created.
    pub fn try_take(folder: &Path) -> Result<Option<Self>> {
        Self::try_with(folder, File::try_lock)
    }

    fn try_with(
        folder: &Path,
        lock: impl FnOnce(&File) -> std::result::Result<(), TryLockError>,
    ) -> Result<Option<Self>> {
        let path = folder.join(LOCK);
        // Where a lock is one on bytes, as on NFS, a shared one has to be able to read.
        let open = || OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = match open() {
            // Another process made the folder, failed before it began, and removed it again.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create_folders(folder)?;
                open()
            }
            other => other,
        };
        let file = file.map_err(write_error(&path, FileAction::Create))?;
        match lock(&file) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(Error::file(&path, FileAction::Lock)(error)),
        }
    }
}

fn is_in_use(folder: &Path) -> Error {
    Error::format(folder, "another process is working in this folder; wait for it or stop it")
}
