//! The card of the final model: `README.md`, in the form that the Hugging Face Hub shows.
//!
//! It is made to be published: nothing of the data's rows, of folders or of the machine's name is in it. It is written
//! once, from the run's records: what its owner makes of it stays.

mod header;

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use self::header::{BaseHeader, yaml};
use super::Job;
use super::cores::SavedCores;
use super::inputs::Base;
use super::names::{CORE, FINAL, GROUPS, REPORT, RUN};
use crate::checkpoint::{copied_files, is_licence};
use crate::data::RowFormat;
use crate::error::Result;
use crate::files::{self, MOST_TEXT_BYTES, read_input, read_json};
use crate::hub::HubOrigin;
use crate::progress::{
    CoreReport, GroupReport, JobReport, MeasurePlan, ProcessRecord, RunRecord, TaskPlan, counted, grouped,
};
use crate::recipe::{DataFiles, Method, Recipe, TrainSettings};
use crate::table::Table;

/// Name of the card, in the base's folder as in the final model's.
const CARD: &str = "README.md";

/// Stands in the recipe for what is on the disk of the one who trained.
const LOCAL: &str = "…";

/// Everything a card says.
struct CardFacts<'a> {
    /// What the model is called: the run folder's name.
    name: String,
    base: Option<HubOrigin>,
    header: BaseHeader,
    /// Model type and number of parameters.
    family: &'a str,
    parameters: u64,
    /// The base's weights were random.
    from_random: bool,
    /// Repositories of the models that tasks brought.
    task_models: Vec<HubOrigin>,
    /// Repositories of the data.
    datasets: BTreeSet<String>,
    tasks: &'a [TaskPlan],
    /// What was measured and never trained.
    measures: &'a [MeasurePlan],
    report: &'a JobReport,
    cores: Option<CoreReport>,
    groups: Option<GroupReport>,
    recipe: &'a Recipe,
    training_flops: f64,
    /// What was computed in.
    compute: &'static str,
    /// The processes that worked on the run.
    processes: Vec<ProcessRecord>,
    /// Rows were conversations, and the folder has a template for them.
    is_chat: bool,
    /// Names of the base's files that the folder has.
    copied: Vec<String>,
}

/// Writes the card into the folder of the final model, where there is none.
///
/// # Errors
/// When it cannot be written, or a report of the run cannot be read.
pub fn write(job: &Job, report: &JobReport) -> Result<()> {
    let path = job.out.join(FINAL).join(CARD);
    if path.exists() {
        return Ok(());
    }
    let card = text(&gather(job, report)?)?;
    files::write_bytes_atomically(&path, card.as_bytes())
}

fn gather<'a>(job: &'a Job, report: &'a JobReport) -> Result<CardFacts<'a>> {
    let Base { folder, checkpoint, .. } = &job.inputs.base;
    let out = std::path::absolute(&job.out).unwrap_or_else(|_| job.out.clone());
    let saved: Option<SavedCores> = read_json(&job.out.join(CORE).join(REPORT))?;
    let tasks = &job.inputs.tasks;
    let task_models = job.recipe.task.iter().filter_map(|task| task.model.as_deref());
    let data = tasks.iter().flat_map(|task| [Some(&task.train), task.eval()]).flatten();
    let has_messages = tasks.iter().any(|task| task.train.format() == RowFormat::Messages);
    let record: Option<RunRecord> = read_json(&job.out.join(RUN))?;
    Ok(CardFacts {
        name: out.file_name().map_or("model".into(), |name| name.to_string_lossy().into_owned()),
        base: HubOrigin::of_model(folder),
        header: base_header(folder),
        family: job.inputs.base.config.family.model_type,
        parameters: job.plan.parameters,
        from_random: checkpoint.is_none(),
        task_models: task_models.filter_map(HubOrigin::of_model).collect(),
        datasets: data
            .flat_map(|data| data.files())
            .filter_map(|file| HubOrigin::of_data(file))
            .map(|origin| origin.repository)
            .collect(),
        tasks: &job.plan.tasks,
        measures: &job.plan.measures,
        report,
        cores: saved.map(|saved| saved.report),
        groups: read_json(&job.out.join(GROUPS))?,
        recipe: &job.recipe,
        training_flops: job.plan.training_flops,
        compute: job.compute.name(),
        processes: record.map(|record| record.processes).unwrap_or_default(),
        is_chat: has_messages && job.inputs.tokenizer.has_chat_template(),
        copied: copied_files(folder)?.into_iter().map(|(_, name)| name).collect(),
    })
}

