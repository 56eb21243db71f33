//! What can go wrong with the hub, each in one line that says how to go on.

use std::path::PathBuf;

use crate::hub_names::{BadName, Commit, Repository, RepositoryKind, Revision};

/// What can go wrong with the hub.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// A text is not a name of the hub.
    #[error(transparent)]
    BadName(#[from] BadName),
    /// A variable of the environment cannot be used.
    #[error("the environment variable {name} {reason}")]
    BadVariable {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no such repository, or it is not shown to everybody.
    #[error(
        "{repository}: {}there is no {} of that name at {page}: check the name; a private one needs HF_TOKEN{}",
        beginning(repository),
        describe(repository.kind),
        if *has_token { ", and the one that was sent does not show it" } else { "" }
    )]
    NoRepository {
        /// What was looked for.
        repository: Repository,
        /// Its page.
        page: String,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// The repository is shown to those who accepted its licence, or who may see it.
    #[error(
        "{repository} is not open to everybody ({status}): accept its licence at {page} and set HF_TOKEN to a token of \
         yours{}",
        if *has_token { "; the one that was sent does not open it" } else { "" }
    )]
    Denied {
        /// Its name.
        repository: Repository,
        /// Its page.
        page: String,
        /// What the server answered.
        status: u16,
        /// Whether a token was sent.
        has_token: bool,
    },
    /// A run goes on with the commits it was begun with, and the hub no longer has one of them.
    #[error(
        "{repository} no longer has the commit {}, which `{revision}` was when the run was begun, and the cache is \
         incomplete: begin another run with what `{revision}` is now",
        commit.as_str()
    )]
    CommitGone {
        /// The repository.
        repository: Repository,
        /// What the recipe asks for.
        revision: Revision,
        /// What it was.
        commit: Commit,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{repository} has no revision `{revision}`: {page} lists its branches, tags and commits")]
    NoRevision {
        /// The repository.
        repository: Repository,
        /// The revision.
        revision: String,
        /// Page with those there are.
        page: String,
    },
    /// The repository has no such file.
    #[error("{repository} has no file {file} at {}{hint}", commit.short())]
    NoFile {
        /// The repository.
        repository: Repository,
        /// The commit.
        commit: Commit,
        /// The file, or the pattern.
        file: String,
        /// What it may be instead.
        hint: String,
    },
    /// The repository holds something else than a model that can be read.
    #[error("{repository} {reason}")]
    NoModel {
        /// The repository.
        repository: Repository,
        /// What it holds, and what to do.
        reason: String,
    },
    /// The server cannot be reached.
    #[error(
        "{repository}: {}{address} cannot be reached ({reason}): fetch it elsewhere (`hf download {}{repository}`) and give \
         the folder, or name a mirror with HF_ENDPOINT; HF_HUB_OFFLINE=1 uses only {}",
        beginning(repository),
        if repository.kind == RepositoryKind::Dataset { "--repo-type dataset " } else { "" },
        cache.display()
    )]
    Unreachable {
        /// What was asked for.
        repository: Repository,
        /// The address.
        address: String,
        /// What the system or the server said.
        reason: String,
        /// The cache.
        cache: PathBuf,
    },
    /// The server answered something that cannot be used.
    #[error("{repository}: {address} {reason}")]
    Answer {
        /// What was asked for.
        repository: Repository,
        /// The address.
        address: String,
        /// What is wrong with the answer.
        reason: String,
    },
    /// The cache is all there is to go by, and it does not hold what is asked for.
    #[error(
        "{repository}: {}HF_HUB_OFFLINE allows only {}, where revision {revision} is incomplete ({lacking}): unset it, or give \
         a folder",
        beginning(repository),
        cache.display()
    )]
    NotCached {
        /// What was asked for.
        repository: Repository,
        /// The revision.
        revision: Revision,
        /// What is missing.
        lacking: String,
        /// The cache.
        cache: PathBuf,
    },
    /// A download ended early, again and again.
    #[error(
        "{repository}: only {received} of {size} bytes of {file} came ({reason}); the same command continues there"
    )]
    Truncated {
        /// The repository.
        repository: Repository,
        /// The file.
        file: String,
        /// Bytes that are there.
        received: u64,
        /// Bytes that the server says it has.
        size: u64,
        /// What the system said.
        reason: String,
    },
    /// What came is not what the hub has.
    #[error("{repository}: {file} was damaged on its way (SHA-256 {found}, not {expected}): try again")]
    Damaged {
        /// The repository.
        repository: Repository,
        /// The file.
        file: String,
        /// Hash of what came.
        found: String,
        /// Hash that the hub gives.
        expected: String,
    },
}

/// Result of a call that asks the hub.
pub type HubResult<T> = Result<T, Box<HubError>>;

impl HubError {
    /// True when what was given is at fault, not network or server.
    pub fn is_input(&self) -> bool {
        !matches!(
            self,
            Self::Unreachable { .. } | Self::Answer { .. } | Self::Truncated { .. } | Self::Damaged { .. }
        )
    }
}

/// A name of a model may be meant as that of a folder.
fn beginning(repository: &Repository) -> &'static str {
    match repository.kind {
        RepositoryKind::Model => "there is no such folder here, and ",
        RepositoryKind::Dataset => "",
    }
}

fn describe(kind: RepositoryKind) -> &'static str {
    match kind {
        RepositoryKind::Model => "model",
        RepositoryKind::Dataset => "data set",
    }
}
