//! Damaged folders and files.

use std::fs;

use cpift_tests::folders::{
    RawTensor, parsed, random_tensors, read_safetensors, shard_name, small_config, write_folder,
    write_safetensors, write_sharded_folder,
};
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::json;
use tempfile::tempdir;

use super::{Q, assert_refused, damaged, load, set_float};

#[test]
fn wrong_tensors_are_named() {
    let folder = damaged(|tensors| drop(tensors.remove(Q)));
    assert_refused(folder.path(), &["model.safetensors: missing", Q]);

    let folder = damaged(|tensors| {
        tensors.retain(|name, _| !name.contains("layernorm") && !name.contains("v_proj"));
    });
    assert_refused(folder.path(), &["missing", "model.layers.0.input_layernorm.weight", "and 2 more"]);

    let folder = damaged(|tensors| {
        let bias = RawTensor { dtype: Dtype::F32, shape: vec![2], bytes: vec![0; 8] };
        tensors.insert("model.layers.0.self_attn.q_proj.bias".to_owned(), bias);
    });
    assert_refused(folder.path(), &["not a part of the model", "`model.layers.0.self_attn.q_proj.bias`"]);

    let folder = damaged(|tensors| tensors.get_mut(Q).unwrap().shape.reverse());
    assert_refused(folder.path(), &[Q, "[24, 36]", "expected [36, 24]"]);

    let folder = damaged(|tensors| {
        let tensor = tensors.get_mut(Q).unwrap();
        tensor.bytes = [tensor.bytes.clone(), tensor.bytes.clone()].concat();
        tensor.dtype = Dtype::F64;
    });
    assert_refused(folder.path(), &[Q, "F64", "BF16"]);

    for (value, text) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
        let folder = damaged(|tensors| {
            set_float(tensors, Q, 17, value);
            set_float(tensors, Q, 100, value);
        });
        assert_refused(folder.path(), &[Q, &format!("has {text} at element 17")]);
    }
}

/// What is given instead of a model folder, and the line that says what it looks like.
#[test]
fn what_is_not_a_model_folder_is_recognised() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert_refused(&at("Qwen/Qwen3-0.6B"), &["`Qwen/Qwen3-0.6B`", "Hugging Face Hub", "write"]);
    fs::write(at("file"), "x").unwrap();
    assert_refused(&at("file"), &["is a file"]);
    fs::write(at("model-q4.gguf"), "GGUF").unwrap();
    assert_refused(&at("model-q4.gguf"), &["is a GGUF model", "safetensors"]);
    fs::write(at("model.pth"), "PK\x03\x04").unwrap();
    assert_refused(&at("model.pth"), &["pickle", "save_pretrained"]);
    assert_refused(folder.path(), &["GGUF", "model-q4.gguf"]);
    fs::write(at("pytorch_model.bin"), "x").unwrap();
    assert_refused(folder.path(), &["there is only pytorch_model.bin", "save_pretrained"]);
    fs::write(at("model.safetensors"), "x").unwrap();
    assert_refused(folder.path(), &["config.json: cannot read"]);
    fs::remove_file(at("pytorch_model.bin")).unwrap();
    fs::remove_file(at("model.safetensors")).unwrap();
    fs::write(at("config.json"), small_config("llama", false).to_string()).unwrap();
    assert_refused(folder.path(), &["GGUF", "model-q4.gguf"]);
    fs::remove_file(at("model-q4.gguf")).unwrap();
    for own in ["consolidated.safetensors", "consolidated.00.pth", "params.json"] {
        fs::write(at(own), "x").unwrap();
        assert_refused(folder.path(), &["publisher's own format", own]);
        fs::remove_file(at(own)).unwrap();
    }
    fs::write(at("pytorch_model-00001-of-00002.bin"), "x").unwrap();
    assert_refused(folder.path(), &["there is only pytorch_model-00001-of-00002.bin", "save_pretrained"]);
    fs::write(at("adapter_config.json"), "{}").unwrap();
    fs::write(at("adapter_model.safetensors"), "x").unwrap();
    assert_refused(folder.path(), &["adapter", "merge"]);

    let inner = tempdir().unwrap();
    fs::create_dir(inner.path().join("checkpoint-10")).unwrap();
    fs::write(inner.path().join("checkpoint-10/config.json"), "{}").unwrap();
    assert_refused(inner.path(), &["`checkpoint-10`"]);
}

