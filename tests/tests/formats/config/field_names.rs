//! What messages call fields of configurations.

use serde_json::{Value, json};

use super::{parse, with};

#[test]
fn messages_name_fields_with_the_objects_they_are_in() {
    let sizes = json!({
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 128, "max_position_embeddings": 64
    });
    let yarn = json!({"rope_type": "yarn", "rope_theta": 1e4, "factor": "x"});
    let llama3 =
        json!({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0});
    let by_type = |kind: &str, value: Value| json!({kind: value});
    for (whole, key, value, named) in [
        ("mistral3", "rope_parameters", yarn.clone(), "text_config.rope_parameters.factor"),
        ("mistral3", "rope_scaling", json!({"type": "linear"}), "text_config.rope_scaling.factor"),
        ("mistral3", "rope_scaling", json!({"type": "foo"}), "text_config.rope_scaling.rope_type"),
        ("mistral3", "rope_scaling", llama3, "text_config.rope_scaling.high_freq_factor"),
        ("mistral3", "rope_scaling", json!("linear"), "text_config.rope_scaling"),
        (
            "mistral3",
            "rope_parameters",
            by_type("full_attention", yarn.clone()),
            "text_config.rope_parameters.full_attention",
        ),
        (
            "gemma3",
            "rope_parameters",
            by_type("sliding_attention", yarn.clone()),
            "text_config.rope_parameters.sliding_attention.factor",
        ),
        (
            "gemma3",
            "rope_parameters",
            by_type("full_attention", yarn.clone()),
            "text_config.rope_parameters.full_attention.factor",
        ),
        // The older form's scaling is that of the same layers, and stands elsewhere.
        ("gemma3", "rope_scaling", yarn, "text_config.rope_scaling.factor"),
        ("gemma3", "sliding_window", json!(null), "text_config.sliding_window"),
        ("gemma3", "use_bidirectional_attention", json!(true), "text_config.use_bidirectional_attention"),
        ("gemma3", "hidden_activation", json!("foo"), "text_config.hidden_activation"),
        ("gemma3", "quantization_config", json!({"quant_method": "x"}), "text_config.quantization_config"),
        ("gemma3", "eos_token_id", json!("a"), "text_config.eos_token_id"),
        ("qwen3_5", "partial_rotary_factor", json!(2.0), "text_config.partial_rotary_factor"),
        (
            "qwen3_5",
            "rope_parameters",
            json!({"partial_rotary_factor": 2.0}),
            "text_config.rope_parameters.partial_rotary_factor",
        ),
        ("qwen3_5", "head_dim", json!(2), "text_config.head_dim"),
    ] {
        let message =
            parse(&json!({"model_type": whole, "text_config": with(sizes.clone(), key, value)})).unwrap_err();
        assert!(message.contains(&format!("`{named}`")), "{named}: {message}");
    }

    // A field that the language model takes over from the model around it stands there.
    for (key, value) in [
        ("quantization_config", json!({"quant_method": "x"})),
        ("eos_token_id", json!("a")),
        ("tie_word_embeddings", json!(1)),
    ] {
        let around = with(json!({"model_type": "gemma3", "text_config": sizes.clone()}), key, value);
        let message = parse(&around).unwrap_err();
        assert!(message.contains(&format!(" `{key}` = ")), "{key}: {message}");
    }
    let inside = with(with(sizes.clone(), "bos_token_id", json!(999)), "attention_dropout", json!(0.5));
    let around = json!({"model_type": "gemma3", "text_config": inside, "eos_token_id": 998});
    let notices = parse(&around).unwrap().notices().join("\n");
    for says in [
        "`text_config.bos_token_id` = 999 is not below `text_config.vocab_size` = 128",
        "`eos_token_id` = 998 is not below",
        "`text_config.attention_dropout` = 0.5",
    ] {
        assert!(notices.contains(says), "{says}: {notices}");
    }
    assert!(!notices.contains("`text_config.eos_token_id`"), "{notices}");
}
