//! `eval`.

use std::num::NonZeroUsize;

use cpift_model::Result;
use cpift_model::evaluation::Evaluator;

use crate::args;
use crate::display::table::{Table, shorten};
use crate::display::{self, print, print_json, units};

/// Measures a model on files.
pub fn run(arguments: &args::Eval, threads: Option<NonZeroUsize>) -> Result<()> {
    let chosen = super::Chosen::open(&arguments.device.device, threads)?;
    let compute = chosen.compute(&arguments.precision)?;
    let mut evaluator = Evaluator::open(&chosen.device, &arguments.model, compute)?;
    let mut scores = Vec::with_capacity(arguments.data.len());
    for path in &arguments.data {
        scores.push(evaluator.evaluate(path, arguments.generate)?);
    }
    super::announce_fully(&chosen);
    display::notices(evaluator.notices().iter().chain(scores.iter().flat_map(|score| &score.notices)));
    if arguments.json {
        return print_json(&serde_json::json!({ "files": scores }));
    }
    let mut table = Table::new(["file", "rows", "tokens", "loss", "perplexity", "exact"]);
    for score in &scores {
        table.row([
            shorten(&score.path.display().to_string(), 32),
            units::grouped(score.rows.len() as u64),
            units::grouped(score.tokens),
            format!("{:.4}", score.loss),
            format!("{:.3}", score.loss.exp()),
            score.exact_match.map_or("-".to_owned(), units::percent),
        ]);
    }
    print(&table.render())
}
