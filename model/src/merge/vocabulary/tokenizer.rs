//! `tokenizer.json` as a list of tokens, and with others added.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::error::{Error, FileAction, Result, clip};
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

/// The tokens of a tokenizer.
#[derive(Debug)]
pub(super) struct Tokenizer {
    pub path: PathBuf,
    /// Numbers of all tokens, those that were added too.
    pub tokens: BTreeMap<String, usize>,
    /// Those that were added to its model, with their settings.
    added: Vec<Value>,
}

/// The tokenizer that the merged model has.
#[derive(Debug)]
pub(super) struct Target {
    path: PathBuf,
    json: Value,
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

/// Whether a folder has a tokenizer in a form that is not read.
pub(super) fn has_other_form(folder: &Path) -> Result<bool> {
    Ok(other_form(folder)?.is_some())
}

/// The first file of a folder, by name, that has a tokenizer in another form.
fn other_form(folder: &Path) -> Result<Option<String>> {
    let entries = std::fs::read_dir(folder).map_err(Error::file(folder, FileAction::Read))?;
    let mut names: Vec<String> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::file(folder, FileAction::Read))?;
        names.extend(entry.file_name().into_string());
    }
    names.retain(|name| OTHER_FORMS.contains(&name.as_str()) || name.ends_with(".tiktoken"));
    Ok(names.into_iter().min())
}

/// The error of a folder without the file that is needed.
fn missing(folder: &Path) -> Error {
    let hint = match other_form(folder) {
        Ok(Some(name)) => format!(", and `{name}` is not read for that"),
        _ => String::new(),
    };
    Error::format(&folder.join(FILE), format!("is missing: it says which token has which row{hint}"))
}

/// Reads a file of JSON, whose bytes these are.
fn json_of(path: &Path, bytes: &[u8]) -> Result<Value> {
    serde_json::from_slice(bytes).map_err(|error| Error::format(path, format!("is not JSON: {error}")))
}

/// Fails where there are no tokens, or two of them have one number.
fn require_rows(path: &Path, tokens: &BTreeMap<String, usize>) -> Result<()> {
    if tokens.is_empty() {
        return Err(Error::format(path, "has no tokens"));
    }
    let mut by_number: Vec<(usize, &str)> =
        tokens.iter().map(|(token, number)| (*number, token.as_str())).collect();
    by_number.sort_unstable();
    match by_number.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(()),
        Some(pair) => {
            let (number, one, other) = (pair[0].0, clip(pair[0].1), clip(pair[1].1));
            Err(Error::format(
                path,
                format!("the tokens `{one}` and `{other}` would both have the number {number}"),
            ))
        }
    }
}

impl Tokenizer {
    /// The tokenizer of a folder, where there is one.
    ///
    /// # Errors
    /// It cannot be read, is no JSON, has no tokens, or several with one number.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let Some(bytes) = read(folder)? else { return Ok(None) };
        let tokenizer = Self::parse(folder, &bytes)?;
        require_rows(&tokenizer.path, &tokenizer.tokens)?;
        Ok(Some(tokenizer))
    }

    /// The same where there must be one.
    pub fn require(folder: &Path) -> Result<Self> {
        Self::read(folder)?.ok_or_else(|| missing(folder))
    }

    /// The tokens from the bytes of a folder's file.
    ///
    /// # Errors
    /// It is no JSON.
    pub fn parse(folder: &Path, bytes: &[u8]) -> Result<Self> {
        let path = folder.join(FILE);
        let json = json_of(&path, bytes)?;
        Ok(Self { path, tokens: tokens(&json), added: added(json.get("added_tokens")) })
    }

    /// The first token that another tokenizer numbers otherwise, in words that end with "it is …".
    pub fn difference(&self, other: &Self) -> Option<String> {
        let (ours, theirs) = (&self.tokens, &other.tokens);
        let number = |id: Option<&usize>| id.map_or("not there".to_owned(), |id| format!("number {id}"));
        let token = theirs.keys().chain(ours.keys()).find(|token| ours.get(*token) != theirs.get(*token))?;
        let (theirs, ours) = (number(theirs.get(token)), number(ours.get(token)));
        Some(format!("the token `{}` is {theirs}, it is {ours}", clip(token)))
    }

    /// The tokens that were added to its model, but for those that are left out.
    fn added(&self) -> Vec<Value> {
        let is_there = |token: &&Value| content(token).is_some_and(|token| self.tokens.contains_key(&token));
        self.added.iter().filter(is_there).cloned().collect()
    }
}

