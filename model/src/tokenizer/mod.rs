//! The tokenizer of a model folder: `tokenizer.json` and what stands beside it.
//!
//! Text from data never becomes a control token, whatever it says (see [`control`]); control tokens come
//! only from the tokenizer's own prefix (BOS), from the chat template, and as EOS after an answer.

pub(crate) mod control;
mod special;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokenizers::{Encoding, PostProcessor, Token};

use crate::data::chat::ChatTemplate;
use crate::error::{Error, Reasoned, Result};
use crate::files;
use control::{ControlToken, ControlTokens, refuse_reserved};
use special::SpecialNames;
pub(crate) use special::read_json;

/// Text to token ids and back, as the model folder defines it.
pub struct Tokenizer {
    path: PathBuf,
    inner: tokenizers::Tokenizer,
    controls: ControlTokens,
    /// What the post-processor puts before a text: BOS or nothing.
    prefix: Vec<u32>,
    bos: Option<u32>,
    eos: u32,
    stop: Vec<u32>,
    vocabulary_size: usize,
    names: BTreeMap<String, String>,
    chat_template: Option<(PathBuf, String)>,
    fingerprint: blake3::Hash,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, with `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json`, `config.json` and `chat_template.jinja` where they exist.
    ///
    /// EOS is `eos_token`, else the first `eos_token_id`; BOS precedes a prompt when `add_bos_token` says
    /// so, or without that key when the tokenizer's post-processor does.
    ///
    /// # Errors
    /// When a file is missing or cannot be used, or no end-of-sequence token is named anywhere.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        if !path.exists() && folder.join("tokenizer.model").is_file() {
            let reason = "has tokenizer.model and no tokenizer.json, which is read: in Python, \
                          `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` writes it";
            return Err(Error::format(folder, reason));
        }
        let bytes = files::read_input(&path, files::MOST_TOKENIZER_BYTES)?;
        if let Some(reason) = files::looks_like(&bytes) {
            return Err(Error::format(&path, reason));
        }
        let mut json: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Error::format(&path, format!("is not JSON: {error}")))?;
        let names = SpecialNames::read(folder)?;
        let chat_template = crate::data::chat::find_template(folder)?;
        let bad = |reason: String| Error::format(&path, reason);

        let controls = rename_control_tokens(&mut json, &names).map_err(bad)?;
        let vocabulary_size = vocabulary_size(&json);
        let inner = tokenizers::Tokenizer::from_bytes(json.to_string().as_bytes())
            .map_err(|error| bad(format!("is not a tokenizer this program can load: {error}")))?;
        for token in controls.iter() {
            if inner.token_to_id(&ControlTokens::alias(token.id)) != Some(token.id) {
                return Err(bad(format!("`{}` does not have the id {} it is given", token.text, token.id)));
            }
        }

        let id_of = |name: &str| -> Result<Option<u32>> {
            let Some(text) = names.named.get(name) else { return Ok(None) };
            let token = controls.iter().find(|token| token.text == *text);
            match token {
                Some(token) => Ok(Some(token.id)),
                None => Err(bad(format!("has no token `{text}`, which the folder names as its {name}"))),
            }
        };
        let named_eos = id_of("eos_token")?;
        let is_control = |id: &u32| controls.iter().any(|token| token.id == *id);
        let bos = match id_of("bos_token")? {
            Some(bos) => Some(bos),
            None => names.bos_id.filter(is_control),
        };
        // Model configurations often carry default ids that mean nothing in their tokenizer: beside a named
        // EOS they count only when they are control tokens.
        let listed = names.eos_ids.iter().filter(|id| Some(**id) != named_eos && is_control(id));
        let stop: Vec<u32> = named_eos.iter().chain(listed).copied().collect();
        let eos = *stop.first().ok_or_else(|| {
            bad("no end-of-sequence token is known: name `eos_token` in tokenizer_config.json".into())
        })?;
        let prefix = match (names.add_bos, bos) {
            (Some(true), Some(bos)) => vec![bos],
            (Some(_), _) => Vec::new(),
            (None, _) => post_processor_prefix(&inner).map_err(bad)?,
        };

        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        hasher.update(format!("{prefix:?} {stop:?} {names:?} {chat_template:?}").as_bytes());
        Ok(Self {
            inner,
            controls,
            prefix,
            bos,
            eos,
            stop,
            vocabulary_size,
            names: names.named,
            chat_template,
            fingerprint: hasher.finalize(),
            path,
        })
    }

    /// Ids of a prompt: the tokenizer's own prefix (BOS, if it has one), then the text.
    ///
    /// # Errors
    /// When the text cannot be tokenised.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        self.prompt_ids(text).map_err(|reason| Error::Job(format!("the prompt {reason}")))
    }

    /// Ids of an answer's text, without special tokens and without EOS.
    ///
    /// # Errors
    /// When the text cannot be tokenised.
    pub fn encode_answer(&self, text: &str) -> Result<Vec<u32>> {
        self.plain_ids(text).map_err(|reason| Error::Job(format!("the answer {reason}")))
    }

    pub(crate) fn prompt_ids(&self, text: &str) -> Reasoned<Vec<u32>> {
        let mut ids = self.prefix.clone();
        ids.extend(self.plain_ids(text)?);
        Ok(ids)
    }

    /// What precedes every text: BOS or nothing.
    pub(crate) fn prefix(&self) -> &[u32] {
        &self.prefix
    }

    /// Ids of text from data, which may not contain reserved characters.
    pub(crate) fn plain_ids(&self, text: &str) -> Reasoned<Vec<u32>> {
        refuse_reserved(text)?;
        self.aliased_ids(text)
    }

    /// Ids of text in which control tokens are written as aliases.
    pub(crate) fn aliased_ids(&self, text: &str) -> Reasoned<Vec<u32>> {
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(format!("cannot be tokenised: {error}")),
        }
    }

    /// Text of the ids, control tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        // The crate fails only on token strings its decoder cannot join: nothing readable is lost.
        self.inner.decode(ids, true).unwrap_or_default()
    }

    /// Text of the ids with control tokens written out, for people to read.
    pub fn decode_with_control_tokens(&self, ids: &[u32]) -> String {
        self.controls.readable(&self.inner.decode(ids, false).unwrap_or_default())
    }

    /// Text of a generated answer: up to the first of `stop`, without control tokens, trimmed. Two answers
    /// are an exact match when these texts are equal.
    pub fn answer_text(&self, ids: &[u32], stop: &[u32]) -> String {
        let length = ids.iter().position(|id| stop.contains(id)).unwrap_or(ids.len());
        self.decode(&ids[..length]).trim().to_owned()
    }

    /// The end-of-sequence token: follows every answer.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The begin-of-sequence token, where the folder names one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Every token at which generation ends: EOS first, then others that the folder lists.
    pub fn stop_tokens(&self) -> &[u32] {
        &self.stop
    }

    /// Largest id plus one. The model's vocabulary must be at least this.
    pub fn vocabulary_size(&self) -> usize {
        self.vocabulary_size
    }

    /// Fails when the tokenizer of `folder` has ids that a model with `embeddings` rows has no embedding for.
    ///
    /// # Errors
    /// Naming the file and both numbers.
    pub fn check_vocabulary(&self, folder: &Path, embeddings: usize) -> Result<()> {
        let ids = self.vocabulary_size();
        if ids <= embeddings {
            return Ok(());
        }
        let reason =
            format!("has {ids} token ids, and the model's embedding only {embeddings} rows (`vocab_size`)");
        Err(Error::format(&folder.join("tokenizer.json"), reason))
    }

    /// Hash of everything that decides how text becomes ids.
    pub fn fingerprint(&self) -> [u8; 32] {
        *self.fingerprint.as_bytes()
    }

    /// The folder's chat template, compiled.
    ///
    /// # Errors
    /// When there is none, or it is not valid.
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        match &self.chat_template {
            Some((path, source)) => ChatTemplate::new(path, source, &self.names, &self.controls),
            None => Err(Error::format(
                &self.path.with_file_name("tokenizer_config.json"),
                "no chat template: rows with `messages` need one (add chat_template.jinja to the folder, \
                 or use prompt and completion)",
            )),
        }
    }
}

