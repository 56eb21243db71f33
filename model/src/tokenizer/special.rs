//! What a model folder says about special tokens, beside `tokenizer.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::adapter::model_file;
use crate::error::{Error, Result};
use crate::files::read_input_json;

const NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// A token that a folder adds to `tokenizer.json`'s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FolderToken {
    pub text: String,
    pub special: bool,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
}

impl FolderToken {
    /// A token that is only named.
    pub fn named(text: &str, special: bool) -> Self {
        let text = text.to_owned();
        Self { text, special, single_word: false, lstrip: false, rstrip: false, normalized: false }
    }

    /// A token with the flags that `value` gives it; without the flag, special ones alone are not normalized.
    fn flagged(text: &str, special: bool, value: &Value) -> Self {
        let flag = |name: &str, default: bool| value[name].as_bool().unwrap_or(default);
        Self {
            text: text.to_owned(),
            special,
            single_word: flag("single_word", false),
            lstrip: flag("lstrip", false),
            rstrip: flag("rstrip", false),
            normalized: flag("normalized", !special),
        }
    }
}

/// A token with a meaning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SpecialToken {
    /// What it is called, such as `eos_token`.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Its id, where it is a token of its own.
    pub id: Option<u32>,
}

/// Special tokens as `tokenizer_config.json`, `special_tokens_map.json`, `added_tokens.json`,
/// `generation_config.json` and `config.json` name them, and what decides how transformers reads
/// `tokenizer.json`.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpecialNames {
    /// `bos_token`, `eos_token`, … and their strings; chat templates use them.
    pub named: BTreeMap<String, String>,
    /// Names that the folder says to have no token (`null`): a class's own token is not put in their place.
    pub without: BTreeSet<String>,
    /// Names beyond the usual seven, in the order in which the folder gives them.
    pub further: Vec<String>,
    /// BOS and EOS of the tokenizer class that the tokenizer does not know: new tokens that begin and end nothing.
    pub unknown: BTreeMap<String, String>,
    /// Named tokens that are written with flags (`{"content": …, "lstrip": …}`), by string.
    pub flagged: BTreeMap<String, FolderToken>,
    /// Strings of further special tokens.
    pub additional: Vec<String>,
    /// `added_tokens_decoder`, in the order of its ids; `None` without that key.
    pub added_decoder: Option<Vec<FolderToken>>,
    /// `added_tokens.json`, in the order of its ids.
    pub added_file: Vec<FolderToken>,
    /// `eos_token_id` of `generation_config.json`: what generation ends at.
    pub generation_eos: Vec<u32>,
    /// `eos_token_id` of `config.json`.
    pub model_eos: Vec<u32>,
    /// `bos_token_id` of the same.
    pub bos_id: Option<u32>,
    /// `vocab_size` of `config.json`: tokens the model has embeddings for.
    pub embeddings: Option<usize>,
    /// `tokenizer_class` of `tokenizer_config.json`.
    pub declared_class: Option<String>,
    /// `tokenizer_class` of `config.json`.
    pub model_class: Option<String>,
    /// `model_type` of `config.json`.
    pub model_type: Option<String>,
    /// Whether `auto_map` of `tokenizer_config.json` names a tokenizer in the folder's own Python code.
    pub has_own_code: bool,
    /// `split_special_tokens` of `tokenizer_config.json`: special tokens in a text are ordinary text.
    pub split_special_tokens: bool,
    /// `legacy` of `tokenizer_config.json`.
    pub legacy: bool,
    /// `add_prefix_space` of the same.
    pub add_prefix_space: Option<bool>,
}

