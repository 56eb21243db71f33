//! The Hugging Face Hub: models and data sets by their names there, and the folder they are kept in here.
//!
//! [`Hub`] turns names into folders and files of the cache, which it fetches where they are missing; the rest of the
//! program sees those. The cache is that of `huggingface_hub`: what one has fetched the other finds.

mod cache;
mod client;
mod download;
mod error;
mod name;
mod needed;
mod origin;
mod settings;

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::adapter::hub_base;
use crate::error::{Error, Result};
use crate::files::require_free_space;
use cache::RepositoryCache;
use client::{Client, Listing, Metadata};
use download::{Wanted, is_whole};
pub use error::{HubError, HubResult};
pub use name::{
    Commit, DataName, HubName, ModelName, Repository, RepositoryKind, Revision, SCHEME, named_model,
};
pub use needed::ModelParts;
pub use origin::{HubOrigin, HubSource};
pub use settings::HubSettings;

/// Something that happens while files of the hub are looked for.
#[derive(Debug)]
pub enum HubEvent<'a> {
    /// Something a person should know, in one line.
    Notice(&'a str),
    /// Files begin to be fetched.
    Begun(&'a Download),
    /// So many bytes of them are there.
    Progress(&'a Download, u64),
    /// All are there.
    Finished(&'a Download),
}

/// Files that are fetched together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// `org/name`, with the beginning of its commit.
    pub name: String,
    /// Number of files.
    pub files: usize,
    /// Bytes of them that are not there yet when it begins.
    pub bytes: u64,
}

/// The hub, as one process sees it: a branch stays at the commit that it is first seen at.
pub struct Hub<'a> {
    settings: OnceCell<HubSettings>,
    client: OnceCell<Client>,
    commits: RefCell<BTreeMap<(Repository, Revision), Commit>>,
    listings: RefCell<BTreeMap<(Repository, Commit), Rc<Listing>>>,
    observe: &'a dyn Fn(HubEvent<'_>),
}

/// A file or folder of the cache, and what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// Where it is.
    pub place: T,
    /// The repository.
    pub repository: Repository,
    /// The revision that was asked for.
    pub revision: Revision,
    /// The commit that this is.
    pub commit: Commit,
}

/// What is known of a revision.
enum State {
    /// The cache has all that is wanted of it.
    Cached(Commit),
    /// The server says what there is.
    Listed(Rc<Listing>),
}

/// The folder of a model in the cache that the environment names; none where it is not there. Nobody is asked.
///
/// # Errors
/// What is wrong in the environment.
pub(crate) fn cached_model(name: &ModelName) -> Result<Option<PathBuf>> {
    let ModelName { repository, revision } = name;
    let cache = RepositoryCache::new(&HubSettings::from_environment()?.cache, repository);
    let commit = revision.commit().or_else(|| cache.commit_of(revision));
    let folder = commit.map(|commit| cache.snapshot(&commit));
    // Weights that are missing are noticed where they are read.
    let parts = ModelParts { weights: false, tokenizer: false };
    Ok(folder.filter(|folder| needed::lacking(folder, parts).is_none()))
}

