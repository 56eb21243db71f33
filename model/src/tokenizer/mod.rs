//! The tokenizer of a model folder: `tokenizer.json` and what stands beside it.
//!
//! Text from messages never becomes a control token, whatever it says (see [`control`]); control tokens come
//! from the tokenizer's own prefix (BOS), from the chat template, as EOS after an answer, and from text
//! that is read with [`SpecialTokens::Parse`].

mod class;
mod compare;
mod definition;
mod parts;
mod rebuild;
mod replaced;
mod special;
mod validate;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::{Encoding, PostProcessor, Token};

use crate::adapter::tokenizer_folder;
use crate::chat_template::{ChatTemplates, TemplateSources};
use crate::contain;
use crate::control_tokens::{ControlTokens, aliases, refuse_reserved};
use crate::error::{Error, Reasoned, Result};
use crate::files;
use crate::recipe::SpecialTokens;
use compare::TokenizerSignature;
use definition::Definition;
use special::SpecialNames;
pub use special::SpecialToken;

/// Most tokens that a character of text may become: more is the mark of a damaged tokenizer.
const MOST_TOKENS_OF_A_CHARACTER: usize = 64;

/// Texts that every tokenizer must be able to read.
const PROBES: [&str; 4] = ["a", " ", "Hello, world 1\n", "\u{e9}\u{65e5}"];

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
    /// Tokens the model has embeddings for, where the folder's `config.json` says how many.
    embeddings: Option<usize>,
    /// Whether a text's beginning is tokenized otherwise than the same characters within a text.
    treats_beginnings: bool,
    signature: TokenizerSignature,
    names: BTreeMap<String, String>,
    chat_templates: Option<TemplateSources>,
    notice: Option<String>,
    fingerprint: blake3::Hash,
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model folder, with `tokenizer_config.json`, `special_tokens_map.json`,
    /// `generation_config.json`, `config.json` and the chat templates where they exist.
    ///
    /// What `tokenizer.json` says is changed as transformers changes it in such a folder. EOS is
    /// `eos_token`, else the first `eos_token_id`; what precedes a prompt (BOS) is what the post-processor
    /// puts there.
    ///
    /// # Errors
    /// When a file is missing or cannot be used, or no end-of-sequence token is named anywhere.
    pub fn from_folder(folder: &Path) -> Result<Self> {
        let folder = &tokenizer_folder(folder)?;
        let path = folder.join("tokenizer.json");
        let bytes = read_file(folder, &path)?;
        let mut json: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Error::format(&path, format!("is not JSON: {error}")))?;
        let mut names = SpecialNames::read(folder)?;
        let chat_templates = TemplateSources::find(folder)?;
        let bad = |reason: String| Error::format(&path, reason);

        validate::check_definition(&json).map_err(bad)?;
        let mentions_byte_level = str::from_utf8(&bytes).is_ok_and(|text| text.contains("\"ByteLevel\""));
        let definition = definition::prepare(&mut json, &mut names, mentions_byte_level).map_err(bad)?;
        let inner = load(&json, &definition).map_err(bad)?;
        let ends = Ends::new(&names, &definition).map_err(bad)?;
        let prefix = in_library(|| post_processor_prefix(&inner)).and_then(|prefix| prefix).map_err(bad)?;

        let mut hasher = blake3::Hasher::new();
        hasher.update(&bytes);
        hasher.update(format!("{prefix:?} {:?} {names:?} {chat_templates:?}", ends.stop).as_bytes());
        let treats_beginnings =
            ["normalizer", "pre_tokenizer"].iter().any(|part| parts::treats_beginnings(&json[part]));
        let mut tokenizer = Self {
            inner,
            controls: definition.controls,
            prefix,
            bos: ends.bos,
            eos: ends.eos,
            stop: ends.stop,
            vocabulary_size: definition.vocabulary_size,
            embeddings: names.embeddings,
            treats_beginnings,
            signature: definition.signature,
            names: names.named,
            chat_templates,
            notice: None,
            fingerprint: hasher.finalize(),
            path: path.clone(),
        };
        tokenizer.probe(&json).map_err(bad)?;
        let notice = definition.replaced.and_then(|replaced| replaced.notice(&mut json, &tokenizer.inner));
        tokenizer.notice = notice.map(|notice| format!("{}: {notice}", path.display()));
        Ok(tokenizer)
    }

    /// Tries the tokenizer on a few texts and ids: what a damaged file brings about shows here.
    fn probe(&self, json: &Value) -> Reasoned<()> {
        for text in PROBES {
            let encoding = in_library(|| self.inner.encode_fast(text, false))?;
            // A text that it has no tokens for is the text's fault, and is said where the text stands.
            let tokens = encoding.map_or(0, |encoding| encoding.len());
            if tokens > MOST_TOKENS_OF_A_CHARACTER * text.len() {
                return Err(format!("makes {tokens} tokens of {} bytes: it is damaged", text.len()));
            }
        }
        // Taking characters from the end of a token goes wrong for those that are too short.
        let ids = if validate::strips_ends(&json["decoder"]) { self.vocabulary_size } else { 64 };
        in_library(|| {
            let _ = self.inner.decode(&[], false);
            for id in 0..ids as u32 {
                let _ = self.inner.decode(&[id], false);
            }
        })
    }

    /// Ids of a prompt: the tokenizer's own prefix (BOS, if it has one), then the text.
    ///
    /// # Errors
    /// When the text cannot be tokenized.
    pub fn encode_prompt(&self, text: &str, special_tokens: SpecialTokens) -> Result<Vec<u32>> {
        let ids = self.marked(text, special_tokens).and_then(|text| self.prompt_ids(&text));
        ids.map_err(|reason| Error::Job(format!("the prompt {reason}")))
    }

    /// Ids of a text by itself, without control tokens.
    ///
    /// # Errors
    /// When the text cannot be tokenized.
    pub fn encode_answer(&self, text: &str) -> Result<Vec<u32>> {
        self.plain_ids(text).map_err(|reason| Error::Job(format!("the answer {reason}")))
    }

    /// Text from data as it is tokenized: control strings are aliases where they count as control tokens.
    /// The text may not contain reserved characters.
    pub(crate) fn marked(&self, text: &str, special_tokens: SpecialTokens) -> Reasoned<String> {
        refuse_reserved(text)?;
        Ok(match special_tokens {
            SpecialTokens::Parse => self.controls.to_aliases(text),
            SpecialTokens::Escape => text.to_owned(),
        })
    }

    /// The tokenizer's own prefix, unless the text begins with it, and the text's ids.
    pub(crate) fn prompt_ids(&self, marked: &str) -> Reasoned<Vec<u32>> {
        let ids = self.aliased_ids(marked)?;
        let first = aliases(marked).next().filter(|alias| alias.start == 0);
        if first.is_some_and(|alias| self.prefix.first() == Some(&alias.id)) {
            return Ok(ids);
        }
        Ok([self.prefix.as_slice(), ids.as_slice()].concat())
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
        Ok(self.checked(|| self.inner.encode_fast(text, false))?.get_ids().to_vec())
    }

    /// As [`Self::aliased_ids`], each id with the bytes of the text that it stands for.
    pub(crate) fn aliased_ids_with_bytes(&self, text: &str) -> Reasoned<Vec<(u32, Range<usize>)>> {
        let encoding = self.checked(|| self.inner.encode(text, false))?;
        let ids = encoding.get_ids().iter().zip(encoding.get_offsets());
        Ok(ids.map(|(&id, &(start, end))| (id, start..end)).collect())
    }

    /// What the library makes of a text, if the model has embeddings for it.
    fn checked(&self, encode: impl FnOnce() -> tokenizers::Result<Encoding>) -> Reasoned<Encoding> {
        let encoded = in_library(encode)
            .map_err(|reason| format!("cannot be tokenized by {}: {reason}", self.path.display()))?;
        let encoding = encoded.map_err(|error| format!("cannot be tokenized: {error}"))?;
        if let Some(size) = self.embeddings
            && let Some(id) = encoding.get_ids().iter().find(|&&id| id as usize >= size)
        {
            let text = self.decode_with_control_tokens(&[*id]);
            return Err(format!(
                "contains `{}`, the token {id}, and the model has embeddings for {size} tokens (`vocab_size`)",
                text.escape_debug()
            ));
        }
        Ok(encoding)
    }

    /// Ids of text that follows other text: as they come out within a text, where a text's beginning is
    /// tokenized otherwise (SentencePiece puts a space before it).
    pub(crate) fn ids_within(&self, text: &str) -> Reasoned<Vec<u32>> {
        Ok(self.ids_within_with_bytes(text)?.into_iter().map(|(id, _)| id).collect())
    }

    /// As [`Self::ids_within`], each id with the bytes of the text that it stands for.
    pub(crate) fn ids_within_with_bytes(&self, text: &str) -> Reasoned<Vec<(u32, Range<usize>)>> {
        // Characters that seldom join with what follows; the first that does not is as good as any.
        const ANCHORS: [&str; 5] = ["\n", "0", ".", "x", "\u{e9}"];
        if self.treats_beginnings {
            for anchor in ANCHORS {
                let mut ids = self.aliased_ids_with_bytes(&format!("{anchor}{text}"))?;
                let before = self.aliased_ids(anchor)?;
                if ids.len() >= before.len() && ids.iter().zip(&before).all(|((id, _), before)| id == before)
                {
                    let moved = |byte: usize| byte.saturating_sub(anchor.len());
                    let rest = ids.split_off(before.len()).into_iter();
                    return Ok(rest.map(|(id, bytes)| (id, moved(bytes.start)..moved(bytes.end))).collect());
                }
            }
        }
        self.aliased_ids_with_bytes(text)
    }

    /// Whether this is a control token.
    pub(crate) fn is_control(&self, id: u32) -> bool {
        self.controls.iter().any(|token| token.id == id)
    }

    /// The control token that is written so, where there is one.
    pub(crate) fn control_token(&self, text: &str) -> Option<u32> {
        self.controls.iter().find(|token| token.text == text).map(|token| token.id)
    }

    /// True when the text holds the string of a control token.
    pub(crate) fn has_control_token(&self, text: &str) -> bool {
        self.controls.iter().any(|token| text.contains(&token.text))
    }

    /// True for a token that is a byte of a character (`<0xE6>`), which the bytes beside it decide the text of.
    pub(crate) fn is_byte(&self, id: u32) -> bool {
        let token = self.inner.id_to_token(id).unwrap_or_default();
        let digits = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
    }

    /// True for an id that stands outside the model's own vocabulary or is set apart in it: control tokens,
    /// and others that are matched as a whole before text is split.
    pub(crate) fn is_added(&self, id: u32) -> bool {
        self.inner.get_added_tokens_decoder().contains_key(&id)
    }

    /// The special tokens that the folder names (`bos_token`, …).
    pub(crate) fn special_tokens(&self) -> Vec<SpecialToken> {
        let token = |(name, text): (&String, &String)| SpecialToken {
            name: name.clone(),
            text: text.clone(),
            id: self.control_token(text).or_else(|| self.inner.token_to_id(text)),
        };
        self.names.iter().map(token).collect()
    }

    /// Text of the ids, control tokens left out.
    pub fn decode(&self, ids: &[u32]) -> String {
        let ids: Vec<u32> = ids.iter().copied().filter(|&id| !self.is_control(id)).collect();
        self.decode_all(&ids)
    }

    /// Text of the ids with control tokens written out, for people to read.
    pub fn decode_with_control_tokens(&self, ids: &[u32]) -> String {
        self.controls.readable(&self.decode_all(ids))
    }

    fn decode_all(&self, ids: &[u32]) -> String {
        let decoded = in_library(|| self.inner.decode(ids, false));
        // Token strings that the decoder cannot join are given as they stand.
        decoded
            .ok()
            .and_then(|text| text.ok())
            .unwrap_or_else(|| ids.iter().filter_map(|&id| self.inner.id_to_token(id)).collect())
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

    /// Fails when another tokenizer makes other ids of the same text; which tokens end sequences may differ.
    ///
    /// # Errors
    /// Naming the other's file and the difference.
    pub fn check_same(&self, other: &Self) -> Result<()> {
        let prefix = (self.prefix != other.prefix).then(|| "it puts other tokens before a text".to_owned());
        match self.signature.difference(&other.signature).or(prefix) {
            None => Ok(()),
            Some(difference) => {
                let reason = format!("is not the tokenizer of {}: {difference}", self.path.display());
                Err(Error::format(&other.path, reason))
            }
        }
    }

    /// What a person should know about the tokenizer: that its class splits text otherwise than `tokenizer.json` says.
    pub fn notice(&self) -> Option<&String> {
        self.notice.as_ref()
    }

    /// True when the folder has a chat template.
    pub(crate) fn has_chat_template(&self) -> bool {
        self.chat_templates.is_some()
    }

    /// Whether two folders have the same chat template, or none.
    pub(crate) fn has_template_of(&self, other: &Self) -> bool {
        self.chat_templates
            .as_ref()
            .map(TemplateSources::texts)
            .eq(&other.chat_templates.as_ref().map(TemplateSources::texts))
    }

    /// Hash of everything that decides how text becomes ids.
    pub fn fingerprint(&self) -> [u8; 32] {
        *self.fingerprint.as_bytes()
    }

    /// The folder's chat templates, compiled.
    ///
    /// # Errors
    /// When there is none, or the only one is not valid.
    pub(crate) fn chat_templates(&self) -> Result<ChatTemplates> {
        match &self.chat_templates {
            Some(sources) => ChatTemplates::new(sources, &self.names, &self.controls),
            None => Err(Error::format(
                &self.path.with_file_name("tokenizer_config.json"),
                "no chat template: rows with `messages` need one (add chat_template.jinja to the folder, \
                 or use prompt and completion)",
            )),
        }
    }
}