#[test]
fn wrong_files_are_named() {
    let folder = tempdir().unwrap();
    assert_refused(&folder.path().join("nothing"), &["nothing/config.json: cannot read"]);
    fs::write(folder.path().join("config.json"), small_config("llama", false).to_string()).unwrap();
    assert_refused(folder.path(), &["neither model.safetensors nor model.safetensors.index.json"]);
    fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    assert_refused(folder.path(), &["pytorch_model.bin", "safetensors"]);

    let path = folder.path().join("model.safetensors");
    for (content, says) in [
        (b"".as_slice(), "too short"),
        (b"\x10\0\0\0\0\0\0\0{}", "truncated: 10 bytes of 24"),
        (b"\x02\0\0\0\0\0\0\0[]", "not a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0\xff\xff", "not a safetensors file"),
        (b"\x02\0\0\0\0\0\0\0{}", "missing"),
        (b"\x02\0\0\0\0\0\0\0{}garbage", "7 bytes follow the last tensor"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "not a safetensors file"),
        // A length that a header may have, of something else.
        (b"PK\x03\x04\0\0\0\0\0\0\0\0", "not a safetensors file: looks like a zip archive"),
        (b"\x10\0\0\0\0\0\0\0\xff\xff\xff", "not a safetensors file: it does not begin with a header"),
        (b"\xff\xff\xff\xff\0\0\0\0{\0", "not a safetensors file: it does not begin with a header"),
    ] {
        fs::write(&path, content).unwrap();
        assert_refused(folder.path(), &["model.safetensors: ", says]);
    }

    let huge = vec![u64::from(u32::MAX); 3];
    let entries = [
        (json!({"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}), "invalid shape"),
        (json!({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}), "invalid offset for tensor `a`"),
        (json!({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}), "invalid offset for tensor `a`"),
        (json!({"dtype": "F32", "shape": [u64::MAX, 2], "data_offsets": [0, 8]}), "overflow"),
        (json!({"dtype": "F32", "shape": huge, "data_offsets": [0, 8]}), "overflow"),
        (json!({"dtype": "U8", "shape": [u64::MAX >> 3], "data_offsets": [0, u64::MAX >> 3]}), "truncated"),
        (json!({"dtype": "F4", "shape": [3], "data_offsets": [0, 8]}), "byte boundary"),
        (json!({"dtype": "I4", "shape": [1], "data_offsets": [0, u64::MAX]}), "unknown variant `I4`"),
        (json!({"dtype": "F32", "shape": [1], "data_offsets": [u64::MAX - 4, u64::MAX]}), "invalid offset"),
        (json!({"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}), "invalid value"),
        (json!({"dtype": "F32", "shape": [1e30], "data_offsets": [0, 4]}), "invalid type"),
        (json!(3), "invalid type"),
    ];
    for (entry, says) in entries {
        let header = json!({ "a": entry }).to_string();
        let mut content = (header.len() as u64).to_le_bytes().to_vec();
        content.extend(header.as_bytes());
        content.extend([0; 8]);
        fs::write(&path, content).unwrap();
        assert_refused(folder.path(), &["model.safetensors: ", says]);
    }

    let folder = damaged(|_| ());
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let says = format!("truncated: {} bytes of {}", whole.len() - 1, whole.len());
    assert_refused(folder.path(), &["model.safetensors: ", &says]);
}

#[test]
fn wrong_indices_are_named() {
    let folder = tempdir().unwrap();
    let config = small_config("llama", false);
    let tensors = random_tensors(&parsed(&config), 7, Dtype::F32);
    write_sharded_folder(folder.path(), &config, &tensors, 2);
    let index_path = folder.path().join("model.safetensors.index.json");
    let index: serde_json::Value = serde_json::from_str(&fs::read_to_string(&index_path).unwrap()).unwrap();

    let mut wrong = index.clone();
    let (here, other) = (wrong["weight_map"][Q].clone(), wrong["weight_map"]["model.norm.weight"].clone());
    let elsewhere = if here == other { json!(shard_name(0, 2)) } else { other };
    let elsewhere = if elsewhere == here { json!(shard_name(1, 2)) } else { elsewhere };
    wrong["weight_map"][Q] = elsewhere.clone();
    fs::write(&index_path, wrong.to_string()).unwrap();
    let says = format!("`{Q}` is not in {}", elsewhere.as_str().unwrap());
    assert_refused(folder.path(), &["index.json: ", &says]);

    for (shard, says) in [
        (json!("model-00009-of-00002.safetensors"), "model-00009-of-00002.safetensors"),
        (json!("../model.safetensors"), "not the name of a file"),
        (json!("/etc/passwd"), "not the name of a file"),
        (json!(""), "not the name of a file"),
        (json!(7), "not an index of shards"),
    ] {
        let mut wrong = index.clone();
        wrong["weight_map"][Q] = shard;
        fs::write(&index_path, wrong.to_string()).unwrap();
        assert_refused(folder.path(), &["index.json: ", says]);
    }
    for content in ["", "{}", "{\"weight_map\": {}}"] {
        fs::write(&index_path, content).unwrap();
        assert_refused(folder.path(), &["index.json: ", "index"]);
    }

    fs::write(&index_path, index.to_string()).unwrap();
    let mut first = read_safetensors(&folder.path().join(shard_name(0, 2)));
    first.extend(tensors.clone());
    write_safetensors(&folder.path().join(shard_name(0, 2)), &first);
    assert_refused(folder.path(), &["is in two shards"]);
    fs::remove_file(folder.path().join(shard_name(1, 2))).unwrap();
    assert_refused(folder.path(), &["index.json: the shard", &shard_name(1, 2), "missing"]);
}

/// Bytes of a valid file, small enough to damage many times.
fn small_file() -> Vec<u8> {
    let folder = tempdir().unwrap();
    let config = small_config("llama", true);
    write_folder(folder.path(), &config, &random_tensors(&parsed(&config), 8, Dtype::F16));
    fs::read(folder.path().join("model.safetensors")).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to the bytes of a file, opening and loading it ends in weights or in an error.
    #[test]
    fn damaged_files_never_panic(
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        thread_local! {
            static WHOLE: Vec<u8> = small_file();
        }
        let mut bytes = WHOLE.with(Clone::clone);
        for (position, value, in_header) in flips {
            // The header is where damage has consequences.
            let range = if in_header { 3000 } else { bytes.len() };
            bytes[position.index(range)] = value;
        }
        let length = cut.map_or(bytes.len(), |cut| cut.index(bytes.len()));
        let folder = tempdir().unwrap();
        fs::write(folder.path().join("config.json"), small_config("llama", true).to_string()).unwrap();
        fs::write(folder.path().join("model.safetensors"), &bytes[..length]).unwrap();
        match load(folder.path()) {
            Ok((_, weights)) => prop_assert!(length == bytes.len() && weights.len() > 1000),
            Err(message) => prop_assert!(message.contains("model.safetensors: ")),
        }
    }
}
