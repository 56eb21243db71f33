//! `generate`.

use std::num::NonZeroUsize;

use cpift_model::Result;
use cpift_model::evaluation::Evaluator;

use crate::args;
use crate::display::print;

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
    print(&format!("{answer}\n"))
}
