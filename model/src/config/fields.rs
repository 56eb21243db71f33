//! Reading the fields of `config.json` one by one, and what a person should know about those that are not.

use std::path::Path;

use serde_json::{Map, Value};

use super::family::Family;
use crate::error::{Error, Result};

/// Largest value of a size: far above any model, and small enough that products of two sizes fit 64 bits.
const LARGEST_SIZE: u64 = 1 << 30;

/// How alike the name of a field that is not read and one that is must be for the one to be taken for a
/// misspelling of the other, of 1.
const ALIKE: f64 = 0.7;

/// Fields that say nothing about what the model computes.
const BOOKKEEPING: [&str; 5] = ["_name_or_path", "dtype", "torch_dtype", "transformers_version", "use_cache"];

/// The fields of one JSON object, and which of them have been read.
pub(super) struct Fields<'a> {
    path: &'a Path,
    /// What stands before a field's name in messages: empty, or the objects it is in, `rope_scaling.`.
    prefix: String,
    /// Fields that stand outside of the object, beside it.
    inherited: Vec<&'static str>,
    json: &'a Map<String, Value>,
    read: Vec<&'static str>,
    /// Fields that were looked at, but are most often absent: see [`Fields::known_value`].
    known: Vec<&'static str>,
    notices: Vec<String>,
}

impl<'a> Fields<'a> {
    pub fn new(path: &'a Path, prefix: impl Into<String>, json: &'a Map<String, Value>) -> Self {
        Self {
            path,
            prefix: prefix.into(),
            inherited: Vec::new(),
            json,
            read: Vec::new(),
            known: Vec::new(),
            notices: Vec::new(),
        }
    }

    /// With fields that are not inside the object in the file, but beside it.
    pub fn with_inherited(mut self, inherited: Vec<&'static str>) -> Self {
        self.inherited = inherited;
        self
    }