impl SpecialNames {
    /// Reads those of the files that exist.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut names = Self::default();
        let config = read_input_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        names.added_decoder = added_decoder(&folder.join("tokenizer_config.json"), &config)?;
        names.legacy = config["legacy"].as_bool().unwrap_or(false);
        names.add_prefix_space = config["add_prefix_space"].as_bool();
        names.split_special_tokens = config["split_special_tokens"].as_bool().unwrap_or(false);
        names.has_own_code = config["auto_map"].is_array() || !config["auto_map"]["AutoTokenizer"].is_null();
        names.read_names(&config, false);
        if let Some(map) = read_input_json(&folder.join("special_tokens_map.json"))? {
            // Transformers reads this older file only where no `added_tokens_decoder` stands, and then it
            // has the last word. Names that stand only there are good for us in any case.
            names.read_names(&map, names.added_decoder.is_none());
        }
        if names.added_decoder.is_none() {
            names.read_added_file(&folder.join("added_tokens.json"))?;
        }
        let path = model_file(folder, "generation_config.json")?;
        let mut bos = None;
        if let Some(json) = read_input_json(&path)? {
            names.generation_eos = ids(&path, "eos_token_id", &json["eos_token_id"])?;
            bos = ids(&path, "bos_token_id", &json["bos_token_id"])?.first().copied();
        }
        let path = model_file(folder, "config.json")?;
        let model = read_input_json(&path)?.unwrap_or_default();
        names.model_eos = ids(&path, "eos_token_id", &model["eos_token_id"])?;
        names.bos_id = bos.or(ids(&path, "bos_token_id", &model["bos_token_id"])?.first().copied());
        names.embeddings = model["vocab_size"].as_u64().map(|size| size as usize);
        names.model_type = model["model_type"].as_str().map(str::to_owned);
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        names.declared_class = text(&config["tokenizer_class"]);
        names.model_class = text(&model["tokenizer_class"]);
        Ok(names)
    }

    /// Names of `json`, which replace earlier ones where `overrides` says so.
    fn read_names(&mut self, json: &Value, overrides: bool) {
        for (name, value) in
            json.as_object().into_iter().flatten().filter(|(name, _)| name.ends_with("_token"))
        {
            if let Some(text) = token_text(value)
                && (overrides || !self.named.contains_key(name))
            {
                if value.is_object() {
                    self.flagged.insert(text.clone(), FolderToken::flagged(&text, true, value));
                }
                self.name(name, text);
            } else if value.is_null() {
                self.without.insert(name.clone());
            }
        }
        if let Some(extra) = json["extra_special_tokens"].as_object() {
            for (name, text) in extra.iter().filter_map(|(name, token)| Some((name, token_text(token)?))) {
                self.name(name, text);
            }
        }
        // The older list counts only where the newer one does not stand.
        let lists = ["extra_special_tokens", "additional_special_tokens"];
        let list = lists.iter().filter_map(|list| json[list].as_array()).find(|list| !list.is_empty());
        for text in list.into_iter().flatten().filter_map(token_text) {
            if !self.additional.contains(&text) {
                self.additional.push(text);
            }
        }
    }

    fn name(&mut self, name: &str, text: String) {
        if !NAMES.contains(&name) && !self.further.iter().any(|known| known == name) {
            self.further.push(name.to_owned());
        }
        self.named.insert(name.to_owned(), text);
    }

    /// Gives the folder a token that its tokenizer class names where the folder says nothing. One that begins
    /// or ends sequences counts as such only where the tokenizer knows it.
    pub fn name_by_default(&mut self, name: &str, text: &str, is_known: bool) {
        if self.named.contains_key(name) || self.without.contains(name) {
            return;
        }
        if is_known || !["bos_token", "eos_token"].contains(&name) {
            self.name(name, text.to_owned());
        } else {
            self.unknown.insert(name.to_owned(), text.to_owned());
        }
    }

    fn read_added_file(&mut self, path: &Path) -> Result<()> {
        let Some(json) = read_input_json(path)? else { return Ok(()) };
        let mut entries: Vec<(u64, &String)> = json
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(text, id)| Some((id.as_u64()?, text)))
            .collect();
        entries.sort_unstable();
        let token = |(_, text): (u64, &String)| FolderToken::flagged(text, self.names(text), &Value::Null);
        self.added_file = entries.into_iter().map(token).collect();
        Ok(())
    }

    /// Whether the folder, or its tokenizer class, names this string as a special token.
    pub fn names(&self, text: &str) -> bool {
        self.in_order().any(|name| name == text)
    }

    /// Whether sequences begin or end with this token.
    pub fn delimits(&self, text: &str) -> bool {
        ["bos_token", "eos_token"].iter().any(|name| self.named.get(*name).is_some_and(|named| named == text))
    }

    /// The strings of all named tokens, in the order in which transformers adds those that are missing.
    pub fn in_order(&self) -> impl Iterator<Item = &String> {
        let usual = NAMES.iter().filter_map(|name| self.named.get(*name).or_else(|| self.unknown.get(*name)));
        usual.chain(self.further.iter().filter_map(|name| self.named.get(name))).chain(&self.additional)
    }
}

/// The tokens of `added_tokens_decoder`, `{"id": {"content": …, "special": …}}`, by rising id.
fn added_decoder(path: &Path, config: &Value) -> Result<Option<Vec<FolderToken>>> {
    let Some(entries) = config["added_tokens_decoder"].as_object() else { return Ok(None) };
    let mut tokens = Vec::with_capacity(entries.len());
    for (id, token) in entries {
        let parsed = id.parse::<u32>().ok().zip(token["content"].as_str().filter(|text| !text.is_empty()));
        let (id, text) = parsed.ok_or_else(|| {
            let reason = format!(
                "`added_tokens_decoder` has the entry `{}`, which is not an id with a `content`",
                id.escape_debug()
            );
            Error::format(path, reason)
        })?;
        let special = token["special"].as_bool().unwrap_or(false);
        tokens.push((id, FolderToken::flagged(text, special, token)));
    }
    tokens.sort_by_key(|(id, _)| *id);
    Ok(Some(tokens.into_iter().map(|(_, token)| token).collect()))
}

/// A token is a string, or an object that holds it as `content`.
fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).filter(|text| !text.is_empty()).map(str::to_owned)
}

/// Token ids of a key. One that no tokenizer has (`-1`, written for "none") is left out, as the reader of
/// `config.json` does.
fn ids(path: &Path, key: &str, value: &Value) -> Result<Vec<u32>> {
    let bad = |value: &Value| {
        Error::format(path, format!("`{key}` is {value}: it must be a token id or a list of them"))
    };
    let values = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(values) => values.as_slice(),
        value => std::slice::from_ref(value),
    };
    if let Some(value) = values.iter().find(|value| !value.is_i64() && !value.is_u64()) {
        return Err(bad(value));
    }
    Ok(values.iter().filter_map(|value| u32::try_from(value.as_u64()?).ok()).collect())
}
