//! `completions`.

use clap::CommandFactory;
use cpift_model::Result;

use crate::args;
use crate::display::print_exactly;

/// Prints the script that completes our arguments in a shell.
pub fn run(arguments: &args::Completions) -> Result<()> {
    let mut script = Vec::new();
    let mut command = args::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "cpift-engine", &mut script);
    print_exactly(&String::from_utf8_lossy(&script))
}