impl Target {
    /// The tokenizer of a folder.
    ///
    /// # Errors
    /// As [`Tokenizer::require`].
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let bytes = read(folder)?.ok_or_else(|| missing(folder))?;
        let json = json_of(&path, &bytes)?;
        let tokens = tokens(&json);
        require_rows(&path, &tokens)?;
        Ok(Self { path, json, tokens, is_changed: false })
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
        let continuing = model.as_ref().and_then(|model| model["continuing_subword_prefix"].as_str());
        let continuing = continuing.unwrap_or_default().to_owned();
        let vocabulary = model.as_mut().and_then(|model| model.get_mut("vocab"));
        if let Some(vocabulary) = vocabulary.and_then(Value::as_object_mut) {
            vocabulary.retain(|token, value| {
                let is_kept = number(value).is_some_and(|number| number < rows);
                is_kept || !gone.insert(token.clone())
            });
        }
        let merges = model.as_mut().and_then(|model| model.get_mut("merges"));
        if let Some(merges) = merges.and_then(Value::as_array_mut) {
            merges.retain(|merge| {
                let parts: Vec<&str> = match merge {
                    Value::String(pair) => pair.split(' ').collect(),
                    pair => pair.as_array().into_iter().flatten().filter_map(Value::as_str).collect(),
                };
                // What they become must be there too: the library refuses the file otherwise.
                let joined = parts.iter().enumerate().map(|(index, part)| match index {
                    0 => part,
                    _ => part.strip_prefix(continuing.as_str()).unwrap_or(part),
                });
                let joined: String = joined.collect();
                parts.iter().all(|part| !gone.contains(*part)) && !gone.contains(&joined)
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
    pub fn add(&mut self, others: &[Tokenizer]) -> Result<()> {
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
        let with_settings: Vec<Value> = others.iter().flat_map(Tokenizer::added).collect();
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

    /// Fails where the library would give other numbers to tokens than the file says: it numbers those that are added to its
    /// model itself, whatever stands there, from the number of the model's tokens on.
    ///
    /// # Errors
    /// The first such token; two tokens with one number.
    pub fn require_numbers(&self) -> Result<()> {
        require_rows(&self.path, &self.tokens)?;
        if !self.is_changed {
            return Ok(());
        }
        let (of_model, mut seen) = (tokens_of_model(&self.json), HashSet::new());
        let mut next = of_model.len();
        for token in self.json["added_tokens"].as_array().into_iter().flatten() {
            let Some(name) = content(token).filter(|name| seen.insert(name.clone())) else { continue };
            let expected = of_model.get(&name).copied().unwrap_or(next);
            next = next.max(expected + 1);
            if number(&token["id"]) != Some(expected) {
                let reason = format!(
                    "numbers are not consecutive: the added token `{}` has the number {}, and libraries that read the merged \
                     tokenizer give it {expected}",
                    clip(&name),
                    token["id"]
                );
                return Err(Error::format(&self.path, reason));
            }
        }
        Ok(())
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
    let mut tokens = tokens_of_model(json);
    let added = json["added_tokens"].as_array().into_iter().flatten();
    tokens.extend(
        added.filter_map(|token| Some((token["content"].as_str()?.to_owned(), number(&token["id"])?))),
    );
    tokens
}

/// Numbers of the tokens that were not added.
fn tokens_of_model(json: &Value) -> BTreeMap<String, usize> {
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
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(folder: &Path, vocabulary: Value, merges: Value, added: Value) -> Target {
        let json = json!({ "version": "1.0", "added_tokens": added,
            "model": { "type": "BPE", "vocab": vocabulary, "merges": merges } });
        std::fs::write(folder.join(FILE), json.to_string()).unwrap();
        Target::read(folder).unwrap()
    }

    fn token(number: usize, text: &str) -> Value {
        json!({ "id": number, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true })
    }

    /// As the library reads what is written.
    fn loaded(target: Target) -> tokenizers::Tokenizer {
        let tokens = target.tokens.clone();
        let made = target.into_files(true).unwrap().made;
        let (_, text) = made.iter().find(|(name, _)| name == FILE).unwrap();
        let loaded: tokenizers::Tokenizer = text.parse().unwrap();
        let numbers = loaded.get_vocab(true).into_iter().map(|(token, number)| (token, number as usize));
        assert_eq!(numbers.collect::<BTreeMap<_, _>>(), tokens);
        loaded
    }

    #[test]
    fn merges_of_tokens_that_are_gone_are_gone() {
        let folder = tempfile::tempdir().unwrap();
        let vocabulary = json!({ "a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4 });
        for merges in [json!(["a b", "ab c"]), json!([["a", "b"], ["ab", "c"]])] {
            let mut target = target(folder.path(), vocabulary.clone(), merges, json!([token(5, "<s>")]));
            target.strip(4).unwrap();
            target.require_numbers().unwrap();
            assert_eq!(loaded(target).encode("abc", false).unwrap().get_ids(), [3, 2]);
        }
    }

    #[test]
    fn added_tokens_have_the_numbers_that_the_library_gives() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        target(other.path(), json!({ "z": 0, "y": 1 }), json!([]), json!([token(2, "<t>")]));
        let others = [Tokenizer::require(other.path()).unwrap()];
        let union = |vocabulary: Value, added: Value| {
            let mut target = target(folder.path(), vocabulary, json!([]), added);
            target.add(&others).unwrap();
            target.require_numbers().map(|()| target).map_err(|error| error.to_string())
        };
        let target = union(json!({ "a": 0, "b": 1 }), json!([token(2, "<s>")])).unwrap();
        assert_eq!(loaded(target).token_to_id("<t>"), Some(5));
        // Two tokens, one of which has the number that the first new one gets.
        let message = union(json!({ "a": 0, "b": 3 }), json!([])).unwrap_err();
        assert!(message.contains("the tokens `b` and `y` would both have the number 3"), "{message}");
        let message = union(json!({ "a": 0, "b": 1 }), json!([token(7, "<s>")])).unwrap_err();
        assert!(message.contains("`<s>` has the number 7") && message.ends_with("give it 2"), "{message}");
    }
}
