//! Reports of runs as one page that needs nothing else, with its charts and data as files.

pub mod chart;
mod comparison;
mod cores;
mod document;
mod page;
mod run;
mod sweep;

use std::path::{Path, PathBuf};

use cpift_model::compare::RESULTS;
use cpift_model::compare::results::Comparison;
use cpift_model::cores::CoresReport;
use cpift_model::job::RunFolder;
use cpift_model::sweep::SweepReport;
use cpift_model::{Error, Recipe, Result, files};

use crate::display::text::is_unseen;
use document::{Block, Document};
use serde::Serialize;

/// Name of the page in the run folder.
pub const PAGE: &str = "report.html";
/// Name of the folder of charts and data in the run folder.
const FIGURES: &str = "report";

/// Where a report was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The page.
    pub page: PathBuf,
    /// The folder of charts and data.
    pub figures: PathBuf,
    /// How many files it holds.
    pub files: usize,
}

/// Reports the run, the comparison, the cores or the sweep in a folder: the page into `out` (report.html in the run folder), charts and data into `figures`
/// (the folder report in the run folder). Files of an earlier report are replaced.
///
/// # Errors
/// The folder holds no run, comparison, cores or sweep, a file of it is damaged, or one of the report cannot be written.
pub fn write(folder: &Path, out: Option<&Path>, figures: Option<&Path>) -> Result<Written> {
    if let Some(cores) = cores::read(folder)? {
        let document = cores::document(&cores, name_of(folder));
        return write_all(folder, &document, &cores, out, figures);
    }
    if let Some(found) = sweep::read(folder)? {
        let document = sweep::document(&found, name_of(folder));
        return write_all(folder, &document, &found, out, figures);
    }
    if folder.join(RESULTS).is_file() {
        let comparison = Comparison::read(folder)?;
        let document = comparison::document(&comparison, name_of(folder));
        return write_all(folder, &document, &comparison, out, figures);
    }
    let run = RunFolder::read(folder)?;
    let recipe = Recipe::load(&folder.join("recipe.toml"), &[])?;
    let document = run::document(&run, &recipe, name_of(folder));
    write_all(folder, &document, &run, out, figures)
}

/// Reports the cores in a folder, as [`write`] does a run.
///
/// # Errors
/// A file of the report cannot be written.
pub fn write_cores(folder: &Path, report: &CoresReport) -> Result<Written> {
    write_all(folder, &cores::document(report, name_of(folder)), report, None, None)
}

/// Reports a sweep in the folder of its best model, as [`write`] does a run.
///
/// # Errors
/// A file of the report cannot be written.
pub fn write_sweep(folder: &Path, found: &SweepReport) -> Result<Written> {
    write_all(folder, &sweep::document(found, name_of(folder)), found, None, None)
}

/// The page, the charts and tables, and what they were made from as JSON.
fn write_all(
    folder: &Path,
    document: &Document,
    source: &impl Serialize,
    out: Option<&Path>,
    figures: Option<&Path>,
) -> Result<Written> {
    let page = out.map_or_else(|| folder.join(PAGE), Path::to_owned);
    let figures = figures.map_or_else(|| folder.join(FIGURES), Path::to_owned);
    if page.is_dir() {
        return Err(Error::format(&page, "is a folder; give the file the page is to be written to"));
    }
    let mut count = write_figures(document, &figures)?;
    files::write_json_output(&figures.join("report.json"), source)?;
    count += 1;
    files::write_output(&page, page::render(document).as_bytes())?;
    Ok(Written { page, figures, files: count })
}

/// The folder's own name, also of `.` and of `runs/a/..`.
fn name_of(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    whole.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn write_figures(document: &Document, folder: &Path) -> Result<usize> {
    let mut count = 0;
    let blocks = document.sections.iter().flat_map(|section| &section.blocks);
    for block in blocks {
        let Block::Figures { figures, .. } = block else { continue };
        for figure in figures {
            let path = folder.join(format!("{}.svg", figure.name));
            files::write_output(&path, figure.drawing.file(&figure.label).as_bytes())?;
            count += 1;
        }
    }
    for data in &document.data {
        files::write_output(&folder.join(format!("{}.csv", data.name)), data.text.as_bytes())?;
        count += 1;
    }
    Ok(count)
}

/// Text as the content or an attribute of HTML and XML; characters that XML has no way to write become �.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' => escaped.push(letter),
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            letter if is_unseen(letter) => escaped.push('\u{fffd}'),
            letter => escaped.push(letter),
        }
    }
    escaped
}
