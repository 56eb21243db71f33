//! Which tensors of several models are the same: by name, as they are stored.

use std::collections::{HashMap, HashSet};

use safetensors::Dtype;
use serde_json::Value;

use super::layers::Depths;
use super::options::OutputSlice;
use crate::checkpoint::{
    TensorFolder, WeightType, is_embedding, is_head, is_head_bias, is_stored_table, plain_name,
};
use crate::error::{Error, Result};

/// Names listed in one message; the rest are counted.
const NAMES_LISTED: usize = 3;

/// Elements compared at a time.
const CHUNK: usize = 1 << 20;

/// Which sizes of tensors must be the same in all models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sizes {
    All,
    /// All but the number of rows, where there is one for every token.
    ButTokens,
}

/// A tensor that all models have.
#[derive(Debug)]
pub(crate) struct Matched {
    /// Name in the first model.
    pub name: String,
    pub shape: Vec<usize>,
    /// The type that holds the values of all models.
    pub dtype: Dtype,
    /// Name in every model, or in every source of its slice.
    pub names: Vec<String>,
    /// Number of the slice that it is in; 0 of whole models.
    pub slice: usize,
    /// Where its layer is in the slice: 0 the first, 1 the last; 0 outside layers.
    pub depth: f64,
}

/// What all models have.
#[derive(Debug)]
pub(crate) struct Matches {
    pub tensors: Vec<Matched>,
    /// Whether the merged model's head is its embedding, where the configurations need not say so.
    pub tied: Option<bool>,
    /// What a person should know about the merged model's head.
    pub head_notice: Option<String>,
    pub notices: Vec<String>,
    /// Of models put together of slices, for every layer the number of the first source's model and of its layer there.
    pub origins: Option<Vec<(usize, usize)>>,
}

impl Matches {
    /// The same with names in the sources of the only slice, which are whole models.
    pub fn into_sources(mut self, slices: &[OutputSlice]) -> Self {
        let sources = slices.iter().flat_map(|slice| &slice.sources).map(|source| source.model);
        let sources: Vec<usize> = sources.collect();
        for tensor in &mut self.tensors {
            tensor.names = sources.iter().map(|model| tensor.names[*model].clone()).collect();
        }
        self
    }
}

/// Matches the tensors of all models with those of the first.
///
/// # Errors
/// Another architecture; a tensor that is missing, that only one has, or of another shape or a type that cannot be merged.
pub(crate) fn match_tensors(models: &[TensorFolder], sizes: Sizes) -> Result<Matches> {
    let first = &models[0];
    models[1..].iter().try_for_each(|model| require_same_architecture(first, model))?;
    let mut notices = Vec::new();
    let head = decide_head(models)?;
    let maps: Vec<NameMap<'_>> = models.iter().map(|model| NameMap::of(first, model)).collect();
    let is_wanted = |name: &&String| !is_table(first, name) && (!is_head(name) || head.is_kept);
    let mut wanted: Vec<&String> = first.names().iter().filter(is_wanted).collect();
    // A head that only others have is written behind everything else.
    let of_others = models.iter().flat_map(|model| model.names()).find(|name| is_head(name));
    if head.is_kept && !wanted.iter().any(|name| is_head(name)) {
        wanted.extend(of_others);
    }
    let (depths, folders) = (Depths::of(first), models.iter().collect::<Vec<_>>());
    let mut tensors = Vec::with_capacity(wanted.len());
    let mut missing: Vec<Vec<&str>> = vec![Vec::new(); models.len()];
    for name in wanted {
        let mut names = Vec::with_capacity(models.len());
        for ((model, map), missing) in models.iter().zip(&maps).zip(&mut missing) {
            let found = map.find(model, name).or_else(|| embedding(model).filter(|_| is_head(name)));
            match found {
                Some(found) => names.push(found.to_owned()),
                None => missing.push(name),
            }
        }
        if names.len() == models.len() {
            tensors.push(Matched { depth: depths.depth(name), ..matched(name, names, &folders, sizes)? });
        }
    }
    for (model, missing) in models.iter().zip(&missing) {
        if let Some(names) = list(missing) {
            let reason = format!("has no {names}, which {} has", first.folder().display());
            return Err(Error::format(model.listing(), reason));
        }
    }
    let mut tables = 0;
    for (index, model) in models.iter().enumerate() {
        let used: HashSet<&str> = tensors.iter().map(|tensor| tensor.names[index].as_str()).collect();
        let others: Vec<&str> =
            model.names().iter().map(String::as_str).filter(|name| !used.contains(name)).collect();
        tables += others.iter().filter(|name| is_table(model, name)).count();
        let left: Vec<&str> =
            others.into_iter().filter(|name| !is_table(model, name) && !is_head(name)).collect();
        if let Some(names) = list(&left) {
            let reason = format!("has {names}, which {} does not have", first.folder().display());
            return Err(Error::format(model.listing(), reason));
        }
    }
    if tables > 0 {
        notices.push(format!(
            "{tables} tensors that follow from the configuration, as old releases stored them, are left out"
        ));
    }
    Ok(Matches { tensors, tied: head.tied, head_notice: head.notice, notices, origins: None })
}

