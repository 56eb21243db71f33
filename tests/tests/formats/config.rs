//! `config.json` as `transformers` 4 and 5 write it, and what must be refused.

mod field_names;

use std::num::NonZeroUsize;
use std::path::Path;

use cpift_model::config::Context;
use cpift_model::{DeltaNet, LayerAttention, ModelConfig, NormWidth, RopeScaling};
use proptest::prelude::*;
use serde_json::{Value, json};

fn parse(json: &Value) -> Result<ModelConfig, String> {
    ModelConfig::parse(Path::new("config.json"), &json.to_string()).map_err(|error| {
        assert!(error.is_input(), "{error} must count as wrong input");
        error.to_string()
    })
}

/// A small Llama in the form of `transformers` 4, with the fields its releases write.
fn llama_4() -> Value {
    json!({
        "_name_or_path": "somewhere", "architectures": ["LlamaForCausalLM"], "attention_bias": false,
        "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": [2, 5], "head_dim": 16, "hidden_act": "silu",
        "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 96, "max_position_embeddings": 2048,
        "mlp_bias": false, "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_theta": 500000,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 512, "rope_type": "llama3"},
        "tie_word_embeddings": true, "torch_dtype": "bfloat16", "transformers_version": "4.46.3",
        "use_cache": true, "vocab_size": 128
    })
}

/// A small Qwen in the form of `transformers` 5.
fn qwen_5(model_type: &str) -> Value {
    json!({
        "architectures": null, "attention_dropout": 0.0, "bos_token_id": null, "dtype": "float32",
        "eos_token_id": 7, "head_dim": 24, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
        "intermediate_size": 96, "layer_types": ["full_attention", "full_attention"],
        "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": model_type,
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "pad_token_id": null,
        "rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "linear", "type": "linear",
            "factor": 2.0},
        "sliding_window": null, "tie_word_embeddings": false, "transformers_version": "5.23.0",
        "use_cache": true, "use_sliding_window": false, "vocab_size": 128
    })
}

fn with(mut config: Value, key: &str, value: Value) -> Value {
    config[key] = value;
    config
}

fn without(mut config: Value, keys: &[&str]) -> Value {
    for key in keys {
        assert!(config.as_object_mut().unwrap().remove(*key).is_some(), "{key}");
    }
    config
}

#[test]
fn reads_what_transformers_4_writes() {
    let config = parse(&llama_4()).unwrap();
    assert_eq!(config.family.model_type, "llama");
    assert_eq!((config.hidden, config.intermediate, config.layers), (64, 96, 2));
    assert_eq!((config.heads, config.kv_heads, config.head_dim, config.vocabulary), (4, 2, 16, 128));
    assert_eq!((config.attention_width(), config.kv_width()), (64, 32));
    assert!(config.tied && !config.block.qkv_bias && !config.block.output_bias);
    assert_eq!(config.block.query_key_norm, None);
    assert_eq!((config.bos, config.eos.as_slice()), (Some(1), [2, 5].as_slice()));
    assert_eq!(config.rms_norm_epsilon, 1e-5);
    assert_eq!(config.ropes[0].theta, 500_000.0);
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position: 512.0,
    };
    assert_eq!(config.ropes[0].scaling, expected);
}

#[test]
fn reads_what_transformers_5_writes() {
    for model_type in ["qwen2", "qwen3"] {
        let config = parse(&qwen_5(model_type)).unwrap();
        let qwen3 = model_type == "qwen3";
        assert_eq!(config.family.model_type, model_type);
        assert_eq!((config.block.qkv_bias, config.block.output_bias), (!qwen3, false));
        assert_eq!(config.block.query_key_norm, qwen3.then_some(NormWidth::Head));
        assert_eq!((config.head_dim, config.attention_width()), (24, 96));
        assert_eq!(config.ropes[0].theta, 1e6);
        assert_eq!(config.ropes[0].scaling, RopeScaling::Linear { factor: 2.0 });
        assert_eq!((config.bos, config.eos.as_slice()), (None, [7].as_slice()));
    }
}

