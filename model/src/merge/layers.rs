//! Layers by the names of their tensors: which tensor is in which, and models put together of slices.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use serde_json::Value;

use super::matching::{
    Head, Matched, Matches, NameMap, Sizes, decide_head, embedding, is_table, list, matched,
    require_same_architecture,
};
use super::options::{InputSlice, OutputSlice};
use super::output::LAYER_COUNTS;
use crate::checkpoint::{TensorFolder, is_head, plain_name};
use crate::error::{Error, Result};

/// What the names of tensors contain that come before the first layer.
const BEFORE: [&str; 3] = ["embed", "wte", "wpe"];

/// Numbers from here on are none of layers.
const MOST_LAYERS: usize = 1 << 20;

/// The name of a tensor in a layer, as `model.layers.3.mlp.weight`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LayerName<'a> {
    /// `model.layers`.
    pub prefix: &'a str,
    /// 3.
    pub layer: usize,
    /// `mlp.weight`.
    pub rest: &'a str,
}

impl<'a> LayerName<'a> {
    /// The first number between dots is that of the layer.
    pub fn of(name: &'a str) -> Option<Self> {
        let mut start = name.find('.')? + 1;
        loop {
            let (part, rest) = name[start..].split_once('.')?;
            let layer = part.parse().ok().filter(|layer| *layer < MOST_LAYERS);
            if let (true, Some(layer)) = (part.bytes().all(|byte| byte.is_ascii_digit()), layer) {
                return Some(Self { prefix: &name[..start - 1], layer, rest });
            }
            start += part.len() + 1;
        }
    }
}

/// How deep in a model its tensors are: 0 in the first layer, 1 in the last. Layers of several kinds, as of a model that
/// also sees, are counted apart.
pub(super) struct Depths<'a>(HashMap<&'a str, usize>);

impl<'a> Depths<'a> {
    pub fn of(model: &'a TensorFolder) -> Self {
        let mut last = HashMap::new();
        for name in
            model.names().iter().filter(|name| !is_table(model, name)).filter_map(|name| LayerName::of(name))
        {
            let known = last.entry(name.prefix).or_insert(0);
            *known = name.layer.max(*known);
        }
        // Behind the last layer some models have others, as those that predict several tokens.
        let Some(count) = layer_count(model.config()) else { return Self(last) };
        let is_only = last.len() == 1;
        for (prefix, last) in &mut last {
            if is_only || !plain_name(prefix).contains('.') {
                *last = (*last).min(count.saturating_sub(1));
            }
        }
        Self(last)
    }

    /// 0 also for tensors outside layers, 1 in an only layer.
    pub fn depth(&self, name: &str) -> f64 {
        let Some(name) = LayerName::of(name) else { return 0.0 };
        depth(name.layer, self.0.get(name.prefix).copied().unwrap_or(0))
    }
}

fn depth(layer: usize, last: usize) -> f64 {
    if last == 0 { 1.0 } else { (layer as f64 / last as f64).min(1.0) }
}

/// How many layers a configuration says that there are.
fn layer_count(config: &Value) -> Option<usize> {
    let own = |config: &Value| LAYER_COUNTS.iter().find_map(|key| config.get(*key)?.as_u64());
    let count = own(config).or_else(|| own(config.get("text_config")?))?;
    usize::try_from(count).ok().filter(|count| *count > 0)
}

/// A model's tensors by layer.
struct Layers<'a> {
    model: &'a TensorFolder,
    prefix: &'a str,
    /// What the names of each layer's tensors end with, as they are stored.
    layers: BTreeMap<usize, Vec<&'a str>>,
    /// The names of the others.
    outside: Vec<&'a str>,
}

