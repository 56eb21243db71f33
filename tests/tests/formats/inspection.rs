//! What `inspect` shows of a model folder.

use std::fs;

use cpift_model::inspection::Inspection;
use cpift_model::state_type::StateType;
use cpift_model::transformer::ComputeType;
use cpift_tests::folders::{copy, parsed, random_tensors, seesaw, write_folder};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::tempdir;

/// Layers with a gated DeltaNet are told apart, and their memory is that of both number types.
#[test]
fn gated_delta_nets_are_looked_at() {
    let place = tempdir().unwrap();
    let base = seesaw().join("base-small");
    copy(&base, place.path());
    let base: Value = serde_json::from_str(&fs::read_to_string(base.join("config.json")).unwrap()).unwrap();
    let config = json!({
        "model_type": "qwen3_5_text", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": base["vocab_size"],
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    });
    write_folder(place.path(), &config, &random_tensors(&parsed(&config), 1, Dtype::F32));
    let inspection = Inspection::of(place.path()).unwrap();
    let kinds: Vec<_> = inspection.memory.iter().map(|line| (line.precision, line.memory.name())).collect();
    let thrice = |kind| [kind; 3];
    let of = |precision| ["exact", "compact", "offload"].map(|name| thrice((precision, name))).concat();
    assert_eq!(kinds, [of("f32"), of("bf16")].concat());
    // Weights, gradients and two moments in f32; in compact state all but the weights in bf16, and a buffer in f32.
    let layout = parsed(&config).layout().unwrap();
    assert_eq!(inspection.memory[0].state_bytes, 16 * layout.len() as u64);
    let compact = inspection.memory[3].state_bytes;
    assert_eq!(compact, StateType::Compact.bytes(&layout, ComputeType::F32) as u64);
    assert!(compact > 10 * layout.len() as u64, "{compact}");
    // On the device the rounded weights and that buffer; on the host the rest of compact state.
    let [compact, offload] = [12, 15].map(|line| &inspection.memory[line]);
    assert_eq!((compact.precision, compact.memory.name(), compact.host_bytes), ("bf16", "compact", 0));
    assert_eq!((offload.precision, offload.memory.name()), ("bf16", "offload"));
    assert_eq!(offload.host_bytes, 8 * layout.len() as u64);
    assert_eq!(offload.state_bytes + offload.host_bytes, compact.state_bytes);
    assert_eq!(inspection.total_parameters(), parsed(&config).parameters() as u64);
    let attention = inspection.parameters.iter().map(|part| (part.part, part.parameters > 0));
    let expected = ["embedding", "attention", "gated DeltaNet", "MLP", "norms", "head"];
    assert!(attention.eq(expected.map(|part| (part, true))), "{:?}", inspection.parameters);
    assert_eq!(inspection.delta_net.map(|sizes| sizes.value_heads), Some(4));
    let rotary: Vec<(&str, usize)> =
        inspection.rotary.iter().map(|with| (with.what.as_str(), with.layers)).collect();
    assert_eq!(rotary, [("base 10000, 4 of 16 elements of a head", 1), ("none (gated DeltaNet)", 3)]);
    assert_eq!(inspection.memory.len(), 18);
}
