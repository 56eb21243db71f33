//! How `tokenizer.json` splits text where the tokenizer class builds that part anew: what a person is told of the
//! difference.

use serde_json::Value;

use super::compare::plain;
use crate::contain;

/// What decides how text is split and a class builds, by the keys on the way to it.
const SPLITTING: [&[&str]; 7] = [
    &["normalizer"],
    &["pre_tokenizer"],
    &["model", "fuse_unk"],
    &["model", "byte_fallback"],
    &["model", "ignore_merges"],
    &["model", "continuing_subword_prefix"],
    &["model", "end_of_word_suffix"],
];

/// Texts on which ways of splitting differ, the frequent ones first.
const TEXTS: [&str; 16] = [
    "12345",
    "It's, we'LL",
    "one  two   three",
    " a",
    "a\n\n b\t c",
    "x = (y_1 + 2);\n\treturn",
    "Hello, world!!! ...",
    "caf\u{e9} na\u{ef}ve",
    "e\u{301}",
    "don\u{2019}t \u{2014} \u{2026}",
    "\u{65e5}\u{672c}\u{8a9e}",
    "\u{928}\u{92e}\u{938}\u{94d}\u{924}\u{947}",
    "a\r\nb",
    "\u{fb01} \u{ff21} \u{b2}",
    "a\u{a0}b",
    "\u{1f44d}\u{1f3fd}",
];

/// The file's own parts where a class has put others in their place.
pub(super) struct Replaced {
    /// In the order of [`SPLITTING`].
    parts: [Value; 7],
    class: &'static str,
    /// What to do where the file is to be followed.
    advice: String,
}

/// The parts as they are now.
pub(super) fn parts(json: &mut Value) -> [Value; 7] {
    SPLITTING.map(|keys| at(json, keys).clone())
}

impl Replaced {
    /// The file's `parts`, if what the class `class` put in their place in `json` is not the same.
    pub fn new(parts: [Value; 7], json: &mut Value, class: &'static str, advice: String) -> Option<Self> {
        let meaning = |part: &Value| match plain(part) {
            Value::Bool(false) => Value::Null,
            Value::String(text) if text.is_empty() => Value::Null,
            part => part,
        };
        let differs =
            SPLITTING.iter().zip(&parts).any(|(keys, part)| meaning(part) != meaning(at(json, keys)));
        differs.then_some(Self { parts, class, advice })
    }

    /// Says by an example that `tokenizer`, which the class has built, splits text otherwise than the file. Puts the
    /// file's parts back into `json`.
    pub fn notice(self, json: &mut Value, tokenizer: &tokenizers::Tokenizer) -> Option<String> {
        for (keys, part) in SPLITTING.iter().zip(self.parts) {
            *at(json, keys) = part;
        }
        let file = contain::contain("tokenizers", || tokenizers::Tokenizer::from_bytes(json.to_string()));
        let file = file.ok()?.ok()?;
        let ids = |tokenizer: &tokenizers::Tokenizer, text| {
            let encoded = contain::contain("tokenizers", || tokenizer.encode_fast(text, false));
            Some(encoded.ok()?.ok()?.get_ids().to_vec())
        };
        let (text, class, file) = TEXTS.iter().find_map(|&text| {
            let (class, file) = (ids(tokenizer, text)?, ids(&file, text)?);
            (class != file).then_some((text, class.len(), file.len()))
        })?;
        let example = if class == file {
            format!("other {class} tokens")
        } else {
            format!("{class} tokens instead of {file}")
        };
        Some(format!(
            "transformers 5 builds the tokenizer of the class `{}` anew, and token ids follow the class, not this \
             file: \"{}\" becomes {example}; {}",
            self.class,
            text.escape_debug(),
            self.advice
        ))
    }
}

/// The value at the end of some keys.
fn at<'a>(json: &'a mut Value, keys: &[&str]) -> &'a mut Value {
    keys.iter().fold(json, |value, &key| &mut value[key])
}
