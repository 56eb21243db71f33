//! Command line of cpift-engine: arguments, progress and tables around the jobs of `cpift-model`.
//!
//! It is a library so that tests can run commands as the binary does.

pub mod args;
mod commands;
pub mod display;
mod interrupt;
mod ranks;
pub mod report;
mod usage;

use std::num::NonZeroUsize;
use std::process::ExitCode;

use args::bench::Bench;
use args::{Arguments, Command};
use clap::Parser;
use cpift_model::{Error, Result};

use display::style::Style;
use display::{tell, text};

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    interrupt::report_file_size_limit();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        // Help and version are errors to clap too. A closed pipe is nobody's concern.
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(mut error) => {
            usage::explain(&mut error);
            usage::tell_error(&error);
            return ExitCode::from(2);
        }
    };
    std::panic::set_hook(Box::new(report_fault));
    display::set_verbose(arguments.verbose);
    match std::panic::catch_unwind(|| run(&arguments.command, arguments.threads)) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            tell(&describe(&error));
            ExitCode::from(error.exit_code())
        }
        Err(_) => ExitCode::from(1),
    }
}

/// A panic is a fault of ours: one line that can be reported, instead of a trace.
fn report_fault(panic: &std::panic::PanicHookInfo<'_>) {
    if cpift_model::panic_is_contained() {
        return; // it becomes an error that names the file
    }
    let payload = panic.payload();
    let message = payload.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
    let place = panic.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
    let message = text::message(message);
    tell(&format!(
        "{} {}a fault of cpift-engine, not of your input: {message}{}; please report it\n",
        Style::of(&std::io::stderr()).red("error:"),
        display::rank_prefix(),
        place.unwrap_or_default()
    ));
}

/// The line a failed command ends with.
pub fn describe(error: &Error) -> String {
    if let Error::Interrupted { position } = error {
        if display::is_rank() {
            return format!("stopped {position}, all saved; to continue start it as before, with --resume\n");
        }
        return format!("stopped {position}, all saved; continue with\n  {}\n", interrupt::resume_command());
    }
    // Messages of other libraries may span lines; an error is one.
    let message = text::message(&error.to_string());
    format!("{} {}{message}\n", Style::of(&std::io::stderr()).red("error:"), display::rank_prefix())
}

fn run(command: &Command, threads: Option<NonZeroUsize>) -> Result<ExitCode> {
    match command {
        Command::CompareUnit(arguments) => {
            let is_done = commands::compare::run_unit(arguments, threads)?;
            return Ok(ExitCode::from(if is_done { 0 } else { cpift_model::compare::BUSY }));
        }
        Command::Train(arguments) => return commands::train::run(arguments, threads),
        Command::Compare(arguments) => commands::compare::run(arguments, threads),
        Command::Eval(arguments) => commands::eval::run(arguments, threads),
        Command::Generate(arguments) => commands::generate::run(arguments, threads),
        Command::Data(arguments) => commands::data::run(arguments, threads),
        Command::Inspect(arguments) => commands::inspect::run(arguments),
        Command::Cores(arguments) => commands::cores::run(arguments, threads),
        Command::Export(arguments) => commands::export::export(arguments, threads),
        Command::Apply(arguments) => commands::export::apply(arguments, threads),
        Command::Merge(arguments) => commands::merge::run(arguments, threads),
        Command::Plan(arguments) => commands::plan::run(arguments, threads),
        Command::Bench(Bench::Step(arguments)) => commands::bench::step(arguments, threads),
        Command::Bench(Bench::Kernels(arguments)) => commands::bench_kernels::run(arguments, threads),
        Command::Report(arguments) => commands::report::run(arguments),
        Command::Devices(arguments) => commands::devices::run(arguments, threads),
        Command::Completions(arguments) => commands::completions::run(arguments),
    }?;
    Ok(ExitCode::SUCCESS)
}
