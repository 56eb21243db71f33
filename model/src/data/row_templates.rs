//! The recipe's own templates: a prompt and an answer made of a row's fields.

use serde_json::{Map, Value};

use super::fields::found;
use super::messages::Extras;
use super::notice::Notice;
use super::prompt_completion::{PromptCompletion, read_history};
use super::settings::DataSettings;
use crate::error::Reasoned;
use crate::jinja::Template;

/// A template of the recipe.
struct RowTemplate {
    /// The recipe's key.
    key: &'static str,
    template: Template,
}

/// The templates of a task.
pub(super) struct RowTemplates {
    prompt: RowTemplate,
    answer: RowTemplate,
    system: Option<RowTemplate>,
    /// Fields beside them that the recipe names.
    history: Option<String>,
    tools: Option<String>,
}

impl std::fmt::Debug for RowTemplates {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("RowTemplates").finish_non_exhaustive()
    }
}

impl RowTemplate {
    fn new(key: &'static str, source: &str) -> Reasoned<Self> {
        let template = Template::parse_of_recipe(source)
            .map_err(|reason| format!("cannot be read, since {key} {reason}"))?;
        Ok(Self { key, template })
    }

    fn render(&self, row: &Map<String, Value>) -> Reasoned<String> {
        self.template.render_fields(row).map_err(|error| {
            let reason = error.to_string().replace(['\n', '\r'], " ");
            format!("does not fit {}: {reason}; the row has {}", self.key, found(row))
        })
    }
}

impl RowTemplates {
    /// The templates of these settings, if there are any.
    pub fn of(settings: &DataSettings) -> Reasoned<Option<Self>> {
        let (Some(prompt), Some(answer)) = (&settings.prompt, &settings.answer) else { return Ok(None) };
        let system = settings.system.as_ref().map(|system| RowTemplate::new("task.system", system));
        Ok(Some(Self {
            prompt: RowTemplate::new("task.prompt", prompt)?,
            answer: RowTemplate::new("task.answer", answer)?,
            system: system.transpose()?,
            history: settings.columns.history.clone(),
            tools: settings.columns.tools.clone(),
        }))
    }

    /// True when they make what only a conversation has a place for.
    pub fn has_turns(&self) -> bool {
        self.system.is_some() || self.history.is_some() || self.tools.is_some()
    }

    /// The prompt and answer of a row.
    pub fn prompt_completion(
        &self,
        mut row: Map<String, Value>,
        notices: &mut Vec<Notice>,
    ) -> Reasoned<PromptCompletion> {
        let answer = self.answer.render(&row)?;
        if answer.trim().is_empty() {
            return Err("gives an empty answer by task.answer: there is nothing to learn".into());
        }
        Ok(PromptCompletion {
            prompt: self.prompt.render(&row)?,
            answer,
            system: self.system.as_ref().map(|system| system.render(&row)).transpose()?.unwrap_or_default(),
            input: String::new(),
            extras: Extras::take(&mut row, self.tools.as_deref(), notices)?,
            history: read_history(&mut row, self.history.as_deref(), notices)?,
        })
    }
}
