//! `data`.

use std::num::NonZeroUsize;

use cpift_engine::Device;
use cpift_model::data::Dataset;
use cpift_model::job::RecipeData;
use cpift_model::recipe::{RecipeParts, Source};
use cpift_model::{Error, Recipe, Result};

use crate::args;
use crate::display::style::Style;
use crate::display::{self, data, print, print_json};

/// Shows the rows of task files.
pub fn run(arguments: &args::data::Data, threads: Option<NonZeroUsize>) -> Result<()> {
    let recipe = recipe(arguments)?;
    let device = Device::cpu(threads)?;
    let task = arguments.task.as_deref();
    let opened = super::with_preparation(|preparation| {
        device.scope(|| RecipeData::open(&recipe, task, &preparation))
    })?;
    display::notices(opened.tokenizer.notice().into_iter());
    let parts = opened.tasks.iter().flat_map(|task| {
        let eval = task.eval.iter().map(|eval| ("eval", eval.as_ref()));
        std::iter::once(("train", &task.train))
            .chain(eval)
            .map(|(part, rows)| (task.name.as_str(), part, rows))
    });
    let measures =
        opened.measures.iter().map(|measure| (measure.name.as_str(), "measured only", measure.eval.as_ref()));
    let style = Style::of(&std::io::stdout());
    let (mut text, mut documents) = (String::new(), Vec::new());
    for (task, part, dataset) in parts.chain(measures) {
        let summary = dataset.summary();
        if arguments.json {
            documents.push(serde_json::json!({
                "task": task,
                "part": part,
                "summary": summary,
                "rows": rows(dataset, &opened, arguments.rows),
            }));
        } else {
            text.push_str(&data::render(task, part, &summary, style));
            for row in dataset.rows().iter().take(arguments.rows) {
                text.push_str(&data::render_row(dataset, row, &opened.tokenizer, style));
            }
        }
    }
    if arguments.json { print_json(&serde_json::json!({ "data": documents })) } else { print(&text) }
}

/// The recipe that is named, or one made of the files that are.
fn recipe(arguments: &args::data::Data) -> Result<Recipe> {
    let is_recipe = |path: &std::path::PathBuf| path.extension().is_some_and(|extension| extension == "toml");
    let refuse = |key: &str, reason: &str| Err(Error::setting(key, reason));
    match (arguments.inputs.as_slice(), &arguments.model) {
        ([path], model) if is_recipe(path) => {
            let mut source = Source::read(path, &arguments.overrides)?;
            if let Some(model) = model {
                source.set_base(model)?;
            }
            resolved(source, arguments.task.as_deref())
        }
        (inputs, _) if inputs.iter().any(is_recipe) => {
            refuse("RECIPE|FILE", "is a recipe and more: give one recipe, or data files")
        }
        (_, None) => refuse("--model", "is missing: data files need a model's tokenizer and chat template"),
        (_, Some(_)) if arguments.task.is_some() => refuse("--task", "is for recipes: leave it out"),
        (files, Some(model)) => resolved(Source::of_files(model, files, &arguments.overrides)?, None),
    }
}

fn resolved(mut source: Source, task: Option<&str>) -> Result<Recipe> {
    // Rows of a measure are looked for in those of all tasks.
    let is_measure = source.recipe(&[])?.measure.iter().any(|measure| task == Some(&measure.name));
    super::resolve(&mut source, RecipeParts::Rows(task.filter(|_| !is_measure)), &[])?;
    source.recipe(&[])
}

/// Some rows as a program reads them.
fn rows(dataset: &Dataset, opened: &RecipeData, most: usize) -> Vec<serde_json::Value> {
    let row = |row: &cpift_model::data::Row| {
        let parts: Vec<_> = row.decoded_parts(&opened.tokenizer).collect();
        let parts: Vec<_> = parts
            .iter()
            .map(|(text, supervised)| serde_json::json!({ "text": text, "supervised": supervised }))
            .collect();
        serde_json::json!({
            "place": dataset.describe_row(row),
            "tokens": row.tokens,
            "supervised": row.supervised,
            "prompt_length": row.prompt_length,
            "parts": parts,
        })
    };
    dataset.rows().iter().take(most).map(row).collect()
}
