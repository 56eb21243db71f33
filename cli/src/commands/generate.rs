//! `generate`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;

use cpift_model::Result;
use cpift_model::evaluation::Evaluator;

use crate::args;
use crate::display::{self, print, print_exactly};

/// Prints a model's answer to a prompt.
pub fn run(arguments: &args::Generate, threads: Option<NonZeroUsize>) -> Result<()> {
    let chosen = super::Chosen::open(&arguments.device.device, threads)?;
    let compute = chosen.compute(&arguments.precision)?;
    let mut evaluator = Evaluator::open(&chosen.device, &arguments.model, compute)?;
    let answer = evaluator.generate(
        &arguments.prompt,
        arguments.max_new_tokens,
        arguments.temperature,
        arguments.seed,
    )?;
    super::announce_fully(&chosen);
    display::notices(evaluator.notices().iter());
    let answer = format!("{answer}\n");
    // A terminal must not be controlled by what a model writes; a file gets what it wrote.
    if std::io::stdout().is_terminal() { print(&answer) } else { print_exactly(&answer) }
}
