//! Files of a commit, into the cache.

use super::client::Metadata;
use super::download::{Wanted, is_complete};
use super::{Download, Hub, HubEvent, needed};
use crate::error::{Error, Result};
use crate::files::require_free_space;
use crate::hub_cache::RepositoryCache;
use crate::hub_error::HubResult;
use crate::hub_names::{Commit, Repository};

/// A file that the snapshot lacks.
struct Missing<'a> {
    file: &'a str,
    metadata: Metadata,
    /// Bytes of it that are still to come.
    bytes: u64,
}

impl Hub<'_> {
    /// Brings files of a commit into the cache.
    pub(super) fn fetch(&self, repository: &Repository, commit: &Commit, files: &[&str]) -> Result<()> {
        let cache = self.cache(repository)?;
        let snapshot = cache.snapshot(commit);
        let client = self.client()?;
        let missing = files.iter().filter(|file| !snapshot.join(file).is_file()).map(|&file| {
            let metadata = client.metadata(repository, commit, file)?;
            let bytes = bytes_to_come(&cache, &metadata);
            Ok(Missing { file, metadata, bytes })
        });
        let missing = missing.collect::<HubResult<Vec<Missing<'_>>>>()?;
        let download = Download {
            name: format!("{repository}@{}", commit.short()),
            files: missing.iter().filter(|missing| missing.bytes > 0).count(),
            bytes: missing.iter().fold(0, |sum, missing| sum.saturating_add(missing.bytes)),
        };
        if download.files > 0 {
            self.require_space(download.bytes)?;
            (self.observe)(HubEvent::Begun(&download));
        }
        let mut before = 0;
        for missing in &missing {
            let there = missing.metadata.size - missing.bytes;
            // A download that begins again from zero has less than there was.
            let observe = |bytes: u64| {
                (self.observe)(HubEvent::Progress(&download, before + bytes.saturating_sub(there)));
            };
            match self.store(&cache, repository, commit, missing, &observe) {
                Ok(()) => {}
                Err(error @ Error::Hub(_)) => return Err(error),
                // A cache that others write may have what is read of a model and not what is only copied.
                Err(error) if needed::is_only_copied(repository, missing.file) => {
                    let text =
                        format!("{repository}: {} cannot be stored and is left out: {error}", missing.file);
                    self.notice(text);
                }
                Err(error) => return Err(error),
            }
            before += missing.bytes;
        }
        if download.files > 0 {
            (self.observe)(HubEvent::Finished(&download));
        }
        Ok(())
    }

    fn store(
        &self,
        cache: &RepositoryCache,
        repository: &Repository,
        commit: &Commit,
        missing: &Missing<'_>,
        observe: &dyn Fn(u64),
    ) -> Result<()> {
        let Missing { file, metadata, .. } = missing;
        let is_waiting = || {
            let text = format!("{repository}: waiting for another process that fetches {file}");
            self.notice(text);
        };
        let _lock = cache.lock(&metadata.etag, is_waiting)?;
        Wanted { repository, commit, file, metadata }.fetch(self.client()?, cache, observe)?;
        cache.add_to_snapshot(commit, file, &metadata.etag)
    }

    fn require_space(&self, bytes: u64) -> Result<()> {
        require_free_space(&self.settings()?.cache, bytes).map_err(|error| match error {
            Error::Format { path, reason } => {
                Error::Format { path, reason: format!("{reason} with HF_HOME") }
            }
            error => error,
        })
    }
}

/// Bytes of a content that neither an earlier download nor a part of one has brought.
fn bytes_to_come(cache: &RepositoryCache, metadata: &Metadata) -> u64 {
    let Metadata { etag, size } = metadata;
    if is_complete(&cache.blob(etag), *size) {
        return 0;
    }
    let there = cache.partial(etag).metadata().map_or(0, |file| file.len());
    if there > *size { *size } else { size - there }
}