#[test]
fn both_forms_say_the_same() {
    let mut new = llama_4();
    let fields = new.as_object_mut().unwrap();
    fields.remove("rope_theta");
    let mut rope = fields.remove("rope_scaling").unwrap();
    rope["rope_theta"] = json!(500_000.0);
    fields.insert("rope_parameters".to_owned(), rope);
    let (old, new) = (parse(&llama_4()).unwrap(), parse(&new).unwrap());
    assert_eq!(old.ropes, new.ropes);
    assert_eq!(old.mismatch(&new), None);
}

#[test]
fn missing_fields_take_the_defaults_of_transformers() {
    let config = without(
        llama_4(),
        &[
            "head_dim",
            "num_key_value_heads",
            "rope_theta",
            "rope_scaling",
            "tie_word_embeddings",
            "rms_norm_eps",
            "eos_token_id",
            "attention_bias",
            "torch_dtype",
        ],
    );
    let config = parse(&config).unwrap();
    assert_eq!((config.head_dim, config.kv_heads, config.tied), (16, 4, false));
    assert_eq!((config.ropes[0].theta, config.ropes[0].scaling.clone()), (10_000.0, RopeScaling::None));
    assert_eq!(config.rms_norm_epsilon, 1e-6);
    assert!(config.eos.is_empty());
}

#[test]
fn the_layout_names_every_tensor_once() {
    let names = |config: &Value| -> Vec<String> {
        parse(config).unwrap().tensors().into_iter().map(|(name, _)| name).collect()
    };
    let llama = names(&llama_4());
    assert_eq!(llama.len(), 1 + 2 * 9 + 1);
    assert!(!llama.contains(&"lm_head.weight".to_owned()));
    assert_eq!(names(&with(llama_4(), "attention_bias", json!(true))).len(), 1 + 2 * 13 + 1);
    let qwen2 = names(&qwen_5("qwen2"));
    assert!(qwen2.contains(&"model.layers.1.self_attn.k_proj.bias".to_owned()));
    assert!(!qwen2.contains(&"model.layers.1.self_attn.o_proj.bias".to_owned()));
    assert!(names(&qwen_5("qwen3")).contains(&"model.layers.0.self_attn.q_norm.weight".to_owned()));

    let config = parse(&qwen_5("qwen3")).unwrap();
    let layer = 64 + 96 * 64 + 2 * 48 * 64 + 2 * 24 + 64 * 96 + 64 + 3 * 96 * 64;
    assert_eq!(config.parameters(), 2 * 128 * 64 + 2 * layer + 64);
    assert_eq!(config.layout().unwrap().parameters(), config.parameters());
    let multiplied = (config.parameters() - 128 * 64) as f64;
    assert_eq!(config.flops_per_token(10), 6.0 * multiplied + 6.0 * 2.0 * 96.0 * 10.0);
}

fn qwen_3_5() -> Value {
    json!({
        "model_type": "qwen3_5_text", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "vocab_size": 128,
        "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 8, "linear_value_head_dim": 12,
        "full_attention_interval": 3,
    })
}

