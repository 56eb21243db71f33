//! What was run, on what, and how to run it again.

use super::Context;
use crate::display::units::{bytes, duration, grouped};
use crate::report::document::{Block, Section, Table};
use cpift_model::hub::HubOrigin;
use cpift_model::recipe::{StateMemory, differences};

/// The section `What was run`.
pub fn section(context: &Context<'_>) -> Section {
    let run = context.run;
    let mut blocks = vec![Block::Facts(facts(context))];
    blocks.push(Block::Table(settings(context)));
    if let Some(record) = &run.record {
        blocks.push(Block::Table(tasks(record)));
        if !record.plan.measures.is_empty() {
            blocks.push(Block::Table(measures(record)));
        }
        if record.processes.len() > 1 {
            blocks.push(Block::Table(processes(record)));
        }
    }
    if !run.inputs.is_empty() {
        blocks.push(Block::Table(inputs(context)));
    }
    blocks.push(Block::Code { summary: "The whole recipe".to_owned(), text: run.recipe.clone() });
    Section { id: "run", title: "What was run", blocks }
}

fn facts(context: &Context<'_>) -> Vec<(String, String)> {
    let run = context.run;
    let mut facts = Vec::new();
    let mut fact = |name: &str, value: String| facts.push((name.to_owned(), value));
    fact("method", format!("{:?}", context.recipe.method).to_lowercase());
    fact("seed", context.recipe.seed.to_string());
    if let Some(base) = context.recipe.model.base.as_ref().or(context.recipe.model.config.as_ref()) {
        let name = HubOrigin::of_model(base);
        let name = name.map(|origin| format!("{} at {}, ", origin.repository, origin.revision));
        fact("base model", format!("{}{}", name.unwrap_or_default(), base.display()));
    }
    if let Some(record) = &run.record {
        let plan = &record.plan;
        fact("architecture", format!("{}, {} parameters", plan.architecture, grouped(plan.parameters)));
        if let Some(process) = record.first_process() {
            fact("engine", format!("cpift-engine {}", process.version));
            fact("device", process.device.clone());
            fact("threads", process.threads.to_string());
            let memory =
                process.memory_bytes.map_or(String::new(), |size| format!(", {} of memory", bytes(size)));
            fact("machine", format!("{}{memory}", process.system));
            fact("began", process.began.clone());
        }
        fact("memory planned", format!("{}, with {} state", bytes(plan.memory_bytes()), plan.state.name()));
    } else {
        fact("engine, device, date", "not recorded by the version that made this run".to_owned());
    }
    let seconds = run.result.as_ref().map_or(run.seconds, |result| result.seconds);
    let training: f64 = run.steps.iter().map(|step| step.seconds).sum();
    let tokens: u64 = run.steps.iter().map(|step| step.tokens).sum();
    fact(
        "wall time",
        format!("{} of all processes, {} of it optimizer steps", duration(seconds), duration(training)),
    );
    if training > 0.0 {
        let rate = grouped((tokens as f64 / training).round() as u64);
        fact("trained on", format!("{} tokens, {rate} a second", grouped(tokens)));
    }
    let threads =
        run.record.as_ref().and_then(|record| record.first_process()).map(|process| process.threads);
    let threads = threads.map_or(String::new(), |threads| format!(" --threads {threads}"));
    // What `auto` stood for here may be another on the next machine.
    let is_auto = context.recipe.train.memory == StateMemory::Auto;
    let state = run.record.as_ref().filter(|_| is_auto).map(|record| record.plan.state.name());
    let state = state.map_or(String::new(), |state| format!(" --set train.memory={state}"));
    fact("again", format!("cpift-engine train {}{threads}{state}", run.path.join("recipe.toml").display()));
    facts
}

fn settings(context: &Context<'_>) -> Table {
    let found = differences(context.recipe);
    let caption = if found.is_empty() {
        "Every setting is at its default."
    } else {
        "Settings of the recipe that are not at their defaults; a default of [probe] and [integrate] is what [train] says."
    };
    let mut table = Table::of_text(caption, ["setting", "value", "default"]);
    for difference in found {
        table.row([difference.key, difference.value, difference.default.unwrap_or_else(|| "–".to_owned())]);
    }
    table
}

fn tasks(record: &cpift_model::progress::RunRecord) -> Table {
    let mut table = Table::captioned(
        "Supervised: tokens that the loss is taken on. Long: rows left out or cut at model.max_length.",
        ["task", "rows", "tokens", "supervised", "long", "evaluation rows"],
    );
    for task in &record.plan.tasks {
        table.row([
            task.name.clone(),
            grouped(task.train_rows),
            grouped(task.train_tokens),
            grouped(task.supervised_tokens),
            grouped(task.long_rows),
            task.eval_rows.map_or("–".to_owned(), grouped),
        ]);
    }
    table
}

fn measures(record: &cpift_model::progress::RunRecord) -> Table {
    let caption =
        "Measured only, never trained. In train: rows that are also among those that a task is trained on.";
    let mut table =
        Table::captioned(caption, ["measured only", "rows", "tokens", "supervised", "long", "in train"]);
    for measure in &record.plan.measures {
        let rows = &measure.rows;
        let numbers =
            [rows.rows - rows.skipped, rows.tokens, rows.supervised_tokens, rows.longer, rows.also_trained];
        table.row(std::iter::once(measure.name.clone()).chain(numbers.map(|number| grouped(number as u64))));
    }
    table
}

fn processes(record: &cpift_model::progress::RunRecord) -> Table {
    let made_apart = record.processes.iter().any(|process| process.probe.is_some());
    let caption = match made_apart {
        true => "These processes worked on the run, some on one probe alone.",
        false => "The run was continued: these processes worked on it.",
    };
    let headings = ["began", "engine", "device", "threads", "system", "probe"];
    let columns = if made_apart { headings.len() } else { headings.len() - 1 };
    let mut table = Table::of_text(caption, headings.into_iter().take(columns));
    for process in &record.processes {
        let cells = [
            process.began.clone(),
            process.version.clone(),
            process.device.clone(),
            process.threads.to_string(),
            process.system.clone(),
            process.probe.clone().unwrap_or_else(|| "–".to_owned()),
        ];
        table.row(cells.into_iter().take(columns));
    }
    table
}

fn inputs(context: &Context<'_>) -> Table {
    let mut table = Table::of_text(
        "Every file the run reads, by the beginning of its BLAKE3 hash.",
        ["file", "bytes", "BLAKE3"],
    );
    for input in &context.run.inputs {
        let hash: String = input.blake3.chars().take(16).collect();
        table.row([input.path.display().to_string(), grouped(input.bytes), hash]);
    }
    table
}
