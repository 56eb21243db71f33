//! Reading a recipe: TOML text and `--set` overrides in, a checked [`Recipe`] out.
//!
//! The order: parse, apply the overrides, refuse unknown keys, check every value's type, make paths
//! absolute, apply edits, let `[probe]` and `[integrate]` inherit from `[train]`, read into [`Recipe`], check
//! the values. Every error names the file and line, or the `--set`, that the value came from.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::fault::Typed;
use super::origins::{self, Origins};
use super::{Edit, Recipe, overrides, shape};
use crate::error::{Error, Result};
use crate::files;
use crate::hub::{HubSource, SCHEME, named_model};

/// Most bytes of a recipe: thousands of tasks take fewer.
const LARGEST_RECIPE: u64 = 16 << 20;

/// What stands for the file of a recipe that was made of arguments.
const ARGUMENTS: &str = "the arguments";

/// A recipe with the keys that must be there, for [`Source::of_measured`]: none of these files is read.
const MEASURED: &str =
    "model = { base = \".\" }\ntask = [{ name = \"file\", train = \".\", eval = \".\" }]\n";

/// Keys of `[[task]]` that say nothing about a file that is measured, with why.
const NOT_ABOUT_MEASURING: [(&[&str], &str); 4] = [
    (&["task"], "has a task's name in it: write the key alone, as in `columns.prompt=question`"),
    (&["name", "train", "eval", "eval_share"], "names no setting of a file: files are given with --data"),
    (
        &["weight", "repeat", "epochs", "model", "limit"],
        "is about training: rows that are measured are limited by `eval_limit`",
    ),
    (&["shots"], "is given to `eval` by --shots, with --shots-from"),
];

/// A recipe's file, read and checked, nothing inherited yet: what several recipes are made from that differ by a few
/// settings.
#[derive(Debug, Clone)]
pub struct Source {
    path: PathBuf,
    pub(super) table: Table,
    pub(super) origins: Origins,
    /// Where what it names on the hub was found.
    pub(super) hub: Vec<HubSource>,
}

impl Source {
    /// Reads the file at `path` and applies `overrides`, as [`Recipe::load`] does.
    ///
    /// # Errors
    /// A syntax error, an unknown key or a value of a wrong type, by file and line or by override.
    pub fn read(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = read_text(path)?;
        let (mut table, mut origins) = origins::parse(path, &text)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        // Before the overrides, since their paths are relative to the current folder instead.
        make_paths_absolute(&mut table, folder);
        for assignment in overrides {
            overrides::apply(assignment, &mut table, &mut origins)?;
        }
        make_paths_absolute(&mut table, Path::new(""));
        shape::check(&table, &origins)?;
        Ok(Self { path: path.to_owned(), table, origins, hub: Vec::new() })
    }

    /// All that it says, overrides included.
    pub fn to_text(&self) -> String {
        self.table.to_string()
    }

    /// A recipe for looking at data files, each a task named after it, with a model folder's tokenizer. `overrides` as
    /// for [`Source::read`].
    ///
    /// # Errors
    /// As [`Source::read`], for the overrides; a path that is not UTF-8.
    pub fn of_files(model: &Path, files: &[PathBuf], overrides: &[String]) -> Result<Self> {
        let mut tasks: Vec<Value> = Vec::new();
        for (index, path) in files.iter().enumerate() {
            let name = format!("{}-{}", index + 1, plain_name(path));
            let name = if files.len() == 1 { plain_name(path) } else { name };
            tasks.push(Value::Table(
                [("name".into(), name.into()), ("train".into(), text_value(path)?)].into_iter().collect(),
            ));
        }
        let model = Value::Table([("base".to_owned(), text_value(model)?)].into_iter().collect());
        let mut table: Table =
            [("model".to_owned(), model), ("task".to_owned(), tasks.into())].into_iter().collect();
        let path = PathBuf::from(ARGUMENTS);
        let (_, mut origins) = origins::parse(&path, "")?;
        make_paths_absolute(&mut table, Path::new(""));
        for assignment in overrides {
            overrides::apply(assignment, &mut table, &mut origins)?;
        }
        make_paths_absolute(&mut table, Path::new(""));
        shape::check(&table, &origins)?;
        Ok(Self { path, table, origins, hub: Vec::new() })
    }

    /// A recipe for measuring files that no recipe names: its one task says how they are read and scored. `assignments`
    /// are keys of `[[task]]` with their values, as in `columns.prompt=question`.
    ///
    /// # Errors
    /// As [`Source::read`], for the assignments; a key that is about something else.
    pub fn of_measured(assignments: &[String]) -> Result<Self> {
        let path = PathBuf::from(ARGUMENTS);
        let (mut table, mut origins) = origins::parse(&path, MEASURED)?;
        for assignment in assignments {
            let key = assignment.split(['=', '.', '[']).next().unwrap_or_default().trim();
            if let Some((_, reason)) = NOT_ABOUT_MEASURING.iter().find(|(keys, _)| keys.contains(&key)) {
                return Err(Error::setting(format!("--set {assignment}"), *reason));
            }
            overrides::apply_in("task[0]", assignment, &mut table, &mut origins)?;
        }
        shape::check(&table, &origins)?;
        Ok(Self { path, table, origins, hub: Vec::new() })
    }

