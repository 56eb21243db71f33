//! Names of tensors: which of those stored is which of the model's.

use std::collections::BTreeMap;

use cpift_engine::{Layout, Segment};

use super::folder::Weights;
use super::load;
use super::{EMBEDDING, HEAD, Place};
use crate::error::{Error, Result};

/// Names listed in one message; the rest are counted.
const NAMES_LISTED: usize = 4;

/// What the names of a language model's tensors begin with, all but the head's.
const PREFIX: &str = "model.";

/// What they begin with besides where the language model is a part of a larger one.
const LANGUAGE_MODEL: &str = "language_model.";

/// Where the tensors of a model are stored.
pub(super) struct Found {
    /// One for every segment of the layout.
    pub segments: Vec<Place>,
    /// The head of a tied model, where it is stored beside the embedding.
    pub tied_head: Option<Place>,
    /// What a person should know about the other tensors.
    pub notice: Option<String>,
}

impl Found {
    /// False when a tied model stores a head that is not its embedding. Reads both; where no head is stored, nothing.
    pub fn head_is_embedding(&self, weights: &Weights, layout: &Layout) -> Result<bool> {
        let embedding = layout.segments().iter().position(|segment| segment.name == EMBEDDING);
        let (Some(head), Some(embedding)) = (&self.tied_head, embedding) else { return Ok(true) };
        let (head, embedding) = (weights.stored(head), weights.stored(&self.segments[embedding]));
        load::are_equal(head, embedding)
    }
}

/// Finds the tensors of the layout among those stored, and checks shapes and types.
///
/// # Errors
/// Tensors that are missing, stored twice, of another shape or type, or parts of another model.
pub(super) fn find(weights: &Weights, layout: &Layout, tied: bool) -> Result<Found> {
    let mut places = locate(weights, layout)?;
    // A tied model may store its one matrix under either name.
    if tied
        && !places.contains_key(EMBEDDING)
        && let Some(head) = places.remove(HEAD)
    {
        places.insert(EMBEDDING.to_owned(), head);
    }
    require_all(weights, layout, &places)?;
    let notice = check_others(weights, layout, &places)?;

    let find = |segment: &Segment| {
        let place = places[segment.name.as_str()].clone();
        weights.files[place.file].require_floats(&place.name, &segment.shape)?;
        Ok(place)
    };
    let segments = layout.segments().iter().map(find).collect::<Result<Vec<_>>>()?;
    let tied_head = places.get(HEAD).filter(|_| tied).cloned();
    if let (Some(head), Some(embedding)) = (&tied_head, layout.find(EMBEDDING)) {
        weights.files[head.file].require_floats(&head.name, &layout.segment(embedding).shape)?;
    }
    Ok(Found { segments, tied_head, notice })
}

/// Where each tensor is stored, by its name in the model.
fn locate(weights: &Weights, layout: &Layout) -> Result<BTreeMap<String, Place>> {
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    for (index, file) in weights.files.iter().enumerate() {
        for stored in file.names() {
            let name = model_name(&stored, layout);
            let place = Place { file: index, name: stored, addition: None };
            if let Some(other) = places.insert(name.clone(), place) {
                let (one, two) = (weights.files[other.file].path().display(), file.path().display());
                let reason = if other.file == index {
                    format!("`{name}` is stored twice, with and without `{PREFIX}`")
                } else {
                    format!("`{name}` is in two shards, {one} and {two}")
                };
                return Err(Error::format(&weights.listing, reason));
            }
        }
    }
    Ok(places)
}

/// A stored tensor's name in the model. As in `transformers`, the prefix is left out or added where that gives
/// a name of the model's: a plain model (`LlamaModel`) is saved without it, and the language model inside a larger
/// one is saved with another before or behind it.
pub(super) fn model_name(stored: &str, layout: &Layout) -> String {
    let is_known = |name: &str| name == HEAD || layout.find(name).is_some();
    let inner = stored.strip_prefix(PREFIX).unwrap_or(stored);
    let inner = inner.strip_prefix(LANGUAGE_MODEL).unwrap_or(inner);
    let inner = inner.strip_prefix(PREFIX).unwrap_or(inner);
    let prefixed = format!("{PREFIX}{inner}");
    let names = [inner.to_owned(), prefixed];
    names.into_iter().find(|name| is_known(name)).unwrap_or_else(|| stored.to_owned())
}

/// Fails when a tensor of the layout is not stored.
fn require_all(weights: &Weights, layout: &Layout, places: &BTreeMap<String, Place>) -> Result<()> {
    let wanted = layout.segments().iter().map(|segment| segment.name.as_str());
    let Some(names) = list_names(wanted.filter(|name| !places.contains_key(*name))) else { return Ok(()) };
    let others = places.keys().map(String::as_str).filter(|name| layout.find(name).is_none());
    let advice = match list_names(others) {
        _ if names == format!("`{HEAD}`") => {
            "; set `tie_word_embeddings` to true if the head is the embedding".to_owned()
        }
        Some(others) => format!("; it has instead {others}"),
        None => String::new(),
    };
    let reason = format!("missing, though config.json asks for it: {names}{advice}");
    Err(Error::format(&weights.listing, reason))
}