/// Whether a model's tensor follows from its configuration.
pub(super) fn is_table(model: &TensorFolder, name: &str) -> bool {
    model.find(name).is_some_and(|(_, info)| is_stored_table(name, &info.shape))
}

/// The names of a model by what they have in common with those of the first.
pub(super) struct NameMap<'a>(HashMap<String, &'a str>);

impl<'a> NameMap<'a> {
    pub fn of(first: &TensorFolder, model: &'a TensorFolder) -> Self {
        let (mut map, mut twice) = (HashMap::new(), HashSet::new());
        for name in model.names().iter().filter(|name| first.find(name).is_none()) {
            let plain = plain_name(name);
            if map.insert(plain.clone(), name.as_str()).is_some() {
                twice.insert(plain);
            }
        }
        map.retain(|name, _| !twice.contains(name));
        Self(map)
    }

    /// The name under which a model has a tensor of the first.
    pub fn find<'m>(&'m self, model: &'m TensorFolder, name: &'m str) -> Option<&'m str> {
        match model.find(name) {
            Some(_) => Some(name),
            None => self.0.get(&plain_name(name)).copied(),
        }
    }
}

/// Whether a tensor has a row for every token.
pub(super) fn has_token_rows(name: &str) -> bool {
    is_head(name) || is_embedding(name) || is_head_bias(name)
}

/// A model's tensor with the rows of its tokens that one of this name in another model has.
pub(super) fn token_rows<'a>(model: &'a TensorFolder, name: &str) -> Option<&'a str> {
    let own = model.names().iter().map(String::as_str).find(|own| plain_name(own) == plain_name(name));
    own.or_else(|| embedding(model).filter(|_| is_head(name) || is_embedding(name)))
}

fn head(model: &TensorFolder) -> Option<&str> {
    model.names().iter().map(String::as_str).find(|name| is_head(name))
}

pub(super) fn embedding(model: &TensorFolder) -> Option<&str> {
    model.names().iter().map(String::as_str).find(|name| is_embedding(name))
}

/// What becomes of the head.
pub(super) struct Head {
    pub is_kept: bool,
    /// Whether it is the embedding, where the configurations need not say so.
    pub tied: Option<bool>,
    pub notice: Option<String>,
}

/// Leaves the head out where it is every model's embedding; where some have one of their own, the others' is theirs.
pub(super) fn decide_head(models: &[TensorFolder]) -> Result<Head> {
    let with_head = models.iter().filter(|model| head(model).is_some()).count();
    if with_head == 0 {
        return Ok(Head { is_kept: false, tied: None, notice: None });
    }
    let says_tied = |model: &TensorFolder| is_tied(model.config());
    if with_head == models.len() && !models.iter().any(says_tied) {
        return Ok(Head { is_kept: true, tied: None, notice: None });
    }
    let mut apart = None;
    for model in models {
        if apart.is_none() && !head_is_embedding(model)? {
            apart = Some(model);
        }
    }
    match apart {
        None => {
            let notice =
                "the head is stored beside the embedding that it equals: left out, as in a tied model";
            Ok(Head { is_kept: false, tied: Some(true), notice: Some(notice.to_owned()) })
        }
        Some(model) => {
            let notice = format!(
                "{} has a head that is not its embedding: the merged model's head is one of its own, and models without one \
                 take part with their embedding",
                model.folder().display()
            );
            Ok(Head { is_kept: true, tied: Some(false), notice: Some(notice) })
        }
    }
}

/// Whether a configuration says that the head is the embedding.
pub(super) fn is_tied(config: &Value) -> bool {
    let key = "tie_word_embeddings";
    let value = config.get(key).or_else(|| config.get("text_config")?.get(key));
    value.and_then(Value::as_bool).unwrap_or(false)
}

