//! Which token has which row, where models number tokens otherwise or do not have the same.

mod tokenizer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

pub(super) use self::tokenizer::TokenizerFiles;
use self::tokenizer::{Target, Tokenizer};
use super::MergeRequest;
use crate::checkpoint::TensorFolder;
use crate::error::{Error, Result};

/// Most numbers without a token that there may be, beside as many as there are tokens. A row is kept for each of them.
const MOST_HOLES: usize = 1 << 16;

/// What becomes of tokens that not all models have, or that have other numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Vocabulary {
    /// Such models are refused.
    #[default]
    Strict,
    /// Rows of embedding and head are merged by their numbers, whatever tokens they are of.
    ByNumber,
    /// The merged model has the tokens of the first model.
    Base,
    /// It has the tokens of all models: those of the first, then the others'.
    Union,
    /// It has the tokens of the model in this folder.
    Of(PathBuf),
}

/// The tokens of a merged model whose rows are put in their order.
#[derive(Debug)]
pub(super) struct Tokens {
    /// Rows of its embedding.
    pub rows: usize,
    /// For every model, the row there of each of these.
    pub of_models: Vec<Vec<Option<usize>>>,
    /// For every model, how many rows its own tokens take.
    pub needed: Vec<usize>,
    /// The tokenizer's files.
    pub files: TokenizerFiles,
}

/// What is decided about tokens.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// The merged model's, where rows are put in order; else they are merged by their numbers.
    pub tokens: Option<Tokens>,
    /// What a person should know, a line each.
    pub notices: Vec<String>,
}

/// Decides which rows belong together.
///
/// # Errors
/// A token that differs, where none may; a tokenizer that is missing where it is needed, or cannot be read.
pub(super) fn decide(models: &[TensorFolder], request: &MergeRequest) -> Result<Decided> {
    match &request.vocabulary {
        Vocabulary::Strict => match difference(models)? {
            None => Ok(Decided::default()),
            Some((path, difference, first)) => {
                let reason = format!(
                    "{difference} in {}: --vocabulary base or union says what becomes of models with different tokenizers",
                    first.display()
                );
                Err(Error::format(&path, reason))
            }
        },
        Vocabulary::ByNumber => {
            let notice = difference(models)?.map(|(path, difference, first)| {
                let (path, first) = (path.display(), first.display());
                format!("{path}: {difference} in {first}: rows of different tokens are merged; `tokenizer_source` puts them in order")
            });
            Ok(Decided { tokens: None, notices: notice.into_iter().collect() })
        }
        Vocabulary::Base => tokens(models, request, models[0].folder()),
        Vocabulary::Union => tokens(models, request, models[0].folder()),
        Vocabulary::Of(folder) => tokens(models, request, folder),
    }
}

/// The tokens of the tokenizer in a folder, perhaps with those of all models.
fn tokens(models: &[TensorFolder], request: &MergeRequest, folder: &Path) -> Result<Decided> {
    let mut target = Target::read(folder).map_err(|error| request.locate_tokenizer(error))?;
    let is_of_first = folder == models[0].folder();
    if is_of_first {
        target.strip(rows_of(models[0].config()))?;
    }
    let mut notices = Vec::new();
    let mut own = Vec::with_capacity(models.len());
    for (number, model) in models.iter().enumerate() {
        let locate = |error| request.locate_model(number, error);
        let mut tokenizer = match Tokenizer::read(model.folder()).map_err(locate)? {
            Some(tokenizer) => tokenizer,
            None if model.folder() != models[0].folder() && !tokenizer::has_other_form(model.folder())? => {
                let (folder, first) = (model.folder().display(), models[0].folder().display());
                notices.push(format!("{folder} has no tokenizer: taken to have that of {first}"));
                Tokenizer::require(models[0].folder())?
            }
            None => Tokenizer::require(model.folder()).map_err(locate)?,
        };
        let limit = rows_of(model.config());
        tokenizer.tokens.retain(|_, number| *number < limit);
        own.push(tokenizer);
    }
    if request.vocabulary == Vocabulary::Union {
        target.add(&own[1..])?;
    }
    target.require_numbers()?;
    let rows = rows(&target.tokens);
    if rows > MOST_HOLES + 2 * target.tokens.len() {
        let (last, count) = (rows - 1, target.tokens.len());
        let reason = format!("has a token with the number {last}, and only {count} tokens");
        return Err(Error::format(&folder.join(tokenizer::FILE), reason));
    }
    let of_model = |tokenizer: &Tokenizer| {
        let mut numbers = vec![None; rows];
        for (token, number) in &target.tokens {
            numbers[*number] = tokenizer.tokens.get(token).copied();
        }
        numbers
    };
    let of_models = own.iter().map(of_model).collect();
    let needed = own.iter().map(|tokenizer| self::rows(&tokenizer.tokens)).collect();
    if !is_of_first {
        let folder = folder.display();
        notices.push(format!("the tokenizer is that of {folder}: numbers of tokens in config.json and generation_config.json may be others"));
    }
    let files = target.into_files(is_of_first)?;
    Ok(Decided { tokens: Some(Tokens { rows, of_models, needed, files }), notices })
}

/// How many rows tokens take: one for each number up to the last.
fn rows(tokens: &BTreeMap<String, usize>) -> usize {
    tokens.values().max().map_or(0, |last| last + 1)
}

/// How many rows a configuration says that the embedding has.
pub(super) fn rows_of(config: &Value) -> usize {
    let key = "vocab_size";
    let value = config.get(key).or_else(|| config.get("text_config")?.get(key));
    value.and_then(Value::as_u64).map_or(usize::MAX, |rows| usize::try_from(rows).unwrap_or(usize::MAX))
}

/// The first tokenizer that differs from the first of all, where, and the folder of that. Models without a
/// `tokenizer.json` are taken to have that of the first that has one.
fn difference(models: &[TensorFolder]) -> Result<Option<(PathBuf, String, PathBuf)>> {
    let mut others = models.iter();
    let (first, bytes) = loop {
        let Some(model) = others.next() else { return Ok(None) };
        if let Some(bytes) = tokenizer::read(model.folder())? {
            break (model.folder(), bytes);
        }
    };
    for model in others {
        let Some(other) = tokenizer::read(model.folder())?.filter(|other| *other != bytes) else { continue };
        let (ours, theirs) = (Tokenizer::parse(first, &bytes)?, Tokenizer::parse(model.folder(), &other)?);
        if let Some(difference) = ours.difference(&theirs) {
            return Ok(Some((theirs.path, difference, first.to_owned())));
        }
    }
    Ok(None)
}