/// What the base's card says; nothing where there is none that can be read, since nothing depends on it.
fn base_header(folder: &Path) -> BaseHeader {
    let path = folder.join(CARD);
    if !path.is_file() {
        return BaseHeader::default();
    }
    let bytes = read_input(&path, MOST_TEXT_BYTES).unwrap_or_default();
    BaseHeader::parse(&String::from_utf8_lossy(&bytes))
}

/// The whole card.
fn text(facts: &CardFacts<'_>) -> Result<String> {
    let sections = [
        yaml_header(facts),
        introduction(facts),
        tasks(facts),
        results(facts),
        training(facts)?,
        usage(facts),
        licence(facts),
    ];
    let sections: Vec<String> = sections.into_iter().filter(|section| !section.is_empty()).collect();
    Ok(sections.join("\n"))
}

fn yaml_header(facts: &CardFacts<'_>) -> String {
    let mut text = "---\n".to_owned();
    let bases: BTreeSet<&str> = facts.task_models.iter().map(|origin| origin.repository.as_str()).collect();
    let base = facts.base.as_ref().map(|origin| origin.repository.as_str());
    let bases: Vec<&str> = base.into_iter().chain(bases.into_iter().filter(|id| Some(*id) != base)).collect();
    match bases.as_slice() {
        [] => {}
        [base] => text += &format!("base_model: {}\n", yaml(base)),
        bases => text += &yaml_list("base_model", bases.iter().copied()),
    }
    if !bases.is_empty() {
        // Without it the hub takes several bases for those of a merge.
        text += "base_model_relation: finetune\n";
    }
    text += &yaml_list("datasets", facts.datasets.iter().map(String::as_str));
    text += &yaml_list("language", facts.header.languages.iter().map(String::as_str));
    text += "library_name: transformers\n";
    let license = [
        ("license", facts.header.license.clone()),
        ("license_name", facts.header.license_name.clone()),
        ("license_link", license_link(facts)),
    ];
    for (key, value) in license {
        if let Some(value) = value {
            text += &format!("{key}: {}\n", yaml(&value));
        }
    }
    text += "pipeline_tag: text-generation\n";
    let method = match facts.report.method {
        Method::Cpift => "cpi-ft",
        method => method.name(),
    };
    let tags = [Some(method), Some("cpift-engine"), facts.is_chat.then_some("conversational")];
    text += &yaml_list("tags", tags.into_iter().flatten());
    text + "---\n"
}

fn yaml_list<'a>(key: &str, values: impl Iterator<Item = &'a str>) -> String {
    let items: String = values.map(|value| format!("- {}\n", yaml(value))).collect();
    if items.is_empty() { items } else { format!("{key}:\n{items}") }
}

/// The base's link; that to a file which is not copied leads to the base's repository.
fn license_link(facts: &CardFacts<'_>) -> Option<String> {
    let link = facts.header.license_link.as_deref()?;
    let file = link.trim_start_matches("./");
    if link.contains("://") || facts.copied.iter().any(|name| name == file) {
        return Some(link.to_owned());
    }
    let base = facts.base.as_ref()?;
    Some(format!("https://huggingface.co/{}/blob/{}/{file}", base.repository, base.revision))
}

fn introduction(facts: &CardFacts<'_>) -> String {
    let base = match &facts.base {
        Some(HubOrigin { repository, revision }) => {
            format!("[{repository}](https://huggingface.co/{repository}), revision `{revision}`,")
        }
        None => format!("A `{}` model of {} parameters,", facts.family, grouped(facts.parameters)),
    };
    let start = if facts.from_random { " trained from random weights" } else { " fine-tuned" };
    let tasks = match facts.tasks.len() {
        1 => "one task".to_owned(),
        tasks => format!("{tasks} tasks"),
    };
    let how = match facts.report.method {
        Method::Cpift => {
            "with CPI-FT ([arXiv 2508.21741](https://arxiv.org/abs/2508.21741)): every task is trained alone, the \
             parameters that moved most are its core, cores are transplanted into one model, and the tasks are then \
             trained together with the cores of earlier groups frozen."
        }
        Method::Joint => "at once, their rows mixed.",
        Method::Sequential => "one after the other.",
        Method::Staged => "in groups of tasks whose cores overlap, one group after the other.",
        Method::Replay => "in two stages, the second with a share of the rows of the first.",
        Method::Half => "at once, in rounds in which a random half of every tensor is frozen.",
    };
    format!("# {}\n\n{base}{start} on {tasks} {how}\n", one_line(&facts.name))
}

