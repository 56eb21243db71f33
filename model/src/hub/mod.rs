//! The Hugging Face Hub: models and data sets by their names there, and the folder they are kept in here.
//!
//! [`Hub`] turns names into folders and files of the cache, which it fetches where they are missing; the rest of the
//! program sees those. The cache is that of `huggingface_hub`: what one has fetched the other finds.

mod client;
mod download;
mod fetch;
mod needed;
mod origin;
mod pattern;

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::adapter::hub_base;
use crate::error::{Error, Result};
pub use crate::hub_cache::HubSettings;
use crate::hub_cache::RepositoryCache;
pub use crate::hub_error::{HubError, HubResult};
pub use crate::hub_names::{
    BadName, Commit, DataName, HubName, ModelName, Repository, RepositoryKind, Revision, SCHEME, named_model,
};
use client::{Client, Listing};
pub use needed::ModelParts;
pub use origin::{HubOrigin, HubSource};
use pattern::{hint, is_pattern, matching};

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
    /// Those of the commits that an earlier process saw; the branch may be elsewhere by now.
    pinned: RefCell<BTreeSet<(Repository, Revision)>>,
    listings: RefCell<BTreeMap<(Repository, Commit), Rc<Listing>>>,
    /// Those whose commit was taken from the cache as it is.
    taken: RefCell<BTreeSet<(Repository, Revision)>>,
    /// The notices that were given: a model is looked at more than once.
    notices: RefCell<BTreeSet<String>>,
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

/// What the cache says of a commit.
struct Known<'a> {
    /// What it lacks of what is wanted.
    lacking: &'a dyn Fn(&Commit) -> Option<String>,
    /// The files that it has not and that the commit may have.
    undecided: &'a dyn Fn(&Commit) -> Vec<&'static str>,
    /// Whether that which is wanted is all in the cache where nothing is lacking.
    is_all: bool,
}

