//! Stage 1b: the core parameters of a task.

use cpift_engine::ops::select::{self, Order, Scope};
use cpift_engine::{Device, Layout, Mask, Segment, View};
use rand_chacha::rand_core::Rng;

use crate::data::order;
use crate::error::Result;
use crate::recipe::{CoreScope, CoreSettings, ImportanceKind};
use crate::stages::fuse::Core;

/// Selects a task's core: the share `fraction` of the parameters with the largest importance, exactly,
/// ties to the lower index. `random` and `inverse` importance choose otherwise, as controls; `seed`
/// is only used for `random` and should differ between tasks.
///
/// # Errors
/// When an importance is not a number, or lengths differ.
pub fn select(
    device: &Device,
    layout: &Layout,
    task: &str,
    importance: View<'_, f32>,
    settings: &CoreSettings,
    (kind, seed): (ImportanceKind, u64),
) -> Result<Core> {
    let layers: Vec<usize> = layout.segments().iter().map(|segment| scope_of_layer(&segment.name)).collect();
    let options = select::Options {
        fraction: settings.fraction,
        scope: match settings.scope {
            CoreScope::Global => Scope::Global,
            CoreScope::Tensor => Scope::Tensor,
            CoreScope::Layer => Scope::Groups(&layers),
        },
        order: match kind {
            ImportanceKind::Random => Order::Random { seed },
            ImportanceKind::Inverse => Order::Smallest,
            ImportanceKind::Net
            | ImportanceKind::Path
            | ImportanceKind::Fisher
            | ImportanceKind::FisherNet => Order::Largest,
        },
    };
    let eligible = |segment: &Segment| !settings.excludes(&segment.name);
    let selection = select::select(device, layout, importance, &options, eligible)?;
    // Without a threshold (random choice) importances are compared as they are.
    let thresholds = selection.thresholds.iter().map(|threshold| threshold.unwrap_or(1.0)).collect();
    Ok(Core { task: task.to_owned(), mask: selection.mask, thresholds })
}

/// Seed of a task's random core: another for every task.
pub fn control_seed(seed: u64, task: usize) -> u64 {
    order::stream(seed, "random core", task, 0).next_u64()
}

/// Parameters of a core by layer, in the order of the layout.
pub fn by_layer(layout: &Layout, mask: &Mask) -> Vec<(String, u64)> {
    count_by_layer(counts(layout, |segment| mask.count_range(segment.range())))
}

/// All parameters by layer, in the same order.
pub fn all_by_layer(layout: &Layout) -> Vec<(String, u64)> {
    count_by_layer(counts(layout, |segment| segment.length))
}

/// Parameters of a core by kind of tensor (`q_proj`, `input_layernorm`, …), in the order of the layout.
pub fn by_kind(layout: &Layout, mask: &Mask) -> Vec<(String, u64)> {
    count_by_kind(counts(layout, |segment| mask.count_range(segment.range())))
}

/// All parameters by kind of tensor, in the same order.
pub fn all_by_kind(layout: &Layout) -> Vec<(String, u64)> {
    count_by_kind(counts(layout, |segment| segment.length))
}

fn counts(layout: &Layout, count: impl Fn(&Segment) -> usize) -> impl Iterator<Item = (&str, u64)> {
    layout.segments().iter().map(move |segment| (segment.name.as_str(), count(segment) as u64))
}

/// Counts of tensors, by their names, summed by layer; in the order of the first of each.
pub fn count_by_layer<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> Vec<(String, u64)> {
    count_by(counts, layer)
}

/// Counts of tensors, by their names, summed by kind of tensor; in the order of the first of each.
pub fn count_by_kind<'a>(counts: impl Iterator<Item = (&'a str, u64)>) -> Vec<(String, u64)> {
    count_by(counts, kind)
}

