//! `tokenizer.json` as a list of tokens, and with others added.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Error, Result, clip};
use crate::files::{MOST_TOKENIZER_BYTES, json_text, parent, read_input, read_input_json};

/// Name of the file that says which token has which number.
pub(super) const FILE: &str = "tokenizer.json";

/// Names of the files of a tokenizer that say the same in another form, and say it of the old one where tokens are added.
const OTHER_FORMS: [&str; 12] = [
    "tokenizer.model",
    "tokenizer.model.v1",
    "tokenizer.model.v3",
    "tekken.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "vocab.bpe",
    "encoder.json",
    "merges.txt",
];

/// Settings of a tokenizer, where those of added tokens may stand again.
const SETTINGS: &str = "tokenizer_config.json";

/// Key of these.
const DECODER: &str = "added_tokens_decoder";

/// Numbers of tokens from here on are the mark of a damaged file.
const MOST_TOKENS: usize = 1 << 24;

/// A tokenizer.
#[derive(Debug)]
pub(super) struct Tokenizer {
    pub path: PathBuf,
    pub json: Value,
    /// Numbers of all tokens, those that were added too.
    pub tokens: BTreeMap<String, usize>,
    /// Whether it is no longer what the file says.
    is_changed: bool,
}

/// What becomes of a tokenizer's files.
#[derive(Debug)]
pub(in super::super) struct TokenizerFiles {
    /// The folder that they are copied from, where it is not the first model's.
    pub folder: Option<PathBuf>,
    /// Names of those that are left out.
    pub left_out: Vec<&'static str>,
    /// Name and content of those that are made.
    pub made: Vec<(String, String)>,
}

/// The bytes of a folder's `tokenizer.json`, where there is one.
pub(super) fn read(folder: &Path) -> Result<Option<Vec<u8>>> {
    let path = folder.join(FILE);
    path.is_file().then(|| read_input(&path, MOST_TOKENIZER_BYTES)).transpose()
}

