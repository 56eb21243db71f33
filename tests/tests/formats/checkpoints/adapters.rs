//! Folders of adapters: what they make of their base, against PEFT's own numbers, and what is refused of them.

use std::fs;
use std::path::{Path, PathBuf};

use cpift_model::checkpoint::{ModelFiles, write_model};
use cpift_tests::folders::{self, RawTensor, RawTensors, read_safetensors, values, write_safetensors};
use cpift_tests::golden::Golden;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use super::{assert_refused, load};

/// `tests/golden/adapters.py` says what they are for: the base of each, and whether the head is the embedding's still.
const ADAPTERS: [(&str, &str, bool); 8] = [
    ("linear", "llama", false),
    ("patterns", "qwen2", true),
    ("fused", "phi3", false),
    ("tied_embedding", "llama_tied", false),
    ("tied_head", "llama_tied", false),
    ("tied_both", "llama_tied", true),
    ("tied_saved", "llama_tied", false),
    ("delta_net", "qwen3_5", false),
];

/// The weights of a folder by their bits: between them is padding, which is NaN here.
fn bits(folder: &Path) -> Vec<u32> {
    load(folder).unwrap().1.into_iter().map(f32::to_bits).collect()
}

fn golden(name: &str) -> PathBuf {
    folders::tests().join("golden/adapters").join(name)
}

#[test]
fn adapters_change_their_base_as_in_peft() {
    for (name, base, is_tied) in ADAPTERS {
        let (checkpoint, weights) = load(&golden(name)).unwrap();
        assert_eq!(checkpoint.config().tied, is_tied, "{name}");
        let base = read_safetensors(&Golden::folder(base).join("model.safetensors"));
        let mut expected = read_safetensors(&golden(name).join("expected.safetensors"));
        for segment in checkpoint.layout().segments() {
            let found = &weights[segment.range()];
            match expected.remove(&segment.name) {
                Some(changed) => {
                    for (found, expected) in found.iter().zip(values(&changed)) {
                        let difference = (found - expected).abs();
                        assert!(difference <= 1e-6, "{name}: {}: {found} for {expected}", segment.name);
                    }
                }
                // The head of a tied model that is no longer one is the embedding that it was.
                None => {
                    let stored =
                        base.get(&segment.name).unwrap_or_else(|| &base["model.embed_tokens.weight"]);
                    assert_eq!(found, values(stored), "{name}: {}", segment.name);
                }
            }
        }
        let others: Vec<String> = expected.into_keys().collect();
        // Of a tied model PEFT changes the head, which is no tensor of its own here.
        assert_eq!(others, if name == "tied_both" { vec!["lm_head.weight"] } else { vec![] }, "{name}");
        let notices = checkpoint.notices().join("\n");
        assert!(notices.contains("an adapter, added to "), "{notices}");
        assert_eq!(notices.contains("head is not tied"), name.starts_with("tied_") && !is_tied, "{notices}");
        checkpoint.check_weights().unwrap();
    }
}

