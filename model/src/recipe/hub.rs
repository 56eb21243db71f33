//! Names of the hub in a recipe, and the folders and files of the cache that take their place.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::origins::Origins;
use super::{DataFiles, Source};
use crate::error::{Error, FileAction, Result};
use crate::hub::{Extent, Found, Hub, HubOrigin, HubSource, ModelParts, SCHEME};

/// What of a recipe is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipeParts<'a> {
    /// Everything.
    All,
    /// The rows of all tasks and measures or of one, and the base's tokenizer.
    Rows(Option<&'a str>),
}

impl RecipeParts<'_> {
    /// Whether the rows of a task or measure are read.
    fn has_task(&self, name: &str) -> bool {
        !matches!(self, RecipeParts::Rows(Some(wanted)) if *wanted != name)
    }
}

impl Source {
    /// Puts folders and files of the hub's cache in the place of names of the hub, and fetches what is missing of them: first
    /// all that is small, then data, then weights. What the recipe says otherwise, and whether its local files and folders
    /// are there, is checked before.
    ///
    /// # Errors
    /// As [`Source::recipe`]; a file that is not there; a name that cannot be resolved, by file and line or by override.
    pub fn resolve(&mut self, hub: &Hub<'_>, parts: RecipeParts<'_>) -> Result<()> {
        self.require_local(parts)?;
        let wanted = match parts {
            RecipeParts::All => ModelParts::ALL,
            RecipeParts::Rows(_) => ModelParts::TOKENIZER,
        };
        if names_hub(&self.table) {
            self.resolve_names(hub, parts, wanted)?;
        }
        // An adapter on the disk may be of a base on the hub; those of the cache have theirs.
        for folder in model_folders(&self.table) {
            hub.fetch_base(Path::new(folder), wanted, Extent::Complete)?;
        }
        Ok(())
    }

    /// Fails where a file or folder of the disk is not there that is read of the recipe.
    fn require_local(&self, parts: RecipeParts<'_>) -> Result<()> {
        let recipe = self.recipe(&[])?;
        let is_local = |path: &&PathBuf| !path.to_string_lossy().starts_with(SCHEME);
        let require = |key: &str, path: &Option<PathBuf>| -> Result<()> {
            let Some(path) = path.as_ref().filter(is_local) else { return Ok(()) };
            let found = path.metadata().map_err(Error::file(path, FileAction::Read));
            found.map(drop).map_err(|error| self.origins.about(key, &error).unwrap_or(error))
        };
        require("model.base", &recipe.model.base)?;
        require("model.config", &recipe.model.config)?;
        for (index, task) in recipe.task.iter().enumerate().filter(|(_, task)| parts.has_task(&task.name)) {
            if parts == RecipeParts::All {
                require(&format!("task[{index}].model"), &task.model)?;
            }
            for (name, files) in [("train", Some(&task.train)), ("eval", task.eval.as_ref())] {
                self.require_local_files(files, &format!("task[{index}].{name}"))?;
            }
        }
        let measures = recipe.measure.iter().enumerate();
        for (index, measure) in measures.filter(|(_, measure)| parts.has_task(&measure.name)) {
            self.require_local_files(Some(&measure.eval), &format!("measure[{index}].eval"))?;
        }
        Ok(())
    }

    fn require_local_files(&self, files: Option<&DataFiles>, key: &str) -> Result<()> {
        let Some(files) = files else { return Ok(()) };
        files.require_local().map_err(|error| {
            let item = files.first_missing().map(|item| format!("{key}[{item}]"));
            let about = item.and_then(|item| self.origins.about(&item, &error));
            about.or_else(|| self.origins.about(key, &error)).unwrap_or(error)
        })
    }

    fn resolve_names(&mut self, hub: &Hub<'_>, parts: RecipeParts<'_>, wanted: ModelParts) -> Result<()> {
        let is_wanted = |name: &str| parts.has_task(name);
        for folder in model_folders(&self.table) {
            hub.fetch_base(Path::new(folder), wanted, Extent::SmallFiles)?;
        }
        let mut resolver = Resolver { hub, origins: &self.origins, sources: Vec::new(), models: Vec::new() };
        if let Some(Value::Table(model)) = self.table.get_mut("model") {
            resolver.model(model, "base", "model", "model", wanted)?;
        }
        for list in ["task", "measure"] {
            let items = self.table.get_mut(list).and_then(Value::as_array_mut);
            for (index, item) in items.into_iter().flatten().enumerate() {
                let Some(item) = item.as_table_mut() else { continue };
                let name = item.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
                if !is_wanted(&name) {
                    continue;
                }
                let (section, name) = (format!("{list}[{index}]"), format!("{list}.{name}"));
                if parts == RecipeParts::All {
                    resolver.model(item, "model", &section, &name, ModelParts::WEIGHTS)?;
                }
                for key in ["train", "eval"] {
                    resolver.data(item, key, &section, &name)?;
                }
            }
        }
        resolver.complete_models()?;
        self.hub = resolver.sources;
        Ok(())
    }

