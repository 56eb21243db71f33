//! Folders that several processes write into, on machines that may share a file system or not.

use std::fs;
use std::path::{self, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::folder::write_file;
use super::{
    FileWriter, ManifestEntry, create_folders, parent, require_writable, temporary_name, unique_suffix,
    write_error,
};
use crate::error::{Error, FileAction, Result};

/// A small file with a content that no other has, which other processes look for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestFile {
    path: PathBuf,
    content: String,
}

impl TestFile {
    /// Whether this process sees the file and can write beside it.
    pub fn is_seen(&self) -> bool {
        let content = fs::read_to_string(&self.path);
        content.is_ok_and(|content| content == self.content) && require_writable(parent(&self.path)).is_ok()
    }
}

/// What `ask` says while a test file is in a folder that this process has just made in `folder`. None where that has a name that
/// is not UTF-8, which cannot be told to other processes.
///
/// # Errors
/// Those of `ask`, or the system's, naming the folder.
pub fn with_test_file<T>(folder: &Path, ask: impl FnOnce(&TestFile) -> Result<T>) -> Result<Option<T>> {
    let inner = absolute(folder)?.join(temporary_name("seen"));
    if inner.to_str().is_none() {
        return Ok(None);
    }
    create_folders(&inner)?;
    let file = TestFile { path: inner.join("file"), content: unique_suffix() };
    let written = fs::write(&file.path, &file.content).map_err(write_error(folder, FileAction::WriteInto));
    let answer = written.and_then(|()| ask(&file));
    // What is asked for is known: what stays is small, and does no harm.
    let _ = fs::remove_dir_all(&inner).and_then(|()| fs::remove_dir(folder));
    answer.map(Some)
}

/// A folder under construction, for other processes that see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedFolder {
    /// Absolute: processes may work in different folders.
    temporary: PathBuf,
    /// For messages.
    destination: PathBuf,
}

impl SharedFolder {
    pub(super) fn new(temporary: &Path, destination: &Path) -> Result<Self> {
        Ok(Self { temporary: absolute(temporary)?, destination: destination.to_owned() })
    }

    /// Writes a file, a plain name, which [`AtomicFolder::add`](super::AtomicFolder::add) makes one of the folder's.
    ///
    /// # Errors
    /// `write`'s own, or the system's; nothing of the file is then left.
    pub fn write(
        &self,
        name: &str,
        write: impl FnOnce(&mut FileWriter) -> Result<()>,
    ) -> Result<ManifestEntry> {
        write_file(&self.temporary, &self.destination, name, write)
    }
}

/// A path that does not depend on the folder that a process works in. Links stay as they are: on another machine they may
/// lead elsewhere.
fn absolute(path: &Path) -> Result<PathBuf> {
    path::absolute(path).map_err(Error::file(path, FileAction::Read))
}

#[cfg(test)]
mod tests {
    use super::super::{AtomicFolder, Manifest, Verify};
    use super::*;

    #[test]
    fn what_another_process_writes_becomes_a_file_of_the_folder() {
        let run = tempfile::tempdir().unwrap();
        let destination = run.path().join("folder");
        let mut folder = AtomicFolder::create(&destination).unwrap();
        let shared = folder.shared().unwrap();
        let file = shared.write("part", |file| file.put(b"of another")).unwrap();
        folder.add(file.clone()).unwrap();
        assert!(folder.add(file.clone()).is_err(), "it is there twice");
        let shorter = ManifestEntry { name: "other".to_owned(), ..file.clone() };
        shared.write("other", |file| file.put(b"short")).unwrap();
        assert!(folder.add(shorter).unwrap_err().to_string().contains("5 bytes long"));
        assert!(folder.add(ManifestEntry { name: "none".to_owned(), ..file }).is_err());
        folder.commit().unwrap();
        let manifest = Manifest::verify(&destination, Verify::Contents).unwrap();
        assert_eq!(manifest.files.len(), 1);
        // One that is given up leaves nothing.
        let folder = AtomicFolder::create(&run.path().join("other")).unwrap();
        folder.shared().unwrap().write("part", |file| file.put(b"of another")).unwrap();
        drop(folder);
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_test_file_is_seen_while_it_is_there_and_is_what_it_was() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("checkpoint");
        let asked = with_test_file(&folder, |file| {
            assert!(file.is_seen());
            let another = TestFile { content: "another".to_owned(), ..file.clone() };
            assert!(!another.is_seen());
            Ok(file.clone())
        });
        assert!(!asked.unwrap().unwrap().is_seen());
        assert!(!folder.exists());
        // One that others use stays.
        fs::create_dir_all(folder.join("probe")).unwrap();
        let failed = with_test_file(&folder, |_| Err::<(), _>(Error::Job("failed".to_owned())));
        assert_eq!(failed.unwrap_err().to_string(), "failed");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
