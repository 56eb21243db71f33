//! What a person sees: tables, progress, and the streams they go to.

pub mod comparison;
pub mod kernels;
pub mod overlap;
pub mod plan;
pub mod progress;
pub mod reports;
pub mod style;
pub mod table;
#[cfg(test)]
mod tests;
pub mod units;

use std::io::{ErrorKind, Write};

use cpift_model::{Error, Result};

/// Writes a command's result to standard output. A reader that has gone away (`| head`) is no error.
///
/// # Errors
/// Any other failure to write, such as a full disk behind a redirection.
pub fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::Job(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes one JSON document and a newline to standard output.
///
/// # Errors
/// As [`print`].
pub fn print_json(document: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(document)
        .map_err(|error| Error::Job(format!("the result cannot be written as JSON: {error}")))?;
    print(&(text + "\n"))
}

/// Writes what a person should know about the input to standard error, a line each.
pub fn notices<'a>(notices: impl Iterator<Item = &'a String>) {
    let label = style::Style::of(&std::io::stderr()).yellow("note:");
    notices.for_each(|notice| tell(&format!("{label} {notice}\n")));
}

/// Writes lines for a person to standard error. That nobody may be listening is no reason to stop.
pub fn tell(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}
