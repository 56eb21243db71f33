//! The parts of `tokenizer.json` that transformers' tokenizer classes make anew: of the file they keep
//! vocabulary, merges, added tokens and mostly the post-processor, and disregard the rest.

use serde_json::{Value, json};

use super::class::{self, Class};
use super::parts::{added_ids, has_type, vocabulary_id};
use super::replaced::{self, Replaced};
use super::special::SpecialNames;
use crate::error::Reasoned;

const QWEN2_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35_WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The special tokens that a class names where the folder does not.
fn default_names(class: Class) -> &'static [(&'static str, &'static str)] {
    const END_OF_TEXT: &str = "<|endoftext|>";
    match class {
        Class::AsFile => &[],
        Class::Llama => &[("unk_token", "<unk>"), ("bos_token", "<s>"), ("eos_token", "</s>")],
        Class::CodeLlama => &[
            ("unk_token", "<unk>"),
            ("bos_token", "<s>"),
            ("eos_token", "</s>"),
            ("prefix_token", "▁<PRE>"),
            ("middle_token", "▁<MID>"),
            ("suffix_token", "▁<SUF>"),
            ("eot_token", "▁<EOT>"),
            ("fill_token", "<FILL_ME>"),
        ],
        Class::Gemma => &[
            ("unk_token", "<unk>"),
            ("bos_token", "<bos>"),
            ("eos_token", "<eos>"),
            ("pad_token", "<pad>"),
            ("mask_token", "<mask>"),
        ],
        Class::Qwen2 | Class::Qwen35 => {
            &[("unk_token", END_OF_TEXT), ("eos_token", END_OF_TEXT), ("pad_token", END_OF_TEXT)]
        }
        Class::Gpt2 | Class::CodeGen => {
            &[("unk_token", END_OF_TEXT), ("bos_token", END_OF_TEXT), ("eos_token", END_OF_TEXT)]
        }
        Class::GptNeoX => &[
            ("unk_token", END_OF_TEXT),
            ("bos_token", END_OF_TEXT),
            ("eos_token", END_OF_TEXT),
            ("pad_token", "<|padding|>"),
        ],
        Class::Cohere => &[
            ("unk_token", "<UNK>"),
            ("bos_token", "<BOS_TOKEN>"),
            ("eos_token", "<|END_OF_TURN_TOKEN|>"),
            ("pad_token", "<PAD>"),
            ("cls_token", "<CLS>"),
            ("sep_token", "<SEP>"),
            ("mask_token", "<MASK_TOKEN>"),
        ],
    }
}

/// Names the class's special tokens where the folder does not, and returns the strings of those.
pub(super) fn name_defaults(class: Class, json: &Value, names: &mut SpecialNames) -> Vec<String> {
    let added = added_ids(json);
    let listed = names.added_decoder.iter().flatten().chain(&names.added_file);
    let listed: Vec<String> = listed.map(|token| token.text.clone()).collect();
    let mut defaults = Vec::new();
    for &(name, text) in default_names(class) {
        let is_known = vocabulary_id(&json["model"]["vocab"], text).is_some()
            || added.contains_key(text)
            || listed.iter().any(|known| known == text);
        if !names.named.contains_key(name) {
            defaults.push(text.to_owned());
        }
        names.name_by_default(name, text, is_known);
    }
    // New tokens have their ids in this order.
    let own = |name: &String| default_names(class).iter().position(|(own, _)| own == name);
    names.further.sort_by_key(|name| own(name).unwrap_or(usize::MAX));
    defaults
}

/// The parts that a class makes.
struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    unk_token: Value,
    fuse_unk: bool,
    byte_fallback: bool,
}

