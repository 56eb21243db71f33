//! What values the keys of a recipe may have.

use super::{FoldWeight, Keep, Method, MixtureShares, ModelSettings, Recipe, TaskSettings, TrainSettings};
use crate::error::{Error, Result};
use crate::hub::SCHEME;
use crate::jinja::Template;
use crate::score::Scoring;

/// Most optimizer steps of a fine-tune: sums and products with them never overflow.
pub(crate) const MOST_STEPS: u64 = 1_000_000_000_000;

/// Most tokens of a generated answer.
pub const MOST_NEW_TOKENS: usize = 1 << 20;

/// Most examples before an evaluation row.
pub const MOST_SHOTS: usize = 1000;

/// Most checkpoints kept.
const MOST_CHECKPOINTS: usize = 1_000_000;

impl Recipe {
    /// Checks every value that can be checked without opening a file.
    ///
    /// # Errors
    /// [`Error::Setting`] naming the key, the value and what it may be.
    pub fn validate(&self) -> Result<()> {
        self.model.validate()?;
        self.validate_tasks()?;
        self.validate_measures()?;
        self.train.validate("train")?;
        self.probe.training.validate("probe")?;
        self.integrate.training.validate("integrate")?;
        for (section, training) in [("probe", &self.probe.training), ("integrate", &self.integrate.training)]
        {
            if training.memory != self.train.memory {
                let reason = format!(
                    "is `{}`, and `{}` under [train]: a run has one; set it under [train] alone",
                    training.memory.name(),
                    self.train.memory.name()
                );
                return Err(Error::setting(format!("{section}.memory"), reason));
            }
        }
        within("core.fraction", self.core.fraction, 0.0, 1.0)?;
        finite("group.threshold", self.group.threshold)?;
        if let FoldWeight::Constant(weight) = self.fuse.weight {
            within("fuse.weight", weight, 0.0, 1.0)?;
        }
        within("fuse.epsilon", self.fuse.epsilon, 0.0, 1.0)?;
        within("fuse.scale", self.fuse.scale, -100.0, 100.0)?;
        within("fuse.density", self.fuse.density, f64::MIN_POSITIVE, 1.0)?;
        // Least: numbers of rows to the power of 10 are finite.
        let temperature = self.mixture.temperature.unwrap_or(1.0);
        within("mixture.temperature", temperature, 0.1, 1e6)?;
        if temperature != 1.0 && self.mixture.shares == MixtureShares::Equal {
            let reason = "needs `shares = \"rows\"` or `shares = \"tokens\"` beside it";
            return Err(Error::setting("mixture.temperature", reason));
        }
        self.validate_evaluate()?;
        self.validate_replay()?;
        if let Some(rounds) = self.half.rounds.filter(|rounds| !(1..=1000).contains(rounds)) {
            return Err(Error::setting("half.rounds", format!("is {rounds}: use 1 to 1000")));
        }
        within("integrate.sample", self.integrate.sample, f64::MIN_POSITIVE, 1.0)?;
        within("integrate.emphasis", self.integrate.emphasis, f64::MIN_POSITIVE, 1e6)?;
        let keep = self.checkpoint.keep;
        if keep == 0 || keep > MOST_CHECKPOINTS {
            return Err(Error::setting("checkpoint.keep", format!("is {keep}: use 1 to {MOST_CHECKPOINTS}")));
        }
        Ok(())
    }

