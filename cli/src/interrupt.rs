//! Ctrl-C: once to stop in order, twice to stop at once.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_model::{Error, Result};

use crate::display::tell;

/// Lets a write beyond the limit on the size of files (`ulimit -f`) fail like one on a full disk, with an error
/// that names the file, instead of ending the process with a signal. Programs this one starts take that over.
pub fn report_file_size_limit() {
    #[cfg(unix)]
    // SAFETY: no handler is installed that could run anything: the signal is ignored.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// What Ctrl-C, a termination or a hang-up signal do: end the process on the spot while nothing has begun,
/// then ask the job to stop, and at the second end the process. Whole checkpoints on disk survive all.
pub struct Interrupt {
    begun: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Interrupt {
    /// The job begins: from here the returned flag becomes true at the first signal.
    pub fn begin(&self) -> Arc<AtomicBool> {
        self.begun.store(true, Ordering::Relaxed);
        Arc::clone(&self.stop)
    }
}

/// Installs the handler; `announcement` is what the first signal says once the job has begun.
///
/// # Errors
/// When it cannot be installed.
pub fn install(announcement: &'static str) -> Result<Interrupt> {
    let interrupt = Interrupt { begun: Arc::default(), stop: Arc::default() };
    let (begun, stop) = (Arc::clone(&interrupt.begun), Arc::clone(&interrupt.stop));
    on_signal(move || {
        let in_order = begun.load(Ordering::Relaxed);
        if !in_order {
            tell("\nstopped before the first step\n");
        }
        if !in_order || stop.swap(true, Ordering::Relaxed) {
            exit_now(Error::INTERRUPTED);
        }
        tell(&format!("\n{announcement}; once more stops at once\n"));
    })?;
    Ok(interrupt)
}

/// Ends the process without what is done at an exit: there a device would be waited for, which may wait for those of other
/// processes. What is written to files is whole or not there whenever that is.
pub fn exit_now(code: u8) -> ! {
    #[cfg(unix)]
    // SAFETY: ends the process, whatever state it is in.
    unsafe {
        libc::_exit(i32::from(code))
    }
    #[cfg(not(unix))]
    std::process::exit(i32::from(code))
}

/// Installs a handler that calls `act` at every signal, on a thread of its own.
///
/// # Errors
/// When it cannot be installed.
pub fn on_signal(act: impl FnMut() + Send + 'static) -> Result<()> {
    ctrlc::set_handler(act)
        .map_err(|error| Error::Job(format!("the handler of Ctrl-C cannot be installed: {error}")))
}

/// Installs a handler that says nothing: the signal is another process's to act on, as far as this one does not ask for it by
/// [`Interrupt::begin`]. The second ends this process, which somebody may want where the other is gone.
///
/// # Errors
/// When it cannot be installed.
pub fn install_silently() -> Result<Interrupt> {
    let interrupt = Interrupt { begun: Arc::default(), stop: Arc::default() };
    let stop = Arc::clone(&interrupt.stop);
    on_signal(move || {
        if stop.swap(true, Ordering::Relaxed) {
            exit_now(Error::INTERRUPTED);
        }
    })?;
    Ok(interrupt)
}

/// Ctrl-C while answers are generated: it stops an answer, ends the process on the spot between them, and at the second
/// time during one.
#[derive(Debug, Clone, Default)]
pub struct AnswerInterrupt {
    answering: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl AnswerInterrupt {
    /// Installs the handler.
    ///
    /// # Errors
    /// When it cannot be installed.
    pub fn install() -> Result<Self> {
        let interrupt = Self::default();
        let Self { answering, stop } = interrupt.clone();
        on_signal(move || {
            if !answering.load(Ordering::SeqCst) || stop.swap(true, Ordering::SeqCst) {
                tell("\n");
                std::process::exit(i32::from(Error::INTERRUPTED));
            }
        })?;
        Ok(interrupt)
    }

    /// An answer begins.
    pub fn begin(&self) {
        self.stop.store(false, Ordering::SeqCst);
        self.answering.store(true, Ordering::SeqCst);
    }

    /// The answer is complete.
    pub fn end(&self) {
        self.answering.store(false, Ordering::SeqCst);
    }

    /// Whether the answer is to stop.
    pub fn is_requested(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// The command that continues the job this process was started for, to be pasted where it was started.
pub fn resume_command() -> String {
    resumed(std::env::args_os().skip(1).collect())
}

/// The command that continues the run of a process that was started to make a probe of it.
pub fn command_without_probe() -> String {
    resumed(without_option("--probe", std::env::args_os().skip(1)))
}

fn resumed(mut arguments: Vec<OsString>) -> String {
    if !arguments.iter().any(|argument| argument == "--resume") {
        // What follows `--` is no option.
        let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
        arguments.insert(end, OsString::from("--resume"));
    }
    // As it was started: the program need not be where a shell looks for programs.
    let program = std::env::args_os().next().unwrap_or_else(|| OsString::from(PROGRAM));
    shell_words(std::iter::once(program).chain(arguments))
}

/// Arguments but for an option that has a value, as `--probe NAME` or `--probe=NAME`.
pub fn without_option(option: &str, mut arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let with_value = format!("{option}=");
    let mut left = Vec::new();
    while let Some(argument) = arguments.next() {
        if argument == option {
            arguments.next();
        } else if !argument.to_string_lossy().starts_with(&with_value) {
            left.push(argument);
        }
    }
    left
}

/// The command this process was started with, as a shell takes it, by the program's plain name.
pub fn command() -> String {
    shell_words(std::iter::once(OsString::from(PROGRAM)).chain(std::env::args_os().skip(1)))
}

const PROGRAM: &str = "cpift-engine";

/// Words in quotes where a shell would take them apart.
fn shell_words(words: impl Iterator<Item = OsString>) -> String {
    let quoted = |word: OsString| {
        let word = word.to_string_lossy().into_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
        if !word.is_empty() && word.chars().all(plain) {
            word
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::{shell_words, without_option};

    #[test]
    fn a_shell_takes_the_words_as_they_were() {
        let words = ["a/b", "my runs/ä", "it's", "seed=1", ""].map(std::ffi::OsString::from);
        assert_eq!(shell_words(words.into_iter()), "a/b 'my runs/ä' 'it'\\''s' seed=1 ''");
    }

    #[test]
    fn an_option_is_left_out_with_its_value() {
        for given in [
            &["train", "a", "--probe", "code", "--out", "b"][..],
            &["train", "a", "--probe=code", "--out", "b"],
        ] {
            let left = without_option("--probe", given.iter().map(std::ffi::OsString::from));
            assert_eq!(left, ["train", "a", "--out", "b"]);
        }
    }
}
