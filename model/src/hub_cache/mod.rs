//! The folder that the hub's files are kept in, as `huggingface_hub` lays it out.
//!
//! ```text
//! models--org--name/refs/main              the commit of a branch
//! models--org--name/blobs/ETAG             the content of a file
//! models--org--name/snapshots/COMMIT/FILE  a link to its content
//! models--org--name/.no_exist/COMMIT/FILE  empty: the commit has no such file
//! .locks/models--org--name/ETAG.lock       held by the process that fetches it
//! ```

mod settings;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use crate::error::{Error, FileAction, Result};
use crate::files::{create_folders, read_text, write_bytes_atomically};
use crate::hub_names::{Commit, ModelName, Repository, Revision};
pub use settings::HubSettings;

/// The folder of a model in the cache that the environment names, whatever is in it; none where its commit is not known.
/// Nobody is asked.
///
/// # Errors
/// What is wrong in the environment.
pub(crate) fn cached_model(name: &ModelName) -> Result<Option<PathBuf>> {
    let ModelName { repository, revision } = name;
    let cache = RepositoryCache::new(&HubSettings::from_environment()?.cache, repository);
    let commit = revision.commit().or_else(|| cache.commit_of(revision));
    Ok(commit.map(|commit| cache.snapshot(&commit)))
}

/// One repository in the cache.
#[derive(Debug)]
pub(crate) struct RepositoryCache {
    folder: PathBuf,
    locks: PathBuf,
}

impl RepositoryCache {
    /// The place of a repository in a cache; nothing is read or made.
    pub fn new(cache: &Path, repository: &Repository) -> Self {
        let name = repository.folder_name();
        Self { folder: cache.join(&name), locks: cache.join(".locks").join(&name) }
    }

    /// The commit that a branch or tag was at when it was last asked for.
    pub fn commit_of(&self, revision: &Revision) -> Option<Commit> {
        Commit::parse(read_text(&self.reference(revision)).ok()?.trim())
    }

    /// Remembers the commit of a branch or tag.
    ///
    /// # Errors
    /// The system's.
    pub fn remember(&self, revision: &Revision, commit: &Commit) -> Result<()> {
        if self.commit_of(revision).as_ref() == Some(commit) {
            return Ok(()); // the cache may be one that is only read
        }
        let path = self.reference(revision);
        create_parent(&path)?;
        write_bytes_atomically(&path, commit.as_str().as_bytes())
    }

    fn reference(&self, revision: &Revision) -> PathBuf {
        self.folder.join("refs").join(revision.as_str())
    }

    /// Folder of the files of a commit.
    pub fn snapshot(&self, commit: &Commit) -> PathBuf {
        self.folder.join("snapshots").join(commit.as_str())
    }

    /// Where the content of a file is, or will be.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where the beginning of a content is kept until the rest is there.
    pub fn partial(&self, etag: &str) -> PathBuf {
        self.blob(&format!("{etag}.incomplete"))
    }

    /// Waits until no other process fetches this content, and keeps others from it until the file is dropped.
    /// `is_waiting` is told when there is another.
    ///
    /// # Errors
    /// The system's.
    pub fn lock(&self, etag: &str, is_waiting: impl FnOnce()) -> Result<File> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::file(&path, FileAction::Create))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                is_waiting();
                file.lock().map_err(Error::file(&path, FileAction::Lock))?;
            }
            Err(fs::TryLockError::Error(error)) => return Err(Error::file(&path, FileAction::Lock)(error)),
        }
        Ok(file)
    }

    /// Makes content that is there a file of a commit. Called under the content's lock; readers of the snapshot see no file
    /// or the complete one.
    ///
    /// # Errors
    /// The system's.
    pub fn add_to_snapshot(&self, commit: &Commit, file: &str, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        let blob = self.blob(etag);
        let length =
            |path: &Path| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|file| file.len());
        if length(&path).is_some_and(|there| length(&blob) == Some(there)) {
            return Ok(()); // another process has added it, and others may be reading it
        }
        create_parent(&path)?;
        let up = 2 + file.matches('/').count();
        let target = format!("{}blobs/{etag}", "../".repeat(up));
        // Beside the content and not in the snapshot, whose files are those of the repository.
        let temporary = self.blob(&format!("{etag}.link"));
        remove_if_there(&temporary)?;
        link(Path::new(&target), &temporary)
            .or_else(|_| fs::hard_link(&blob, &temporary))
            .or_else(|_| fs::copy(&blob, &temporary).map(drop))
            .map_err(Error::file(&temporary, FileAction::Create))?;
        fs::rename(&temporary, &path).map_err(Error::file(&path, FileAction::Replace))
    }

    /// Whether an earlier process has found a commit to be without a file.
    pub fn is_known_absent(&self, commit: &Commit, file: &str) -> bool {
        self.absent(commit, file).is_file()
    }

    /// Remembers that a commit is without a file, as `huggingface_hub` does.
    ///
    /// # Errors
    /// The system's.
    pub fn remember_absent(&self, commit: &Commit, file: &str) -> Result<()> {
        if self.is_known_absent(commit, file) {
            return Ok(());
        }
        let path = self.absent(commit, file);
        create_parent(&path)?;
        write_bytes_atomically(&path, b"")
    }

    fn absent(&self, commit: &Commit, file: &str) -> PathBuf {
        self.folder.join(".no_exist").join(commit.as_str()).join(file)
    }

    /// The files of a commit that are there, by their paths in the repository.
    pub fn files(&self, commit: &Commit) -> Vec<String> {
        let mut files = Vec::new();
        collect_files(&self.snapshot(commit), "", &mut files);
        files.sort();
        files
    }
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::file(path, FileAction::Replace)(error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn create_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), create_folders)
}

#[cfg(unix)]
fn link(target: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, path)
}

#[cfg(not(unix))]
fn link(_target: &Path, _path: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

fn collect_files(folder: &Path, prefix: &str, files: &mut Vec<String>) {
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = entry.path();
        if path.is_dir() {
            collect_files(&path, &format!("{prefix}{name}/"), files);
        } else if path.is_file() {
            files.push(format!("{prefix}{name}"));
        }
    }
}