/// The bytes of the folder's `tokenizer.json`.
fn read_file(folder: &Path, path: &Path) -> Result<Vec<u8>> {
    if !path.exists() && folder.join("tokenizer.model").is_file() {
        let reason = "has tokenizer.model and no tokenizer.json, which is read: in Python, \
                      `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)` writes it";
        return Err(Error::format(folder, reason));
    }
    let bytes = files::read_input(path, files::MOST_TOKENIZER_BYTES)?;
    match files::looks_like(&bytes) {
        Some(reason) => Err(Error::format(path, reason)),
        None => Ok(bytes),
    }
}

/// The library's tokenizer of a prepared file, if its added tokens have the ids they are given.
fn load(json: &Value, definition: &Definition) -> Reasoned<tokenizers::Tokenizer> {
    let inner = in_library(|| tokenizers::Tokenizer::from_bytes(json.to_string().as_bytes()))?
        .map_err(|error| format!("is not a tokenizer this program can load: {error}"))?;
    for (text, &id) in &definition.added {
        let control = definition.controls.iter().find(|token| token.id == id && token.text == *text);
        let name = control.map_or_else(|| text.clone(), |token| ControlTokens::alias(token.id));
        if inner.token_to_id(&name) != Some(id) {
            return Err(format!("`{text}` does not have the id {id} it is given"));
        }
    }
    Ok(inner)
}

