//! Whether models read the same tokens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::checkpoint::TensorFolder;
use crate::error::{Error, Result};
use crate::files::{MOST_TOKENIZER_BYTES, parent, read_input};

/// Name of the file that says which token has which number.
const TOKENIZER: &str = "tokenizer.json";

/// What becomes of tokens that not all models have, or that have other numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Vocabulary {
    /// Such models are refused.
    #[default]
    Strict,
    /// Rows of embedding and head are merged by their numbers, whatever tokens they are of.
    ByNumber,
}

/// Looks for tokens that models number otherwise; models without a `tokenizer.json` are taken to have that of the first
/// that has one. What a person should know where they may.
///
/// # Errors
/// Which token differs, where none may; a tokenizer that cannot be read.
pub(super) fn check(models: &[TensorFolder], vocabulary: &Vocabulary) -> Result<Option<String>> {
    let Some((path, difference, first)) = difference(models)? else { return Ok(None) };
    let first = first.display();
    match vocabulary {
        Vocabulary::Strict => {
            let reason = format!(
                "{difference} in {first}: models with different tokenizers cannot be merged token by token"
            );
            Err(Error::format(&path, reason))
        }
        Vocabulary::ByNumber => Ok(Some(format!(
            "{}: {difference} in {first}: rows of different tokens are merged, as mergekit does",
            path.display()
        ))),
    }
}

/// The first tokenizer that differs from the first of all, where, and the folder of that.
fn difference(models: &[TensorFolder]) -> Result<Option<(PathBuf, String, PathBuf)>> {
    let mut others = models.iter();
    let first = loop {
        let Some(model) = others.next() else { return Ok(None) };
        if let Some(first) = Tokenizer::read(model.folder())? {
            break first;
        }
    };
    for model in others {
        let Some(other) = Tokenizer::read(model.folder())? else { continue };
        if other.bytes == first.bytes {
            continue;
        }
        if let Some(difference) = first.difference(&other)? {
            return Ok(Some((other.path, difference, parent(&first.path).to_owned())));
        }
    }
    Ok(None)
}

struct Tokenizer {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Tokenizer {
    fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(TOKENIZER);
        if !path.is_file() {
            return Ok(None);
        }
        let bytes = read_input(&path, MOST_TOKENIZER_BYTES)?;
        Ok(Some(Self { path, bytes }))
    }

    /// Numbers of all tokens, those that were added too.
    fn tokens(&self) -> Result<BTreeMap<String, u64>> {
        let json: Value = serde_json::from_slice(&self.bytes)
            .map_err(|error| Error::format(&self.path, format!("is not JSON: {error}")))?;
        let mut tokens = BTreeMap::new();
        match &json["model"]["vocab"] {
            Value::Object(vocabulary) => {
                let numbers = vocabulary.iter().filter_map(|(token, id)| Some((token.clone(), id.as_u64()?)));
                tokens.extend(numbers);
            }
            // Of unigram models a list of tokens with their scores.
            Value::Array(vocabulary) => {
                let token =
                    |(id, entry): (usize, &Value)| Some((entry.get(0)?.as_str()?.to_owned(), id as u64));
                tokens.extend(vocabulary.iter().enumerate().filter_map(token));
            }
            _ => {}
        }
        let added = json["added_tokens"].as_array().into_iter().flatten();
        tokens.extend(
            added.filter_map(|token| Some((token["content"].as_str()?.to_owned(), token["id"].as_u64()?))),
        );
        Ok(tokens)
    }

    /// The first token that another tokenizer numbers otherwise, in words that end with "it is …".
    fn difference(&self, other: &Self) -> Result<Option<String>> {
        let (ours, theirs) = (self.tokens()?, other.tokens()?);
        let number = |id: Option<&u64>| id.map_or("not there".to_owned(), |id| format!("number {id}"));
        let mut all = theirs.keys().chain(ours.keys());
        let found = all.find(|token| ours.get(*token) != theirs.get(*token));
        Ok(found.map(|token| {
            let (theirs, ours) = (number(theirs.get(token)), number(ours.get(token)));
            format!("the token `{}` is {theirs}, it is {ours}", crate::error::clip(token))
        }))
    }
}
