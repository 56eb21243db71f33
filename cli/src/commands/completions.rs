//! `completions`.

use clap::CommandFactory;
use cpift_model::Result;

use crate::args;
use crate::display::print;

/// Prints the script that completes our arguments in a shell.
pub fn run(arguments: &args::Completions) -> Result<()> {
    let mut script = Vec::new();
    let mut command = args::Arguments::command();
    clap_complete::generate(arguments.shell, &mut command, "cpift-engine", &mut script);
    print(&String::from_utf8_lossy(&script))
}