/// True also where one of the two is not stored.
fn head_is_embedding(model: &TensorFolder) -> Result<bool> {
    let (Some(head), Some(embedding)) = (head(model), embedding(model)) else { return Ok(true) };
    let ((_, of_head), (_, of_embedding)) = (model.require(head)?, model.require(embedding)?);
    if of_head.shape != of_embedding.shape || of_head.dtype != of_embedding.dtype {
        return Ok(false);
    }
    let (elements, size) = (of_head.shape.iter().product::<usize>(), of_head.dtype.bitsize() / 8);
    let (mut ours, mut theirs) = (vec![0; CHUNK * size], vec![0; CHUNK * size]);
    for start in (0..elements).step_by(CHUNK) {
        let bytes = CHUNK.min(elements - start) * size;
        model.read(head, start, &mut ours[..bytes])?;
        model.read(embedding, start, &mut theirs[..bytes])?;
        if ours[..bytes] != theirs[..bytes] {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn matched(
    name: &str,
    names: Vec<String>,
    models: &[&TensorFolder],
    sizes: Sizes,
) -> Result<Matched> {
    let found = |(model, name): (usize, &String)| models[model].find(name);
    let infos: Vec<_> = names.iter().enumerate().filter_map(found).collect();
    let shape = infos[0].1.shape.clone();
    let mut dtype = infos[0].1.dtype;
    for ((_, info), (model, name)) in infos.iter().zip(models.iter().zip(&names)) {
        let is_in_rows =
            has_token_rows(name) && info.shape.get(1..).is_some_and(|own| shape.get(1..) == Some(own));
        let is_free = is_in_rows && sizes == Sizes::ButTokens && WeightType::of(info.dtype).is_some();
        if info.shape != shape && !is_free {
            let hint = match is_in_rows {
                true => ": their vocabularies differ in size (--vocabulary base or union)",
                false => "",
            };
            let reason = format!(
                "`{name}` has the shape {:?}, in {} it is {shape:?}{hint}",
                info.shape,
                models[0].folder().display()
            );
            return Err(Error::format(model.listing(), reason));
        }
        dtype = promoted(dtype, info.dtype).ok_or_else(|| {
            let reason = match is_float(info.dtype) && WeightType::of(info.dtype).is_none() {
                true => {
                    format!("`{name}` has the type {}; floats of F32, F16 and BF16 can be merged", info.dtype)
                }
                false => format!("`{name}` has the type {}, another model's is {dtype}", info.dtype),
            };
            Error::format(model.listing(), reason)
        })?;
    }
    Ok(Matched { name: name.to_owned(), shape, dtype, names, slice: 0, depth: 0.0 })
}

/// Whether a type is one of floats, also of those that cannot be merged.
fn is_float(dtype: Dtype) -> bool {
    !matches!(
        dtype,
        Dtype::BOOL
            | Dtype::U8
            | Dtype::I8
            | Dtype::U16
            | Dtype::I16
            | Dtype::U32
            | Dtype::I32
            | Dtype::U64
            | Dtype::I64
    )
}

/// The type that holds the values of both.
fn promoted(one: Dtype, other: Dtype) -> Option<Dtype> {
    match (WeightType::of(one), WeightType::of(other)) {
        (Some(_), Some(_)) if one == other => Some(one),
        (Some(_), Some(_)) => Some(Dtype::F32),
        _ => (one == other && !is_float(one)).then_some(one),
    }
}

/// Fails where configurations name other types of model, or other classes where one names none.
pub(super) fn require_same_architecture(first: &TensorFolder, model: &TensorFolder) -> Result<()> {
    for key in ["model_type", "architectures"] {
        let (Some(expected), Some(found)) = (first.config().get(key), model.config().get(key)) else {
            continue;
        };
        if expected == found {
            return Ok(());
        }
        let reason = format!(
            "`{key}` is {found}, that of {} is {expected}: models of different architectures cannot be merged",
            first.folder().display()
        );
        return Err(Error::format(&model.folder().join("config.json"), reason));
    }
    Ok(())
}

/// The first few names and how many more there are; none where there is none.
pub(super) fn list(names: &[&str]) -> Option<String> {
    let listed: Vec<_> = names.iter().take(NAMES_LISTED).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(NAMES_LISTED);
    let listed = (!listed.is_empty()).then(|| listed.join(", "))?;
    Some(if more == 0 { listed } else { format!("{listed} and {more} more") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_holds_the_values_of_both() {
        assert_eq!(promoted(Dtype::BF16, Dtype::BF16), Some(Dtype::BF16));
        assert_eq!(promoted(Dtype::BF16, Dtype::F16), Some(Dtype::F32));
        assert_eq!(promoted(Dtype::I64, Dtype::I64), Some(Dtype::I64));
        assert_eq!(promoted(Dtype::I64, Dtype::F32), None);
        assert_eq!(promoted(Dtype::F8_E4M3, Dtype::F8_E4M3), None);
    }
}
