//! What a person sees: tables, progress, and the streams they go to.

pub mod comparison;
pub mod data;
pub mod evaluation;
pub mod exporting;
pub mod fetching;
pub mod inspection;
pub mod kernels;
pub mod losses;
pub mod merging;
pub mod overlap;
mod pace;
pub mod plan;
pub mod preparing;
pub mod probe_lengths;
pub mod progress;
pub mod reports;
pub mod style;
pub mod sweeping;
pub mod table;
#[cfg(test)]
mod tests;
pub mod text;
pub mod transfer;
pub mod units;

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_model::{Error, Result};

/// Whether the process was started with `--verbose`.
static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Says whether more is to be told than a person usually wants to know.
pub fn set_verbose(verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
}

/// Whether more is to be told than a person usually wants to know.
pub fn is_verbose() -> bool {
    VERBOSE.load(Ordering::Relaxed)
}

/// Which of several ranks the process is.
static RANK: OnceLock<usize> = OnceLock::new();

/// Says that the process is one of several ranks.
pub fn set_rank(rank: usize) {
    // It is what it is once.
    let _ = RANK.set(rank);
}

/// Whether the process is one of several ranks.
pub fn is_rank() -> bool {
    RANK.get().is_some()
}

/// What an error of one of several ranks begins with: `rank 2: `.
pub fn rank_prefix() -> String {
    RANK.get().map_or_else(String::new, |rank| format!("rank {rank}: "))
}

/// A path as short as it can be written from the current folder.
pub fn path_from_here(path: &Path) -> String {
    from_here(&path.display().to_string()).to_owned()
}

/// A text without the current folder that it begins with.
pub fn from_here(text: &str) -> &str {
    let here = std::env::current_dir().map(|folder| folder.display().to_string()).unwrap_or_default();
    // Elsewhere the folder's name may be part of a longer one.
    let rest = text.strip_prefix(here.trim_end_matches('/')).and_then(|rest| rest.strip_prefix('/'));
    rest.filter(|_| !here.is_empty()).unwrap_or(text)
}

/// Writes a command's result to standard output, without characters that control a terminal. A reader that has
/// gone away (`| head`) is no error.
///
/// # Errors
/// Any other failure to write, such as a full disk behind a redirection.
pub fn print(text: &str) -> Result<()> {
    print_exactly(&for_stream(text, &std::io::stdout()))
}

/// Writes a result to standard output as it is.
///
/// # Errors
/// As [`print`].
pub fn print_exactly(text: &str) -> Result<()> {
    write_to_stdout(text).map(|_| ())
}

/// Writes part of what a model generates to standard output: a file gets what it wrote, a terminal is not controlled by
/// it. False when the reader has gone away, and nothing further is of use.
///
/// # Errors
/// As [`print`].
pub fn print_generated(text: &str) -> Result<bool> {
    match std::io::stdout().is_terminal() {
        true => write_to_stdout(&text::visible_lines(text)),
        false => write_to_stdout(text),
    }
}

fn write_to_stdout(text: &str) -> Result<bool> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Error::Job(format!("cannot write to standard output: {error}"))),
    }
}

/// Writes one JSON document and a newline to standard output.
///
/// # Errors
/// As [`print`].
pub fn print_json(document: &impl serde::Serialize) -> Result<()> {
    let text = serde_json::to_string(document)
        .map_err(|error| Error::Job(format!("the result cannot be written as JSON: {error}")))?;
    print_exactly(&(text + "\n"))
}

/// Writes what a person should know about the input to standard error, a line each.
pub fn notices<'a>(notices: impl Iterator<Item = &'a String>) {
    let label = style::Style::of(&std::io::stderr()).yellow("note:");
    notices.for_each(|notice| tell(&format!("{label} {}\n", text::message(notice))));
}

/// Writes lines for a person to standard error, without characters that control a terminal. That nobody may be
/// listening is no reason to stop.
pub fn tell(text: &str) {
    let stderr = std::io::stderr();
    let _ = stderr.lock().write_all(for_stream(text, &stderr).as_bytes());
}

/// Writes over the line that a terminal on standard error is at.
pub fn tell_over(text: &str) {
    let stderr = std::io::stderr();
    let _ = stderr.lock().write_all(format!("\r\x1b[K{}", for_stream(text, &stderr)).as_bytes());
}

/// Text fit for a stream: this program's own colours stay where the stream shows them.
fn for_stream(text: &str, stream: &impl IsTerminal) -> String {
    if style::Style::of(stream) == style::Style::PLAIN {
        text::visible_lines(text)
    } else {
        text::visible_lines_in_colour(text)
    }
}
