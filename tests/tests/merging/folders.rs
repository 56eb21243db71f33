//! Which tensors are the same, what else is in the folder, and what is refused.

use std::fs;
use std::path::Path;

use cpift_model::checkpoint::WeightType;
use cpift_model::merge::{Method, Parameters};
use cpift_tests::model_folders::{Stored, read, values, write, write_sharded};
use safetensors::tensor::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{merge_into, merged, refused, request};

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

fn set_config(folder: &Path, key: &str, value: Value) {
    let mut config = config(folder);
    config[key] = value;
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// A matrix and a vector, all elements `value`.
fn plain(value: f32) -> Vec<Stored> {
    vec![Stored::floats("a.weight", &[2, 3], &[value; 6]), Stored::floats("b.bias", &[5], &[value + 1.0; 5])]
}

/// Two models, `a` and `b`.
fn pair(one: &[Stored], other: &[Stored]) -> TempDir {
    let folder = TempDir::new().unwrap();
    write(&folder.path().join("a"), "any", one);
    write(&folder.path().join("b"), "any", other);
    folder
}

const BOTH: [(&str, f64); 2] = [("a", 1.0), ("b", 1.0)];

#[test]
fn the_folder_has_all_that_a_model_needs() {
    let folder = pair(&plain(1.0), &plain(3.0));
    fs::write(folder.path().join("a/generation_config.json"), "{}").unwrap();
    fs::write(folder.path().join("a/preprocessor_config.json"), "{}").unwrap();
    let mut request = request(folder.path(), Method::Average, None, &BOTH);
    request.dtype = Some(WeightType::BF16);
    let out = folder.path().join("out");
    let report = merge_into(&request, &out, 1).unwrap();
    assert_eq!(report.tensors, 2);
    let mut names: Vec<String> =
        fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected = [
        "LICENSE",
        "config.json",
        "generation_config.json",
        "manifest.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
    ];
    assert_eq!(names, expected);
    assert_eq!(config(&out)["torch_dtype"], "bfloat16");
    let tensors = read(&out);
    assert_eq!(tensors["a.weight"].dtype, Dtype::BF16);
    assert_eq!(values(&tensors["b.bias"]), [3.0; 5]);
    cpift_model::files::Manifest::verify(&out, cpift_model::files::Verify::Contents).unwrap();
    // The merged model can be merged again.
    let mut again = request;
    again.models[0] = out;
    assert_eq!(values(&merged_elsewhere(&again, &folder.path().join("again"))["a.weight"]), [2.5; 6]);
}

fn merged_elsewhere(
    request: &cpift_model::merge::MergeRequest,
    out: &Path,
) -> std::collections::HashMap<String, Stored> {
    merge_into(request, out, 2).unwrap();
    read(out)
}

/// From shards, into shards: no file above the limit, and an index that names every tensor.
#[test]
fn shards_go_in_and_out() {
    let tensors = |value: f32| -> Vec<Stored> {
        (0..5).map(|number| Stored::floats(&format!("t{number}"), &[100], &[value; 100])).collect()
    };
    let folder = TempDir::new().unwrap();
    write_sharded(&folder.path().join("a"), "any", &tensors(1.0));
    write(&folder.path().join("b"), "any", &tensors(2.0));
    let mut request = request(folder.path(), Method::Average, None, &BOTH);
    request.shard_bytes = 900;
    let out = folder.path().join("out");
    merge_into(&request, &out, 2).unwrap();
    let index: Value =
        serde_json::from_slice(&fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"]["total_size"], 2000);
    assert_eq!(index["weight_map"]["t0"], "model-00001-of-00003.safetensors");
    assert_eq!(index["weight_map"]["t4"], "model-00003-of-00003.safetensors");
    let merged = read(&out);
    assert_eq!(merged.len(), 5);
    assert!(merged.values().all(|tensor| values(tensor) == [1.5; 100]));
}

/// Floats of several types give the type that holds both; integers are copied; tables of old releases are left out.
#[test]
fn types_and_buffers() {
    let with = |mut tensors: Vec<Stored>, position: u8| {
        let (name, shape, dtype) = ("positions".to_owned(), vec![1], Dtype::I64);
        tensors.push(Stored { name, shape, dtype, bytes: vec![position, 0, 0, 0, 0, 0, 0, 0] });
        tensors.push(Stored::floats("layers.0.rotary_emb.inv_freq", &[1], &[f32::from(position)]));
        tensors
    };
    let narrow =
        vec![Stored::bf16("a.weight", &[2, 3], &[3.0; 6]), Stored::floats("b.bias", &[5], &[4.0; 5])];
    let folder = pair(&with(plain(1.0), 7), &with(narrow.clone(), 7));
    let merged = merged(&request(folder.path(), Method::Average, None, &BOTH));
    assert_eq!(merged.len(), 3);
    assert_eq!(merged["a.weight"].dtype, Dtype::F32);
    assert_eq!(values(&merged["a.weight"]), [2.0; 6]);
    assert_eq!(merged["positions"].bytes[0], 7);

    let folder = pair(&with(plain(1.0), 7), &with(narrow, 8));
    let message = refused(&request(folder.path(), Method::Average, None, &BOTH));
    assert!(message.contains("`positions` holds no floats and differs"), "{message}");
}

/// A plain model (`LlamaModel`) and a part of a larger one are stored under other names.
#[test]
fn prefixes_of_classes_are_seen_through() {
    let named = |names: [&str; 2], value: f32| names.map(|name| Stored::floats(name, &[4], &[value; 4]));
    let folder = pair(
        &named(["model.layers.0.w", "lm_head.weight"], 1.0),
        &named(["language_model.model.layers.0.w", "language_model.lm_head.weight"], 3.0),
    );
    let merged = merged(&request(folder.path(), Method::Average, None, &BOTH));
    assert_eq!(values(&merged["model.layers.0.w"]), [2.0; 4]);
    assert_eq!(values(&merged["lm_head.weight"]), [2.0; 4]);
}

#[test]
fn heads_are_tied_or_not() {
    let embedding = |value: f32| Stored::floats("model.embed_tokens.weight", &[2, 2], &[value; 4]);
    let head = |value: f32| Stored::floats("lm_head.weight", &[2, 2], &[value; 4]);
    let average = |folder: &TempDir| {
        let out = folder.path().join("out");
        merge_into(&request(folder.path(), Method::Average, None, &BOTH), &out, 1).unwrap();
        (read(&out), config(&out))
    };
    // Stored twice, though it is the embedding.
    let folder = pair(&[embedding(1.0), head(1.0)], &[embedding(3.0)]);
    set_config(&folder.path().join("a"), "tie_word_embeddings", json!(true));
    let (tensors, config) = average(&folder);
    assert_eq!((tensors.len(), &config["tie_word_embeddings"]), (1, &json!(true)));
    // One model's is its own: the other's is its embedding.
    let folder = pair(&[embedding(1.0)], &[embedding(3.0), head(5.0)]);
    set_config(&folder.path().join("a"), "tie_word_embeddings", json!(true));
    let (tensors, config) = average(&folder);
    assert_eq!(values(&tensors["lm_head.weight"]), [3.0; 4]);
    assert_eq!(values(&tensors["model.embed_tokens.weight"]), [2.0; 4]);
    assert_eq!(config["tie_word_embeddings"], false);
    // Not tied at all.
    let folder = pair(&[embedding(1.0), head(2.0)], &[embedding(3.0), head(6.0)]);
    let (tensors, config) = average(&folder);
    assert_eq!(values(&tensors["lm_head.weight"]), [4.0; 4]);
    assert_eq!(config["tie_word_embeddings"], Value::Null);
}

#[test]
fn what_does_not_match_is_refused_by_name() {
    let average = |folder: &TempDir| refused(&request(folder.path(), Method::Average, None, &BOTH));
    let folder = pair(&plain(1.0), &plain(1.0)[..1]);
    let message = average(&folder);
    assert!(message.contains("has no `b.bias`"), "{message}");
    let folder = pair(&plain(1.0)[..1], &plain(1.0));
    let message = average(&folder);
    assert!(message.contains("has `b.bias`, which") && message.contains("does not have"), "{message}");
    let mut other = plain(1.0);
    other[0].shape = vec![3, 2];
    let message = average(&pair(&plain(1.0), &other));
    assert!(message.contains("`a.weight` has the shape [3, 2]"), "{message}");
    let rows = |rows: usize| [Stored::floats("wte.weight", &[rows, 2], &vec![0.0; 2 * rows])];
    let message = average(&pair(&rows(2), &rows(3)));
    assert!(message.contains("vocabularies differ"), "{message}");

    let folder = pair(&plain(1.0), &plain(1.0));
    set_config(&folder.path().join("b"), "model_type", json!("other"));
    let message = average(&folder);
    assert!(message.contains("different architectures"), "{message}");
    let folder = pair(&plain(1.0), &plain(1.0));
    fs::write(folder.path().join("b/tokenizer.json"), r#"{"model": {"vocab": {"a": 0, "b": 1}}}"#).unwrap();
    let message = average(&folder);
    assert!(message.contains("the token `b` is number 1, it is not there"), "{message}");
    let folder = pair(&plain(1.0), &plain(1.0));
    fs::write(folder.path().join("b/adapter_config.json"), "{}").unwrap();
    fs::remove_file(folder.path().join("b/model.safetensors")).unwrap();
    let message = average(&folder);
    assert!(message.contains("adapter"), "{message}");
}

/// In whichever block of whichever model: file, tensor and element are named, and nothing is left.
#[test]
fn what_is_not_finite_is_refused() {
    let length = 3 << 15;
    for (bad, says) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        for method in Method::ALL {
            let mut values = vec![1.0; length];
            values[70_001] = bad;
            let folder = pair(
                &[Stored::floats("w", &[length], &vec![0.5; length])],
                &[Stored::floats("w", &[length], &values)],
            );
            write(&folder.path().join("base"), "any", &[Stored::floats("w", &[length], &vec![0.25; length])]);
            let models = if method == Method::Passthrough { &BOTH[1..] } else { &BOTH };
            let message = refused(&request(folder.path(), method, Some("base"), models));
            assert!(message.contains(&format!("`w` has {says} at element 70001")), "{message}");
            assert!(message.contains("b/model.safetensors"), "{message}");
        }
    }
}

/// A result that a type cannot hold is an error of the merge, not of the input.
#[test]
fn what_a_type_cannot_hold_is_said() {
    let folder = pair(&plain(60_000.0), &plain(80_000.0));
    let mut request = request(folder.path(), Method::Average, None, &BOTH);
    request.dtype = Some(WeightType::F16);
    let error = merge_into(&request, &folder.path().join("out"), 1).unwrap_err();
    assert!(
        error.to_string().contains("`a.weight` becomes 70000 at element 0, too large for float16"),
        "{error}"
    );
    assert!(!folder.path().join("out").exists());
}

#[test]
fn numbers_that_do_not_fit_the_method_are_refused() {
    let folder = pair(&plain(1.0), &plain(1.0));
    let refuse = |method, base, models: &[(&str, f64)], parameters| {
        let mut request = request(folder.path(), method, base, models);
        request.parameters = parameters;
        refused(&request)
    };
    let plain = Parameters::default;
    let one = [("b", 1.0)];
    for (message, says) in [
        (refuse(Method::Ties, None, &BOTH, plain()), "`--base`: ties merges updates"),
        (refuse(Method::Slerp, None, &one, plain()), "slerp needs at least 2, 1 given"),
        (refuse(Method::Average, None, &BOTH, Parameters { t: Some(0.1.into()), ..plain() }), "`--t`"),
        (
            refuse(Method::Average, None, &BOTH, Parameters { scale: Some(0.1.into()), ..plain() }),
            "`--scale`",
        ),
        (
            refuse(Method::Arithmetic, Some("a"), &one, Parameters { density: Some(0.1.into()), ..plain() }),
            "`--density`",
        ),
        (refuse(Method::Average, None, &[("a", 1.0), ("b", -1.0)], plain()), "add up to 0"),
        (refuse(Method::Nuslerp, None, &[BOTH[0], BOTH[1], BOTH[0]], plain()), "two models, 3 given"),
        (refuse(Method::ModelStock, Some("a"), &one, plain()), "needs at least 2, 1 given"),
        (refuse(Method::Karcher, None, &[("a", 1.0), ("b", 0.5)], plain()), "karcher knows none"),
        (
            refuse(Method::Della, Some("a"), &one, Parameters { density: Some(0.1.into()), ..plain() }),
            "0.1 ± 0.15",
        ),
        (
            refuse(Method::Ties, Some("a"), &one, Parameters { gamma: Some(0.1.into()), ..plain() }),
            "`--gamma`",
        ),
        (refuse(Method::Slerp, Some("a"), &[("b", 0.5)], plain()), "interpolated by --t"),
        (refuse(Method::DeltaSlerp, Some("a"), &[("a", 1.0), ("b", 0.0)], plain()), "weights above 0"),
    ] {
        assert!(message.contains(says), "{message}");
    }
}

/// A head that is left out is the embedding, whatever the base said of its own.
#[test]
fn a_head_that_is_left_out_is_said_to_be_the_embedding() {
    let embedding = Stored::floats("model.embed_tokens.weight", &[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let head = Stored { name: "lm_head.weight".to_owned(), ..embedding.clone() };
    let folder = pair(&[embedding.clone(), head], &[embedding]);
    set_config(&folder.path().join("a"), "tie_word_embeddings", json!(false));
    set_config(&folder.path().join("b"), "tie_word_embeddings", json!(true));
    let out = folder.path().join("out");
    merge_into(&request(folder.path(), Method::Average, None, &BOTH), &out, 1).unwrap();
    assert_eq!(read(&out).len(), 1);
    assert_eq!(config(&out)["tie_word_embeddings"], true);
}

/// Also where the first model has no tokenizer of its own.
#[test]
fn tokenizers_of_all_models_are_compared() {
    let folder = pair(&plain(1.0), &plain(2.0));
    write(&folder.path().join("c"), "any", &plain(3.0));
    fs::remove_file(folder.path().join("a/tokenizer.json")).unwrap();
    fs::write(folder.path().join("c/tokenizer.json"), r#"{"model": {"vocab": {"b": 0}}}"#).unwrap();
    let message =
        refused(&request(folder.path(), Method::Average, None, &[("a", 1.0), ("b", 1.0), ("c", 1.0)]));
    assert!(message.contains("tokenizers"), "{message}");
}

/// Between opposite vectors there is no shortest arc: the way is straight, whatever cosine is asked for.
#[test]
fn opposite_vectors_are_interpolated_along_a_straight_line() {
    let tensor =
        |factor: f32| vec![Stored::floats("w", &[3], &[0.1, 0.2, 0.3].map(|value: f32| value * factor))];
    let folder = pair(&tensor(1.0), &tensor(-1.0));
    let mut request = request(folder.path(), Method::Slerp, None, &BOTH);
    request.parameters =
        Parameters { t: Some(0.3.into()), dot_threshold: Some(1.0.into()), ..Parameters::default() };
    for (value, expected) in values(&merged(&request)["w"]).into_iter().zip([0.04, 0.08, 0.12]) {
        assert!((value - expected).abs() < 1e-7, "{value} {expected}");
    }
}

/// An integer where others have floats is said to be what it is.
#[test]
fn other_types_are_named() {
    let integers = Stored { name: "n".to_owned(), shape: vec![1], dtype: Dtype::I64, bytes: vec![0; 8] };
    let folder = pair(&[integers], &[Stored::floats("n", &[1], &[1.0])]);
    let message = refused(&request(folder.path(), Method::Average, None, &BOTH));
    assert!(message.contains("has the type F32, another model's is I64"), "{message}");
}
