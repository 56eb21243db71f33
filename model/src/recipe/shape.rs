//! Unknown keys and wrong types, found key by key so that each error can name its line.
//!
//! The keys are those of the types themselves: an example with every key set is written out, and a value is tried
//! by reading the example with that value in it.

use std::path::PathBuf;
use std::sync::LazyLock;

use serde::Deserialize;
use toml::{Table, Value};

use super::fault::{Fault, Typed, describe, nearest};
use super::origins::Origins;
use super::{
    Columns, DataFiles, EvaluateSettings, HalfSettings, MeasureSettings, MixtureSettings, ModelSettings,
    Recipe, TaskSettings, TrainSettings,
};
use crate::error::{Error, Result};

/// A recipe in which every key is set.
struct Example {
    recipe: Table,
    /// Every section with its keys in their order; the top level is the section of the empty name.
    sections: Vec<(String, Vec<String>)>,
}

static EXAMPLE: LazyLock<Example> = LazyLock::new(|| {
    let path = || Some(PathBuf::from("x"));
    let training = TrainSettings { epochs: Some(1.0), steps: Some(1), ..TrainSettings::default() };
    let files = || DataFiles::new(path());
    let text = || Some("x".to_owned());
    let columns = Columns {
        prompt: text(),
        answer: text(),
        system: text(),
        history: text(),
        messages: text(),
        tools: text(),
        text: text(),
    };
    let measure = MeasureSettings {
        eval: files(),
        eval_limit: Some(1),
        chat: Some(true),
        prompt: text(),
        answer: text(),
        system: text(),
        answers: false,
        max_new_tokens: Some(1),
        columns: columns.clone(),
        ..MeasureSettings::default()
    };
    let task = TaskSettings {
        train: files(),
        eval: Some(files()),
        epochs: Some(1.0),
        model: path(),
        eval_share: Some(0.5),
        limit: Some(1),
        eval_limit: Some(1),
        chat: Some(true),
        prompt: text(),
        answer: text(),
        system: text(),
        columns,
        answers: false,
        max_new_tokens: Some(1),
        ..TaskSettings::default()
    };
    let mut recipe = Recipe {
        model: ModelSettings { base: path(), config: path(), ..ModelSettings::default() },
        train: training.clone(),
        mixture: MixtureSettings { temperature: Some(1.0), ..MixtureSettings::default() },
        half: HalfSettings { rounds: Some(1) },
        evaluate: EvaluateSettings { task: Some("x".to_owned()), ..EvaluateSettings::default() },
        task: vec![task],
        measure: vec![measure],
        ..Recipe::default()
    };
    recipe.probe.training = training.clone();
    recipe.integrate.training = training;
    // JSON keeps the order of the fields; TOML has the values that JSON lacks.
    let json = serde_json::to_value(&recipe).unwrap_or_default();
    let table = Table::try_from(&recipe).unwrap_or_default();
    let keys = |section: &serde_json::Value| -> Vec<String> {
        section.as_object().into_iter().flat_map(|entries| entries.keys().cloned()).collect()
    };
    let mut sections = vec![(String::new(), keys(&json))];
    for (name, value) in json.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::Object(_) => {
                let mut keys = keys(value);
                if name != "train" {
                    // A section's own keys come before those it shares with `[train]`.
                    keys.sort_by_key(|key| json["train"].get(key).is_some());
                }
                sections.push((name.clone(), keys));
            }
            serde_json::Value::Array(tasks) => {
                sections.push((name.clone(), keys(&tasks[0])));
                let nested =
                    tasks[0].as_object().into_iter().flatten().filter(|(_, value)| value.is_object());
                sections.extend(nested.map(|(key, value)| (format!("{name}.{key}"), keys(value))));
            }
            _ => {}
        }
    }
    Example { recipe: table, sections }
});

/// The section that a key is in, of several `model`'s, `train`'s or the first; none for what is no key, or is one of a
/// task or measure. The top level is the section of the empty name.
pub fn section_of(key: &str) -> Option<&'static str> {
    let has_key = |name: &&str| keys_of(name).iter().any(|known| known == key);
    let sections = EXAMPLE.sections.iter().map(|(name, _)| name.as_str());
    let sections = ["", "model", "train"].into_iter().chain(sections);
    let is_setting = |name: &&str| !name.is_empty() || !EXAMPLE.recipe.get(key).is_some_and(Value::is_table);
    let is_list = |name: &str| LISTS.iter().any(|list| name.split('.').next() == Some(list.name));
    sections.filter(has_key).filter(is_setting).find(|name| !is_list(name) && !is_list(key))
}

/// The keys of a section, none for a name that is no section.
pub fn keys_of(section: &str) -> &'static [String] {
    let found = EXAMPLE.sections.iter().find(|(name, _)| name == section);
    found.map_or(&[], |(_, keys)| keys.as_slice())
}