/// How much of a model is fetched at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All but the weights, whose presence on the hub is checked: what else is wrong is found before the long download.
    SmallFiles,
    /// The weights too.
    Complete,
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
            pinned: RefCell::default(),
            listings: RefCell::default(),
            taken: RefCell::default(),
            notices: RefCell::default(),
            observe,
        }
    }

    /// From here on revisions are the commits that an earlier process saw them at.
    pub fn pin(&self, sources: &[HubSource]) {
        for source in sources {
            if let Some((repository, revision, commit)) = source.asked_commit() {
                self.pinned.borrow_mut().insert((repository.clone(), revision.clone()));
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
        self.model_folder_until(path, parts, Extent::Complete)
    }

    /// As [`Hub::model_folder`], for all but the weights; that the hub has them is checked.
    ///
    /// # Errors
    /// As [`Hub::model_folder`].
    pub fn prepare_model_folder(&self, path: &Path, parts: ModelParts) -> Result<()> {
        self.model_folder_until(path, parts, Extent::SmallFiles).map(drop)
    }

    fn model_folder_until(&self, path: &Path, parts: ModelParts, extent: Extent) -> Result<PathBuf> {
        let name = path.to_str().and_then(|text| named_model(text, Path::new("")));
        match name.map(|name| HubName::parse(&name)).transpose().map_err(HubError::from)? {
            None => {
                self.fetch_base(path, parts, extent)?;
                Ok(path.to_owned())
            }
            Some(HubName::Model(name)) => Ok(self.model_until(&name, parts, extent)?.place),
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
        match HubName::parse(text).map_err(HubError::from)? {
            HubName::Data(name) => self.data(&name),
            HubName::Model(_) => {
                let reason = "is a model: data is named as in hf://datasets/org/name/FILE";
                Err(HubError::from(BadName { text: text.to_owned(), reason }).into())
            }
        }
    }

    /// As [`Hub::model`], for a text, up to some extent.
    pub(crate) fn model_named(
        &self,
        text: &str,
        parts: ModelParts,
        extent: Extent,
    ) -> Result<Found<PathBuf>> {
        self.model_until(&model_name(text)?, parts, extent)
    }

    /// The folder of a model in the cache; what is missing of these parts is fetched.
    ///
    /// # Errors
    /// [`HubError`], or the system's.
    pub fn model(&self, name: &ModelName, parts: ModelParts) -> Result<Found<PathBuf>> {
        self.model_until(name, parts, Extent::Complete)
    }

    fn model_until(&self, name: &ModelName, parts: ModelParts, extent: Extent) -> Result<Found<PathBuf>> {
        let ModelName { repository, revision } = name;
        let cache = self.cache(repository)?;
        let known = Known {
            lacking: &|commit| needed::lacking(&cache.snapshot(commit), parts),
            undecided: &|commit| needed::undecided(&cache, commit, parts),
            is_all: true,
        };
        let commit = match self.state(repository, revision, &known)? {
            State::Cached(commit) => commit,
            State::Listed(listing) => {
                let Listing { commit, files } = &*listing;
                needed::require_model(repository, files, parts)?;
                self.fetch(repository, commit, &needed::small_files(files, parts))?;
                for file in needed::READ_IF_THERE.into_iter().filter(|file| !has(files, file)) {
                    // Where it cannot be remembered, the next process asks again.
                    let _ = cache.remember_absent(commit, file);
                }
                if parts.weights && extent == Extent::Complete {
                    // Last: a folder that has them is complete.
                    let folder = cache.snapshot(commit);
                    let weights = needed::weight_files(repository, commit, files, &folder)?;
                    let weights: Vec<&str> = weights.iter().map(String::as_str).collect();
                    self.fetch(repository, commit, &weights)?;
                }
                commit.clone()
            }
        };
        self.fetch_base(&cache.snapshot(&commit), parts, extent)?;
        // A snapshot that is complete serves those who are offline better than a newer one that is not.
        let is_complete =
            |commit: &Commit| needed::lacking(&cache.snapshot(commit), ModelParts::ALL).is_none();
        if extent == Extent::Complete
            && (is_complete(&commit) || !cache.commit_of(revision).as_ref().is_some_and(is_complete))
        {
            self.remember(&cache, repository, revision, &commit);
        }
        Ok(self.found(cache.snapshot(&commit), repository, revision, commit))
    }

    /// Fetches the base of an adapter where it is a model of the hub; of other folders there is nothing to fetch.
    ///
    /// # Errors
    /// As [`Hub::model`]; the adapter's configuration cannot be used.
    pub(crate) fn fetch_base(&self, folder: &Path, parts: ModelParts, extent: Extent) -> Result<()> {
        match hub_base(folder)? {
            Some(name) => self.model_until(&name, parts, extent).map(drop),
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
        let is_pattern = is_pattern(file);
        let known = Known {
            lacking: &|commit| match matching(&cache.files(commit), file) {
                Ok(files) if !files.is_empty() => None,
                _ => Some(format!("{file} is missing")),
            },
            undecided: &|_| Vec::new(),
            is_all: !is_pattern,
        };
        let state = self.state(repository, revision, &known)?;
        let (commit, files) = match &state {
            State::Cached(commit) => {
                let files = matching(&cache.files(commit), file)?;
                if is_pattern {
                    let count = files.len();
                    self.notice(format!(
                        "{repository}: {count} files of the cache match {file}; there may be more on the hub"
                    ));
                }
                (commit, files)
            }
            State::Listed(listing) => (&listing.commit, matching(&listing.files, file)?),
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
            self.remember(&cache, repository, revision, commit);
        }
        let snapshot = cache.snapshot(commit);
        let places = files.iter().map(|file| snapshot.join(file)).collect();
        Ok(self.found(places, repository, revision, commit.clone()))
    }

    fn notice(&self, text: String) {
        if self.notices.borrow_mut().insert(text.clone()) {
            (self.observe)(HubEvent::Notice(&text));
        }
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

    /// Finds out the commit of a revision: from the cache alone where that has all that is wanted and the commit is known, or
    /// nothing else may or can be asked.
    fn state(&self, repository: &Repository, revision: &Revision, known: &Known<'_>) -> Result<State> {
        let Known { lacking, undecided, is_all } = *known;
        let key = (repository.clone(), revision.clone());
        let fixed = revision.commit().or_else(|| self.commits.borrow().get(&key).cloned());
        let is_cached =
            |commit: &&Commit| is_all && lacking(commit).is_none() && undecided(commit).is_empty();
        if let Some(commit) = fixed.as_ref().filter(is_cached) {
            return Ok(State::Cached(commit.clone()));
        }
        let cache = self.cache(repository)?;
        let cached = || fixed.clone().or_else(|| cache.commit_of(revision));
        let keep = |commit: &Commit| drop(self.commits.borrow_mut().insert(key.clone(), commit.clone()));
        let take = |commit: Commit| {
            if let files @ [_, ..] = undecided(&commit).as_slice() {
                self.notice(format!(
                    "{repository}@{}: the cache has no {}, and whether the model has is not known offline",
                    commit.short(),
                    files.join(", no ")
                ));
            }
            keep(&commit);
            self.taken.borrow_mut().insert(key.clone());
            State::Cached(commit)
        };
        if self.settings()?.offline {
            let lacking = match cached() {
                None => "nothing of it is there".to_owned(),
                Some(commit) => match lacking(&commit) {
                    None => return Ok(take(commit)),
                    Some(lacking) => lacking,
                },
            };
            let (repository, revision) = (repository.clone(), revision.clone());
            let cache = self.settings()?.cache.clone();
            return Err(HubError::NotCached { repository, revision, lacking, cache }.into());
        }
        match self.listing(repository, fixed.as_ref().map_or(revision.as_str(), Commit::as_str)) {
            Ok(listing) => {
                // While a complete snapshot is there, the branch moves on once the new one is complete.
                if cache.commit_of(revision).is_none_or(|earlier| lacking(&earlier).is_some()) {
                    self.remember(&cache, repository, revision, &listing.commit);
                }
                keep(&listing.commit);
                Ok(State::Listed(listing))
            }
            Err(Error::Hub(error)) if matches!(*error, HubError::Unreachable { .. }) => {
                let Some(commit) = cached().filter(|commit| lacking(commit).is_none()) else {
                    return Err(error.into());
                };
                if let HubError::Unreachable { address, reason, .. } = &*error {
                    self.notice(format!(
                        "{repository}@{revision}: {address} cannot be reached ({reason}); the cache's commit {} is used",
                        commit.short()
                    ));
                }
                Ok(take(commit))
            }
            Err(Error::Hub(error)) if matches!(*error, HubError::NoRevision { .. }) => match fixed {
                Some(commit) if revision.commit().is_none() => {
                    let (repository, revision) = (repository.clone(), revision.clone());
                    Err(HubError::CommitGone { repository, revision, commit }.into())
                }
                _ => Err(error.into()),
            },
            Err(error) => Err(error),
        }
    }

    /// Remembers where a branch or tag is, for those who are offline. Nothing else depends on it: a cache that cannot be
    /// written is told of.
    fn remember(
        &self,
        cache: &RepositoryCache,
        repository: &Repository,
        revision: &Revision,
        commit: &Commit,
    ) {
        let is_pinned = self.pinned.borrow().contains(&(repository.clone(), revision.clone()));
        if is_pinned || revision.commit().is_some() {
            return;
        }
        if let Err(error) = cache.remember(revision, commit) {
            let text = format!("{repository}: the commit of {revision} is not remembered: {error}");
            self.notice(text);
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
}

/// The model that a text names.
fn model_name(text: &str) -> HubResult<ModelName> {
    match HubName::parse(text).map_err(HubError::from)? {
        HubName::Model(name) => Ok(name),
        HubName::Data(_) => {
            let reason = "is data: a model is named as in org/name or org/name@revision";
            Err(HubError::from(BadName { text: text.to_owned(), reason }).into())
        }
    }
}

fn has(files: &[String], name: &str) -> bool {
    files.iter().any(|file| file == name)
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
