//! The report of cores of models that exist.

use std::path::Path;

use cpift_model::cores::{CoresReport, REPORT};
use cpift_model::files::read_json;
use cpift_model::{Error, Result};

use super::document::{Block, Document, Section};
use super::run::{cores, overlap};
use crate::display::units::{counted, grouped};

/// What a folder of cores says of them; none where it is another folder.
pub fn read(folder: &Path) -> Result<Option<CoresReport>> {
    let path = folder.join(REPORT);
    // A run's report has the same name.
    let value: Option<serde_json::Value> = if path.is_file() { read_json(&path)? } else { None };
    let is_of_cores =
        |value: &serde_json::Value| value.get("cores").is_some() && value.get("overlap").is_some();
    match value.filter(is_of_cores) {
        None => Ok(None),
        Some(value) => serde_json::from_value(value).map(Some).map_err(|error| {
            Error::format(&path, format!("not as this version writes it ({error}); find the cores again"))
        }),
    }
}

/// The report.
pub fn document(report: &CoresReport, title: String) -> Document {
    let models = report.cores.tasks.iter().zip(&report.models);
    let mut facts = vec![("base".to_owned(), report.base.display().to_string())];
    facts.extend(models.map(|(core, folder)| (core.task.clone(), folder.display().to_string())));
    Document {
        title,
        lead: format!(
            "{} of a base of {} parameters",
            counted(report.models.len() as u64, "fine-tune"),
            grouped(report.parameters)
        ),
        sections: vec![
            cores::describe(&report.cores, &report.settings, "|θi − θ0|"),
            overlap::describe(&report.overlap),
            Section { id: "models", title: "Models", blocks: vec![Block::Facts(facts)] },
        ],
        data: vec![cores::data_of(&report.cores), overlap::data_of(&report.overlap)],
    }
}