fn tasks(facts: &CardFacts<'_>) -> String {
    let mut table = Table::new(["task", "rows", "tokens learnt", "rows to evaluate"]);
    for task in facts.tasks {
        let eval = task.eval_rows.map_or("–".to_owned(), grouped);
        let (rows, tokens) = (grouped(task.train_rows), grouped(task.supervised_tokens));
        table.row([task.name.clone(), rows, tokens, eval]);
    }
    format!("## Tasks\n\n{}", table.markdown())
}

fn results(facts: &CardFacts<'_>) -> String {
    if facts.tasks.iter().all(|task| task.eval_rows.is_none()) && facts.measures.is_empty() {
        return String::new();
    }
    let mut text = format!("## Results\n\n{}\n\n", facts.report.score_table().trim_end());
    let also_trained = |task: &TaskPlan| task.eval.as_ref().map_or(0, |eval| eval.also_trained as u64);
    if facts.tasks.iter().all(|task| also_trained(task) == 0) {
        text += "Measured by cpift-engine on rows that are not among those that the task is trained on.\n";
    }
    if facts.recipe.evaluate.decides() {
        text += "Some of these rows also chose the weights, as `[evaluate]` in the recipe says.\n";
    }
    for task in facts.tasks.iter().filter(|task| also_trained(task) > 0) {
        let rows = grouped(also_trained(task));
        let _ = writeln!(
            text,
            "Of the rows to evaluate `{}` on, {rows} are among those it is trained on.",
            task.name
        );
    }
    for measure in facts.measures.iter().filter(|measure| measure.rows.also_trained > 0) {
        let rows = grouped(measure.rows.also_trained as u64);
        let _ = writeln!(text, "Of the rows of `{}`, {rows} are among those of the tasks.", measure.name);
    }
    text
}

