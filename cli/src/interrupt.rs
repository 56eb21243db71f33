//! Ctrl-C: once to stop in order, twice to stop at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_model::{Error, Result};

use crate::display::tell;

/// Exit code of a job that a person or program stopped, as shells report an interrupt.
pub const EXIT_CODE: u8 = 130;

/// A flag that becomes true at the first Ctrl-C, termination or hang-up signal; the second ends the
/// process on the spot. Whole checkpoints on disk survive either. `announcement` is what the first one says.
///
/// # Errors
/// When the handler cannot be installed.
pub fn stop_flag(announcement: &'static str) -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(EXIT_CODE));
        }
        tell(&format!("\n{announcement}; once more stops at once\n"));
    })
    .map_err(|error| Error::Job(format!("the handler of Ctrl-C cannot be installed: {error}")))?;
    Ok(stop)
}

/// The command that continues the job this process was started for.
pub fn resume_command() -> String {
    let quoted = |argument: String| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    };
    let arguments =
        std::env::args_os().skip(1).map(|argument| quoted(argument.to_string_lossy().into_owned()));
    let mut words: Vec<String> = std::iter::once("cpift-engine".to_owned()).chain(arguments).collect();
    if !words.iter().any(|word| word == "--resume") {
        words.push("--resume".to_owned());
    }
    words.join(" ")
}
