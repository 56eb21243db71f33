//! `adapter_config.json`.

use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value};

use super::CONFIG_FILE;
use crate::error::{Error, Result};
use crate::files::read_input_text;

/// Fields that do not change what is added to which weight: about training, and about where the tensors came from. Which
/// modules are changed, the tensors say themselves.
const WITHOUT_EFFECT: &[&str] = &[
    "auto_mapping",
    "corda_config",
    "eva_config",
    "exclude_modules",
    // PEFT sets it to false for the linear layers that all families here have.
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
    "target_modules",
];

/// How A and B are begun so that the base's weights stay as they are.
const STARTS: [&str; 4] = ["gaussian", "eva", "orthogonal", "mica"];

/// What to do with an adapter that is not supported.
const ADVICE: &str =
    "merge the adapter into its base (in PEFT: `merge_and_unload()`), save that, and give its folder";

/// What the configuration of an adapter says.
#[derive(Debug)]
pub(crate) struct AdapterConfig {
    /// `base_model_name_or_path`.
    pub base: String,
    /// `revision` of it, on the hub.
    pub revision: Option<String>,
    /// `modules_to_save`: names of modules that are replaced, not changed.
    pub replaced: Vec<String>,
    /// `ensure_weight_tying`: what is said of a tied embedding holds for the head as well.
    pub keeps_tied: bool,
    rank: usize,
    rank_pattern: Vec<(Regex, usize)>,
    alpha: f64,
    alpha_pattern: Vec<(Regex, f64)>,
    rank_stabilised: bool,
}

impl AdapterConfig {
    /// Reads the one in a folder.
    ///
    /// # Errors
    /// It is missing or no JSON; a field is missing, of another kind, or says what is not supported.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG_FILE);
        let text = read_input_text(&path)?;
        let json: Map<String, Value> = serde_json::from_str(&text)
            .map_err(|error| Error::format(&path, format!("not a JSON object: {error}")))?;
        Fields { path: &path, json }.config()
    }

    /// The rank that a module's tensors must have.
    pub fn rank(&self, module: &str) -> usize {
        of_pattern(&self.rank_pattern, module).unwrap_or(self.rank)
    }

    /// The factor of a module's product: α/r, or α/√r where the rank is to be stabilised.
    pub fn scale(&self, module: &str) -> f64 {
        let alpha = of_pattern(&self.alpha_pattern, module).unwrap_or(self.alpha);
        let rank = self.rank(module) as f64;
        if self.rank_stabilised { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// Whether a module is one of those that are replaced.
    pub fn replaces(&self, module: &str) -> bool {
        self.replaced.iter().any(|name| module.ends_with(name.as_str()))
    }
}

/// The value of the first pattern that names a module.
fn of_pattern<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|&(_, value)| value)
}

/// The fields, taken out one after the other.
struct Fields<'a> {
    path: &'a Path,
    json: Map<String, Value>,
}

impl Fields<'_> {
    fn config(mut self) -> Result<AdapterConfig> {
        self.only("peft_type", "\"LORA\"", |value| value == "LORA")?;
        self.only("task_type", "\"CAUSAL_LM\"", |value| value.is_null() || value == "CAUSAL_LM")?;
        self.only("bias", "\"none\"", |value| value.is_null() || value == "none")?;
        self.only("init_lora_weights", "a start that leaves the base as it is", |value| {
            value.is_null() || value.is_boolean() || STARTS.iter().any(|start| value == start)
        })?;
        let base = self.take("base_model_name_or_path");
        let (rank, alpha) = (self.take("r"), self.take("lora_alpha"));
        let base = base.as_str().filter(|base| !base.is_empty()).ok_or_else(|| {
            self.error(
                "`base_model_name_or_path` is missing: write there the folder of the base model".into(),
            )
        })?;
        let config = AdapterConfig {
            base: base.to_owned(),
            revision: self.take("revision").as_str().map(str::to_owned),
            replaced: self.names("modules_to_save")?,
            keeps_tied: self.flag("ensure_weight_tying")?,
            rank: self.read_rank("r", &rank)?,
            rank_pattern: self.pattern("rank_pattern", Self::read_rank)?,
            alpha: self.read_alpha("lora_alpha", &alpha)?,
            alpha_pattern: self.pattern("alpha_pattern", Self::read_alpha)?,
            rank_stabilised: self.flag("use_rslora")?,
        };
        WITHOUT_EFFECT.iter().for_each(|key| drop(self.take(key)));
        // What is left are kinds of adapters that add something else, unless they are switched off.
        match self.json.iter().find(|(_, value)| !is_off(value)) {
            None => Ok(config),
            Some((key, value)) => Err(self.error(format!("`{key}` = {value} is not supported: {ADVICE}"))),
        }
    }

    /// Takes a field out; null where it is missing.
    fn take(&mut self, key: &str) -> Value {
        self.json.shift_remove(key).unwrap_or_default()
    }

    fn error(&self, reason: String) -> Error {
        Error::format(self.path, reason)
    }

    fn only(&mut self, key: &str, supported: &str, allows: fn(&Value) -> bool) -> Result<()> {
        let value = self.take(key);
        match allows(&value) {
            true => Ok(()),
            false => {
                Err(self.error(format!("`{key}` = {value} is not supported, only {supported} is: {ADVICE}")))
            }
        }
    }

    fn flag(&mut self, key: &str) -> Result<bool> {
        match self.take(key) {
            Value::Null => Ok(false),
            Value::Bool(flag) => Ok(flag),
            other => Err(self.error(format!("`{key}` = {other} must be true or false"))),
        }
    }

    fn names(&mut self, key: &str) -> Result<Vec<String>> {
        match self.take(key) {
            Value::Null => Ok(Vec::new()),
            value => serde_json::from_value(value.clone())
                .map_err(|_| self.error(format!("`{key}` = {value} must be a list of names"))),
        }
    }

    fn read_rank(&self, key: &str, value: &Value) -> Result<usize> {
        let rank = value.as_u64().filter(|&rank| rank > 0).and_then(|rank| usize::try_from(rank).ok());
        rank.ok_or_else(|| self.error(format!("`{key}` = {value} must be a whole number above 0")))
    }

    fn read_alpha(&self, key: &str, value: &Value) -> Result<f64> {
        value.as_f64().ok_or_else(|| self.error(format!("`{key}` = {value} must be a number")))
    }

    /// Values for modules whose name a pattern matches, whole or from a dot on, as PEFT does.
    fn pattern<T>(
        &mut self,
        key: &str,
        read: impl Fn(&Self, &str, &Value) -> Result<T>,
    ) -> Result<Vec<(Regex, T)>> {
        let entries = match self.take(key) {
            Value::Null => Map::new(),
            Value::Object(entries) => entries,
            other => return Err(self.error(format!("`{key}` = {other} must be an object"))),
        };
        let entry = |(pattern, value): (&String, &Value)| {
            let compiled = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .map_err(|_| self.error(format!("`{key}`: \"{pattern}\" is no regular expression")))?;
            Ok((compiled, read(self, key, value)?))
        };
        entries.iter().map(entry).collect()
    }
}

/// Whether a field's value switches off what it is about.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(entries) => entries.is_empty(),
        _ => false,
    }
}
