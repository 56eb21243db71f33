//! What a recipe sets otherwise than it would be by default.

use toml::{Table, Value};

use super::{Recipe, read};

/// One setting that is not at its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key, as `--set` takes it.
    pub key: String,
    /// Its value as TOML.
    pub value: String,
    /// What it would be by default, as TOML; none where nothing would be.
    pub default: Option<String>,
}

/// The settings that are not at their defaults, in the recipe's order. The default of a key that `[probe]` and
/// `[integrate]` inherit is what `[train]` says. Model and files are not settings: they have no default.
pub fn differences(recipe: &Recipe) -> Vec<Difference> {
    let Ok(actual) = Table::try_from(recipe) else { return Vec::new() };
    let (Some(plain), Some(inherited)) = (bare(&actual, None), bare(&actual, actual.get("train"))) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, value) in &actual {
        match (name.as_str(), value) {
            ("task", Value::Array(tasks)) => tasks.iter().for_each(|task| compare_task(task, &mut found)),
            // What is measured decides nothing.
            ("measure", _) => {}
            (_, Value::Table(section)) => {
                let inherits = matches!(name.as_str(), "probe" | "integrate");
                let defaults = if inherits { &inherited } else { &plain };
                compare_section(name, section, defaults.get(name).and_then(Value::as_table), &mut found);
            }
            _ => compare(name.clone(), value, plain.get(name), &mut found),
        }
    }
    found
}

/// The same model and tasks, every other setting left out and so at its default, but for `[train]` if given.
fn bare(actual: &Table, train: Option<&Value>) -> Option<Table> {
    let mut table = Table::new();
    let keep = |section: &Value, keys: &[&str]| {
        let entries = section.as_table()?.iter().filter(|(key, _)| keys.contains(&key.as_str()));
        Some(Value::Table(entries.map(|(key, value)| (key.clone(), value.clone())).collect()))
    };
    table.insert("model".to_owned(), keep(actual.get("model")?, &["base", "config"])?);
    let tasks = actual.get("task")?.as_array()?.iter();
    table.insert(
        "task".to_owned(),
        tasks.map(|task| keep(task, &["name", "train"])).collect::<Option<Vec<Value>>>().map(Value::Array)?,
    );
    if let Some(train) = train {
        table.insert("train".to_owned(), train.clone());
    }
    read::inherit(&mut table);
    Table::try_from(read::from_table(table).ok()?).ok()
}

fn compare_task(task: &Value, found: &mut Vec<Difference>) {
    let Some(task) = task.as_table() else { return };
    let name = task.get("name").and_then(Value::as_str).unwrap_or_default();
    for (key, default) in [("weight", Some(1.0)), ("repeat", Some(1.0)), ("epochs", None)] {
        if let Some(value) = task.get(key) {
            compare(format!("task.{name}.{key}"), value, default.map(Value::Float).as_ref(), found);
        }
    }
    if let Some(model) = task.get("model") {
        compare(format!("task.{name}.model"), model, None, found);
    }
}

fn compare_section(name: &str, section: &Table, defaults: Option<&Table>, found: &mut Vec<Difference>) {
    for (key, value) in section {
        let default = defaults.and_then(|defaults| defaults.get(key));
        let before = found.len();
        compare(format!("{name}.{key}"), value, default, found);
        // A length in steps takes the place of one in epochs, and the other way round.
        let other = match key.as_str() {
            "steps" => "epochs",
            "epochs" => "steps",
            _ => continue,
        };
        if let (Some(difference), None) = (found.get_mut(before), default) {
            let length = defaults.and_then(|defaults| defaults.get(other));
            difference.default = length.map(|length| format!("{other} = {length}"));
        }
    }
}

fn compare(key: String, value: &Value, default: Option<&Value>, found: &mut Vec<Difference>) {
    if default != Some(value) {
        found.push(Difference { key, value: value.to_string(), default: default.map(Value::to_string) });
    }
}
