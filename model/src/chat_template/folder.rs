//! The chat templates of a model folder, and which of them a row takes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::ChatTemplate;
use crate::control_tokens::ControlTokens;
use crate::error::{Error, FileAction, Reasoned, Result, clip};
use crate::files::read_input_json;

/// Folder of further templates beside `chat_template.jinja`, one `NAME.jinja` each.
pub(crate) const TEMPLATE_FOLDER: &str = "additional_chat_templates";

/// Name of the template that a row takes when nothing else is said.
const DEFAULT: &str = "default";
/// Name of the template of rows with tools.
const TOOL_USE: &str = "tool_use";

/// The sources of a folder's chat templates.
#[derive(Debug, Clone)]
pub(crate) struct TemplateSources {
    /// Name to file and source.
    named: BTreeMap<String, (PathBuf, String)>,
}

impl TemplateSources {
    /// Looks where transformers does: `chat_template.jinja` with [`TEMPLATE_FOLDER`], which come before
    /// `chat_template` in `tokenizer_config.json`, a string or a list of named templates;
    /// `chat_template.json` is the last place. `None` when there is none.
    ///
    /// # Errors
    /// When one of the files cannot be read or parsed, or an entry of the list has no name or template.
    pub fn find(folder: &Path) -> Result<Option<Self>> {
        let mut named = BTreeMap::new();
        let single = folder.join("chat_template.jinja");
        if single.is_file() {
            let source = crate::files::read_input_text(&single)?;
            named.insert(DEFAULT.to_owned(), (single, source));
        }
        for path in additional_files(folder)? {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let source = crate::files::read_input_text(&path)?;
            named.insert(name, (path, source));
        }
        for file in ["tokenizer_config.json", "chat_template.json"] {
            if named.is_empty() {
                let path = folder.join(file);
                if let Some(json) = read_input_json(&path)? {
                    read_key(&path, &json["chat_template"], &mut named)?;
                }
            }
        }
        Ok((!named.is_empty()).then_some(Self { named }))
    }

    /// The sources by name, wherever they stand.
    pub fn texts(&self) -> BTreeMap<&str, &str> {
        self.named.iter().map(|(name, (_, source))| (name.as_str(), source.as_str())).collect()
    }
}

/// The files of [`TEMPLATE_FOLDER`], in the order of their names; none where there is no such folder.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn additional_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let folder = folder.join(TEMPLATE_FOLDER);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(Error::file(&folder, FileAction::Read))? {
        let path = entry.map_err(Error::file(&folder, FileAction::Read))?.path();
        if path.extension().is_some_and(|extension| extension == "jinja") && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A string is the only template; a list has named ones.
fn read_key(path: &Path, key: &Value, named: &mut BTreeMap<String, (PathBuf, String)>) -> Result<()> {
    match key {
        Value::Null => {}
        Value::String(source) => {
            named.insert(DEFAULT.to_owned(), (path.to_owned(), source.clone()));
        }
        Value::Array(entries) => {
            for entry in entries {
                let (Some(name), Some(source)) = (entry["name"].as_str(), entry["template"].as_str()) else {
                    let reason = "`chat_template` is a list with an entry that has no `name` and `template`";
                    return Err(Error::format(path, reason));
                };
                named.insert(name.to_owned(), (path.to_owned(), source.to_owned()));
            }
        }
        _ => return Err(Error::format(path, "`chat_template` is neither a string nor a list")),
    }
    Ok(())
}

/// The compiled chat templates of a folder. One that is not valid stays as the reason until a row needs it.
pub(crate) struct ChatTemplates {
    named: BTreeMap<String, std::result::Result<ChatTemplate, String>>,
}

impl ChatTemplates {
    /// Compiles the templates; `names` are the special tokens a template may write (`bos_token`, …).
    ///
    /// # Errors
    /// When there is only one template and it is not valid.
    pub fn new(
        sources: &TemplateSources,
        names: &BTreeMap<String, String>,
        controls: &ControlTokens,
    ) -> Result<Self> {
        let mut named = BTreeMap::new();
        for (name, (path, source)) in &sources.named {
            let compiled = ChatTemplate::new(path, source, names, controls);
            let compiled = match compiled {
                Err(error) if sources.named.len() == 1 => return Err(error),
                other => other.map_err(|error| error.to_string()),
            };
            named.insert(name.clone(), compiled);
        }
        Ok(Self { named })
    }

    /// The template of a row, as transformers chooses it: the one that the row names, else `tool_use` where
    /// there are tools and such a template, else `default`.
    pub fn choose(&self, wanted: Option<&str>, tools: &Value) -> Reasoned<&ChatTemplate> {
        let name = match wanted {
            Some(name) => name,
            None if !tools.is_null() && self.named.contains_key(TOOL_USE) => TOOL_USE,
            None => DEFAULT,
        };
        match self.named.get(name) {
            Some(compiled) => compiled.as_ref().map_err(String::clone),
            None => {
                let names: Vec<String> =
                    self.named.keys().take(8).map(|name| format!("`{}`", name.escape_debug())).collect();
                Err(format!(
                    "needs the chat template `{}`, and the model folder has only {}: add it to the folder",
                    clip(name),
                    names.join(", ")
                ))
            }
        }
    }
}