/// The tokens that begin and end sequences.
struct Ends {
    bos: Option<u32>,
    eos: u32,
    /// Every token at which generation ends, EOS first.
    stop: Vec<u32>,
}

impl Ends {
    fn new(names: &SpecialNames, definition: &Definition) -> Reasoned<Self> {
        let controls = &definition.controls;
        let id_of = |name: &str| -> Reasoned<Option<u32>> {
            let Some(text) = names.named.get(name) else { return Ok(None) };
            match controls.iter().find(|token| token.text == *text) {
                Some(token) => Ok(Some(token.id)),
                None => Err(format!("has no token `{text}`, which the folder names as its {name}")),
            }
        };
        let named_eos = id_of("eos_token")?;
        let is_control = |id: &u32| controls.iter().any(|token| token.id == *id);
        let bos = match id_of("bos_token")? {
            Some(bos) => Some(bos),
            None => names.bos_id.filter(is_control),
        };
        // Generation ends at what generation_config.json lists. Model configurations often carry default ids
        // that mean nothing in their tokenizer: they count only when they are control tokens.
        let listed = names.generation_eos.iter().filter(|&&id| (id as usize) < definition.vocabulary_size);
        let listed = listed.chain(names.model_eos.iter().filter(|id| is_control(id)));
        let unnamed = match named_eos {
            Some(_) => None,
            None => names.generation_eos.iter().chain(&names.model_eos).copied().find(|id| is_control(id)),
        };
        let mut stop: Vec<u32> = Vec::new();
        for id in named_eos.iter().chain(&unnamed).chain(listed) {
            if !stop.contains(id) {
                stop.push(*id);
            }
        }
        let missing = "no end-of-sequence token is known: name `eos_token` in tokenizer_config.json";
        Ok(Self { bos, eos: *stop.first().ok_or(missing)?, stop })
    }
}

/// What the post-processor puts before a text: found by sending a marked token through it.
fn post_processor_prefix(inner: &tokenizers::Tokenizer) -> Reasoned<Vec<u32>> {
    const MARK: u32 = u32::MAX;
    let Some(processor) = inner.get_post_processor() else { return Ok(Vec::new()) };
    let marked = Encoding::from_tokens(vec![Token::new(MARK, "x".into(), (0, 1))], 0);
    let processed = processor.process(marked, None, true);
    let processed = processed.map_err(|error| format!("its post-processor fails: {error}"))?;
    let ids = processed.get_ids();
    match ids.iter().position(|&id| id == MARK) {
        Some(length) => Ok(ids[..length].to_vec()),
        None => Err("its post-processor leaves the text out".into()),
    }
}

/// Runs an operation of the tokenizers library; a panic becomes a reason.
fn in_library<T>(operation: impl FnOnce() -> T) -> Reasoned<T> {
    contain::contain("tokenizers", operation)
}