#[test]
fn layers_with_gated_delta_nets_are_read() {
    let config = parse(&qwen_3_5()).unwrap();
    let expected = DeltaNet { key_heads: 2, value_heads: 6, key_dim: 8, value_dim: 12, taps: 4 };
    let delta_nets: Vec<_> = config.attention.iter().map(|layer| layer.delta_net).collect();
    let linear = Some(expected);
    assert_eq!(delta_nets, [linear, linear, None, linear, linear]);
    assert!(config.attention.iter().all(|layer| layer.rope.is_some() == layer.delta_net.is_none()));
    // A quarter of a head is turned where the file does not say.
    assert_eq!((config.ropes[0].rotary_dim, config.block.norm_weight_offset), (6, 1.0));
    let mlp = 3 * 96 * 64 + 2 * 64;
    let attention = (2 * 96 + 2 * 48 + 96) * 64 + 2 * 24;
    let (channels, values) = (2 * 16 + 72, 72);
    let delta_net = (channels + 2 * values + 2 * 6) * 64 + channels * 4 + 2 * 6 + 12;
    let parameters = 2 * 128 * 64 + 64 + 5 * mlp + attention + 4 * delta_net;
    assert_eq!(config.parameters(), parameters);
    assert_eq!(config.layout().unwrap().parameters(), parameters);
    let mixing = 4.0 * (18.0 * 6.0 * 8.0 * 12.0 + 390.0 * (16.0 + 72.0)) + 6.0 * 96.0 * 10.0;
    assert_eq!(config.flops_per_token(10), 6.0 * (parameters - 128 * 64) as f64 + mixing);

    let types =
        json!(["full_attention", "linear_attention", "full_attention", "full_attention", "full_attention"]);
    let config = parse(&with(qwen_3_5(), "layer_types", types)).unwrap();
    assert_eq!(config.attention[1].delta_net, linear);
    assert_eq!(config.attention.iter().filter(|layer| layer.delta_net.is_some()).count(), 1);
    for (key, value, expected) in [
        ("linear_num_value_heads", json!(3), "must be a multiple of `linear_num_key_heads` = 2"),
        ("linear_key_head_dim", json!(100_000), "= 100000 must be at most 1024"),
        ("linear_value_head_dim", json!(1 << 30), "must be at most 1024"),
        ("linear_num_value_heads", json!(1 << 30), "must be at most 16384"),
        ("linear_conv_kernel_dim", json!(0), "a whole number from 1"),
        ("linear_conv_kernel_dim", json!(1 << 30), "must be at most 1024"),
        ("head_dim", json!(2), "no elements to turn at `partial_rotary_factor` = 0.25"),
        ("full_attention_interval", json!(0), "a whole number from 1"),
        ("hidden_act", json!("gelu_pytorch_tanh"), "\"silu\""),
        ("layer_types", json!(vec!["sliding_attention"; 5]), "\"full_attention\", \"linear_attention\""),
    ] {
        let message = parse(&with(qwen_3_5(), key, value.clone())).unwrap_err().to_string();
        assert!(message.contains(key) && message.contains(expected), "{message}");
        // Of a larger model around it, under the name that the field has there.
        let nested = json!({"model_type": "qwen3_5", "text_config": with(qwen_3_5(), key, value)});
        let message = parse(&nested).unwrap_err();
        assert!(message.contains(&format!("`text_config.{key}`")), "{message}");
    }

    // As in transformers, sizes that no layer has and a pattern that the file replaces are of no account.
    let full = with(qwen_3_5(), "layer_types", json!(vec!["full_attention"; 5]));
    parse(&with(with(full, "linear_num_value_heads", json!(3)), "full_attention_interval", json!(0)))
        .unwrap();
}

#[test]
fn models_around_a_language_model_are_told_from_others() {
    let supported = parse(&json!({"model_type": "qwen3_5", "text_config": qwen_3_5()})).unwrap();
    assert_eq!(supported.family.model_type, "qwen3_5_text");
    for (config, says) in [
        (json!({"model_type": "qwen3_5"}), "`text_config` is missing"),
        (json!({"model_type": "gemma3", "text_config": null}), "`text_config` is missing"),
        (
            json!({"model_type": "qwen3_5", "architectures": ["Qwen3_5ForSequenceClassification"], "text_config": qwen_3_5()}),
            "`architectures` = [\"Qwen3_5ForSequenceClassification\"] is not supported",
        ),
        (
            with(qwen_3_5(), "model_type", json!("qwen3_next")),
            "`model_type` = \"qwen3_next\" is not supported",
        ),
        (
            json!({"model_type": "qwen3_5_moe", "text_config": without(qwen_3_5(), &["model_type"])}),
            "`model_type` = \"qwen3_5_moe\" is not supported",
        ),
        (
            json!({"model_type": "qwen3_5_moe", "text_config": with(qwen_3_5(), "model_type", json!("qwen3_5_moe_text"))}),
            "`text_config.model_type` = \"qwen3_5_moe_text\" is not supported",
        ),
    ] {
        let message = parse(&config).unwrap_err();
        assert!(message.contains(says), "{message}");
    }
}