    /// The folder the file lies in, absolute.
    pub fn folder(&self) -> PathBuf {
        let absolute = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        absolute.parent().unwrap_or(Path::new("/")).components().collect()
    }

    /// The recipe with these edits, in order, after the overrides.
    ///
    /// # Errors
    /// A value that cannot be used, by file and line, by override, or as `--set` would make the edit.
    pub fn recipe(&self, edits: &[Edit]) -> Result<Recipe> {
        let (mut table, mut origins) = (self.table.clone(), self.origins.clone());
        edits.iter().for_each(|edit| edit.apply(&mut table, &mut origins));
        inherit(&mut table);
        let mut recipe = from_table(table).map_err(|reason| Error::format(&self.path, reason))?;
        recipe.hub.clone_from(&self.hub);
        recipe.validate().map_err(|error| origins.locate(error))?;
        Ok(recipe)
    }
}

/// Reads a table whose keys and types are checked.
pub fn from_table(table: Table) -> std::result::Result<Recipe, String> {
    Recipe::deserialize(Typed(&Value::Table(table))).map_err(|fault| fault.to_string())
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

/// A path as a recipe has it.
fn text_value(path: &Path) -> Result<Value> {
    match path.to_str() {
        Some(text) => Ok(Value::from(text)),
        None => Err(Error::format(path, "has a name that is not UTF-8: rename it")),
    }
}

/// A model's folder or name, relative to the current folder, as a recipe has it when it is read.
///
/// # Errors
/// The path is not UTF-8.
pub(super) fn model_text(path: &Path) -> Result<Value> {
    let mut value = text_value(path)?;
    if let Value::String(text) = &mut value {
        make_model_absolute(text, Path::new(""));
    }
    Ok(value)
}

/// A file's name without its extensions, of letters that a task's name may have.
fn plain_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let stem = name.split('.').find(|part| !part.is_empty()).unwrap_or("data");
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || letter == '_' { letter } else { '-' };
    stem.chars().take(48).map(plain).collect()
}

/// Joins every relative path of the recipe to `folder` and makes it absolute. Absolute ones stay; names of the hub become
/// such as cannot be taken for paths.
fn make_paths_absolute(table: &mut Table, folder: &Path) {
    if let Some(Value::Table(model)) = table.get_mut("model") {
        change_texts(model, "base", &|text| make_model_absolute(text, folder));
        change_texts(model, "config", &|text| make_file_absolute(text, folder));
    }
    for list in ["task", "measure"] {
        let items = table.get_mut(list).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten().filter_map(Value::as_table_mut) {
            change_texts(item, "model", &|text| make_model_absolute(text, folder));
            for key in ["train", "eval"] {
                change_texts(item, key, &|text| make_file_absolute(text, folder));
            }
        }
    }
}

/// Changes the text, or every text of the list, that a key has.
fn change_texts(section: &mut Table, key: &str, change: &dyn Fn(&mut String)) {
    match section.get_mut(key) {
        Some(Value::String(text)) => change(text),
        Some(Value::Array(texts)) => {
            for text in texts {
                if let Value::String(text) = text {
                    change(text);
                }
            }
        }
        _ => {}
    }
}

fn make_file_absolute(text: &mut String, folder: &Path) {
    if !text.starts_with(SCHEME) {
        make_absolute(text, folder);
    }
}

fn make_model_absolute(text: &mut String, folder: &Path) {
    match named_model(text, folder) {
        Some(name) => *text = name,
        None => make_absolute(text, folder),
    }
}

fn make_absolute(text: &mut String, folder: &Path) {
    if text.is_empty() {
        return; // refused by the check of the shape
    }
    // `components` drops the `./` a person may have written.
    let joined: PathBuf = folder.join(&*text).components().collect();
    if let Some(absolute) = std::path::absolute(joined).ok().and_then(|path| path.to_str().map(str::to_owned))
    {
        *text = absolute;
    }
}

/// Copies into `[probe]` and `[integrate]` what they take over from `[train]`, which lasts one epoch when it does not
/// say how long. A length of their own (`epochs` or `steps`) replaces either; `[probe]` never inherits `weight_decay`
/// (decay moves every large weight and fakes overlap: docs/algorithm.md, stage 1).
pub fn inherit(table: &mut Table) {
    let train = table.entry("train").or_insert_with(|| Value::Table(Table::new()));
    let Value::Table(train) = train else { return };
    if !train.contains_key("epochs") && !train.contains_key("steps") {
        train.insert("epochs".to_owned(), Value::Float(1.0));
    }
    let train = train.clone();
    for name in ["probe", "integrate"] {
        let entry = table.entry(name).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(section) = entry else { continue };
        let has_length = section.contains_key("epochs") || section.contains_key("steps");
        for (key, value) in &train {
            let is_own = match key.as_str() {
                "epochs" | "steps" => has_length,
                "weight_decay" if name == "probe" => true,
                key => section.contains_key(key),
            };
            if !is_own {
                section.insert(key.clone(), value.clone());
            }
        }
    }
}
