//! `eval`.

use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use cpift_model::data::{DataSettings, Shots};
use cpift_model::evaluation::{Evaluator, FileScore, FileSettings};
use cpift_model::files::{require_writable, write_output};
use cpift_model::hub::{ModelParts, SCHEME};
use cpift_model::progress::perplexity_text;
use cpift_model::recipe::{Source, TaskSettings};
use cpift_model::score::{ScoreKind, Scoring};
use cpift_model::table::Table;
use cpift_model::{Error, FileAction, Result, Tokenizer};

use crate::args;
use crate::args::measuring::MeasuringArguments;
use crate::display::evaluation::Evaluation;
use crate::display::table::{aligned, shorten};
use crate::display::{self, print, print_json, units};

/// Measures a model on files.
pub fn run(arguments: &args::Eval, threads: Option<NonZeroUsize>) -> Result<()> {
    let chosen = super::Chosen::open(&arguments.device.device, threads)?;
    let compute = chosen.compute(&arguments.precision)?;
    if let Some(file) = &arguments.answers {
        check_output(file)?;
    }
    let task = task(&arguments.measuring)?;
    let Inputs { model, data, shots_from } = Inputs::find(arguments)?;
    let mut evaluator = Evaluator::open(&chosen.device, &model, compute)?;
    let settings = settings(arguments, &task, &shots_from, evaluator.tokenizer())?;
    let terminal = std::io::stderr().is_terminal();
    let mut scores = Vec::with_capacity(data.len());
    for path in &data {
        let title = format!("evaluating on {}", shorten(&path.display().to_string(), 32));
        let mut evaluation = Evaluation::begin(&title, terminal);
        let mut observe = |progress| {
            evaluation.update(progress);
            Ok(())
        };
        scores.push(evaluator.evaluate(path, &settings, &mut observe)?);
    }
    super::announce_fully(&chosen);
    super::announce_ignored_fields([model.as_path()]);
    display::notices(evaluator.notices().iter().chain(scores.iter().flat_map(|score| &score.notices)));
    if let Some(file) = &arguments.answers {
        write_output(file, answer_lines(&scores)?.as_bytes())?;
    }
    if arguments.json {
        return print_json(&serde_json::json!({ "files": scores }));
    }
    print(&aligned(&table(&scores)))
}

/// What is read, fetched where it is on the hub.
struct Inputs {
    model: PathBuf,
    data: Vec<PathBuf>,
    shots_from: Vec<PathBuf>,
}

impl Inputs {
    fn find(arguments: &args::Eval) -> Result<Self> {
        require_files(arguments.data.iter().chain(&arguments.shots_from))?;
        super::with_hub(|hub| {
            // The weights last: what else is wrong is found before a long download.
            let find = |paths: &mut dyn Iterator<Item = &PathBuf>| -> Result<Vec<PathBuf>> {
                Ok(paths.map(|path| hub.data_paths(path)).collect::<Result<Vec<_>>>()?.concat())
            };
            hub.prepare_model_folder(&arguments.model, ModelParts::ALL)?;
            let data = find(&mut arguments.data.iter())?;
            let shots_from = find(&mut arguments.shots_from.iter())?;
            Ok(Self { model: hub.model_folder(&arguments.model, ModelParts::ALL)?, data, shots_from })
        })
    }
}

/// How the files are read and scored, as the keys of a task say it.
pub(super) fn task(arguments: &MeasuringArguments) -> Result<TaskSettings> {
    let mut assignments = arguments.overrides.clone();
    if arguments.skip_invalid {
        assignments.push("skip_invalid=true".to_owned());
    }
    let mut recipe = Source::of_measured(&assignments)?.recipe(&[])?;
    let mut task = recipe.task.swap_remove(0);
    let is_set =
        [("score", task.score != Scoring::default()), ("max_new_tokens", task.max_new_tokens.is_some())];
    if let Some((key, _)) = is_set.iter().find(|(_, is_set)| *is_set && !arguments.generate) {
        return Err(Error::setting(format!("--set {key}"), "is about answers: give --generate beside it"));
    }
    if let Some(score) = &arguments.score {
        task.score = score.clone();
    }
    task.max_new_tokens = arguments.max_new_tokens.or(task.max_new_tokens);
    Ok(task)
}

/// Fails unless local files are there.
pub(super) fn require_files<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    for path in paths {
        if !path.to_string_lossy().starts_with(SCHEME) {
            path.metadata().map_err(Error::file(path, FileAction::Read))?;
        }
    }
    Ok(())
}

fn settings(
    arguments: &args::Eval,
    task: &TaskSettings,
    shots_from: &[PathBuf],
    tokenizer: &Tokenizer,
) -> Result<FileSettings> {
    let mut reading = DataSettings::of_measured(task);
    if let Some(max_length) = arguments.max_length {
        reading = reading.with_max_length(max_length, arguments.truncate);
    }
    if !shots_from.is_empty() {
        let (count, seed) = (arguments.shots, arguments.seed);
        reading.shots = Shots::draw(shots_from, count, seed, &reading, tokenizer, None)?;
    }
    Ok(FileSettings::new(reading, task, arguments.measuring.generate, tokenizer))
}

/// Fails unless the file can be written: before hours of work, not after.
pub(super) fn check_output(file: &Path) -> Result<()> {
    if file.is_dir() {
        return Err(Error::format(file, "is a folder: name a file to write the answers to"));
    }
    if file.exists() {
        return Ok(());
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    require_writable(folder.unwrap_or(Path::new(".")))
}

/// A line for every row of every file.
fn answer_lines(scores: &[FileScore]) -> Result<String> {
    let mut lines = String::new();
    for row in scores.iter().flat_map(|score| &score.rows) {
        let line = serde_json::to_string(row)
            .map_err(|error| Error::Job(format!("an answer cannot be written as JSON: {error}")))?;
        lines.push_str(&line);
        lines.push('\n');
    }
    Ok(lines)
}

fn table(scores: &[FileScore]) -> Table {
    let kind = scores.iter().find_map(|score| score.score_kind).unwrap_or_default();
    let mut headings = vec!["file", "rows", "tokens", "loss", "perplexity", kind.name()];
    if kind == ScoreKind::Choice {
        headings.push("by loss");
    }
    let columns = headings.len();
    let mut table = Table::new(headings);
    for score in scores {
        let share = |share: Option<f64>| share.map_or("-".to_owned(), units::percent);
        let cells = [
            shorten(&score.path.display().to_string(), 32),
            units::grouped(score.rows.len() as u64),
            units::grouped(score.tokens),
            format!("{:.4}", score.loss),
            perplexity_text(score.loss.exp()),
            share(score.score),
            share(score.choice_by_loss),
        ];
        table.row(cells.into_iter().take(columns));
    }
    table
}
