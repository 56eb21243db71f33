//! Ctrl-C: once to stop in order, twice to stop at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_model::{Error, Result};

use crate::display::tell;

/// Exit code of a job that a person or program stopped, as shells report an interrupt.
pub const EXIT_CODE: u8 = 130;

/// What Ctrl-C, a termination or a hang-up signal do: end the process on the spot while nothing has begun,
/// then ask the job to stop, and at the second end the process. Whole checkpoints on disk survive all.
pub struct Interrupt {
    begun: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Interrupt {
    /// The job begins: from here the returned flag becomes true at the first signal.
    pub fn begin(self) -> Arc<AtomicBool> {
        self.begun.store(true, Ordering::Relaxed);
        self.stop
    }
}

/// Installs the handler; `announcement` is what the first signal says once the job has begun.
///
/// # Errors
/// When it cannot be installed.
pub fn install(announcement: &'static str) -> Result<Interrupt> {
    let interrupt = Interrupt { begun: Arc::default(), stop: Arc::default() };
    let (begun, stop) = (Arc::clone(&interrupt.begun), Arc::clone(&interrupt.stop));
    ctrlc::set_handler(move || {
        let in_order = begun.load(Ordering::Relaxed);
        if !in_order {
            tell("\nstopped before the first step\n");
        }
        if !in_order || stop.swap(true, Ordering::Relaxed) {
            std::process::exit(i32::from(EXIT_CODE));
        }
        tell(&format!("\n{announcement}; once more stops at once\n"));
    })
    .map_err(|error| Error::Job(format!("the handler of Ctrl-C cannot be installed: {error}")))?;
    Ok(interrupt)
}

/// The command that continues the job this process was started for.
pub fn resume_command() -> String {
    let command = command();
    if command.split(' ').any(|word| word == "--resume") { command } else { command + " --resume" }
}

/// The command this process was started with, as a shell takes it.
pub fn command() -> String {
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
    std::iter::once("cpift-engine".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}
