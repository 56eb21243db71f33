//! Weights of a model of random weights, by what `_init_weights` of `transformers` 5 sets for the parts of every family.

use std::path::Path;

use cpift_engine::{Buffer, Device};
use cpift_model::ModelConfig;
use cpift_model::transformer::initialize;
use serde_json::{Value, json};

const DEVIATION: f64 = 0.05;
const PADDING: usize = 5;
const VOCABULARY: usize = 600;
const HIDDEN: usize = 64;

/// The ends of the names of norms.
const NORMS: [&str; 2] = ["input_layernorm.weight", "post_attention_layernorm.weight"];
const GEMMA_NORMS: [&str; 4] = [
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
    "pre_feedforward_layernorm.weight",
    "post_feedforward_layernorm.weight",
];
const OUTPUT_NORMS: [&str; 2] = ["post_attention_layernorm.weight", "post_feedforward_layernorm.weight"];
const QUERY_KEY_NORMS: [&str; 2] = ["self_attn.q_norm.weight", "self_attn.k_norm.weight"];

/// The norms of a family's layers, and what these and the last begin with.
fn families() -> Vec<(&'static str, Vec<&'static str>, f32)> {
    let with = |norms: &[&'static str]| [norms, &QUERY_KEY_NORMS].concat();
    vec![
        ("llama", NORMS.to_vec(), 1.0),
        ("qwen2", NORMS.to_vec(), 1.0),
        ("qwen3", with(&NORMS), 1.0),
        ("mistral", NORMS.to_vec(), 1.0),
        ("ministral3", NORMS.to_vec(), 1.0),
        ("gemma", NORMS.to_vec(), 0.0),
        ("gemma2", GEMMA_NORMS.to_vec(), 0.0),
        ("gemma3_text", with(&GEMMA_NORMS), 0.0),
        ("phi3", NORMS.to_vec(), 1.0),
        ("olmo2", with(&OUTPUT_NORMS), 1.0),
        ("olmo3", with(&OUTPUT_NORMS), 1.0),
        ("smollm3", NORMS.to_vec(), 1.0),
        ("granite", NORMS.to_vec(), 1.0),
        ("qwen3_5_text", with(&NORMS), 0.0),
    ]
}

fn parse(fields: &[(&str, Value)]) -> ModelConfig {
    let mut json = json!({
        "hidden_size": HIDDEN, "intermediate_size": 96, "vocab_size": VOCABULARY, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64,
        "pad_token_id": PADDING, "initializer_range": DEVIATION, "attention_bias": true, "mlp_bias": true,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "rope_parameters": {"rope_type": "default", "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 16}
    });
    for (key, value) in fields {
        json[key] = value.clone();
    }
    ModelConfig::parse(Path::new("config.json"), &json.to_string()).unwrap()
}

/// Name and values of every tensor of a model of random weights.
fn tensors(config: &ModelConfig) -> Vec<(String, Vec<f32>)> {
    let device = Device::cpu(None).unwrap();
    let layout = config.layout().unwrap();
    let mut weights = Buffer::<f32>::zeros(&device, layout.len()).unwrap();
    initialize(config, &layout, 3, weights.view_mut()).unwrap();
    let weights = weights.to_vec().unwrap();
    layout
        .segments()
        .iter()
        .map(|segment| (segment.name.clone(), weights[segment.range()].to_vec()))
        .collect()
}

/// Normal with the given deviation, as far as so many numbers show it.
fn assert_normal(name: &str, values: &[f32], deviation: f64) {
    let count = values.len() as f64;
    let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / count;
    let square = values.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>() / count;
    assert!(mean.abs() < 5.0 * deviation / count.sqrt(), "{name}: mean {mean}");
    let off = (square.sqrt() / deviation - 1.0).abs();
    assert!(off < 5.0 / (2.0 * count).sqrt(), "{name}: deviation {} for {deviation}", square.sqrt());
}

#[test]
fn every_part_of_every_family_begins_as_in_transformers() {
    for (model_type, norms, norm_value) in families() {
        for tied in [false, true] {
            let config = parse(&[("model_type", json!(model_type)), ("tie_word_embeddings", json!(tied))]);
            for (name, values) in tensors(&config) {
                let is = |value: f32| values.iter().all(|&element| element == value);
                let told = format!("{model_type}: {name}");
                if name == "model.norm.weight" || norms.iter().any(|norm| name.ends_with(norm)) {
                    assert!(is(norm_value), "{told}");
                } else if name.ends_with("linear_attn.norm.weight") || name.ends_with("linear_attn.dt_bias") {
                    assert!(is(1.0), "{told}");
                } else if name.ends_with("linear_attn.A_log") {
                    let (least, most) = (0.01_f32.ln(), 16.0_f32.ln());
                    assert!(
                        values.iter().all(|value| (least..=most).contains(value)) && !is(values[0]),
                        "{told}"
                    );
                } else if name.ends_with(".bias") {
                    assert!(is(0.0), "{told}");
                } else if name == "model.embed_tokens.weight" {
                    let (before, padding_and_after) = values.split_at(PADDING * HIDDEN);
                    let (padding, after) = padding_and_after.split_at(HIDDEN);
                    assert!(padding.iter().all(|&value| value == 0.0), "{told}: the padding token's row");
                    assert_normal(&told, &[before, after].concat(), DEVIATION);
                } else {
                    assert!(
                        name.ends_with("_proj.weight")
                            || name.contains(".in_proj_")
                            || name.ends_with("conv1d.weight")
                            || name == "lm_head.weight",
                        "{told}"
                    );
                    assert_normal(&told, &values, DEVIATION);
                }
            }
        }
    }
}

#[test]
fn a_deviation_of_zero_is_that_of_a_missing_field_and_without_padding_no_row_is_zero() {
    for value in [json!(0), json!(0.0), json!(null)] {
        let config = parse(&[
            ("model_type", json!("llama")),
            ("initializer_range", value),
            ("pad_token_id", json!(null)),
        ]);
        for (name, values) in tensors(&config)
            .into_iter()
            .filter(|(name, _)| !name.ends_with("norm.weight") && !name.ends_with(".bias"))
        {
            assert_normal(&name, &values, 0.02);
            assert!(!values.contains(&0.0), "{name}");
        }
    }
}
