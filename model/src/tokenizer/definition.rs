//! `tokenizer.json` as transformers reads it in its folder, with control tokens renamed to their aliases.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::class::Class;
use super::compare::TokenizerSignature;
use super::parts::{added_ids, vocabulary_id, vocabulary_text};
use super::rebuild;
use super::replaced::Replaced;
use super::special::{FolderToken, SpecialNames};
use crate::control_tokens::{ControlToken, ControlTokens, is_reserved};
use crate::error::Reasoned;

/// Normalizers that leave an alias as it is, or change it in a pattern as in a text.
const ALIAS_KEEPING: [&str; 9] =
    ["Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "ByteLevel"];

/// What became of the file.
pub(super) struct Definition {
    pub controls: ControlTokens,
    /// Largest id that text can become, plus one.
    pub vocabulary_size: usize,
    /// Added tokens by string, control tokens under their own.
    pub added: BTreeMap<String, u32>,
    pub signature: TokenizerSignature,
    /// The file's own parts, where its class splits text otherwise.
    pub replaced: Option<Replaced>,
}

/// Rewrites the file to what transformers makes of it in a folder that says `names`, to which the tokenizer
/// class may add; renames every control token to its alias, wherever the file names it, and switches off what
/// must not act on training data (truncation, padding, dropout). `mentions_byte_level` is true when the text
/// `"ByteLevel"` stands in the file.
pub(super) fn prepare(
    json: &mut Value,
    names: &mut SpecialNames,
    mentions_byte_level: bool,
) -> Reasoned<Definition> {
    switch_off(json)?;
    let class = Class::of_folder(names, mentions_byte_level)?;
    let defaults = rebuild::name_defaults(class, json, names);
    let replaced = rebuild::rebuild(class, json, names)?;
    add_folder_tokens(json, names)?;
    rebuild::clear_flags(class, json, names, &defaults);
    rebuild::rebuild_post_processor(class, json, names);
    let tokens = control_tokens(json, names)?;
    let added = added_ids(json);
    let plain =
        added.keys().filter(|text| !tokens.iter().any(|token| token.text == **text)).cloned().collect();
    let controls = ControlTokens::new(tokens, plain)?.without(split_tokens(json, names));
    let vocabulary_size = vocabulary_size(json, names);
    let signature = TokenizerSignature::new(json, names);
    rename(json, &controls);
    Ok(Definition { controls, vocabulary_size, added, signature, replaced })
}

fn switch_off(json: &mut Value) -> Reasoned<()> {
    if !json["model"].is_object() {
        return Err("has no `model`: it is not a tokenizer".into());
    }
    json["truncation"] = Value::Null;
    json["padding"] = Value::Null;
    if !json["model"]["dropout"].is_null() {
        json["model"]["dropout"] = Value::Null;
    }
    if json["added_tokens"].is_null() {
        json["added_tokens"] = json!([]);
    }
    if !json["added_tokens"].is_array() {
        return Err("`added_tokens` is not a list".into());
    }
    Ok(())
}

// Added tokens

/// Adds the tokens that stand only beside the file, with the ids that transformers gives them: those of the
/// vocabulary where they are in it, else the next free ones, whatever the folder says.
fn add_folder_tokens(json: &mut Value, names: &SpecialNames) -> Reasoned<()> {
    let vocabulary = &json["model"]["vocab"];
    let entries = vocabulary.as_object().map(Map::len).or_else(|| vocabulary.as_array().map(Vec::len));
    let largest = added_ids(json).into_values().max().map_or(0, |id| id as usize + 1);
    let mut next = entries.unwrap_or(0).max(largest);
    for token in names.added_decoder.iter().flatten().chain(&names.added_file) {
        add_token(json, token, true, &mut next);
    }
    for text in names.in_order() {
        let known = vocabulary_id(&json["model"]["vocab"], text).is_some();
        // As a special token it would be ordinary text: it is that without being added.
        if known && names.split_special_tokens && !names.delimits(text) {
            continue;
        }
        // A name of BOS or EOS that the tokenizer does not know is an error of its own.
        if known || !names.delimits(text) {
            let mut token =
                names.flagged.get(text).cloned().unwrap_or_else(|| FolderToken::named(text, !known));
            token.special = !known;
            add_token(json, &token, false, &mut next);
        }
    }
    Ok(())
}

fn add_token(json: &mut Value, token: &FolderToken, overrides: bool, next: &mut usize) {
    let known = vocabulary_id(&json["model"]["vocab"], &token.text);
    let Some(added) = json["added_tokens"].as_array_mut() else { return };
    let present = added.iter().position(|entry| entry["content"] == token.text.as_str());
    let id = match (present, known) {
        (Some(_), _) if !overrides => return,
        (Some(present), _) => added[present]["id"].clone(),
        (None, Some(id)) => json!(id),
        (None, None) => {
            *next += 1;
            json!(*next - 1)
        }
    };
    // A token that the file calls special stays so.
    let special = token.special || present.is_some_and(|present| added[present]["special"] == true);
    let entry = json!({
        "id": id, "content": token.text, "single_word": token.single_word, "lstrip": token.lstrip,
        "rstrip": token.rstrip, "normalized": token.normalized, "special": special,
    });
    match present {
        Some(present) => added[present] = entry,
        None => added.push(entry),
    }
}

// Control tokens

/// Added tokens that are special in a file, and those that begin or end sequences. A token that is only
/// named, as a `pad_token` may be, can be ordinary text: it stays text.
fn control_tokens(json: &Value, names: &SpecialNames) -> Reasoned<Vec<ControlToken>> {
    let delimiters = post_processor_texts(&json["post_processor"]);
    let eos = unnamed_eos(json, names);
    let mut controls: Vec<ControlToken> = Vec::new();
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let text = token["content"].as_str().ok_or("an added token has no `content`")?;
        let id = token["id"].as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| format!("the added token `{text}` has no id"))?;
        let special = token["special"].as_bool().unwrap_or(false);
        if special || names.delimits(text) || delimiters.iter().any(|name| name == text) || eos == Some(id) {
            let single_word = token["single_word"].as_bool().unwrap_or(false);
            controls.push(ControlToken { text: text.to_owned(), id, single_word });
        }
    }
    let vocabulary = &json["model"]["vocab"];
    let unlisted = eos.and_then(|id| vocabulary_text(vocabulary, id));
    let known = delimiters.iter().filter_map(|text| Some((text.clone(), vocabulary_id(vocabulary, text)?)));
    let unlisted = unlisted.zip(eos).into_iter().chain(known);
    for (text, id) in unlisted {
        if !controls.iter().any(|token| token.text == text) {
            controls.push(ControlToken { text, id, single_word: false });
        }
    }
    Ok(controls)
}