/// As in `transformers`: seven elements of twenty are four pairs, with frequencies of seven.
#[test]
fn an_odd_share_of_a_head_is_turned_in_whole_pairs() {
    let config = json!({
        "model_type": "phi3", "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1,
        "num_attention_heads": 4, "head_dim": 20, "vocab_size": 64, "pad_token_id": 0, "rope_theta": 1e4,
        "partial_rotary_factor": 0.35
    });
    let config = parse(&config).unwrap();
    let rope = &config.ropes[0];
    assert_eq!(rope.rotary_dim, 8);
    let expected = [1.0, 0.071_968_567, 0.005_179_475, 0.000_372_759];
    let frequencies = rope.frequencies(Context::First);
    assert_eq!(frequencies.len(), 4);
    for (frequency, expected) in frequencies.into_iter().zip(expected) {
        assert!((frequency - expected).abs() < 1e-6 * expected.max(1e-3), "{frequency} for {expected}");
    }
}

#[test]
fn what_would_change_the_result_is_refused_by_name() {
    let refused = [
        ("model_type", json!("mixtral"), "\"llama\", \"qwen2\", \"qwen3\", \"mistral\""),
        ("architectures", json!(["LlamaForSequenceClassification"]), "language model"),
        ("hidden_act", json!("gelu"), "\"silu\""),
        ("quantization_config", json!({"bits": 4}), "bfloat16"),
        ("is_causal", json!(false), "true"),
        ("per_layer_config", json!({"0": {"head_dim": 8}}), "every layer"),
        ("rope_scaling", json!({"full_attention": {"rope_type": "default"}}), "differ between layers"),
        ("layer_types", json!(["full_attention"]), "num_hidden_layers"),
        ("eos_token_id", json!("2"), "token id"),
        ("partial_rotary_factor", json!(0.5), "1.0"),
        ("rope_scaling", json!({"type": "mrope", "factor": 2.0}), "\"mrope\""),
        ("rope_scaling", json!({"type": "linear"}), "`rope_scaling.factor` is missing"),
        ("rope_scaling", json!({"type": "linear", "factor": -2.0}), "above 0"),
        (
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0}),
            "high_freq_factor",
        ),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "full_attention"),
        ("hidden_size", json!(0), "whole number"),
        ("hidden_size", json!(-64), "whole number"),
        ("hidden_size", json!(64.5), "whole number"),
        ("hidden_size", json!(u64::MAX), "whole number"),
        ("hidden_size", json!("64"), "whole number"),
        ("num_hidden_layers", json!(1_000_000), "at most"),
        ("num_key_value_heads", json!(3), "multiple"),
        ("head_dim", json!(15), "even"),
        ("num_attention_heads", json!(1 << 30), "16777216"),
        ("rms_norm_eps", json!(0), "above 0"),
        // In f32 the one is infinite and the other 0.
        ("rms_norm_eps", json!(1e300), "range of f32"),
        ("rms_norm_eps", json!(1e-50), "range of f32"),
        ("initializer_range", json!(1e39), "range of f32"),
        ("tie_word_embeddings", json!("yes"), "true or false"),
    ];
    for (key, value, says) in refused {
        let message = parse(&with(llama_4(), key, value.clone())).unwrap_err();
        assert!(message.contains(key) && message.contains(says), "{key} = {value}: {message}");
        assert!(message.starts_with("config.json: ") && !message.contains('\n'), "{message}");
    }
}