fn training(facts: &CardFacts<'_>) -> Result<String> {
    let recipe = facts.recipe;
    let is_cpift = facts.report.method == Method::Cpift;
    let mut rows = vec![("method", method(facts))];
    rows.extend(facts.cores.as_ref().map(|cores| ("cores", describe_cores(cores, facts.groups.as_ref()))));
    match is_cpift {
        true => {
            rows.push(("optimizer of the probes", optimizer(&recipe.probe.training)));
            rows.push(("optimizer at the end", optimizer(&recipe.integrate.training)));
        }
        false => rows.push(("optimizer", optimizer(&recipe.train))),
    }
    let steps = grouped(facts.report.steps);
    rows.push(("steps", format!("{steps}, {:.1e} floating-point operations", facts.training_flops)));
    rows.push(("precision", format!("{}; weights saved as {}", facts.compute, recipe.model.dtype.name())));
    if facts.report.frozen_verified > 0 {
        let frozen = grouped(facts.report.frozen_verified);
        rows.push(("checked", format!("{frozen} frozen parameters unchanged, bit for bit")));
    }
    rows.push(("seed", recipe.seed.to_string()));
    let mut makers: Vec<String> = Vec::new();
    for process in &facts.processes {
        let maker = format!("cpift-engine {} on {}", process.version, one_line(&process.device));
        if !makers.contains(&maker) {
            makers.push(maker);
        }
    }
    rows.push(("made by", makers.join("; ")));
    let mut table = Table::of_text("", ["", ""]);
    for (name, value) in rows {
        table.row([name.to_owned(), value]);
    }
    let mut text = format!("## Training\n\n{}", table.markdown());
    let recipe = published(recipe).to_toml()?;
    // Templates of a recipe may have fences of their own.
    let longest = recipe.split(|letter| letter != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    let _ = write!(
        text,
        "\n<details><summary>The recipe, with every default; `{LOCAL}` stands for local files</summary>\n\n\
         {fence}toml\n{recipe}{fence}\n\n</details>\n"
    );
    Ok(text)
}

fn method(facts: &CardFacts<'_>) -> String {
    let recipe = facts.recipe;
    let name = facts.report.method.name();
    let Some(groups) = &facts.groups else { return name.to_owned() };
    let name_of = |&task: &usize| groups.tasks.get(task).map_or("", String::as_str);
    let describe =
        |group: &Vec<usize>| format!("{{{}}}", group.iter().map(name_of).collect::<Vec<_>>().join(", "));
    let groups: Vec<String> = groups.groups.iter().map(describe).collect();
    let fraction = 100.0 * recipe.core.fraction;
    let importance = recipe.probe.importance.name();
    format!(
        "{name}: importance `{importance}`, cores of {fraction} % of the parameters, groups {}",
        groups.join(", ")
    )
}

fn describe_cores(cores: &CoreReport, groups: Option<&GroupReport>) -> String {
    let size = |task: &crate::progress::TaskCore| format!("{} {}", task.task, grouped(task.size));
    let sizes: Vec<String> = cores.tasks.iter().map(size).collect();
    let overlap = groups.filter(|groups| groups.tasks.len() > 1).map(|groups| {
        let pairs = groups.jaccard.iter().enumerate().flat_map(|(row, line)| line.iter().skip(row + 1));
        let pairs: Vec<f64> = pairs.copied().collect();
        let mean = pairs.iter().sum::<f64>() / pairs.len().max(1) as f64;
        format!("; mean overlap of two (Jaccard) {mean:.3}, by chance {:.3}", groups.chance)
    });
    format!("{} parameters{}", sizes.join(", "), overlap.unwrap_or_default())
}

fn optimizer(settings: &TrainSettings) -> String {
    let schedule = settings.schedule.name();
    let length = match (settings.steps, settings.epochs) {
        (Some(steps), _) => counted(steps, "step"),
        (None, epochs) => format!("{} epochs", epochs.unwrap_or(1.0)),
    };
    let (rate, batch, accumulate) = (settings.learning_rate, settings.batch_size, settings.accumulate);
    format!("AdamW, learning rate {rate:e} ({schedule}), batch {batch}×{accumulate}, {length}")
}

/// The recipe without what is nobody's business: where files lie, and what they are called.
fn published(recipe: &Recipe) -> Recipe {
    let mut recipe = recipe.clone();
    let public = |path: &Path| match (HubOrigin::of_model(path), HubOrigin::of_data(path)) {
        (Some(HubOrigin { repository, revision }), _) => PathBuf::from(format!("{repository}@{revision}")),
        (_, Some(HubOrigin { repository, revision })) => {
            let inside = path.iter().skip_while(|name| *name != revision.as_str()).skip(1);
            Path::new(&format!("hf://datasets/{repository}@{revision}")).join(inside.collect::<PathBuf>())
        }
        (None, None) => PathBuf::from(LOCAL),
    };
    let hide = |path: &mut Option<PathBuf>| *path = path.as_deref().map(public);
    let hide_files = |files: &DataFiles| DataFiles::new(files.paths().map(public));
    hide(&mut recipe.model.base);
    hide(&mut recipe.model.config);
    for task in &mut recipe.task {
        task.train = hide_files(&task.train);
        task.eval = task.eval.as_ref().map(hide_files);
        hide(&mut task.model);
    }
    for measure in &mut recipe.measure {
        measure.eval = hide_files(&measure.eval);
    }
    recipe
}

fn usage(facts: &CardFacts<'_>) -> String {
    let name = serde_json::Value::from(one_line(&facts.name));
    let mut text = format!(
        "## Use\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n\
         path = {name}  # this folder, or its name on the hub\n\
         tokenizer = AutoTokenizer.from_pretrained(path)\n\
         model = AutoModelForCausalLM.from_pretrained(path)\n\n"
    );
    text += match facts.is_chat {
        true => {
            "messages = [{\"role\": \"user\", \"content\": \"Hello!\"}]\n\
             inputs = tokenizer.apply_chat_template(\n    messages, add_generation_prompt=True, \
             return_tensors=\"pt\", return_dict=True\n)\n"
        }
        false => "inputs = tokenizer(\"Hello\", return_tensors=\"pt\")\n",
    };
    text += "answer = model.generate(**inputs, max_new_tokens=64)[0][inputs[\"input_ids\"].shape[1] :]\n\
             print(tokenizer.decode(answer, skip_special_tokens=True))\n```\n\n";
    let chat = if facts.is_chat { " --chat --prompt \"Hello!\"" } else { " --prompt \"Hello\"" };
    let _ = writeln!(text, "Or `cpift-engine generate FOLDER{chat}`, where FOLDER is this folder.");
    text
}

fn licence(facts: &CardFacts<'_>) -> String {
    if facts.from_random {
        return String::new();
    }
    let file = facts.copied.iter().find(|name| is_licence(name));
    let file = file.map(|name| format!(" (`{name}` in this folder)"));
    let base = facts.base.as_ref().map(|origin| origin.repository.as_str());
    if base.is_none() && file.is_none() && facts.header.license.is_none() {
        return String::new();
    }
    let base = base.map_or("its base".to_owned(), |id| format!("[{id}](https://huggingface.co/{id})"));
    format!(
        "## Licence\n\nThe weights are derived from {base}, whose licence{} holds.\n",
        file.unwrap_or_default()
    )
}

/// A name without what would end a line or a heading.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests;