impl Tokenizer {
    /// The tokenizer of a folder, where there is one.
    ///
    /// # Errors
    /// It cannot be read, or is no JSON.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        read(folder)?.map(|bytes| Self::parse(folder, &bytes)).transpose()
    }

    /// The same from the bytes of its file.
    pub fn parse(folder: &Path, bytes: &[u8]) -> Result<Self> {
        let path = folder.join(FILE);
        let json: Value = serde_json::from_slice(bytes)
            .map_err(|error| Error::format(&path, format!("is not JSON: {error}")))?;
        let tokens = tokens(&json);
        Ok(Self { path, json, tokens, is_changed: false })
    }

    /// The first token that another tokenizer numbers otherwise, in words that end with "it is …".
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (ours, theirs) = (&self.tokens, &other.tokens);
        let number = |id: Option<&usize>| id.map_or("not there".to_owned(), |id| format!("number {id}"));
        let token = theirs.keys().chain(ours.keys()).find(|token| ours.get(*token) != theirs.get(*token))?;
        let (theirs, ours) = (number(theirs.get(token)), number(ours.get(token)));
        Some(format!("the token `{}` is {theirs}, it is {ours}", clip(token)))
    }

    /// Leaves out tokens that no row is there for, as mergekit does.
    ///
    /// # Errors
    /// They are tokens of a model that is no BPE: what becomes of the others is not known.
    pub fn strip(&mut self, rows: usize) -> Result<()> {
        if self.tokens.values().all(|number| *number < rows) {
            return Ok(());
        }
        self.is_changed = true;
        if let Some(added) = self.json.get_mut("added_tokens").and_then(Value::as_array_mut) {
            added.retain(|token| number(&token["id"]).is_some_and(|number| number < rows));
        }
        let is_bpe = self.json["model"]["type"] == "BPE";
        let mut gone = HashSet::new();
        let mut model = self.json.get_mut("model");
        let vocabulary = model.as_mut().and_then(|model| model.get_mut("vocab"));
        if let Some(vocabulary) = vocabulary.and_then(Value::as_object_mut) {
            vocabulary.retain(|token, value| {
                let is_kept = number(value).is_some_and(|number| number < rows);
                is_kept || !gone.insert(token.clone())
            });
        }
        let merges = model.as_mut().and_then(|model| model.get_mut("merges"));
        if let Some(merges) = merges.and_then(Value::as_array_mut) {
            merges.retain(|merge| match merge {
                Value::String(pair) => pair.split(' ').all(|token| !gone.contains(token)),
                pair => {
                    let mut tokens = pair.as_array().into_iter().flatten().filter_map(Value::as_str);
                    tokens.all(|token| !gone.contains(token))
                }
            });
        }
        let is_list = self.json["model"]["vocab"].as_array().is_some_and(|tokens| tokens.len() > rows);
        if is_list || (!gone.is_empty() && !is_bpe) {
            let reason = format!(
                "has more tokens than config.json says that there are rows, {rows}: only BPE can do without"
            );
            return Err(Error::format(&self.path, reason));
        }
        self.tokens = tokens(&self.json);
        Ok(())
    }

    /// Adds the tokens of other tokenizers that this one does not have: those of their models, then those that were added
    /// to them, which keep their settings.
    ///
    /// # Errors
    /// The file is no tokenizer.
    pub fn add(&mut self, others: &[Self]) -> Result<()> {
        let Some(object) = self.json.as_object_mut() else {
            return Err(Error::format(&self.path, "is no object of JSON"));
        };
        let vocabulary = match object.get("model").and_then(|model| model.get("vocab")) {
            Some(Value::Object(vocabulary)) => vocabulary.len(),
            Some(Value::Array(vocabulary)) => vocabulary.len(),
            _ => 0,
        };
        let mut entries = added(object.get("added_tokens"));
        let mut ours: HashSet<String> = entries.iter().filter_map(content).collect();
        // The library numbers added tokens in this way when it reads them.
        let last = entries.iter().filter_map(|token| number(&token["id"])).max();
        let mut next = last.map_or(vocabulary, |last| vocabulary.max(last + 1));
        let with_settings: Vec<Value> = others.iter().flat_map(Self::added).collect();
        let is_plain = {
            let named: HashSet<String> = with_settings.iter().filter_map(content).collect();
            move |token: &str| !named.contains(token)
        };
        let mut plain = Vec::new();
        for other in others {
            let tokens = other.tokens.iter().map(|(token, number)| (*number, token.as_str()));
            let mut tokens: Vec<(usize, &str)> = tokens.filter(|(_, token)| is_plain(token)).collect();
            tokens.sort_unstable();
            plain.extend(tokens.into_iter().map(|(_, token)| token));
        }
        let plain = plain.into_iter().filter(|token| !self.tokens.contains_key(*token));
        let plain: Vec<Value> = plain.map(|token| json!({ "content": token })).collect();
        for token in plain.iter().chain(&with_settings) {
            let Some(name) = content(token).filter(|name| ours.insert(name.clone())) else { continue };
            let number = *self.tokens.entry(name.clone()).or_insert_with(|| {
                next += 1;
                next - 1
            });
            let is_special = token["special"].as_bool().unwrap_or(false);
            let flag = |key: &str, default: bool| token[key].as_bool().unwrap_or(default);
            entries.push(json!({
                "id": number,
                "content": name,
                "single_word": flag("single_word", false),
                "lstrip": flag("lstrip", false),
                "rstrip": flag("rstrip", false),
                "normalized": flag("normalized", !is_special),
                "special": is_special,
            }));
            self.is_changed = true;
        }
        entries.sort_by_key(|token| number(&token["id"]));
        object.insert("added_tokens".to_owned(), Value::Array(entries));
        Ok(())
    }

    /// The tokens that were added to its model, but for those that are left out.
    fn added(&self) -> Vec<Value> {
        let is_there = |token: &Value| content(token).is_some_and(|token| self.tokens.contains_key(&token));
        added(self.json.get("added_tokens")).into_iter().filter(is_there).collect()
    }

    /// What becomes of the files in its folder.
    ///
    /// # Errors
    /// The folder's settings cannot be read.
    pub fn into_files(self, is_of_first: bool) -> Result<TokenizerFiles> {
        let folder = parent(&self.path).to_owned();
        let mut files = TokenizerFiles {
            folder: (!is_of_first).then(|| folder.clone()),
            left_out: Vec::new(),
            made: Vec::new(),
        };
        if !self.is_changed {
            return Ok(files);
        }
        files.left_out.extend(OTHER_FORMS);
        if let Some(mut settings) = read_input_json(&folder.join(SETTINGS))?
            && settings.get(DECODER).is_some_and(Value::is_object)
        {
            settings[DECODER] = Value::Object(self.decoder());
            files.made.push((SETTINGS.to_owned(), json_text(SETTINGS.as_ref(), &settings)?));
        }
        files.made.push((FILE.to_owned(), json_text(FILE.as_ref(), &self.json)?));
        Ok(files)
    }

    /// The added tokens by their numbers, as in `tokenizer_config.json`.
    fn decoder(&self) -> Map<String, Value> {
        let entry = |token: &Value| {
            let mut settings = token.as_object()?.clone();
            let number = settings.remove("id")?;
            Some((number.to_string(), Value::Object(settings)))
        };
        self.json["added_tokens"].as_array().into_iter().flatten().filter_map(entry).collect()
    }
}

/// A token's number; there are far fewer tokens than [`MOST_TOKENS`].
fn number(value: &Value) -> Option<usize> {
    usize::try_from(value.as_u64()?).ok().filter(|number| *number < MOST_TOKENS)
}

fn content(token: &Value) -> Option<String> {
    token["content"].as_str().map(str::to_owned)
}

fn added(value: Option<&Value>) -> Vec<Value> {
    value.and_then(Value::as_array).cloned().unwrap_or_default()
}

/// Numbers of all tokens.
fn tokens(json: &Value) -> BTreeMap<String, usize> {
    let mut tokens = BTreeMap::new();
    match &json["model"]["vocab"] {
        Value::Object(vocabulary) => {
            tokens.extend(vocabulary.iter().filter_map(|(token, id)| Some((token.clone(), number(id)?))));
        }
        // Of unigram models a list of tokens with their scores.
        Value::Array(vocabulary) => {
            let token = |(id, entry): (usize, &Value)| Some((entry.get(0)?.as_str()?.to_owned(), id));
            tokens.extend(vocabulary.iter().enumerate().filter_map(token));
        }
        _ => {}
    }
    let added = json["added_tokens"].as_array().into_iter().flatten();
    tokens.extend(
        added.filter_map(|token| Some((token["content"].as_str()?.to_owned(), number(&token["id"])?))),
    );
    tokens
}
