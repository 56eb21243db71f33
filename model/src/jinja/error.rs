//! What can be wrong with a template, or with what it does.

/// Longest message, in characters: templates quote data, which may be megabytes.
const LONGEST: usize = 200;

/// A template that cannot be read, or whose rendering failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    /// Line of the template, from 1, where known.
    pub line: Option<usize>,
    /// What is wrong, in at most about 200 characters.
    pub message: String,
}

/// The result of everything in this module.
pub(super) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error whose line is not known yet.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { line: None, message: shortened(message.into()) }
    }

    /// Sets the line where none is known: the innermost statement wins.
    pub(super) fn at(mut self, line: usize) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)?;
        match self.line {
            Some(line) => write!(formatter, " (template line {line})"),
            None => Ok(()),
        }
    }
}

/// `Err` with a message made as `format!` makes it.
macro_rules! fail {
    ($($part:tt)*) => {
        return Err($crate::jinja::error::Error::new(format!($($part)*)))
    };
}
pub(super) use fail;

fn shortened(message: String) -> String {
    match message.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message,
    }
}
