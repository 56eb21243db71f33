//! The error type of the model crate: every message is one line that names the file, line or key.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::hub_error::HubError;

/// What can go wrong while loading, training or saving.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine refused an operation.
    #[error(transparent)]
    Engine(#[from] cpift_engine::Error),
    /// The system refused something that was to be done with a file.
    #[error("{}: cannot {action}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What was to be done.
        action: FileAction,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file was read, and what it says cannot be used.
    #[error("{}: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A line of a data file cannot be used.
    #[error("{}:{line}: {reason}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A setting of the recipe has a value that cannot be used.
    #[error("`{key}`: {reason}")]
    Setting {
        /// The key, as `section.key`.
        key: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A model or data set of the hub cannot be had.
    #[error(transparent)]
    Hub(#[from] Box<HubError>),
    /// The job itself failed: the input was in order.
    #[error("{0}")]
    Job(String),
    /// A person or program asked to stop; everything is saved.
    #[error("stopped {position}; continue with --resume")]
    Interrupted {
        /// Where the job stopped.
        position: String,
    },
    /// A person or program asked a measurement to stop; there is nothing to continue.
    #[error("stopped {position}")]
    Stopped {
        /// What was measured before.
        position: String,
    },
}

impl From<HubError> for Error {
    fn from(error: HubError) -> Self {
        Self::Hub(Box::new(error))
    }
}

/// What is done with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is what its text says")]
pub enum FileAction {
    Read,
    Write,
    Create,
    CreateFolder,
    WriteInto,
    FlushFolder,
    Rename,
    Replace,
    Remove,
    Lock,
    MeasureSpace,
}

impl fmt::Display for FileAction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Create => "create",
            Self::CreateFolder => "create the folder",
            Self::WriteInto => "write into the folder",
            Self::FlushFolder => "flush the folder",
            Self::Rename => "rename",
            Self::Replace => "replace",
            Self::Remove => "remove",
            Self::Lock => "lock",
            Self::MeasureSpace => "read the free space of",
        })
    }
}

/// Result of a call of the model crate.
pub type Result<T> = std::result::Result<T, Error>;

/// A result whose error is only the reason: the caller knows the file and the line, and adds them.
pub(crate) type Reasoned<T> = std::result::Result<T, String>;

impl Error {
    /// [`Error::File`] for use in `map_err`.
    pub fn file(path: &Path, action: FileAction) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, action, source }
    }

    /// [`Error::Format`].
    pub fn format(path: &Path, reason: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), reason: reason.into() }
    }

    /// [`Error::Line`].
    pub fn line(path: &Path, line: usize, reason: impl Into<String>) -> Self {
        Self::Line { path: path.to_owned(), line, reason: reason.into() }
    }

    /// [`Error::Setting`].
    pub fn setting(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Setting { key: key.into(), reason: reason.into() }
    }

    /// Exit code of a process that a person or program stopped, as shells report an interrupt.
    pub const INTERRUPTED: u8 = 130;

    /// Exit code of a process that this error ends: 1 the job failed, 2 the input was wrong,
    /// [`Error::INTERRUPTED`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Interrupted { .. } | Self::Stopped { .. } => Self::INTERRUPTED,
            error if error.is_input() => 2,
            _ => 1,
        }
    }

    /// True when what was given is at fault (files, recipe, device name): exit code 2 of the binary.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Format { .. } | Self::Line { .. } | Self::Setting { .. } => true,
            Self::File { action, .. } => *action == FileAction::Read,
            Self::Hub(error) => error.is_input(),
            Self::Engine(error) => matches!(
                error,
                cpift_engine::Error::UnknownDevice { .. }
                    | cpift_engine::Error::NoEmulator
                    | cpift_engine::Error::DeviceUnavailable { .. }
            ),
            Self::Job(_) | Self::Interrupted { .. } | Self::Stopped { .. } => false,
        }
    }
}

/// The beginning of a text, for a message.
pub(crate) fn clip(text: &str) -> String {
    let short: String = text.chars().take(40).collect();
    short.escape_debug().to_string()
}