/// Renames every control token of `tokenizer.json` to its alias, wherever the file names it, and switches
/// off what must not act on training data (truncation, padding, dropout).
fn rename_control_tokens(json: &mut Value, names: &SpecialNames) -> Reasoned<ControlTokens> {
    if !json["model"].is_object() {
        return Err("has no `model`: it is not a tokenizer".into());
    }
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    if !json["model"]["dropout"].is_null() {
        json["model"]["dropout"] = Value::Null;
    }
    let tokens = collect_control_tokens(json, names)?;
    let controls = ControlTokens::new(tokens)?;
    let alias_of: BTreeMap<&str, String> =
        controls.iter().map(|token| (token.text.as_str(), ControlTokens::alias(token.id))).collect();

    for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
        if let Some(alias) = token["content"].as_str().and_then(|text| alias_of.get(text)) {
            token["content"] = json!(alias);
            token["special"] = json!(true);
            // An alias is matched in the text as it stands, before normalisation could change it.
            token["normalized"] = json!(false);
        }
    }
    let model = &mut json["model"];
    if let Some(alias) = model["unk_token"].as_str().and_then(|text| alias_of.get(text)) {
        model["unk_token"] = json!(alias);
    }
    let renamed = match &mut model["vocab"] {
        Value::Object(vocabulary) => rename_in_map(vocabulary, &alias_of),
        Value::Array(pieces) => rename_in_list(pieces, &alias_of),
        _ => false,
    };
    if renamed && let Some(merges) = model["merges"].as_array_mut() {
        merges.retain(|merge| !makes_control_token(merge, &alias_of));
    }
    Ok(controls)
}