    /// Sets another base than the file's, in the place of a configuration too.
    ///
    /// # Errors
    /// The path is not UTF-8.
    pub fn set_base(&mut self, base: &Path) -> Result<()> {
        let text = super::read::model_text(base)?;
        if let Some(Value::Table(model)) = self.table.get_mut("model") {
            model.remove("config");
            model.insert("base".to_owned(), text);
        }
        Ok(())
    }
}

/// The folders that a recipe names as the base and as models of tasks.
fn model_folders(table: &Table) -> impl Iterator<Item = &str> {
    let base = table.get("model").and_then(|model| model.get("base"));
    let tasks = table.get("task").and_then(Value::as_array).into_iter().flatten();
    let models = base.into_iter().chain(tasks.filter_map(|task| task.get("model")));
    models.filter(|value| !is_name(value)).filter_map(Value::as_str)
}

/// Whether a recipe has a name of the hub in it.
fn names_hub(table: &Table) -> bool {
    table.values().any(|value| match value {
        Value::Table(section) => names_hub(section),
        Value::Array(items) => items.iter().any(|item| match item {
            Value::Table(section) => names_hub(section),
            item => is_name(item),
        }),
        value => is_name(value),
    })
}

fn is_name(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.starts_with(SCHEME))
}

struct Resolver<'a> {
    hub: &'a Hub<'a>,
    origins: &'a Origins,
    sources: Vec<HubSource>,
    /// Models whose weights are still to be fetched: the key that names each, the name, and what is wanted of it.
    models: Vec<(String, String, ModelParts)>,
}

impl Resolver<'_> {
    /// Puts a model's folder in the place of its name; its weights come with [`Resolver::complete_models`]. `section` is the
    /// section's name in messages, `name` that in records.
    fn model(
        &mut self,
        section_table: &mut Table,
        key: &str,
        section: &str,
        name: &str,
        parts: ModelParts,
    ) -> Result<()> {
        let Some(value) = section_table.get_mut(key).filter(|value| is_name(value)) else { return Ok(()) };
        let text = value.as_str().unwrap_or_default().to_owned();
        let place = format!("{section}.{key}");
        let found = self.hub.model_named(&text, parts, Extent::SmallFiles);
        let found = found.map_err(|error| self.locate(&place, error))?;
        *value = path_value(&found.place)?;
        self.add(format!("{name}.{key}"), &found);
        self.models.push((place, text, parts));
        Ok(())
    }

    fn complete_models(&self) -> Result<()> {
        for (place, text, parts) in &self.models {
            let found = self.hub.model_named(text, *parts, Extent::Complete);
            found.map_err(|error| self.locate(place, error))?;
        }
        Ok(())
    }

    /// A pattern becomes the files that match it.
    fn data(&mut self, section_table: &mut Table, key: &str, section: &str, name: &str) -> Result<()> {
        let full = format!("{section}.{key}");
        match section_table.get_mut(key) {
            Some(Value::Array(items)) => {
                let mut resolved = Vec::with_capacity(items.len());
                for (index, item) in items.iter().enumerate() {
                    match item.as_str().filter(|_| is_name(item)) {
                        Some(text) => {
                            resolved.extend(self.files(text, &format!("{full}[{index}]"), name, key)?)
                        }
                        None => resolved.push(item.clone()),
                    }
                }
                *items = resolved;
            }
            Some(value) if is_name(value) => {
                let files = self.files(value.as_str().unwrap_or_default(), &full, name, key)?;
                *value = Value::Array(files);
            }
            _ => {}
        }
        Ok(())
    }

    fn files(&mut self, text: &str, place: &str, name: &str, key: &str) -> Result<Vec<Value>> {
        let found = self.hub.data_named(text).map_err(|error| self.locate(place, error))?;
        self.add(format!("{name}.{key}"), &found);
        found.place.iter().map(|path| path_value(path)).collect()
    }

    /// What is wrong with a name is wrong with the recipe; a network that is down is not.
    fn locate(&self, key: &str, error: Error) -> Error {
        match error {
            Error::Hub(error) if error.is_input() => self.origins.error(key, error),
            error => error,
        }
    }

    fn add<T>(&mut self, key: String, found: &Found<T>) {
        let source = HubSource {
            key,
            kind: found.repository.kind,
            origin: HubOrigin {
                repository: found.repository.to_string(),
                revision: found.commit.as_str().to_owned(),
            },
            asked: Some(found.revision.as_str().to_owned()),
        };
        if !self.sources.contains(&source) {
            self.sources.push(source);
        }
    }
}

fn path_value(path: &Path) -> Result<Value> {
    let absolute: PathBuf = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match absolute.to_str() {
        Some(text) => Ok(Value::from(text)),
        None => Err(Error::format(path, "has a name that is not UTF-8: set HF_HOME to another folder")),
    }
}
