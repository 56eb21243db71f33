//! Colours for terminals, and none anywhere else.

use std::fmt::Display;
use std::io::IsTerminal;

/// Wraps text in terminal colours, or leaves it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    colours: bool,
    /// A terminal on which no colours are wanted: what has to stand out is underlined.
    underlines: bool,
}

impl Style {
    /// Text as it is.
    pub const PLAIN: Self = Self { colours: false, underlines: false };

    /// Colours when `stream` is a terminal that takes them and `NO_COLOR` is not set.
    pub fn of(stream: &impl IsTerminal) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let formats = stream.is_terminal() && !dumb;
        Self { colours: formats && !set("NO_COLOR"), underlines: formats && set("NO_COLOR") }
    }

    /// What of a row is learnt.
    pub fn supervised(self, text: &str) -> String {
        match self {
            Self { colours: true, .. } => self.green(text),
            Self { underlines: true, .. } => format!("\x1b[4m{text}\x1b[0m"),
            _ => format!("⟦{text}⟧"),
        }
    }

    /// Headings.
    pub fn bold(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    /// What matters less.
    pub fn dim(self, text: impl Display) -> String {
        self.paint("2", text)
    }

    /// What went well.
    pub fn green(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    /// What deserves a look.
    pub fn yellow(self, text: impl Display) -> String {
        self.paint("33", text)
    }

    /// Errors.
    pub fn red(self, text: impl Display) -> String {
        self.paint("1;31", text)
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}