    fn validate_evaluate(&self) -> Result<()> {
        let settings = &self.evaluate;
        if settings.rows == 0 {
            return Err(Error::setting("evaluate.rows", "is 0: use 1 or more"));
        }
        within("evaluate.alarm", settings.alarm, 0.0, 1e6)?;
        let needs_every = [
            ("keep", settings.keep == Keep::Best),
            ("patience", settings.patience > 0),
            ("task", settings.task.is_some()),
        ];
        if let Some((key, _)) = needs_every.iter().find(|(_, is_set)| *is_set && settings.every == 0) {
            let reason = "needs `every`, the steps between evaluations, beside it";
            return Err(Error::setting(format!("evaluate.{key}"), reason));
        }
        if let Some(name) = &settings.task
            && !self.task.iter().any(|task| task.name == *name)
        {
            let names: Vec<&str> = self.task.iter().map(|task| task.name.as_str()).collect();
            let reason = format!("there is no task `{name}`: the recipe has {}", names.join(", "));
            return Err(Error::setting("evaluate.task", reason));
        }
        let is_measured = |task: &TaskSettings| {
            let counts = settings.task.as_ref().is_none_or(|name| *name == task.name);
            counts && (task.eval.is_some() || task.eval_share.is_some())
        };
        if settings.decides() && !self.task.iter().any(is_measured) {
            let reason = "needs a task with `eval` (or `eval_share`) to choose the best by";
            let key = if settings.keep == Keep::Best { "evaluate.keep" } else { "evaluate.patience" };
            return Err(Error::setting(key, reason));
        }
        Ok(())
    }

    fn validate_replay(&self) -> Result<()> {
        within("replay.share", self.replay.share, f64::MIN_POSITIVE, 0.99)?;
        let names: Vec<&str> = self.task.iter().map(|task| task.name.as_str()).collect();
        for (index, name) in self.replay.last.iter().enumerate() {
            if !names.contains(&name.as_str()) {
                let reason = format!("there is no task `{name}`: the recipe has {}", names.join(", "));
                return Err(Error::setting("replay.last", reason));
            }
            if self.replay.last[..index].contains(name) {
                return Err(Error::setting("replay.last", format!("`{name}` occurs twice")));
            }
        }
        let leaves_none = self.replay.last.len().max(1) >= names.len();
        if self.method == Method::Replay && leaves_none {
            let reason = "leaves no task for the first stage: the method `replay` needs one outside it";
            return Err(Error::setting("replay.last", reason));
        }
        Ok(())
    }

    fn validate_tasks(&self) -> Result<()> {
        if self.task.is_empty() {
            return Err(Error::setting("task", "at least one [[task]] is needed"));
        }
        for (index, task) in self.task.iter().enumerate() {
            let key = |field: &str| format!("task[{index}].{field}");
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if task.name.len() > 64 {
                let reason = format!("is {} bytes long: it names files, use at most 64", task.name.len());
                return Err(Error::setting(key("name"), reason));
            }
            if task.name.is_empty() || !task.name.chars().all(allowed) || task.name.starts_with('.') {
                let reason = format!(
                    "`{}` names a folder: use letters, digits, `-`, `_` and `.`, not first a dot",
                    task.name
                );
                return Err(Error::setting(key("name"), reason));
            }
            if self.task[..index].iter().any(|other| other.name.eq_ignore_ascii_case(&task.name)) {
                return Err(Error::setting(key("name"), format!("`{}` occurs twice", task.name)));
            }
            within(&key("weight"), task.weight, f64::MIN_POSITIVE, 1e6)?;
            within(&key("repeat"), task.repeat, 1e-3, 100.0)?;
            task.validate_epochs(&key)?;
            task.validate_rows(&key)?;
            task.validate_size(&key)?;
            task.validate_answers(&key)?;
            if task.shots > MOST_SHOTS {
                let reason = format!("is {}: use 0 to {MOST_SHOTS}", task.shots);
                return Err(Error::setting(key("shots"), reason));
            }
        }
        Ok(())
    }

    fn validate_measures(&self) -> Result<()> {
        for (index, measure) in self.measure.iter().enumerate() {
            let key = |field: &str| format!("measure[{index}].{field}");
            let name = measure.name.as_str();
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ' ');
            if name.is_empty() || name.len() > 64 || name.trim() != name || !name.chars().all(allowed) {
                let reason = format!(
                    "is `{name}`: use 1 to 64 letters, digits, `-`, `_`, `.` and spaces, no space at either end"
                );
                return Err(Error::setting(key("name"), reason));
            }
            let earlier = self.measure[..index].iter().map(|other| &other.name);
            let mut others = self.task.iter().map(|task| &task.name).chain(earlier);
            if others.any(|other| other.eq_ignore_ascii_case(name)) {
                let reason = format!("`{name}` occurs twice among tasks and measures");
                return Err(Error::setting(key("name"), reason));
            }
            let as_task = measure.as_task();
            as_task.validate_rows(&key)?;
            as_task.validate_size(&key)?;
            as_task.validate_answers(&key)?;
        }
        Ok(())
    }
}

