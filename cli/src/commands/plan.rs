//! `plan`.

use std::num::NonZeroUsize;

use cpift_model::recipe::{RecipeParts, Source};
use cpift_model::{Result, job, machine};

use crate::args;
use crate::display::style::Style;
use crate::display::{self, plan, print, print_json};

/// Prints what a recipe would take.
pub fn run(arguments: &args::Plan, threads: Option<NonZeroUsize>) -> Result<()> {
    let mut source = Source::read(&arguments.recipe.path, &arguments.recipe.overrides)?;
    let chosen = match (arguments.gpus, arguments.ranks, arguments.recipe.device.device.as_str()) {
        (Some(_), _, "auto") => super::Chosen::open("cuda", threads)?,
        (None, 2.., "auto") => super::Chosen::open("cpu", threads)?,
        (.., device) => super::Chosen::open(device, threads)?,
    };
    let ranks = arguments.gpus.unwrap_or(arguments.ranks);
    super::resolve(&mut source, RecipeParts::All, &[])?;
    let recipe = source.recipe(&[])?;
    let planned = super::with_preparation(|preparation| {
        job::plan_recipe(&chosen.device, &recipe, &preparation, ranks)
    })?;
    chosen.announce();
    super::announce_ignored_fields(super::models(&recipe));
    display::notices(planned.notices.iter().chain(planned.tasks.iter().flat_map(|task| &task.notices)));
    let compute = recipe.model.precision.on("model.precision", &chosen.device)?;
    let rate = machine::matmul_rate(&chosen.device, compute)?;
    if arguments.json {
        let [least, most] = plan::training_seconds(&planned, rate);
        return print_json(&serde_json::json!({
            "plan": planned,
            "memory_bytes": planned.memory_bytes(),
            "matmul_flops_per_second": rate,
            "training_seconds": { "least": least, "most": most },
        }));
    }
    let style = Style::of(&std::io::stdout());
    let overview = plan::render(&planned, Some(rate), style);
    let refusal = job::check_memory(&planned, &chosen.device)
        .err()
        .map(|error| format!("\n`train` would refuse: {error}\n"));
    print(&format!("{overview}\n{}{}", plan::render_details(&planned), refusal.unwrap_or_default()))
}
