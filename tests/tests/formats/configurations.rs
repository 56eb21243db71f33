//! Configurations of published models, in small: what `transformers` makes of each, or why it is refused.
//!
//! `tests/golden/configurations.py` says where they come from.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::Path;

use cpift_engine::ops::gated_mlp::Activation;
use cpift_model::ModelConfig;
use cpift_model::config::Context;
use cpift_tests::folders;
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct Entry {
    name: String,
    config: Value,
    result: String,
    values: Option<Values>,
    values_of: Option<String>,
}

/// What `transformers` makes of a configuration.
#[derive(Clone, Deserialize)]
struct Values {
    activation: String,
    attention_scale: f64,
    attention_softcap: Option<f32>,
    class: String,
    embedding_multiplier: f32,
    head_dim: usize,
    heads: usize,
    hidden: usize,
    intermediate: usize,
    kv_heads: usize,
    layers: usize,
    logit_softcap: Option<f32>,
    logits_scaling: f32,
    padding_row: Option<u32>,
    parameters: usize,
    residual_multiplier: f32,
    rms_norm_epsilon: f64,
    rope: Vec<RopeValues>,
    rope_of_layers: Vec<Option<usize>>,
    tensor_count: usize,
    tensors: BTreeMap<String, Vec<usize>>,
    tied: bool,
    vocabulary: usize,
    windows: Vec<Option<usize>>,
}

#[derive(Clone, Deserialize)]
struct RopeValues {
    frequencies: Vec<f64>,
    /// Those of texts longer than the first context, where they differ.
    long_frequencies: Option<Vec<f64>>,
    #[serde(rename = "original_max_position_embeddings")]
    first_context: Option<usize>,
    scale: f64,
    theta: f64,
}

fn entries() -> Vec<Entry> {
    let path = folders::tests().join("golden/configurations.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn close(ours: f64, theirs: f64) -> bool {
    (ours - theirs).abs() <= 1e-6 * theirs.abs()
}

fn check(name: &str, config: &ModelConfig, values: &Values) {
    let sizes = [config.hidden, config.intermediate, config.layers, config.heads, config.kv_heads];
    let expected = [values.hidden, values.intermediate, values.layers, values.heads, values.kv_heads];
    assert_eq!(sizes, expected, "{name}: sizes");
    assert_eq!((config.head_dim, config.vocabulary), (values.head_dim, values.vocabulary), "{name}");
    assert_eq!(config.family.class, values.class, "{name}");
    assert_eq!(config.tied, values.tied, "{name}: tied");
    assert_eq!(config.padding, values.padding_row, "{name}: padding");
    assert!(close(config.rms_norm_epsilon.into(), values.rms_norm_epsilon), "{name}: epsilon");
    let activation = match values.activation.as_str() {
        "silu" => Activation::Silu,
        "gelu_pytorch_tanh" => Activation::GeluTanh,
        other => panic!("{name}: {other}"),
    };
    assert_eq!(config.block.activation, activation, "{name}");
    assert!(close(config.scales.attention.into(), values.attention_scale), "{name}: attention's scale");
    assert_eq!(config.attention_softcap, values.attention_softcap, "{name}");
    assert_eq!(config.logit_softcap, values.logit_softcap, "{name}");
    assert!(close(config.scales.embedding.into(), values.embedding_multiplier.into()), "{name}: embedding");
    assert_eq!(config.scales.residual, values.residual_multiplier, "{name}");
    assert_eq!(config.scales.logits, 1.0 / values.logits_scaling, "{name}");
    // A window as wide as the context is none.
    let windows: Vec<Option<usize>> =
        config.attention.iter().map(|layer| layer.window.map(NonZeroUsize::get)).collect();
    let narrow = |window: &Option<usize>| window.filter(|&window| window < config.max_positions);
    assert_eq!(windows, values.windows.iter().map(narrow).collect::<Vec<_>>(), "{name}: windows");
    for (layer, theirs) in config.attention.iter().zip(&values.rope_of_layers) {
        assert_eq!(layer.rope.is_some(), theirs.is_some(), "{name}: rotation");
        let (Some(ours), Some(theirs)) = (layer.rope, theirs) else { continue };
        let (ours, theirs) = (&config.ropes[ours], &values.rope[*theirs]);
        assert!(close(ours.theta, theirs.theta) && close(ours.amplitude(), theirs.scale), "{name}: {ours:?}");
        assert_eq!(ours.scaling.first_context(), theirs.first_context, "{name}");
        let long = theirs.long_frequencies.as_ref().unwrap_or(&theirs.frequencies);
        for (context, theirs) in [(Context::First, &theirs.frequencies), (Context::Extended, long)] {
            let ours = ours.frequencies(context);
            assert_eq!(ours.len(), theirs.len(), "{name}");
            for (ours, theirs) in ours.into_iter().zip(theirs) {
                assert!(close(ours, *theirs), "{name}: frequency {ours} for {theirs}");
            }
        }
    }
    assert_eq!(config.parameters(), values.parameters, "{name}: parameters");
    let tensors = config.tensors();
    assert_eq!(tensors.len(), values.tensor_count, "{name}: tensors");
    for (tensor, shape) in &values.tensors {
        let found = tensors.iter().find(|(name, _)| name == tensor);
        assert_eq!(found.map(|(_, shape)| shape), Some(shape), "{name}: {tensor}");
    }
}

#[test]
fn published_configurations_are_read_as_transformers_reads_them_or_refused_by_name() {
    let entries = entries();
    for Entry { name, config, result, values, values_of } in &entries {
        let parsed = ModelConfig::parse(Path::new("config.json"), &config.to_string());
        if result != "loads" {
            let message = parsed.err().unwrap_or_else(|| panic!("{name} must be refused")).to_string();
            assert!(message.contains(result.as_str()) && !message.contains('\n'), "{name}: {message}");
            continue;
        }
        let parsed = parsed.unwrap_or_else(|error| panic!("{name}: {error}"));
        let values = values.as_ref().or_else(|| {
            let original = entries.iter().find(|entry| Some(&entry.name) == values_of.as_ref());
            original.and_then(|entry| entry.values.as_ref())
        });
        check(name, &parsed, values.expect("values"));
    }
}