impl TaskSettings {
    fn validate_epochs(&self, key: &dyn Fn(&str) -> String) -> Result<()> {
        let Some(epochs) = self.epochs else { return Ok(()) };
        within(&key("epochs"), epochs, 1e-3, 1e4)?;
        for (name, is_set) in [("repeat", self.repeat != 1.0), ("weight", self.weight != 1.0)] {
            if is_set {
                let reason = format!(
                    "excludes `{name}`, since it says what the task's share is: remove one of the two"
                );
                return Err(Error::setting(key("epochs"), reason));
            }
        }
        Ok(())
    }

    fn validate_answers(&self, key: &dyn Fn(&str) -> String) -> Result<()> {
        match self.max_new_tokens.filter(|tokens| !(1..=MOST_NEW_TOKENS).contains(tokens)) {
            Some(tokens) => {
                let reason = format!("is {tokens}: use 1 to {MOST_NEW_TOKENS}");
                Err(Error::setting(key("max_new_tokens"), reason))
            }
            None => Ok(()),
        }
    }

    /// Checks the keys that say how many rows are used for what.
    fn validate_size(&self, key: &dyn Fn(&str) -> String) -> Result<()> {
        for (name, limit) in [("limit", self.limit), ("eval_limit", self.eval_limit)] {
            if limit == Some(0) {
                return Err(Error::setting(key(name), "is 0: use 1 or more rows"));
            }
        }
        let is_measured = self.eval.is_some() || self.eval_share.is_some();
        let about_measuring = [
            ("eval_limit", self.eval_limit.is_some()),
            ("score", self.score != Scoring::default()),
            ("max_new_tokens", self.max_new_tokens.is_some()),
            ("answers", !self.answers),
            ("shots", self.shots > 0),
        ];
        if let Some((name, _)) = about_measuring.iter().find(|(_, is_set)| *is_set && !is_measured) {
            return Err(Error::setting(
                key(name),
                "needs `eval` (or `eval_share`) beside it: rows to measure on",
            ));
        }
        let Some(share) = self.eval_share else { return Ok(()) };
        if self.eval.is_some() {
            return Err(Error::setting(key("eval_share"), "excludes `eval`: remove one of the two"));
        }
        within(&key("eval_share"), share, f64::MIN_POSITIVE, 0.9)
    }

    /// Checks that the keys which say how rows are read fit each other. `key` makes a key's full name.
    fn validate_rows(&self, key: &dyn Fn(&str) -> String) -> Result<()> {
        let Self { columns, chat, .. } = self;
        let set = |name: &str| match name {
            "prompt" => self.prompt.is_some(),
            "answer" => self.answer.is_some(),
            "system" => self.system.is_some(),
            _ => columns.named().any(|(key, _)| name.strip_prefix("columns.") == Some(key)),
        };
        for (name, source) in [("prompt", &self.prompt), ("answer", &self.answer), ("system", &self.system)] {
            if let Some(source) = source {
                Template::parse_of_recipe(source).map_err(|reason| Error::setting(key(name), reason))?;
            }
        }
        // What a key needs beside it: one of these.
        let needs: [(&str, &[&str]); 8] = [
            ("prompt", &["answer"]),
            ("answer", &["prompt"]),
            ("system", &["prompt"]),
            ("columns.prompt", &["columns.answer"]),
            ("columns.answer", &["columns.prompt"]),
            ("columns.system", &["columns.prompt", "columns.messages"]),
            ("columns.history", &["columns.prompt", "prompt"]),
            ("columns.tools", &["columns.prompt", "columns.messages", "prompt"]),
        ];
        for (name, others) in needs {
            if set(name) && !others.iter().any(|other| set(other)) {
                let others = others.iter().map(|other| format!("`{other}`")).collect::<Vec<_>>().join(" or ");
                return Err(Error::setting(key(name), format!("needs {others} beside it")));
            }
        }
        let excludes = [
            ("columns.prompt", "prompt"),
            ("columns.messages", "prompt"),
            ("columns.text", "prompt"),
            ("columns.system", "system"),
            ("columns.messages", "columns.prompt"),
            ("columns.text", "columns.prompt"),
            ("columns.text", "columns.messages"),
        ];
        for (name, other) in excludes {
            if set(name) && set(other) {
                let reason = format!("excludes `{other}`: remove one of the two");
                return Err(Error::setting(key(name), reason));
            }
        }
        let of_chats = ["system", "columns.system", "columns.history", "columns.tools", "columns.messages"];
        let fixed = match chat {
            Some(true) => ["columns.text"].iter().find(|name| set(name)),
            Some(false) => of_chats.iter().find(|name| set(name)),
            None => None,
        };
        match fixed {
            Some(name) => {
                let reason =
                    format!("cannot be {} beside `{name}`: remove one of the two", *chat == Some(true));
                Err(Error::setting(key("chat"), reason))
            }
            None => Ok(()),
        }
    }
}