impl<'a> Hub<'a> {
    /// The hub of these settings. Nothing is read or asked for yet.
    pub fn new(settings: HubSettings, observe: &'a dyn Fn(HubEvent<'_>)) -> Self {
        Self { settings: OnceCell::from(settings), ..Self::of_environment(observe) }
    }

    /// The hub of the settings that the environment has when something is first looked for.
    pub fn of_environment(observe: &'a dyn Fn(HubEvent<'_>)) -> Self {
        Self {
            settings: OnceCell::new(),
            client: OnceCell::new(),
            commits: RefCell::default(),
            listings: RefCell::default(),
            observe,
        }
    }

    /// From here on revisions are the commits that an earlier process saw them at.
    pub fn pin(&self, sources: &[HubSource]) {
        for source in sources {
            if let Some((repository, revision, commit)) = source.asked_commit() {
                self.commits.borrow_mut().insert((repository, revision), commit);
            }
        }
    }

    /// The folder that a text in the place of a model's folder means: itself where it is a path, else that of the cache,
    /// complete.
    ///
    /// # Errors
    /// [`HubError`], or the system's.
    pub fn model_folder(&self, path: &Path, parts: ModelParts) -> Result<PathBuf> {
        let name = path.to_str().and_then(|text| named_model(text, Path::new("")));
        match name.map(|name| HubName::parse(&name)).transpose()? {
            None => {
                self.fetch_base(path, parts)?;
                Ok(path.to_owned())
            }
            Some(HubName::Model(name)) => Ok(self.model(&name, parts)?.place),
            Some(HubName::Data(_)) => {
                Err(Error::format(path, "is data: give a model's folder, or org/name of a model on the hub"))
            }
        }
    }

    /// The files that a text in the place of a data file means: itself where it is a path, else those of the cache.
    ///
    /// # Errors
    /// [`HubError`], or the system's.
    pub fn data_paths(&self, path: &Path) -> Result<Vec<PathBuf>> {
        match path.to_str().filter(|text| text.starts_with(SCHEME)) {
            None => Ok(vec![path.to_owned()]),
            Some(text) => Ok(self.data_named(text)?.place),
        }
    }

    /// As [`Hub::data`], for a text.
    pub(crate) fn data_named(&self, text: &str) -> Result<Found<Vec<PathBuf>>> {
        match HubName::parse(text)? {
            HubName::Data(name) => self.data(&name),
            HubName::Model(_) => {
                let reason = "is a model: data is named as in hf://datasets/org/name/FILE";
                Err(HubError::BadName { text: text.to_owned(), reason }.into())
            }
        }
    }

    /// As [`Hub::model`], for a text.
    pub(crate) fn model_named(&self, text: &str, parts: ModelParts) -> Result<Found<PathBuf>> {
        match HubName::parse(text)? {
            HubName::Model(name) => self.model(&name, parts),
            HubName::Data(_) => {
                let reason = "is data: a model is named as in org/name or org/name@revision";
                Err(HubError::BadName { text: text.to_owned(), reason }.into())
            }
        }
    }

    /// The folder of a model in the cache; what is missing of these parts is fetched.
    ///
    /// # Errors
    /// [`HubError`], or the system's.
    pub fn model(&self, name: &ModelName, parts: ModelParts) -> Result<Found<PathBuf>> {
        let ModelName { repository, revision } = name;
        let cache = self.cache(repository)?;
        let lacking = |commit: &Commit| needed::lacking(&cache.snapshot(commit), parts);
        let commit = match self.state(repository, revision, true, &lacking)? {
            State::Cached(commit) => commit,
            State::Listed(listing) => {
                let Listing { commit, files } = &*listing;
                needed::require_model(repository, files, parts)?;
                self.fetch(repository, commit, &needed::small_files(files, parts))?;
                if parts.weights {
                    // Last: a folder that has them is whole.
                    let folder = cache.snapshot(commit);
                    let weights = needed::weight_files(repository, commit, files, &folder)?;
                    let weights: Vec<&str> = weights.iter().map(String::as_str).collect();
                    self.fetch(repository, commit, &weights)?;
                }
                commit.clone()
            }
        };
        self.fetch_base(&cache.snapshot(&commit), parts)?;
        Ok(self.found(cache.snapshot(&commit), repository, revision, commit))
    }

    /// Fetches the base of an adapter where it is a model of the hub; of other folders there is nothing to fetch.
    ///
    /// # Errors
    /// As [`Hub::model`]; the adapter's configuration cannot be used.
    pub(crate) fn fetch_base(&self, folder: &Path, parts: ModelParts) -> Result<()> {
        match hub_base(folder)? {
            Some(name) => self.model(&name, parts).map(drop),
            None => Ok(()),
        }
    }

    /// The files of a data set in the cache; what is missing is fetched.
    ///
    /// # Errors
    /// [`HubError`], or the system's.
    pub fn data(&self, name: &DataName) -> Result<Found<Vec<PathBuf>>> {
        let DataName { repository, revision, file } = name;
        let cache = self.cache(repository)?;
        // What of a pattern is in the cache need not be all.
        let is_pattern = file.contains(['*', '?', '[']);
        let lacking = |commit: &Commit| match matching(&cache.files(commit), file).is_empty() {
            true => Some(format!("{file} is missing")),
            false => None,
        };
        let state = self.state(repository, revision, !is_pattern, &lacking)?;
        let (commit, files) = match &state {
            State::Cached(commit) => {
                let files = matching(&cache.files(commit), file);
                if is_pattern {
                    let count = files.len();
                    (self.observe)(HubEvent::Notice(&format!(
                        "{repository}: {count} files of the cache match {file}; there may be more on the hub"
                    )));
                }
                (commit, files)
            }
            State::Listed(listing) => (&listing.commit, matching(&listing.files, file)),
        };
        if let (State::Listed(listing), true) = (&state, files.is_empty()) {
            return Err(Error::from(HubError::NoFile {
                repository: repository.clone(),
                commit: commit.clone(),
                file: file.clone(),
                hint: hint(&listing.files, file),
            }));
        }
        if let State::Listed(_) = &state {
            self.fetch(repository, commit, &files.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        let snapshot = cache.snapshot(commit);
        let places = files.iter().map(|file| snapshot.join(file)).collect();
        Ok(self.found(places, repository, revision, commit.clone()))
    }

    fn found<T>(&self, place: T, repository: &Repository, revision: &Revision, commit: Commit) -> Found<T> {
        Found { place, repository: repository.clone(), revision: revision.clone(), commit }
    }

    fn settings(&self) -> Result<&HubSettings> {
        get_or_make(&self.settings, HubSettings::from_environment)
    }

    fn cache(&self, repository: &Repository) -> Result<RepositoryCache> {
        Ok(RepositoryCache::new(&self.settings()?.cache, repository))
    }

    fn client(&self) -> Result<&Client> {
        get_or_make(&self.client, || Client::new(self.settings()?))
    }

    /// Finds out the commit of a revision: from the cache alone where that has all that is wanted (`lacking` says what of a
    /// commit it has not) and the commit is known, or nothing else may or can be asked. `trusts_cache` is false where the
    /// cache does not say whether it has all.
    fn state(
        &self,
        repository: &Repository,
        revision: &Revision,
        trusts_cache: bool,
        lacking: &dyn Fn(&Commit) -> Option<String>,
    ) -> Result<State> {
        let key = (repository.clone(), revision.clone());
        let fixed = revision.commit().or_else(|| self.commits.borrow().get(&key).cloned());
        if let Some(commit) = fixed.as_ref().filter(|commit| trusts_cache && lacking(commit).is_none()) {
            return Ok(State::Cached(commit.clone()));
        }
        let cache = self.cache(repository)?;
        let cached = || fixed.clone().or_else(|| cache.commit_of(revision));
        let keep = |commit: &Commit| drop(self.commits.borrow_mut().insert(key.clone(), commit.clone()));
        if self.settings()?.offline {
            let lacking = match cached() {
                None => "nothing of it is there".to_owned(),
                Some(commit) => match lacking(&commit) {
                    None => {
                        keep(&commit);
                        return Ok(State::Cached(commit));
                    }
                    Some(lacking) => lacking,
                },
            };
            let (repository, revision) = (repository.clone(), revision.clone());
            let cache = self.settings()?.cache.clone();
            return Err(HubError::NotCached { repository, revision, lacking, cache }.into());
        }
        match self.listing(repository, fixed.as_ref().map_or(revision.as_str(), Commit::as_str)) {
            Ok(listing) => {
                if fixed.is_none() {
                    cache.remember(revision, &listing.commit)?;
                }
                keep(&listing.commit);
                Ok(State::Listed(listing))
            }
            Err(Error::Hub(error)) if matches!(*error, HubError::Unreachable { .. }) => {
                let Some(commit) = cached().filter(|commit| lacking(commit).is_none()) else {
                    return Err(error.into());
                };
                if let HubError::Unreachable { address, reason, .. } = &*error {
                    (self.observe)(HubEvent::Notice(&format!(
                        "{repository}@{revision}: {address} cannot be reached ({reason}); the cache's commit {} is used",
                        commit.short()
                    )));
                }
                keep(&commit);
                Ok(State::Cached(commit))
            }
            Err(error) => Err(error),
        }
    }

    fn listing(&self, repository: &Repository, revision: &str) -> Result<Rc<Listing>> {
        let known = Commit::parse(revision)
            .and_then(|commit| self.listings.borrow().get(&(repository.clone(), commit)).cloned());
        if let Some(listing) = known {
            return Ok(listing);
        }
        let listing = Rc::new(self.client()?.listing(repository, revision)?);
        let key = (repository.clone(), listing.commit.clone());
        self.listings.borrow_mut().insert(key, Rc::clone(&listing));
        Ok(listing)
    }

    /// Brings files of a commit into the cache.
    fn fetch(&self, repository: &Repository, commit: &Commit, files: &[&str]) -> Result<()> {
        let cache = self.cache(repository)?;
        let snapshot = cache.snapshot(commit);
        let missing = files.iter().filter(|file| !snapshot.join(file).is_file());
        let client = self.client()?;
        let with_metadata =
            |file: &&'_ str| Ok((file.to_string(), client.metadata(repository, commit, file)?));
        let missing = missing.map(with_metadata).collect::<HubResult<Vec<(String, Metadata)>>>()?;
        let is_new = |metadata: &Metadata| !is_whole(&cache.blob(&metadata.etag), metadata.size);
        let new = || missing.iter().filter(|(_, metadata)| is_new(metadata));
        let download = Download {
            name: format!("{repository}@{}", commit.short()),
            files: new().count(),
            bytes: new().fold(0, |sum, (_, metadata)| sum.saturating_add(metadata.size)),
        };
        if download.files > 0 {
            require_free_space(&self.settings()?.cache, download.bytes)?;
            (self.observe)(HubEvent::Begun(&download));
        }
        let mut before = 0;
        for (file, metadata) in &missing {
            let wanted = Wanted { repository, commit, file, metadata };
            let is_counted = is_new(metadata);
            let observe = |bytes: u64| {
                if is_counted {
                    (self.observe)(HubEvent::Progress(&download, before + bytes));
                }
            };
            let is_waiting = || {
                let text = format!("{repository}: waiting for another process that fetches {file}");
                (self.observe)(HubEvent::Notice(&text));
            };
            let lock = cache.lock(&metadata.etag, is_waiting)?;
            wanted.fetch(client, &cache, &observe)?;
            cache.add_to_snapshot(commit, file, &metadata.etag)?;
            drop(lock);
            before += if is_counted { metadata.size } else { 0 };
        }
        if download.files > 0 {
            (self.observe)(HubEvent::Finished(&download));
        }
        Ok(())
    }
}

/// What a cell holds, made where it holds nothing yet.
fn get_or_make<T>(cell: &OnceCell<T>, make: impl FnOnce() -> Result<T>) -> Result<&T> {
    match cell.get() {
        Some(value) => Ok(value),
        None => {
            let value = make()?;
            Ok(cell.get_or_init(|| value))
        }
    }
}

/// The files that a text names: the one of that path, else those that match it as a pattern.
fn matching(files: &[String], text: &str) -> Vec<String> {
    if files.iter().any(|file| file == text) {
        return vec![text.to_owned()];
    }
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    let Ok(pattern) = glob::Pattern::new(text) else { return Vec::new() };
    let mut found: Vec<String> =
        files.iter().filter(|file| pattern.matches_with(file, options)).cloned().collect();
    found.retain(|file| name::is_relative_file(file));
    found.sort();
    found
}

/// What a file that is not there may be instead.
fn hint(files: &[String], text: &str) -> String {
    let distance = |file: &String| strsim::damerau_levenshtein(file, text);
    let is_data = |file: &&String| !matches!(file.as_str(), ".gitattributes" | "README.md");
    let nearest = files.iter().filter(is_data).map(|file| (distance(file), file)).min();
    match nearest {
        Some((distance, file)) if distance <= text.len() / 3 => format!(", did you mean {file}?"),
        _ => {
            let some: Vec<&str> = files.iter().filter(is_data).take(5).map(String::as_str).collect();
            if some.is_empty() { String::new() } else { format!(": it has {}", some.join(", ")) }
        }
    }
}
