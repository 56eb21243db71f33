//! `generate`.

use std::num::NonZeroUsize;

use cpift_model::Result;
use cpift_model::evaluation::Evaluator;

use crate::args;
use crate::display::print;

/// Prints a model's answer to a prompt.
pub fn run(arguments: &args::Generate, threads: Option<NonZeroUsize>) -> Result<()> {
    let device = super::open_device(&arguments.device.device, threads)?;
    let mut evaluator = Evaluator::open(&device, &arguments.model)?;
    let answer = evaluator.generate(
        &arguments.prompt,
        arguments.max_new_tokens,
        arguments.temperature,
        arguments.seed,
    )?;
    print(&format!("{answer}\n"))
}