impl<'a> Layers<'a> {
    fn of(model: &'a TensorFolder) -> Result<Self> {
        let (mut layers, mut outside) = (BTreeMap::<usize, Vec<&str>>::new(), Vec::new());
        let mut prefixes = BTreeSet::new();
        for name in model.names().iter().filter(|name| !is_table(model, name)) {
            match LayerName::of(name) {
                Some(name) => {
                    prefixes.insert(name.prefix);
                    layers.entry(name.layer).or_default().push(name.rest);
                }
                None => outside.push(name.as_str()),
            }
        }
        let refuse = |reason: String| Err(Error::format(model.listing(), reason));
        let mut prefixes = prefixes.into_iter();
        match (prefixes.next(), prefixes.next()) {
            (Some(prefix), None) => Ok(Self { model, prefix, layers, outside }),
            (Some(one), Some(two)) => refuse(format!(
                "has layers in `{one}` and in `{two}`: only whole models of its kind are merged, no slices"
            )),
            (None, _) => refuse("has no layers, tensors whose names have a number between dots".to_owned()),
        }
    }

    /// Number of layers, without those behind the last that the configuration knows.
    fn count(&self) -> usize {
        let stored = self.layers.keys().next_back().map_or(0, |last| last + 1);
        layer_count(self.model.config()).map_or(stored, |count| count.min(stored))
    }

    fn name(&self, layer: usize, rest: &str) -> String {
        format!("{}.{layer}.{rest}", self.prefix)
    }
}

/// Matches the tensors of which slices are made.
///
/// # Errors
/// Another architecture; layers that a model does not have; tensors that are missing, or do not match.
pub(super) fn match_slices(models: &[TensorFolder], slices: &[OutputSlice], sizes: Sizes) -> Result<Matches> {
    let first = &models[0];
    models[1..].iter().try_for_each(|model| require_same_architecture(first, model))?;
    let mut notices = Vec::new();
    let head = decide_head(models)?;
    let layers = models.iter().map(Layers::of).collect::<Result<Vec<_>>>()?;
    for layers in &layers {
        let count = layers.count();
        if layers.layers.range(count..).next().is_some() {
            notices.push(format!(
                "{} has layers from {count} on that are none of config.json's: left out",
                layers.model.folder().display()
            ));
        }
    }
    let (mut tensors, behind) = match_outside(&layers, slices, (&head, sizes))?;
    let mut origins = Vec::new();
    for (number, slice) in slices.iter().enumerate() {
        let ranges = ranges(&layers, slice, number)?;
        for offset in 0..ranges[0].len() {
            let at: Vec<(&Layers<'_>, usize)> = slice
                .sources
                .iter()
                .zip(&ranges)
                .map(|(source, range)| (&layers[source.model], range.start + offset))
                .collect();
            let depth = depth(offset, ranges[0].len() - 1);
            for (rest, names) in match_layer(&at)? {
                let of: Vec<&TensorFolder> = at.iter().map(|(layers, _)| layers.model).collect();
                let name = layers[0].name(origins.len(), rest);
                tensors.push(Matched { depth, slice: number, ..matched(&name, names, &of, Sizes::All)? });
            }
            origins.push((slice.sources[0].model, at[0].1));
        }
    }
    tensors.extend(behind);
    Ok(Matches { tensors, tied: head.tied, head_notice: head.notice, notices, origins: Some(origins) })
}

/// The layers of every source of a slice.
fn ranges(layers: &[Layers<'_>], slice: &OutputSlice, number: usize) -> Result<Vec<Range<usize>>> {
    let range = |(index, source): (usize, &InputSlice)| {
        let of = &layers[source.model];
        let count = of.count();
        let range = source.layers.clone().unwrap_or(0..count);
        match range.end <= count && !range.is_empty() {
            true => Ok(range),
            false => Err(Error::setting(
                format!("slices[{number}].sources[{index}].layer_range"),
                format!("{} has layers from 0 up to, not including, {count}", of.model.folder().display()),
            )),
        }
    };
    slice.sources.iter().enumerate().map(range).collect()
}

/// What the names of one layer's tensors end with, and their names in all sources.
fn match_layer<'a>(sources: &[(&Layers<'a>, usize)]) -> Result<Vec<(&'a str, Vec<String>)>> {
    let rests = |(layers, layer): &(&Layers<'a>, usize)| {
        let missing = || Error::format(layers.model.listing(), format!("has no tensors of layer {layer}"));
        layers.layers.get(layer).cloned().ok_or_else(missing)
    };
    let all = sources.iter().map(rests).collect::<Result<Vec<Vec<&str>>>>()?;
    for ((layers, layer), rests) in sources.iter().zip(&all).skip(1) {
        let lacks = |these: &[&'a str], of: &[&'a str]| {
            let missing: Vec<&str> = these.iter().copied().filter(|rest| !of.contains(rest)).collect();
            list(&missing)
        };
        let (first, first_layer) = &sources[0];
        let first = first.model.folder().display();
        if let Some(names) = lacks(&all[0], rests) {
            let reason = format!("layer {layer} has no {names}, which layer {first_layer} of {first} has");
            return Err(Error::format(layers.model.listing(), reason));
        }
        if let Some(names) = lacks(rests, &all[0]) {
            let reason =
                format!("layer {layer} has {names}, which layer {first_layer} of {first} does not have");
            return Err(Error::format(layers.model.listing(), reason));
        }
    }
    let names = |rest| sources.iter().map(|(layers, layer)| layers.name(*layer, rest)).collect();
    Ok(all[0].iter().map(|rest| (*rest, names(rest))).collect())
}

