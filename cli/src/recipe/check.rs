//! Unknown keys and wrong types, found key by key so that each error can name its line.

use cpift_model::settings::{
    CheckpointSettings, CoreSettings, FuseSettings, GroupSettings, HalfSettings, IntegrateSettings, KEYS,
    Method, MetricsSettings, ModelSettings, ProbeSettings, ReplaySettings, TRAIN_KEYS, TaskSettings,
    TrainSettings,
};
use cpift_model::{Error, Result};
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::origins::Origins;

/// Checks that every key is known, every value has the right type and nothing required is missing.
///
/// # Errors
/// The first fault, by its line.
pub fn shape(table: &Table, origins: &Origins) -> Result<()> {
    for (key, value) in table {
        match key.as_str() {
            "seed" => check_value::<u64>(value).map_err(|reason| origins.error(key, reason))?,
            "method" => check_value::<Method>(value).map_err(|reason| origins.error(key, reason))?,
            "task" => check_tasks(value, origins)?,
            section if KEYS.iter().any(|(name, _)| *name == section) => {
                let entries = value.as_table().ok_or_else(|| {
                    let reason = format!("must be a section, `[{section}]`, not {}", describe(value));
                    origins.error(section, reason)
                })?;
                check_section(section, section, entries, origins)?;
            }
            _ => return Err(unknown_key("", "", key, origins)),
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

fn check_tasks(value: &Value, origins: &Origins) -> Result<()> {
    let list = || origins.error("task", "must be a list: write `[[task]]`, with two brackets, once per task");
    for (index, task) in value.as_array().ok_or_else(list)?.iter().enumerate() {
        let name = format!("task[{index}]");
        let entries = task.as_table().ok_or_else(list)?;
        check_section("task", &name, entries, origins)?;
        for required in ["name", "train"] {
            if !entries.contains_key(required) {
                let reason = format!("is missing: every [[task]] needs `{required}`");
                return Err(origins.error(&format!("{name}.{required}"), reason));
            }
        }
    }
    Ok(())
}

/// `name` is the section's name in messages: `train`, `task[0]`.
fn check_section(section: &str, name: &str, entries: &Table, origins: &Origins) -> Result<()> {
    for (key, value) in entries {
        if !known_keys(section).any(|known| known == key) {
            return Err(unknown_key(section, name, key, origins));
        }
        let full = format!("{name}.{key}");
        check_setting(section, key, value).map_err(|reason| origins.error(&full, reason))?;
    }
    Ok(())
}

fn check_setting(section: &str, key: &str, value: &Value) -> std::result::Result<(), String> {
    if value.as_str() == Some("") {
        return Err("is empty".to_owned());
    }
    let Err(message) = read_alone(section, key, value.clone()) else { return Ok(()) };
    // Asked for a name and given something else, serde does not list the names; a wrong name makes it.
    match read_alone(section, key, Value::String("?".to_owned())) {
        Err(names) if !value.is_str() && names.starts_with("unknown variant") => {
            Err(format!("is {}: use {}", describe(value), variants(&names).join(", ")))
        }
        _ => Err(explain(&message)),
    }
}

/// Reads a section in which only `key` is set, so that what goes wrong is this key's fault.
fn read_alone(section: &str, key: &str, value: Value) -> std::result::Result<(), String> {
    let mut entries = Table::new();
    if section == "task" {
        for required in ["name", "train"] {
            entries.insert(required.to_owned(), Value::String(String::new()));
        }
    }
    entries.insert(key.to_owned(), value);
    let entries = Value::Table(entries);
    match section {
        "model" => read::<ModelSettings>(entries),
        "task" => read::<TaskSettings>(entries),
        "train" => read::<TrainSettings>(entries),
        "probe" => read::<ProbeSettings>(entries),
        "core" => read::<CoreSettings>(entries),
        "group" => read::<GroupSettings>(entries),
        "fuse" => read::<FuseSettings>(entries),
        "integrate" => read::<IntegrateSettings>(entries),
        "replay" => read::<ReplaySettings>(entries),
        "half" => read::<HalfSettings>(entries),
        "checkpoint" => read::<CheckpointSettings>(entries),
        "metrics" => read::<MetricsSettings>(entries),
        _ => Ok(()),
    }
}

fn read<T: DeserializeOwned>(value: Value) -> std::result::Result<(), String> {
    value.try_into::<T>().map(drop).map_err(|error| error.message().trim().to_owned())
}

fn check_value<T: DeserializeOwned>(value: &Value) -> std::result::Result<(), String> {
    read::<T>(value.clone()).map_err(|message| explain(&message))
}

/// Says in a person's words what serde says about a value.
pub fn explain(message: &str) -> String {
    if let Some(found) = message.strip_prefix("unknown variant ").and_then(|rest| rest.split('`').nth(1)) {
        let names = variants(message);
        let hint = did_you_mean(nearest(found, names.iter().copied()));
        return format!("is `{found}`: use {}{hint}", names.join(", "));
    }
    let stripped =
        ["invalid type: ", "invalid value: "].iter().find_map(|prefix| message.strip_prefix(prefix));
    match stripped.and_then(|rest| rest.rsplit_once(", expected ")) {
        Some((found, expected)) => format!("is {}: use {}", plain_value(found), plain_type(expected)),
        None => format!("cannot be used: {message}"),
    }
}

/// The names in ``unknown variant `x`, expected one of `a`, `b` ``.
fn variants(message: &str) -> Vec<&str> {
    message.split('`').skip(3).step_by(2).collect()
}

fn plain_value(found: &str) -> String {
    let kinds = [("string ", "the string "), ("integer ", "the number "), ("floating point ", "the number ")];
    let plain = kinds.iter().find_map(|(kind, plain)| Some(format!("{plain}{}", found.strip_prefix(kind)?)));
    match found {
        "sequence" => "a list".to_owned(),
        "map" => "a section".to_owned(),
        _ => plain.unwrap_or_else(|| found.trim_start_matches("boolean ").to_owned()),
    }
}

fn plain_type(expected: &str) -> &str {
    match expected {
        "f64" => "a number",
        "u64" | "usize" => "a whole number that is not negative",
        "a boolean" => "true or false",
        "path string" => "a path in quotes",
        "a sequence" => "a list, [\"…\", \"…\"]",
        other => other,
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a section".to_owned(),
        Value::String(text) => format!("the string \"{text}\""),
        other => format!("`{other}`"),
    }
}

fn known_keys(section: &str) -> impl Iterator<Item = &'static str> {
    let own =
        KEYS.iter().filter(move |(name, _)| *name == section).flat_map(|(_, keys)| keys.iter().copied());
    let shared = if matches!(section, "probe" | "integrate") { &TRAIN_KEYS[..] } else { &[] };
    own.chain(shared.iter().copied())
}

fn unknown_key(section: &str, name: &str, key: &str, origins: &Origins) -> Error {
    let full = if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    let hint = match nearest(key, known_keys(section)) {
        Some(known) => did_you_mean(Some(known)),
        None => match owner_of(key) {
            Some(owner) => format!(" here: it belongs into [{owner}]"),
            None => {
                let known: Vec<&str> = known_keys(section).collect();
                format!(": known here are {}", known.join(", "))
            }
        },
    };
    origins.error(&full, format!("is not a key{hint}"))
}

/// The section that has exactly this key, for a key put into the wrong one.
fn owner_of(key: &str) -> Option<&'static str> {
    KEYS.iter()
        .find(|(section, keys)| !section.is_empty() && keys.contains(&key))
        .map(|(section, _)| *section)
}

fn did_you_mean(name: Option<&str>) -> String {
    name.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default()
}

/// The known name that a misspelling most likely means: at most a third of its letters differ.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase().replace('-', "_");
    known
        .map(|name| (strsim::damerau_levenshtein(&word, name), name))
        .filter(|(distance, name)| *distance <= (name.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}