/// Checks that every key is known, every value has the right type and nothing required is missing.
///
/// # Errors
/// The first fault, by its line.
pub fn check(table: &Table, origins: &Origins) -> Result<()> {
    for (key, value) in table {
        match EXAMPLE.recipe.get(key) {
            None => return Err(unknown_key("", "", key, origins)),
            Some(Value::Array(_)) => {
                if let Some(list) = LISTS.iter().find(|list| list.name == key) {
                    list.check(value, origins)?;
                }
            }
            Some(Value::Table(_)) => {
                let entries = value.as_table().ok_or_else(|| {
                    let reason = format!("must be a section, `[{key}]`, not {}", describe(value));
                    origins.error(key, reason)
                })?;
                check_section(key, key, entries, origins)?;
            }
            Some(_) => try_value("", key, value).map_err(|fault| origins.error(key, fault))?,
        }
    }
    for (key, example) in
        [("model", "[model]` with `base = \"folder\""), ("task", "[[task]]` with `name` and `train")]
    {
        if !table.contains_key(key) {
            return Err(origins.error(key, format!("is missing: add `{example}`")));
        }
    }
    Ok(())
}

/// A section that a recipe may have several times.
struct List {
    name: &'static str,
    /// Keys that each has.
    required: [&'static str; 2],
}

const LISTS: [List; 2] = [
    List { name: "task", required: ["name", "train"] },
    List { name: "measure", required: ["name", "eval"] },
];

impl List {
    fn check(&self, value: &Value, origins: &Origins) -> Result<()> {
        let Self { name: list, required } = self;
        let no_list = || {
            origins.error(
                list,
                format!("must be a list: write `[[{list}]]`, with two brackets, once per {list}"),
            )
        };
        for (index, item) in value.as_array().ok_or_else(no_list)?.iter().enumerate() {
            let name = format!("{list}[{index}]");
            let entries = item.as_table().ok_or_else(|| {
                origins.error(&name, format!("must be a section, `[[{list}]]`, not {}", describe(item)))
            })?;
            check_section(list, &name, entries, origins)?;
            if let Some(required) = required.iter().find(|key| !entries.contains_key(**key)) {
                let reason = format!("is missing: every [[{list}]] needs `{required}`");
                return Err(origins.error(&format!("{name}.{required}"), reason));
            }
        }
        Ok(())
    }
}

/// `name` is the section's name in messages: `train`, `task[0]`.
fn check_section(section: &str, name: &str, entries: &Table, origins: &Origins) -> Result<()> {
    for (key, value) in entries {
        if let Some(reason) = MeasureSettings::why_not(key).filter(|_| section == "measure") {
            return Err(origins.error(&format!("{name}.{key}"), reason));
        }
        if !keys_of(section).contains(key) {
            return Err(unknown_key(section, name, key, origins));
        }
        let full = format!("{name}.{key}");
        if value.as_str() == Some("") {
            return Err(origins.error(&full, "is empty"));
        }
        let nested = format!("{section}.{key}");
        if !keys_of(&nested).is_empty() {
            let entries = value.as_table().ok_or_else(|| {
                origins.error(&full, format!("must be a section, `[{nested}]`, not {}", describe(value)))
            })?;
            check_section(&nested, &full, entries, origins)?;
            continue;
        }
        // Keys of every training are tried where they are not flattened, which loses the names of choices.
        let section = if keys_of("train").contains(key) && section != "task" { "train" } else { section };
        try_value(section, key, value).map_err(|fault| origins.error(&full, fault))?;
    }
    Ok(())
}

/// Reads the example with this value in it, so that what goes wrong is this value's fault.
fn try_value(section: &str, key: &str, value: &Value) -> std::result::Result<(), Fault> {
    let mut recipe = EXAMPLE.recipe.clone();
    let mut entries = &mut recipe;
    for name in section.split('.').filter(|name| !name.is_empty()) {
        entries = match entries.get_mut(name) {
            Some(Value::Table(section)) => section,
            Some(Value::Array(tasks)) => match &mut tasks[0] {
                Value::Table(task) => task,
                _ => return Ok(()),
            },
            _ => return Ok(()),
        };
    }
    entries.insert(key.to_owned(), value.clone());
    Recipe::deserialize(Typed(&Value::Table(recipe))).map(drop)
}

fn unknown_key(section: &str, name: &str, key: &str, origins: &Origins) -> Error {
    let full = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    let known = || keys_of(section).iter().map(String::as_str);
    let hint = match (nearest(key, known()), owner_of(key)) {
        (Some(known), _) => format!(", did you mean `{known}`?"),
        (None, Some(owner)) => format!(" here: it belongs into [{owner}]"),
        (None, None) => format!(": known here are {}", known().collect::<Vec<_>>().join(", ")),
    };
    origins.error(&full, format!("is not a key{hint}"))
}

/// The section that has exactly this key, for a key put into the wrong one.
fn owner_of(key: &str) -> Option<&'static str> {
    // A task's `weight` is looked for more often than that of the fusion.
    let sections = EXAMPLE.sections.iter().map(|(name, _)| name.as_str()).filter(|name| !name.is_empty());
    std::iter::once("task").chain(sections).find(|section| keys_of(section).iter().any(|known| known == key))
}