/// Matches tensors outside the layers: those before the first, of the first slice's models, and those behind the last, of
/// the last slice's.
fn match_outside(
    layers: &[Layers<'_>],
    slices: &[OutputSlice],
    (head, sizes): (&Head, Sizes),
) -> Result<(Vec<Matched>, Vec<Matched>)> {
    let first = &layers[0];
    let mut wanted: Vec<&str> =
        first.outside.iter().copied().filter(|name| !is_head(name) || head.is_kept).collect();
    let of_others =
        layers.iter().flat_map(|layers| layers.outside.iter().copied()).find(|name| is_head(name));
    if head.is_kept && !wanted.iter().any(|name| is_head(name)) {
        wanted.extend(of_others);
    }
    let known: BTreeSet<String> = first.outside.iter().map(|name| plain_name(name)).collect();
    let (mut before, mut behind) = (Vec::new(), Vec::new());
    for name in wanted {
        let is_before = !is_head(name) && BEFORE.iter().any(|part| name.contains(part));
        let number = if is_before { 0 } else { slices.len() - 1 };
        let of: Vec<&TensorFolder> =
            slices[number].sources.iter().map(|source| layers[source.model].model).collect();
        let mut names = Vec::with_capacity(of.len());
        for model in &of {
            let map = NameMap::of(first.model, model);
            let stored = map.find(model, name).or_else(|| embedding(model).filter(|_| is_head(name)));
            let Some(stored) = stored else {
                let reason = format!("has no `{name}`, which {} has", first.model.folder().display());
                return Err(Error::format(model.listing(), reason));
            };
            names.push(stored.to_owned());
        }
        let tensor = Matched { slice: number, ..matched(name, names, &of, sizes)? };
        if is_before { before.push(tensor) } else { behind.push(tensor) }
    }
    for other in layers {
        let is_left = |name: &&str| !is_head(name) && !known.contains(&plain_name(name));
        let left: Vec<&str> = other.outside.iter().copied().filter(is_left).collect();
        if let Some(names) = list(&left) {
            let reason = format!("has {names}, which {} does not have", first.model.folder().display());
            return Err(Error::format(other.model.listing(), reason));
        }
    }
    Ok((before, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_numbers_between_dots() {
        let of = |name| LayerName::of(name).map(|name| (name.prefix, name.layer, name.rest));
        assert_eq!(of("model.layers.12.mlp.w"), Some(("model.layers", 12, "mlp.w")));
        assert_eq!(of("h.0.attn.bias"), Some(("h", 0, "attn.bias")));
        assert_eq!(of("m.layers.3.experts.5.w1"), Some(("m.layers", 3, "experts.5.w1")));
        for name in
            ["lm_head.weight", "model.norm.weight", "a.3", "3.a", "x.1b.y", "x.18446744073709551615.y", ""]
        {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