/// The part of the model that a tensor belongs to: `embedding`, `layer 7`, `head`.
pub fn layer(name: &str) -> String {
    match place_in_model(name) {
        Place::Embedding => "embedding".to_owned(),
        Place::Layer(layer) => format!("layer {layer}"),
        Place::Head => "head".to_owned(),
    }
}

/// Where in a model a tensor is, in the order in which its layers are gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A table of tokens or positions.
    Embedding,
    /// In the layer of this number.
    Layer(usize),
    /// Behind the layers.
    Head,
}

/// Where the tensor of this name is.
pub fn place_in_model(name: &str) -> Place {
    match layer_number(name) {
        Some(layer) => Place::Layer(layer),
        None if !name.contains("embed_out") && EMBEDDINGS.iter().any(|part| name.contains(part)) => {
            Place::Embedding
        }
        None => Place::Head,
    }
}

/// Of names of embeddings: of this engine's families, and of others. `embed_out` is a head.
const EMBEDDINGS: [&str; 3] = ["embed", "wte", "wpe"];

/// The kind of a tensor: `q_proj`, `q_proj bias`, `norm`.
pub fn kind(name: &str) -> String {
    let mut parts = name.rsplit('.');
    let last = parts.next().unwrap_or_default();
    let kind = parts.next().unwrap_or(last);
    if last == "bias" { format!("{kind} bias") } else { kind.to_owned() }
}

fn count_by<'a>(
    tensors: impl Iterator<Item = (&'a str, u64)>,
    label: impl Fn(&str) -> String,
) -> Vec<(String, u64)> {
    let mut counts: Vec<(String, u64)> = Vec::new();
    for (name, count) in tensors {
        let label = label(name);
        match counts.iter_mut().find(|(known, _)| *known == label) {
            Some((_, total)) => *total += count,
            None => counts.push((label, count)),
        }
    }
    counts
}

/// Number of the layer a tensor belongs to: `model.layers.7.mlp.up_proj.weight` → 7, `transformer.h.7.ln_1.weight` → 7.
fn layer_number(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// Selection scope of a tensor in the scope `layer`: its layer; all outside the layers form one more.
pub fn scope_of_layer(name: &str) -> usize {
    layer_number(name).map_or(0, |layer| layer.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_to_layers_and_kinds() {
        let layout = Layout::new([
            ("model.embed_tokens.weight", vec![4, 2]),
            ("model.layers.0.self_attn.q_proj.weight", vec![2, 2]),
            ("model.layers.0.self_attn.q_proj.bias", vec![2]),
            ("model.layers.10.self_attn.q_proj.weight", vec![2, 2]),
            ("model.norm.weight", vec![2]),
        ])
        .unwrap();
        let mut mask = Mask::zeros(layout.len());
        for name in ["model.layers.0.self_attn.q_proj.weight", "model.layers.10.self_attn.q_proj.weight"] {
            mask.set(layout.segment(layout.find(name).unwrap()).offset + 1, true);
        }
        mask.set(7, true);
        assert_eq!(all_by_kind(&layout).iter().map(|(_, count)| *count).collect::<Vec<_>>(), [8, 8, 2, 2]);
        let labels = |counts: Vec<(String, u64)>| {
            counts.into_iter().map(|(label, count)| format!("{label}={count}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels(by_layer(&layout, &mask)), "embedding=1 layer 0=1 layer 10=1 head=0");
        assert_eq!(labels(by_kind(&layout, &mask)), "embed_tokens=1 q_proj=2 q_proj bias=0 norm=0");
        let others =
            ["transformer.wte.weight", "transformer.h.3.attn.c_attn.weight", "ln_f.bias", "embed_out.weight"];
        assert_eq!(others.map(layer), ["embedding", "layer 3", "head", "head"]);
        assert_eq!(others.map(kind), ["wte", "c_attn", "ln_f bias", "embed_out"]);
        assert_eq!(scope_of_layer("h.18446744073709551615.w"), usize::MAX);
    }
}