/// Puts the parts that the class makes in the place of the file's; gives those of the file, if they are others.
///
/// # Errors
/// When the class would take vocabulary or merges for what they are not, or not know a token that begins or ends
/// sequences: every text would become other tokens than those that a model was trained with.
pub(super) fn rebuild(class: Class, json: &mut Value, names: &SpecialNames) -> Reasoned<Option<Replaced>> {
    let Some(name) = class.name() else { return Ok(None) };
    let parts = match class {
        Class::AsFile => return Ok(None),
        Class::Llama => llama(names),
        Class::CodeLlama => code_llama(names),
        Class::Gemma => gemma(names),
        Class::Qwen2 => byte_level_words(QWEN2_WORDS, names),
        Class::Qwen35 => byte_level_words(QWEN35_WORDS, names),
        Class::Gpt2 | Class::CodeGen => byte_level(Value::Null, names),
        Class::GptNeoX => byte_level(json!({"type": "NFC"}), names),
        Class::Cohere => cohere(names),
    };
    if !json["model"]["vocab"].is_object() || !json["model"]["merges"].is_array() {
        let kind = json["model"]["type"].as_str().unwrap_or("another").escape_debug().to_string();
        return Err(other_kind(
            name,
            names,
            &format!("its model, of the type `{kind}`, for BPE without merges"),
        ));
    }
    let is_byte_level =
        has_type(&json["pre_tokenizer"], "ByteLevel") || has_type(&json["decoder"], "ByteLevel");
    if is_byte_level != has_type(&parts.decoder, "ByteLevel") {
        let (file, taken) =
            if is_byte_level { ("bytes", "words after `▁`") } else { ("no bytes", "byte-level") };
        return Err(other_kind(name, names, &format!("its vocabulary, of {file}, for {taken}")));
    }
    check_added_tokens(name, json, names)?;
    let of_file = replaced::parts(json);
    json["normalizer"] = parts.normalizer;
    json["pre_tokenizer"] = parts.pre_tokenizer;
    json["decoder"] = parts.decoder;
    let model = &mut json["model"];
    model["unk_token"] = parts.unk_token;
    model["fuse_unk"] = parts.fuse_unk.into();
    model["byte_fallback"] = parts.byte_fallback.into();
    model["ignore_merges"] = false.into();
    model["continuing_subword_prefix"] = Value::Null;
    model["end_of_word_suffix"] = Value::Null;
    if names.added_decoder.is_some() {
        json["added_tokens"] = json!([]);
    }
    Ok(Replaced::new(of_file, json, name, advice(names)))
}

/// Fails when a token that begins or ends sequences is only in the file's list of added tokens, which the class
/// disregards where `added_tokens_decoder` stands: it would get another id.
fn check_added_tokens(name: &str, json: &Value, names: &SpecialNames) -> Reasoned<()> {
    let Some(listed) = &names.added_decoder else { return Ok(()) };
    let is_lost = |text: &String| {
        names.delimits(text)
            && !listed.iter().any(|token| token.text == *text)
            && vocabulary_id(&json["model"]["vocab"], text).is_none()
    };
    let Some(text) = added_ids(json).into_keys().find(is_lost) else { return Ok(()) };
    let lack = if listed.is_empty() { "is empty" } else { "lacks it" };
    Err(format!(
        "has the added token `{}`, and the class `{name}` takes added tokens from `added_tokens_decoder` in \
         tokenizer_config.json alone, which {lack}: remove that key, or list the tokens there",
        text.escape_debug()
    ))
}

fn other_kind(name: &str, names: &SpecialNames, mistaken: &str) -> String {
    format!("belongs to the class `{name}`, and with it transformers takes {mistaken}: {}", advice(names))
}

/// What to do where a class is not to build the tokenizer.
fn advice(names: &SpecialNames) -> String {
    match names.model_type.as_deref().filter(|model_type| class::overrules(model_type)) {
        Some(model_type) => format!(
            "it does so for every model of the type `{model_type}`, whatever the folder declares: give the model a \
             tokenizer of that class"
        ),
        None => {
            "where tokenizer.json is to be read as it is, set `tokenizer_class` in tokenizer_config.json to \
                 `PreTrainedTokenizerFast`"
                .to_owned()
        }
    }
}

/// Takes the flags from added tokens that some classes add once more, without flags: all special ones, or those
/// that are only strings.
pub(super) fn clear_flags(class: Class, json: &mut Value, names: &SpecialNames, defaults: &[String]) {
    let further = || names.further.iter().filter_map(|name| names.named.get(name));
    let cleared: Vec<&String> = match class {
        Class::Qwen2 => names.in_order().collect(),
        Class::Cohere => defaults.iter().chain(further()).chain(&names.additional).collect(),
        _ => return,
    };
    for token in json["added_tokens"].as_array_mut().into_iter().flatten() {
        if cleared.iter().any(|text| token["content"] == text.as_str()) {
            for flag in ["single_word", "lstrip", "rstrip", "normalized"] {
                token[flag] = false.into();
            }
        }
    }
}