/// Added tokens that are special, and tokens the folder names as special wherever they stand; the latter
/// are entered among the added tokens when they are only in the vocabulary.
fn collect_control_tokens(json: &mut Value, names: &SpecialNames) -> Reasoned<Vec<ControlToken>> {
    if json["added_tokens"].is_null() {
        json["added_tokens"] = json!([]);
    }
    let added = json["added_tokens"].as_array().ok_or("`added_tokens` is not a list")?;
    let is_named = |text: &str| {
        names.named.values().any(|name| name == text) || names.additional.iter().any(|name| name == text)
    };
    // Without a named EOS the configured ids decide which tokens end a sequence.
    let eos_ids: &[u32] = if names.named.contains_key("eos_token") { &[] } else { &names.eos_ids };
    let mut controls: Vec<ControlToken> = Vec::new();
    for token in added {
        let text = token["content"].as_str().ok_or("an added token has no `content`")?;
        let id = token["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| format!("the added token `{text}` has no id"))?;
        let special = token["special"].as_bool().unwrap_or(false);
        if special || is_named(text) || eos_ids.contains(&id) {
            controls.push(ControlToken { text: text.to_owned(), id });
        }
    }
    let vocabulary = &json["model"]["vocab"];
    let unlisted_eos = eos_ids.iter().filter_map(|&id| vocabulary_text(vocabulary, id));
    let wanted: Vec<String> =
        names.named.values().chain(&names.additional).cloned().chain(unlisted_eos).collect();
    let mut only_in_vocabulary = Vec::new();
    for text in wanted {
        if controls.iter().any(|token| token.text == text) {
            continue;
        }
        if let Some(id) = vocabulary_id(vocabulary, &text) {
            controls.push(ControlToken { text: text.clone(), id });
            only_in_vocabulary.push(json!({
                "id": id, "content": text, "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }));
        }
    }
    if let Some(added) = json["added_tokens"].as_array_mut() {
        added.extend(only_in_vocabulary);
    }
    Ok(controls)
}

fn vocabulary_id(vocabulary: &Value, text: &str) -> Option<u32> {
    let id = match vocabulary {
        Value::Object(ids) => ids.get(text)?.as_u64()?,
        Value::Array(pieces) => pieces.iter().position(|piece| piece[0] == text)? as u64,
        _ => return None,
    };
    u32::try_from(id).ok()
}

fn vocabulary_text(vocabulary: &Value, id: u32) -> Option<String> {
    match vocabulary {
        Value::Object(ids) => ids.iter().find(|(_, value)| **value == id).map(|(text, _)| text.clone()),
        Value::Array(pieces) => pieces.get(id as usize)?[0].as_str().map(str::to_owned),
        _ => None,
    }
}

fn rename_in_map(vocabulary: &mut serde_json::Map<String, Value>, alias_of: &BTreeMap<&str, String>) -> bool {
    let mut renamed = false;
    for (text, alias) in alias_of {
        if let Some(id) = vocabulary.swap_remove(*text) {
            vocabulary.insert(alias.clone(), id);
            renamed = true;
        }
    }
    renamed
}

fn rename_in_list(pieces: &mut [Value], alias_of: &BTreeMap<&str, String>) -> bool {
    let mut renamed = false;
    for piece in pieces {
        if let Some(alias) = piece[0].as_str().and_then(|text| alias_of.get(text)) {
            piece[0] = json!(alias);
            renamed = true;
        }
    }
    renamed
}

/// True when a BPE merge (`"a b"` or `["a", "b"]`) takes or makes a control token: text must not.
fn makes_control_token(merge: &Value, alias_of: &BTreeMap<&str, String>) -> bool {
    let parts = match merge {
        Value::String(pair) => pair.split_once(' '),
        Value::Array(pair) => pair.first().and_then(Value::as_str).zip(pair.get(1).and_then(Value::as_str)),
        _ => None,
    };
    parts.is_some_and(|(left, right)| {
        let is_control = |text: &str| alias_of.contains_key(text);
        is_control(left) || is_control(right) || is_control(&format!("{left}{right}"))
    })
}

fn vocabulary_size(json: &Value) -> usize {
    let largest = |ids: &mut dyn Iterator<Item = &Value>| ids.filter_map(Value::as_u64).max();
    let in_model = match &json["model"]["vocab"] {
        Value::Object(vocabulary) => largest(&mut vocabulary.values()),
        Value::Array(pieces) => pieces.len().checked_sub(1).map(|last| last as u64),
        _ => None,
    };
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let largest_added = largest(&mut added.map(|token| &token["id"]));
    in_model.max(largest_added).map_or(0, |id| id as usize + 1)
}

/// What the post-processor puts before a text: found by sending a marked token through it.
fn post_processor_prefix(inner: &tokenizers::Tokenizer) -> Reasoned<Vec<u32>> {
    const MARK: u32 = u32::MAX;
    let Some(processor) = inner.get_post_processor() else { return Ok(Vec::new()) };
    let marked = Encoding::from_tokens(vec![Token::new(MARK, "x".into(), (0, 1))], 0);
    let processed = processor.process(marked, None, true);
    let processed = processed.map_err(|error| format!("its post-processor fails: {error}"))?;
    Ok(processed.get_ids().iter().copied().take_while(|&id| id != MARK).collect())
}