/// The configured id that ends sequences where no `eos_token` is named: the first of a special token, else
/// the first.
fn unnamed_eos(json: &Value, names: &SpecialNames) -> Option<u32> {
    if names.named.contains_key("eos_token") {
        return None;
    }
    let special = |id: &u32| {
        let tokens = json["added_tokens"].as_array();
        tokens.is_some_and(|tokens| tokens.iter().any(|token| token["id"] == *id && token["special"] == true))
    };
    let ids = || names.generation_eos.iter().chain(&names.model_eos).copied();
    ids().find(special).or_else(|| ids().next())
}

/// The strings that a post-processor puts around a text.
fn post_processor_texts(part: &Value) -> Vec<String> {
    let mut texts: Vec<String> =
        part["special_tokens"].as_object().into_iter().flat_map(|tokens| tokens.keys().cloned()).collect();
    texts.extend(["cls", "sep"].iter().filter_map(|end| part[end][0].as_str().map(str::to_owned)));
    texts.extend(part["processors"].as_array().into_iter().flatten().flat_map(post_processor_texts));
    texts
}

/// The ids of special tokens, where a text's special tokens are not set apart from it.
fn split_tokens(json: &Value, names: &SpecialNames) -> BTreeSet<u32> {
    let tokens = json["added_tokens"].as_array().filter(|_| names.split_special_tokens);
    let special = tokens.into_iter().flatten().filter(|token| {
        token["special"] == true || token["content"].as_str().is_some_and(|text| names.names(text))
    });
    special.filter_map(|token| token["id"].as_u64().and_then(|id| u32::try_from(id).ok())).collect()
}

fn rename(json: &mut Value, controls: &ControlTokens) {
    let alias_of: BTreeMap<&str, String> =
        controls.iter().map(|token| (token.text.as_str(), ControlTokens::alias(token.id))).collect();
    let keeps_aliases = keeps_aliases(&json["normalizer"]);
    let mut listed = Vec::new();
    for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
        if let Some(alias) = token["content"].as_str().and_then(|text| alias_of.get(text)) {
            token["content"] = json!(alias);
            token["special"] = json!(true);
            // Whether it is a word of its own is decided where aliases are written.
            token["single_word"] = json!(false);
            if !keeps_aliases {
                token["normalized"] = json!(false);
            }
            listed.push(alias.clone());
        }
    }
    for token in controls.iter().filter(|token| !listed.contains(&ControlTokens::alias(token.id))) {
        if let Some(added) = json["added_tokens"].as_array_mut() {
            added.push(json!({
                "id": token.id, "content": ControlTokens::alias(token.id), "special": true,
                "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            }));
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
}

fn keeps_aliases(normalizer: &Value) -> bool {
    let inner = normalizer["normalizers"].as_array();
    let known = match normalizer["type"].as_str() {
        // An alias holds digits, which data may not be told from, and reserved characters, which it has none of.
        Some("Replace") => normalizer["pattern"]["String"].as_str().is_some_and(|text| {
            !text.contains(|character: char| character.is_ascii_digit() || is_reserved(character))
        }),
        name => name.is_none_or(|name| ALIAS_KEEPING.contains(&name)),
    };
    known && inner.into_iter().flatten().all(keeps_aliases)
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

/// Largest id plus one. Tokens that are only named (`pad_token`) and that the model has no embedding for do
/// no harm: they count only when a text has them.
fn vocabulary_size(json: &Value, names: &SpecialNames) -> usize {
    let largest = |ids: &mut dyn Iterator<Item = &Value>| ids.filter_map(Value::as_u64).max();
    let in_model = match &json["model"]["vocab"] {
        Value::Object(vocabulary) => largest(&mut vocabulary.values()),
        Value::Array(pieces) => pieces.len().checked_sub(1).map(|last| last as u64),
        _ => None,
    };
    let is_harmless = |token: &&Value| {
        let text = token["content"].as_str().unwrap_or_default();
        let beyond =
            names.embeddings.is_some_and(|size| token["id"].as_u64().is_some_and(|id| id >= size as u64));
        beyond && names.names(text) && !names.delimits(text)
    };
    let added = json["added_tokens"].as_array().into_iter().flatten();
    let largest_added = largest(&mut added.filter(|token| !is_harmless(token)).map(|token| &token["id"]));
    in_model.max(largest_added).map_or(0, |id| id as usize + 1)
}
