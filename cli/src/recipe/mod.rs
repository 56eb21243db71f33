//! Reading a recipe: TOML text and `--set` overrides in, a checked [`Recipe`] out.
//!
//! The order: parse, apply the overrides, refuse unknown keys, check every value's type, make paths
//! absolute, let `[probe]` and `[integrate]` inherit from `[train]`, read into [`Recipe`], check
//! the values. Every error names the file and line, or the `--set`, that the value came from.

mod check;
mod differences;
mod origins;
mod overrides;
#[cfg(test)]
mod tests;

use std::path::Path;

use cpift_model::{Error, Recipe, Result, files};
use toml::{Table, Value};

pub use differences::{Difference, differences};

/// Most bytes of a recipe: thousands of tasks take fewer.
const LARGEST_RECIPE: u64 = 16 << 20;

/// A recipe ready for a job.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub recipe: Recipe,
    /// The same as TOML, every default filled in and every path absolute: what a run folder keeps.
    pub text: String,
}

/// Reads the recipe at `path` and applies `overrides` (`key=value`, in order).
///
/// Paths in the file are relative to the file's folder, paths in overrides to the current folder.
///
/// # Errors
/// One line naming the file and line, or the override, and what to do.
pub fn load(path: &Path, overrides: &[String]) -> Result<Loaded> {
    let text = read_text(path)?;
    let (mut table, mut origins) = origins::parse(path, &text)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    // Before the overrides, since their paths are relative to the current folder instead.
    make_paths_absolute(&mut table, folder);
    for assignment in overrides {
        overrides::apply(assignment, &mut table, &mut origins)?;
    }
    make_paths_absolute(&mut table, Path::new(""));
    check::shape(&table, &origins)?;
    inherit(&mut table);
    let recipe = Value::Table(table)
        .try_into::<Recipe>()
        .map_err(|error| Error::format(path, check::explain(error.message())))?;
    recipe.validate().map_err(|error| origins.locate(error))?;
    let text = render(&recipe, path)?;
    Ok(Loaded { recipe, text })
}

fn read_text(path: &Path) -> Result<String> {
    if path.is_dir() {
        let inside = path.join("recipe.toml");
        let hint = if inside.is_file() { format!(": give {}", inside.display()) } else { String::new() };
        return Err(Error::format(path, format!("is a folder, not a recipe{hint}")));
    }
    let bytes = files::read_input(path, LARGEST_RECIPE)?;
    if let Some(reason) = files::looks_like(&bytes) {
        return Err(Error::format(path, format!("is not a recipe: {reason}")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|&&byte| byte == b'\n').count();
        Error::line(path, line, "is not UTF-8 text: save the recipe as UTF-8")
    })
}

/// Joins every relative path of the recipe to `folder` and makes it absolute. Absolute ones stay.
fn make_paths_absolute(table: &mut Table, folder: &Path) {
    if let Some(Value::Table(model)) = table.get_mut("model") {
        ["base", "config"].into_iter().for_each(|key| make_path_absolute(model, key, folder));
    }
    let tasks = table.get_mut("task").and_then(Value::as_array_mut);
    for task in tasks.into_iter().flatten().filter_map(Value::as_table_mut) {
        ["train", "eval", "model"].into_iter().for_each(|key| make_path_absolute(task, key, folder));
    }
}

fn make_path_absolute(section: &mut Table, key: &str, folder: &Path) {
    let Some(Value::String(text)) = section.get_mut(key) else { return };
    if text.is_empty() {
        return; // refused by the check of the shape
    }
    // `components` drops the `./` a person may have written.
    let joined: std::path::PathBuf = folder.join(&*text).components().collect();
    if let Some(absolute) = std::path::absolute(joined).ok().and_then(|path| path.to_str().map(str::to_owned))
    {
        *text = absolute;
    }
}

/// Copies into `[probe]` and `[integrate]` what they take over from `[train]`, which lasts one epoch
/// when it does not say how long.
fn inherit(table: &mut Table) {
    let train = table.entry("train").or_insert_with(|| Value::Table(Table::new()));
    let Value::Table(train) = train else { return };
    if !train.contains_key("epochs") && !train.contains_key("steps") {
        train.insert("epochs".to_owned(), Value::Float(1.0));
    }
    let train = train.clone();
    for name in ["probe", "integrate"] {
        let entry = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(section) = entry else { continue };
        let own: Vec<&str> = section.keys().map(String::as_str).collect();
        for key in Recipe::inherited_keys(name, &own) {
            if let Some(value) = train.get(key) {
                section.insert(key.to_owned(), value.clone());
            }
        }
    }
}

/// The recipe as TOML that reads back as the same recipe.
///
/// # Errors
/// None in practice: settings are plain.
pub fn render(recipe: &Recipe, path: &Path) -> Result<String> {
    toml::to_string(recipe).map_err(|error| {
        Error::format(path, format!("the resolved recipe cannot be written as TOML: {error}"))
    })
}