impl ModelSettings {
    fn validate(&self) -> Result<()> {
        match (&self.base, &self.config) {
            (None, None) => {
                return Err(Error::setting("model.base", "name a Hugging Face folder (or set model.config)"));
            }
            (Some(_), Some(_)) => {
                return Err(Error::setting("model.config", "excludes model.base: remove one of the two"));
            }
            (None, Some(config)) if config.to_string_lossy().starts_with(SCHEME) => {
                let reason = "is a file: a model of the hub is named by model.base";
                return Err(Error::setting("model.config", reason));
            }
            _ => {}
        }
        if self.max_length < 2 {
            let reason = format!("is {}: a row needs at least 2 tokens", self.max_length);
            return Err(Error::setting("model.max_length", reason));
        }
        Ok(())
    }
}

impl TrainSettings {
    fn validate(&self, section: &str) -> Result<()> {
        let key = |field: &str| format!("{section}.{field}");
        match (self.epochs, self.steps) {
            (Some(_), Some(_)) => {
                return Err(Error::setting(key("epochs"), "excludes `steps`: remove one of the two"));
            }
            (Some(epochs), None) => within(&key("epochs"), epochs, f64::MIN_POSITIVE, 1e4)?,
            (None, Some(steps)) if steps == 0 || steps > MOST_STEPS => {
                return Err(Error::setting(key("steps"), format!("is {steps}: use 1 to {MOST_STEPS}")));
            }
            _ => {}
        }
        for (field, value) in [("batch_size", self.batch_size), ("accumulate", self.accumulate)] {
            if value == 0 || value > 1 << 20 {
                return Err(Error::setting(key(field), format!("is {value}: use 1 to {}", 1 << 20)));
            }
        }
        within(&key("learning_rate"), self.learning_rate, 0.0, 100.0)?;
        within(&key("warmup"), self.warmup, 0.0, 1e12)?;
        within(&key("weight_decay"), self.weight_decay, 0.0, 100.0)?;
        within(&key("beta1"), self.beta1, 0.0, 1.0 - 1e-7)?;
        within(&key("beta2"), self.beta2, 0.0, 1.0 - 1e-7)?;
        // The optimizer computes with it in f32, where less is 0.
        within(&key("eps"), self.eps, 1e-30, 1.0)?;
        within(&key("clip"), self.clip, 0.0, 1e12)
    }
}

fn finite(key: &str, value: f64) -> Result<()> {
    if value.is_finite() {
        Ok(())
    } else {
        Err(Error::setting(key, format!("is {value}: use a finite number")))
    }
}

fn within(key: &str, value: f64, least: f64, most: f64) -> Result<()> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let range = if least == f64::MIN_POSITIVE {
        format!("more than 0 and at most {most}")
    } else {
        let least = if least > 0.0 { format!("{least:e}") } else { least.to_string() };
        format!("{least} to {most}")
    };
    Err(Error::setting(key, format!("is {value}: use {range}")))
}
