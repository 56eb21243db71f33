//! One file of the hub, into the cache.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::client::{Client, Metadata};
use crate::error::{Error, FileAction, Result};
use crate::hub_cache::{RepositoryCache, create_parent};
use crate::hub_error::HubError;
use crate::hub_names::{Commit, Repository};

/// Attempts without progress before a download is given up; the pauses between them double.
const MOST_ATTEMPTS_WITHOUT_PROGRESS: u32 = 4;

/// Bytes read at a time.
const PIECE: usize = 1 << 20;

/// A file to fetch.
pub(super) struct Wanted<'a> {
    pub repository: &'a Repository,
    pub commit: &'a Commit,
    pub file: &'a str,
    pub metadata: &'a Metadata,
}

impl Wanted<'_> {
    /// Brings the content into the cache, unless it is there. A partial file of an earlier attempt is continued; where that
    /// ends with other content than the hub has, the download begins once from zero. `observe` is told how many bytes are
    /// there.
    ///
    /// # Errors
    /// [`HubError`], or the system's.
    pub fn fetch(&self, client: &Client, cache: &RepositoryCache, observe: &dyn Fn(u64)) -> Result<()> {
        let blob = cache.blob(&self.metadata.etag);
        if is_complete(&blob, self.metadata.size) {
            return Ok(());
        }
        create_parent(&blob)?;
        let mut partial = Partial::open(cache.partial(&self.metadata.etag), self.metadata)?;
        let is_continued = partial.length > 0;
        self.complete(client, &mut partial, observe)?;
        if is_continued && partial.damage().is_some() {
            partial.clear()?;
            self.complete(client, &mut partial, observe)?;
        }
        match partial.finish(&blob)? {
            Some(Damage { found, expected }) => Err(Error::from(HubError::Damaged {
                repository: self.repository.clone(),
                file: self.file.to_owned(),
                found,
                expected,
            })),
            None => Ok(()),
        }
    }

    /// Asks for what is missing until the file has its size, or several attempts in a row have brought nothing.
    fn complete(&self, client: &Client, partial: &mut Partial, observe: &dyn Fn(u64)) -> Result<()> {
        let (mut without_progress, mut pause) = (0, client.first_pause());
        while partial.length < self.metadata.size {
            let before = partial.length;
            let outcome = self.append(client, partial, observe);
            if partial.length > before {
                (without_progress, pause) = (0, client.first_pause());
            } else {
                without_progress += 1;
            }
            match outcome {
                Ok(()) => {}
                Err(Interruption::Fault(error)) => return Err(error),
                Err(Interruption::Ended(reason)) if without_progress >= MOST_ATTEMPTS_WITHOUT_PROGRESS => {
                    return Err(Error::from(HubError::Truncated {
                        repository: self.repository.clone(),
                        file: self.file.to_owned(),
                        received: partial.length,
                        size: self.metadata.size,
                        reason,
                    }));
                }
                Err(Interruption::Ended(_)) if without_progress > 0 => {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                Err(Interruption::Ended(_)) => {}
            }
        }
        Ok(())
    }

    /// Appends what the server sends, up to the size that the file has.
    fn append(
        &self,
        client: &Client,
        partial: &mut Partial,
        observe: &dyn Fn(u64),
    ) -> std::result::Result<(), Interruption> {
        let size = self.metadata.size;
        let content = client.content(self.repository, self.commit, self.file, partial.length);
        let content = content.map_err(|error| match *error {
            HubError::Unreachable { address, reason, .. } => {
                Interruption::Ended(format!("{address}: {reason}"))
            }
            error => Interruption::Fault(error.into()),
        })?;
        if content.from != partial.length {
            partial.clear().map_err(Interruption::Fault)?;
        }
        let mut reader = content.reader;
        let mut piece = vec![0; PIECE];
        while partial.length < size {
            let most = piece.len().min(usize::try_from(size - partial.length).unwrap_or(usize::MAX));
            match reader.read(&mut piece[..most]) {
                Ok(0) => return Err(Interruption::Ended("the server ended it".to_owned())),
                Ok(count) => partial.add(&piece[..count]).map_err(Interruption::Fault)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Interruption::Ended(error.to_string())),
            }
            observe(partial.length);
        }
        Ok(())
    }
}

/// Why an attempt ended.
enum Interruption {
    /// The rest may come with the next.
    Ended(String),
    /// Another attempt would end likewise.
    Fault(Error),
}

/// Whether content is there, in its full length.
pub(super) fn is_complete(blob: &Path, size: u64) -> bool {
    fs::metadata(blob).is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
}

/// What is not the content that the hub has.
struct Damage {
    found: String,
    expected: String,
}

/// What there is of a file.
struct Partial {
    path: PathBuf,
    file: File,
    length: u64,
    /// Of what there is, where the name of the content is its SHA-256.
    hash: Option<(Sha256, String)>,
}

impl Partial {
    /// Opens the partial file of an earlier attempt, or begins anew where it cannot be a part of this content.
    fn open(path: PathBuf, metadata: &Metadata) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(&path);
        let file = file.map_err(Error::file(&path, FileAction::Create))?;
        let is_hash = metadata.etag.len() == 64 && metadata.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        let hash = is_hash.then(|| (Sha256::new(), metadata.etag.to_ascii_lowercase()));
        let mut partial = Self { path, file, length: 0, hash };
        let mut piece = vec![0; PIECE];
        loop {
            let count = partial.file.read(&mut piece);
            let count = count.map_err(Error::file(&partial.path, FileAction::Read))?;
            if count == 0 {
                break;
            }
            partial.length += count as u64;
            if let Some((hash, _)) = &mut partial.hash {
                hash.update(&piece[..count]);
            }
        }
        if partial.length > metadata.size {
            partial.clear()?;
        }
        Ok(partial)
    }

    fn clear(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::file(&self.path, FileAction::Write))?;
        self.length = 0;
        if let Some((hash, _)) = &mut self.hash {
            *hash = Sha256::new();
        }
        Ok(())
    }

    fn add(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::file(&self.path, FileAction::Write))?;
        self.length += bytes.len() as u64;
        if let Some((hash, _)) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(())
    }

    /// How the content differs from the hub's, where its name says that.
    fn damage(&self) -> Option<Damage> {
        let (hash, expected) = self.hash.as_ref()?;
        let found: String = hash.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        (found != *expected).then(|| Damage { found, expected: expected.clone() })
    }

    /// Gives the complete content its name; damaged content is removed and described.
    fn finish(self, blob: &Path) -> Result<Option<Damage>> {
        if let Some(damage) = self.damage() {
            fs::remove_file(&self.path).map_err(Error::file(&self.path, FileAction::Remove))?;
            return Ok(Some(damage));
        }
        self.file.sync_all().map_err(Error::file(&self.path, FileAction::Write))?;
        fs::rename(&self.path, blob).map_err(Error::file(blob, FileAction::Rename))?;
        Ok(None)
    }
}
