//! Command line of cpift-engine: recipes, progress and tables around the jobs of `cpift-model`.
//!
//! It is a library so that tests can read recipes and run commands as the binary does.

pub mod args;
mod commands;
pub mod display;
pub mod interrupt;
pub mod recipe;

use std::num::NonZeroUsize;
use std::process::ExitCode;

use args::{Arguments, Command};
use clap::Parser;
use cpift_model::{Error, Result};

use display::style::Style;
use display::tell;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are errors to clap too. A closed pipe is nobody's concern.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
        }
    };
    match run(&arguments.command, arguments.threads) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("{} {}\n", Style::of(&std::io::stderr()).red("error:"), one_line(&error)));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(command: &Command, threads: Option<NonZeroUsize>) -> Result<()> {
    match command {
        Command::Devices(arguments) => commands::devices::run(arguments, threads),
        Command::Completions(arguments) => commands::completions::run(arguments),
    }
}

/// 1 the job failed, 2 the input was wrong, 130 stopped on request.
fn exit_code(error: &Error) -> u8 {
    match error {
        Error::Interrupted { .. } => interrupt::EXIT_CODE,
        error if error.is_input() => 2,
        _ => 1,
    }
}

/// Messages of other libraries may span lines; an error is one.
fn one_line(error: &Error) -> String {
    error.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}