/// Some classes also make the post-processor anew: with BOS whatever the file says, or with nothing.
pub(super) fn rebuild_post_processor(class: Class, json: &mut Value, names: &SpecialNames) {
    let bos = match class {
        Class::CodeLlama => names.named.get("bos_token"),
        Class::GptNeoX => None,
        _ => return,
    };
    let id = bos.and_then(|bos| {
        added_ids(json).get(bos).copied().or_else(|| vocabulary_id(&json["model"]["vocab"], bos))
    });
    json["post_processor"] = match bos.zip(id) {
        None => Value::Null,
        Some((bos, id)) => {
            let token = |kind: u32| json!({"SpecialToken": {"id": bos, "type_id": kind}});
            let text = |name: &str, kind: u32| json!({"Sequence": {"id": name, "type_id": kind}});
            json!({
                "type": "TemplateProcessing",
                "single": [token(0), text("A", 0)],
                "pair": [token(0), text("A", 0), token(1), text("B", 1)],
                "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
            })
        }
    };
}

// Vocabularies in which `▁` stands for a space

fn llama(names: &SpecialNames) -> Parts {
    let adds_space = names.add_prefix_space.unwrap_or(true);
    let scheme = match (adds_space, names.legacy) {
        (false, _) => "never",
        (true, true) => "always",
        (true, false) => "first",
    };
    Parts {
        normalizer: Value::Null,
        pre_tokenizer: metaspace(scheme),
        decoder: space_decoder(adds_space),
        unk_token: Value::Null,
        fuse_unk: true,
        byte_fallback: true,
    }
}

fn code_llama(names: &SpecialNames) -> Parts {
    let scheme = if names.add_prefix_space.unwrap_or(true) { "first" } else { "never" };
    Parts {
        pre_tokenizer: metaspace(scheme),
        decoder: space_decoder(true),
        unk_token: unk_token(names),
        ..llama(names)
    }
}

fn gemma(names: &SpecialNames) -> Parts {
    let space = json!({"String": " "});
    Parts {
        normalizer: json!({"type": "Replace", "pattern": space, "content": "▁"}),
        pre_tokenizer: json!({"type": "Split", "pattern": space, "behavior": "MergedWithPrevious", "invert": false}),
        decoder: space_decoder(false),
        unk_token: unk_token(names),
        fuse_unk: true,
        byte_fallback: true,
    }
}

/// The token's string; of a folder that says to have none, the string that Python makes of `None`.
fn unk_token(names: &SpecialNames) -> Value {
    names.named.get("unk_token").map_or("None", String::as_str).into()
}

fn metaspace(scheme: &str) -> Value {
    json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false})
}

fn space_decoder(strips_first: bool) -> Value {
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if strips_first {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": decoders})
}

// Vocabularies of bytes

fn byte_level(normalizer: Value, names: &SpecialNames) -> Parts {
    Parts {
        normalizer,
        pre_tokenizer: level(names.add_prefix_space.unwrap_or(false), true),
        decoder: level(true, true),
        unk_token: Value::Null,
        fuse_unk: false,
        byte_fallback: false,
    }
}

fn byte_level_words(words: &str, names: &SpecialNames) -> Parts {
    let split =
        json!({"type": "Split", "pattern": {"Regex": words}, "behavior": "Isolated", "invert": false});
    let bytes = level(names.add_prefix_space.unwrap_or(false), false);
    Parts {
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": [split, bytes]}),
        ..byte_level(json!({"type": "NFC"}), names)
    }
}

fn cohere(names: &SpecialNames) -> Parts {
    let bytes = level(names.add_prefix_space.unwrap_or(false), true);
    let digits = json!({"type": "Digits", "individual_digits": true});
    Parts {
        pre_tokenizer: json!({"type": "Sequence", "pretokenizers": [digits, bytes]}),
        decoder: bytes,
        ..byte_level(json!({"type": "NFC"}), names)
    }
}

fn level(add_prefix_space: bool, use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex})
}