/// Fails when a stored tensor is a part of the model that the configuration does not have; says which are
/// parts of something else, which `transformers` leaves out as well.
fn check_others(
    weights: &Weights,
    layout: &Layout,
    places: &BTreeMap<String, Place>,
) -> Result<Option<String>> {
    let others: Vec<&str> = places
        .keys()
        .map(String::as_str)
        .filter(|name| layout.find(name).is_none() && *name != HEAD && !is_table(name))
        .collect();
    let inside = others.iter().copied().filter(|name| is_inside(name));
    if let Some(names) = list_names(inside) {
        let reason = format!("not a part of the model config.json describes: {names}");
        return Err(Error::format(&weights.listing, reason));
    }
    Ok(list_names(others.into_iter()).map(|names| {
        format!("{}: not a part of the language model, left out: {names}", weights.listing.display())
    }))
}

/// Values that follow from the configuration, which old releases stored with the weights.
fn is_table(name: &str) -> bool {
    ["rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "position_ids"]
        .iter()
        .any(|end| name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// The same of a model of any architecture, also the masks of attention that GPT-2 and its like stored.
pub(crate) fn is_stored_table(name: &str, shape: &[usize]) -> bool {
    let is_mask = |end: &str| {
        [".attn", ".attention"]
            .iter()
            .any(|part| name.strip_suffix(end).is_some_and(|rest| rest.ends_with(part)))
    };
    let is_square = matches!(shape, [1, 1, rows, columns] if rows == columns);
    is_table(name) || is_mask(".masked_bias") || (is_square && is_mask(".bias"))
}

/// Whether a tensor belongs to the transformer itself rather than to something beside it.
fn is_inside(name: &str) -> bool {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    ["layers.", "embed_tokens.", "norm.", "lm_head."].iter().any(|part| name.starts_with(part))
}

/// The first few names and how many more there are; `None` when there is none.
fn list_names<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<String> {
    let listed: Vec<_> = names.by_ref().take(NAMES_LISTED).map(|name| format!("`{name}`")).collect();
    let more = names.count();
    let listed = (!listed.is_empty()).then(|| listed.join(", "))?;
    Some(if more == 0 { listed } else { format!("{listed} and {more} more") })
}

/// How the names of heads, of their biases and of token embeddings end.
const HEADS: [&str; 7] = [
    "lm_head.weight",
    "embed_out.weight",
    "lm_head.decoder.weight",
    "lm_head.linear.weight",
    "transformer.output_layer.weight",
    "cls.predictions.decoder.weight",
    "vocab_projector.weight",
];
const BIASES: [&str; 6] = [
    "lm_head.bias",
    "lm_head.decoder.bias",
    "lm_head.linear.bias",
    "cls.predictions.bias",
    "cls.predictions.decoder.bias",
    "vocab_projector.bias",
];
const EMBEDDINGS: [&str; 7] = [
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
    "embed_in.weight",
    "backbone.embeddings.weight",
    "shared.weight",
];

/// The whole name of a head; in other places tensors are called so which are none.
const PLAIN_HEAD: &str = "output.weight";

/// A name without what classes of `transformers` write before those of the modules inside: `model.`, `language_model.`
/// and `transformer.`.
pub(crate) fn plain_name(name: &str) -> String {
    let mut plain = name;
    let prefixes = ["model.", "language_model.", "transformer."];
    while let Some(rest) = prefixes.iter().find_map(|prefix| plain.strip_prefix(prefix)) {
        plain = rest;
    }
    plain.to_owned()
}

/// Whether a tensor is a language model's head.
pub(crate) fn is_head(name: &str) -> bool {
    name == PLAIN_HEAD || ends_as_one_of(name, &HEADS)
}

/// Whether a tensor is the bias of one.
pub(crate) fn is_head_bias(name: &str) -> bool {
    ends_as_one_of(name, &BIASES)
}

/// Whether a tensor is the embedding of tokens.
pub(crate) fn is_embedding(name: &str) -> bool {
    ends_as_one_of(name, &EMBEDDINGS)
}

/// Whether the last parts of a name are those of one of several.
fn ends_as_one_of(name: &str, ends: &[&str]) -> bool {
    let is = |end: &&str| name.strip_suffix(*end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    ends.iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_by_their_ends() {
        assert!(is_head("lm_head.weight") && is_head("language_model.lm_head.weight"));
        assert!(!is_head("film_head.weight") && !is_head("lm_head.bias"));
        assert!(is_embedding("model.embed_tokens.weight") && is_embedding("transformer.wte.weight"));
        assert!(!is_embedding("model.embed_tokens.weight_scale"));
        assert!(is_head("output.weight") && !is_head("attention.output.weight"));
        assert!(is_embedding("backbone.embeddings.weight"));
        assert!(!is_embedding("embeddings.position_embeddings.weight"));
        assert!(is_head_bias("cls.predictions.bias") && !is_head_bias("classifier.bias"));
        for name in [
            "model.language_model.layers.0.w",
            "language_model.model.layers.0.w",
            "transformer.layers.0.w",
            "layers.0.w",
        ] {
            assert_eq!(plain_name(name), "layers.0.w");
        }
        assert!(
            is_stored_table("h.0.attn.bias", &[1, 1, 8, 8]) && is_stored_table("h.0.attn.masked_bias", &[])
        );
        assert!(is_stored_table("rotary_emb.inv_freq", &[4]) && !is_stored_table("h.0.attn.bias", &[8]));
        assert!(!is_stored_table("h.0.attn.c_attn.bias", &[1, 1, 8, 8]));
    }
}