/// The configuration classes of transformers 5.24 take these values and their models read none of them.
#[test]
fn fields_that_nothing_reads_are_ignored() {
    for (config, key, value) in [
        (llama_4(), "activation", json!("swiglu")),
        (llama_4(), "model_name", json!("unsloth/llama")),
        (llama_4(), "unk_token_id", json!(0)),
        (llama_4(), "pretraining_tp", json!(4)),
        (llama_4(), "sliding_window", json!(4096)),
        (llama_4(), "final_logit_softcapping", json!(30.0)),
        (llama_4(), "_attn_implementation", json!("flash_attention_2")),
        (llama_4(), "architectures", json!(["LlamaModel"])),
        (llama_4(), "initializer_range", json!(0)),
        (qwen_5("qwen2"), "mlp_bias", json!(true)),
        (qwen_5("qwen2"), "attention_bias", json!(true)),
        (qwen_5("qwen3"), "mlp_bias", json!(true)),
        (qwen_5("qwen2"), "sliding_window", json!(4096)),
    ] {
        let (plain, given) = (parse(&config).unwrap(), parse(&with(config, key, value)).unwrap());
        assert_eq!(plain.mismatch(&given), None, "{key}");
        assert_eq!((plain.tensors(), plain.max_positions), (given.tensors(), given.max_positions), "{key}");
        assert!(given.notices().is_empty(), "{:?}", given.notices());
    }
    // The default kind of rotary positions reads its base and nothing else.
    let rope =
        json!({"rope_type": "default", "rope_theta": 1000.0, "factor": 8.0, "partial_rotary_factor": 0.5});
    let config = parse(&with(qwen_5("qwen3"), "rope_parameters", rope)).unwrap();
    assert_eq!((config.ropes[0].theta, config.ropes[0].scaling.clone()), (1000.0, RopeScaling::None));
    let old = json!({"type": "default", "factor": 1.0});
    assert_eq!(
        parse(&with(llama_4(), "rope_scaling", old)).unwrap().ropes[0].scaling.clone(),
        RopeScaling::None
    );
    let extra = json!({"type": "linear", "factor": 2.0, "twist": 3});
    let scaling = parse(&with(llama_4(), "rope_scaling", extra)).unwrap().ropes[0].scaling.clone();
    assert_eq!(scaling, RopeScaling::Linear { factor: 2.0 });
}

#[test]
fn token_ids_beyond_the_vocabulary_are_left_out_with_a_notice() {
    for (key, value) in [("bos_token_id", json!(128_000)), ("eos_token_id", json!([2, 128, -1]))] {
        let config = parse(&with(llama_4(), key, value)).unwrap();
        assert!(config.notices()[0].starts_with(&format!("config.json: `{key}`")), "{:?}", config.notices());
        assert!(config.eos.iter().chain(&config.bos).all(|&id| id < 128), "{key}");
    }
    // Nothing reads the padding token.
    assert!(parse(&with(llama_4(), "pad_token_id", json!(128))).unwrap().notices().is_empty());
}