    /// The fields of an object inside this one, which is the value of `key`.
    pub fn inside<'b>(&self, key: &str, json: &'b Map<String, Value>) -> Fields<'b>
    where
        'a: 'b,
    {
        Fields::new(self.path, format!("{}.", self.name(key)), json)
    }

    /// What stands before a field's name in messages.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// What messages call a field: with the objects it is in.
    pub fn name(&self, key: &str) -> String {
        if self.inherited.contains(&key) { key.to_owned() } else { format!("{}{key}", self.prefix) }
    }

    /// The field's value; a field that is `null` counts as absent, as in `transformers`.
    pub fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.read.push(key);
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// The field's value as it stands, `null` included.
    pub fn json_value(&self, key: &str) -> Option<&'a Value> {
        self.json.get(key)
    }

    /// A size: a whole number above zero.
    pub fn size(&mut self, key: &'static str) -> Result<Option<usize>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let size = value.as_u64().filter(|size| (1..=LARGEST_SIZE).contains(size));
        match size.and_then(|size| usize::try_from(size).ok()) {
            Some(size) => Ok(Some(size)),
            None => Err(self.invalid(key, value, format!("a whole number from 1 to {LARGEST_SIZE}"))),
        }
    }

    /// A size without which there is no model.
    pub fn required_size(&mut self, key: &'static str) -> Result<usize> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    /// A size that may be missing where the family has one for it.
    pub fn size_or_default(&mut self, key: &'static str, family: &Family) -> Result<usize> {
        let given = self.size(key)?;
        given.or(family.default_size(key)).ok_or_else(|| self.missing(key))
    }

    /// A number above zero that f32, which models compute in, holds.
    pub fn positive(&mut self, key: &'static str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match positive_number(value) {
            Some(number) => Ok(Some(number)),
            None => Err(self.invalid(key, value, "a number above 0 in the range of f32")),
        }
    }

    /// A finite number above zero without which the result is not defined.
    pub fn required_positive(&mut self, key: &'static str) -> Result<f64> {
        self.positive(key)?.ok_or_else(|| self.missing(key))
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str, default: bool) -> Result<bool> {
        let Some(value) = self.value(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.invalid(key, value, "true or false"))
    }

    /// A string.
    pub fn text(&mut self, key: &'static str) -> Result<Option<&'a str>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.invalid(key, value, "a string"))
    }

    /// An object with fields of its own; an empty one counts as absent.
    pub fn object(&mut self, key: &'static str) -> Result<Option<&'a Map<String, Value>>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let object = value.as_object().ok_or_else(|| self.invalid(key, value, "an object"))?;
        Ok(Some(object).filter(|object| !object.is_empty()))
    }

    /// A number, zero or above, that f32 holds.
    pub fn not_negative(&mut self, key: &'static str) -> Result<Option<f64>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let zero = value.as_f64().filter(|&number| number == 0.0);
        match zero.or_else(|| positive_number(value)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.invalid(key, value, "a number, 0 or above, in the range of f32")),
        }
    }

    /// One token id or a list of them: those of the vocabulary. Others are noticed: no text has them, so they
    /// change nothing.
    pub fn token_ids(&mut self, key: &'static str, vocabulary: usize) -> Result<Vec<u32>> {
        let Some(value) = self.value(key) else { return Ok(Vec::new()) };
        let given = match value {
            Value::Array(ids) => ids.as_slice(),
            single => std::slice::from_ref(single),
        };
        if given.iter().any(|id| !id.is_i64() && !id.is_u64()) {
            return Err(self.invalid(key, value, "a token id or a list of them"));
        }
        let in_vocabulary = |id: &Value| id.as_u64().filter(|&id| id < vocabulary as u64);
        let ids: Vec<u32> = given.iter().filter_map(in_vocabulary).map(|id| id as u32).collect();
        if ids.len() < given.len() {
            self.notice(format!(
                "`{}` = {} is not below `{}` = {vocabulary}: no text has that token",
                self.name(key),
                shortened(value),
                self.name("vocab_size")
            ));
        }
        Ok(ids)
    }

    /// The value of a field of a few allowed values, most often absent: not counted as one that another may be a
    /// misspelling of.
    pub fn known_value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// Numbers above zero, as many as `count`, without which the result is not defined.
    pub fn required_positives(&mut self, key: &'static str, count: usize) -> Result<Vec<f64>> {
        let value = self.value(key).ok_or_else(|| self.missing(key))?;
        let numbers = value.as_array().filter(|values| values.len() == count);
        let numbers = numbers.and_then(|values| values.iter().map(positive_number).collect());
        numbers.ok_or_else(|| {
            self.invalid(key, value, format!("a list of {count} numbers above 0 in the range of f32"))
        })
    }

    /// Names of the fields that were not looked at and say something about the model.
    pub fn unread(&self) -> Vec<String> {
        let is_read = |key: &str| self.read.contains(&key) || self.known.contains(&key);
        let unread = self.json.keys().filter(|key| !is_read(key) && !BOOKKEEPING.contains(&key.as_str()));
        unread.map(|key| shortened_text(&self.name(key))).collect()
    }

    /// Fails unless the field is absent or `supported` says yes to its value; `what` says which values those are.
    pub fn only(
        &mut self,
        key: &'static str,
        what: &str,
        supported: impl FnOnce(&Value) -> bool,
    ) -> Result<()> {
        match self.known_value(key) {
            Some(value) if !supported(value) => {
                let (name, value) = (self.name(key), shortened(value));
                Err(self.error(format!("`{name}` = {value} is not supported; supported: {what}")))
            }
            _ => Ok(()),
        }
    }

    /// Keeps what a person should know about the file.
    pub fn notice(&mut self, text: impl std::fmt::Display) {
        self.notices.push(format!("{}: {text}", self.path.display()));
    }

    /// Notices fields that are not read and are spelt almost as one that is read and is not there.
    pub fn notice_misspelt(&mut self) {
        let absent: Vec<&str> =
            self.read.iter().copied().filter(|key| !self.json.contains_key(*key)).collect();
        let mut misspelt = Vec::new();
        for key in self.json.keys().filter(|key| !self.read.contains(&key.as_str())) {
            let likeness = |name: &str| strsim::normalized_damerau_levenshtein(key, name);
            let nearest = absent.iter().max_by(|one, two| likeness(one).total_cmp(&likeness(two)));
            if let Some(nearest) = nearest.filter(|nearest| likeness(nearest) >= ALIKE) {
                misspelt.push((shortened_text(key), *nearest));
            }
        }
        for (key, nearest) in misspelt {
            let (key, nearest) = (self.name(&key), self.name(nearest));
            self.notice(format!(
                "`{key}` is not read; `{nearest}`, which is, is missing and takes its default"
            ));
        }
    }

    /// Takes over what was noticed about an object inside this one.
    pub fn take_notices(&mut self, inner: Fields<'_>) {
        self.notices.extend(inner.notices);
    }

    /// What has been noticed.
    pub fn into_notices(self) -> Vec<String> {
        self.notices
    }

    /// The error for a field whose value has the wrong type or range.
    pub fn invalid(&self, key: &str, value: &Value, expected: impl std::fmt::Display) -> Error {
        self.error(format!("`{}` = {} must be {expected}", self.name(key), shortened(value)))
    }

    pub fn missing(&self, key: &str) -> Error {
        self.error(format!("`{}` is missing", self.name(key)))
    }

    pub fn error(&self, reason: impl Into<String>) -> Error {
        Error::format(self.path, reason)
    }
}

/// A number above zero that f32 holds with all its digits.
fn positive_number(value: &Value) -> Option<f64> {
    value.as_f64().filter(|&number| number > 0.0 && (number as f32).is_normal())
}

/// The value as JSON on one line, cut after 60 characters.
pub(super) fn shortened(value: &Value) -> String {
    shortened_text(&value.to_string())
}

fn shortened_text(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}