/// A copy of an adapter with its base beside it, changed.
fn changed(name: &str, change: impl FnOnce(&mut Value, &mut RawTensors)) -> TempDir {
    let folder = tempdir().unwrap();
    let base = ADAPTERS.iter().find(|(adapter, ..)| *adapter == name).unwrap().1;
    folders::copy(&Golden::folder(base), &folder.path().join("base"));
    let path = golden(name).join("adapter_config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    config["base_model_name_or_path"] = json!("base");
    let mut tensors = read_safetensors(&golden(name).join("adapter_model.safetensors"));
    change(&mut config, &mut tensors);
    fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    write_safetensors(&folder.path().join("adapter_model.safetensors"), &tensors);
    folder
}

fn renamed(tensors: &mut RawTensors, rename: impl Fn(&str) -> String) {
    *tensors = std::mem::take(tensors).into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
}

/// Names of old releases, of the language model inside a larger one, and of other programs give the same model.
#[test]
fn names_of_tensors_are_read_in_every_form() {
    let expected = bits(&golden("fused"));
    let forms: [fn(&str) -> String; 4] = [
        |name| name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."),
        |name| name.replace("lm_head.weight", "lm_head.modules_to_save.default.weight"),
        |name| name.replace("base_model.model.", ""),
        |name| name.replace("model.layers.", "model.language_model.layers."),
    ];
    for form in forms {
        let folder = changed("fused", |_, tensors| renamed(tensors, form));
        assert_eq!(bits(folder.path()), expected);
    }
}

/// A model that an adapter is merged into is one like any other.
#[test]
fn merged_models_are_written_whole() {
    for (name, ..) in ADAPTERS {
        let (checkpoint, loaded) = load(&golden(name)).unwrap();
        let weights = cpift_engine::Buffer::from_slice(&super::cpu(), &loaded).unwrap();
        let folder = tempdir().unwrap();
        let path = folder.path().join("merged");
        write_model(&path, &ModelFiles::new(checkpoint.config(), Some(&golden(name))), weights.view())
            .unwrap();
        assert_eq!(bits(&path), bits(&golden(name)));
        assert_eq!(load(&path).unwrap().0.config().tied, checkpoint.config().tied);
        assert!(!path.join("adapter_config.json").exists());
    }
}

#[test]
fn configurations_of_other_adapters_are_refused_by_field() {
    let cases = [
        ("peft_type", json!("IA3"), "`peft_type` = \"IA3\" is not supported, only \"LORA\" is"),
        ("task_type", json!("SEQ_CLS"), "`task_type` = \"SEQ_CLS\""),
        ("bias", json!("all"), "`bias` = \"all\" is not supported, only \"none\" is"),
        ("use_dora", json!(true), "`use_dora` = true is not supported"),
        ("lora_bias", json!(true), "`lora_bias` = true"),
        ("init_lora_weights", json!("pissa_niter_4"), "`init_lora_weights` = \"pissa_niter_4\""),
        ("layer_replication", json!([[0, 1], [0, 2]]), "`layer_replication` = [[0,1],[0,2]]"),
        ("trainable_token_indices", json!([1]), "`trainable_token_indices` = [1]"),
        ("later_invention", json!(3), "`later_invention` = 3 is not supported"),
        ("r", json!(0), "`r` = 0 must be a whole number above 0"),
        ("lora_alpha", json!("16"), "`lora_alpha` = \"16\" must be a number"),
        ("rank_pattern", json!({"(": 2}), "`rank_pattern`: \"(\" is no regular expression"),
        ("modules_to_save", json!("lm_head"), "`modules_to_save` = \"lm_head\" must be a list of names"),
        ("base_model_name_or_path", json!(null), "`base_model_name_or_path` is missing"),
        ("base_model_name_or_path", json!("../gone/away"), "\"../gone/away\", is no folder"),
        ("base_model_name_or_path", json!("no-one/nothing"), "`hf download no-one/nothing`"),
    ];
    for (key, value, says) in cases {
        let folder = changed("linear", |config, _| config[key] = value);
        assert_refused(folder.path(), &["adapter_config.json: ", says]);
    }
    // What does not change the sum is let be, and so is what is switched off.
    let expected = bits(&golden("linear"));
    let same = changed("linear", |config, _| {
        for (key, value) in [
            ("fan_in_fan_out", json!(true)),
            ("layers_to_transform", json!([0, 1])),
            ("init_lora_weights", json!("gaussian")),
            ("later_invention", json!({})),
        ] {
            config[key] = value;
        }
    });
    assert_eq!(bits(same.path()), expected);
}

#[test]
fn tensors_that_do_not_fit_the_base_are_named() {
    const Q: &str = "base_model.model.model.layers.1.self_attn.q_proj";
    let (a, b) = (format!("{Q}.lora_A.weight"), format!("{Q}.lora_B.weight"));
    let tensor = |shape: &[usize]| RawTensor {
        dtype: Dtype::F32,
        shape: shape.to_vec(),
        bytes: vec![0; 4 * shape.iter().product::<usize>()],
    };
    let refused = |says: &[&str], change: &dyn Fn(&mut RawTensors)| {
        assert_refused(changed("linear", |_, tensors| change(tensors)).path(), says);
    };
    refused(&[&b, "not the matrix that it is multiplied with"], &|tensors| drop(tensors.remove(&a)));
    refused(&[&a, "[2, 24], expected [3, 24]"], &|tensors| {
        tensors.insert(a.clone(), tensor(&[2, 24]));
    });
    refused(&[&b, "expected [24, 3]"], &|tensors| {
        tensors.insert(b.clone(), tensor(&[3, 24]));
    });
    for stranger in [
        "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight",
        "base_model.model.score.weight",
        "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector",
        "base_model.model.model.embed_tokens.lora_A.weight",
        "base_model.model.model.vision_tower.layers.0.q_proj.lora_A.weight",
    ] {
        refused(&[stranger, "belongs to nothing"], &|tensors| {
            tensors.insert(stranger.to_owned(), tensor(&[3, 24]));
        });
    }
    refused(&["stands there twice"], &|tensors| {
        tensors.insert(format!("{Q}.lora_A.default.weight"), tensor(&[3, 24]));
    });
    refused(&["model.norm", "[24], which is no matrix"], &|tensors| {
        for name in ["lora_A", "lora_B"] {
            tensors.insert(format!("base_model.model.model.norm.{name}.weight"), tensor(&[3, 24]));
        }
    });
    refused(&["lm_head.weight", "[60, 24], expected [51, 24]", "resized"], &|tensors| {
        tensors.insert("base_model.model.lm_head.weight".to_owned(), tensor(&[60, 24]));
    });
    refused(&["holds no tensors"], &|tensors| tensors.clear());
    refused(&["has NaN at element 1", &a], &|tensors| super::set_float(tensors, &a, 1, f32::NAN));
}

#[test]
fn files_of_adapters_are_named() {
    let folder = changed("linear", |_, _| {});
    let weights = folder.path().join("adapter_model.safetensors");
    fs::remove_file(&weights).unwrap();
    assert_refused(folder.path(), &["no adapter_model.safetensors"]);
    fs::write(folder.path().join("adapter_model.bin"), "x").unwrap();
    assert_refused(folder.path(), &["only adapter_model.bin", "AutoPeftModelForCausalLM", "save_pretrained"]);

    // An adapter of an adapter.
    let outer = changed("linear", |config, _| config["base_model_name_or_path"] = json!(golden("linear")));
    assert_refused(outer.path(), &["is an adapter itself", "merge_and_unload"]);
    // One that is merged already is a whole model, whatever else lies there.
    let merged = tempdir().unwrap();
    folders::copy(&Golden::folder("llama"), &merged.path().join("m"));
    fs::write(merged.path().join("m/adapter_config.json"), "{}").unwrap();
    assert_eq!(bits(&merged.path().join("m")), bits(&Golden::folder("llama")));
}