#[test]
fn misspelt_fields_and_code_of_its_own_are_noticed() {
    let misspelt = with(without(llama_4(), &["rms_norm_eps"]), "rms_norm_epsilon", json!(1e-5));
    let config = parse(&misspelt).unwrap();
    assert_eq!(config.rms_norm_epsilon, 1e-6, "as in transformers");
    let notice = &config.notices()[0];
    assert!(notice.contains("`rms_norm_epsilon` is not read; `rms_norm_eps`"), "{notice}");
    let own = with(llama_4(), "auto_map", json!({"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}));
    assert!(parse(&own).unwrap().notices()[0].contains("`auto_map`"));
}

/// Layers from `max_window_layers` on, or those `layer_types` names, have the window where the switch is on.
#[test]
fn layers_have_the_window_that_the_fields_give_them() {
    let on = with(qwen_5("qwen2"), "use_sliding_window", json!(true));
    let windows = |config: &Value| -> Result<Vec<usize>, String> {
        let config = parse(config)?;
        assert_eq!(config.max_positions, 32768);
        let width = |layer: &LayerAttention| layer.window.map_or(0, NonZeroUsize::get);
        Ok(config.attention.iter().map(width).collect())
    };
    assert_eq!(
        windows(&with(on.clone(), "sliding_window", json!(64))),
        Ok(vec![0, 0]),
        "layer_types: all full"
    );
    let by_number = with(without(on, &["layer_types"]), "sliding_window", json!(64));
    assert_eq!(windows(&by_number), Ok(vec![0, 0]), "from layer 28 on");
    let used = with(by_number.clone(), "max_window_layers", json!(1));
    assert_eq!(windows(&used), Ok(vec![0, 64]));
    assert_eq!(
        windows(&with(used, "sliding_window", json!(32768))),
        Ok(vec![0, 0]),
        "as wide as the context"
    );
    let named = with(by_number, "layer_types", json!(["full_attention", "sliding_attention"]));
    assert_eq!(windows(&named), Ok(vec![0, 64]));
    let off = with(named, "use_sliding_window", json!(false));
    assert!(windows(&off).unwrap_err().contains("there is no window"));
}

#[test]
fn missing_sizes_and_files_that_are_not_json_are_refused() {
    for key in ["model_type", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"] {
        let message = parse(&without(llama_4(), &[key])).unwrap_err();
        assert!(message.contains(&format!("`{key}` is missing")), "{message}");
    }
    for text in ["", "[1]", "{\"model_type\":", "\u{0}"] {
        let error = ModelConfig::parse(Path::new("c"), text).unwrap_err().to_string();
        assert!(error.starts_with("c: not a JSON object"), "{error}");
    }
    let error = ModelConfig::read(Path::new("/no/such/config.json")).unwrap_err();
    assert!(error.to_string().starts_with("/no/such/config.json: cannot read"), "{error}");
}

/// Every field but those about the folder it was read from: of `auto_map` the code is not there.
#[test]
fn rewriting_keeps_the_fields_of_the_model_and_sets_the_type_under_the_name_it_had() {
    for (source, key) in [(llama_4(), "torch_dtype"), (qwen_5("qwen3"), "dtype")] {
        let own = json!({"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"});
        let source = with(with(source, "auto_map", own), "_name_or_path", json!("somewhere"));
        let written: Value = serde_json::from_str(&parse(&source).unwrap().to_json("float16")).unwrap();
        assert_eq!(
            written,
            with(without(source.clone(), &["auto_map", "_name_or_path"]), key, json!("float16"))
        );
    }
}

#[test]
fn models_that_cannot_be_combined_are_named() {
    let ours = parse(&llama_4()).unwrap();
    let theirs = parse(&with(llama_4(), "intermediate_size", json!(97))).unwrap();
    assert_eq!(ours.mismatch(&theirs).unwrap(), "intermediate_size: 96 against 97");
    let ours = parse(&qwen_3_5()).unwrap();
    assert_eq!(ours.mismatch(&ours), None);
    let theirs = parse(&with(qwen_3_5(), "linear_conv_kernel_dim", json!(5))).unwrap();
    assert_eq!(ours.mismatch(&theirs).unwrap(), "linear_conv_kernel_dim of layer 0: 4 against 5");
    let theirs = parse(&with(qwen_3_5(), "full_attention_interval", json!(4))).unwrap();
    let says = "layer_types of layer 2: full_attention against linear_attention";
    assert_eq!(ours.mismatch(&theirs).unwrap(), says);
}

proptest! {
    /// Whatever a field holds, the answer is a model or an error, never a panic.
    #[test]
    fn no_value_panics(index in 0usize..64, value in prop_oneof![
        any::<i64>().prop_map(|value| json!(value)), any::<u64>().prop_map(|value| json!(value)),
        any::<f64>().prop_map(|value| json!(value)), any::<bool>().prop_map(|value| json!(value)),
        Just(json!("é".repeat(100))), Just(json!([])), Just(json!({"a": [null]})),
    ]) {
        let mut config = llama_4();
        let fields = config.as_object_mut().unwrap();
        let key = fields.keys().nth(index % fields.len()).unwrap().clone();
        fields.insert(key, value);
        if let Ok(config) = parse(&config) {
            prop_assert!(config.parameters() > 0);
        }
    }
}
