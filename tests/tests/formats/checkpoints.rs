//! Model folders and tensor files: read against the format's own library, written for it, and every
//! fault answered with one line that names it.

use std::fs;
use std::path::Path;

use cpift_engine::{Buffer, Device};
use cpift_model::Checkpoint;
use cpift_model::checkpoint::{
    ModelFiles, NamedTensor, TensorData, TensorFile, WeightType, layout_tensors, write_model, write_tensors,
};
use cpift_model::files::{Manifest, Verify, write_atomically};
use cpift_tests::folders::{
    RawTensor, RawTensors, parsed, random_tensors, read_safetensors, shard_name, small_config, to_bf16,
    values, write_folder, write_safetensors, write_sharded_folder,
};
use cpift_tests::golden::{self, Golden};
use cpift_tests::numeric::random;
use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::json;
use tempfile::{TempDir, tempdir};

fn cpu() -> Device {
    Device::cpu(None).unwrap()
}

/// All weights of a folder, read into memory that holds NaN where nothing is written.
fn load(folder: &Path) -> Result<(Checkpoint, Vec<f32>), String> {
    let checkpoint = Checkpoint::open(folder).map_err(|error| error.to_string())?;
    let mut weights = Buffer::from_slice(&cpu(), &vec![f32::NAN; checkpoint.layout().len()]).unwrap();
    checkpoint.load_into(weights.view_mut()).map_err(|error| error.to_string())?;
    let weights = weights.to_vec().unwrap();
    Ok((checkpoint, weights))
}

fn assert_same_bits(checkpoint: &Checkpoint, weights: &[f32], tensors: &RawTensors) {
    for segment in checkpoint.layout().segments() {
        let expected = values(&tensors[&segment.name]);
        let same = weights[segment.range()].iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{} differs", segment.name);
    }
}

#[test]
fn single_and_sharded_folders_load_in_every_type() {
    let types = [("llama", Dtype::F32), ("qwen2", Dtype::BF16), ("qwen3", Dtype::F16), ("llama", Dtype::F16)];
    for (seed, (model_type, dtype)) in types.into_iter().enumerate() {
        for tied in [false, true] {
            let config = small_config(model_type, tied);
            let tensors = random_tensors(&parsed(&config), 10 + seed as u64, dtype);
            let folder = tempdir().unwrap();
            let (single, sharded) = (folder.path().join("single"), folder.path().join("sharded"));
            write_folder(&single, &config, &tensors);
            write_sharded_folder(&sharded, &config, &tensors, 3);
            for folder in [single, sharded] {
                let (checkpoint, weights) = load(&folder).unwrap();
                assert_same_bits(&checkpoint, &weights, &tensors);
            }
        }
    }
}

#[test]
fn folders_written_by_transformers_load() {
    for name in golden::NAMES {
        let (checkpoint, weights) = load(&Golden::folder(name)).unwrap();
        let expected = Golden::open(name).weights(&cpu()).to_vec().unwrap();
        for segment in checkpoint.layout().segments() {
            assert_eq!(weights[segment.range()], expected[segment.range()], "{name}: {}", segment.name);
        }
    }
}

/// A tensor larger than the pieces it is read and written in.
#[test]
fn large_tensors_are_read_and_written_in_pieces() {
    let folder = tempdir().unwrap();
    let mut config = small_config("llama", true);
    config["vocab_size"] = json!(100_003);
    let tensors = random_tensors(&parsed(&config), 4, Dtype::F32);
    write_folder(folder.path(), &config, &tensors);
    let (checkpoint, weights) = load(folder.path()).unwrap();
    assert_same_bits(&checkpoint, &weights, &tensors);

    let copy = folder.path().join("copy");
    let buffer = Buffer::from_slice(&cpu(), &weights).unwrap();
    write_model(&copy, &ModelFiles::new(checkpoint.config(), None), buffer.view()).unwrap();
    assert_eq!(load(&copy).unwrap().1.len(), weights.len());
    let written = read_safetensors(&copy.join("model.safetensors"));
    assert!(tensors.iter().all(|(name, tensor)| written[name].bytes == tensor.bytes));

    let last = tensors["model.embed_tokens.weight"].bytes.len() / 4 - 1;
    let mut damaged = tensors.clone();
    set_float(&mut damaged, "model.embed_tokens.weight", last, f32::NAN);
    write_folder(folder.path(), &config, &damaged);
    let message = load(folder.path()).unwrap_err();
    assert!(message.contains(&format!("`model.embed_tokens.weight` has NaN at element {last}")), "{message}");
}

fn set_float(tensors: &mut RawTensors, name: &str, index: usize, value: f32) {
    let tensor = tensors.get_mut(name).unwrap();
    assert_eq!(tensor.dtype, Dtype::F32);
    tensor.bytes[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
}

/// A folder with a small untied Llama whose tensors `change` has damaged, or whose files.
fn damaged(change: impl FnOnce(&mut RawTensors)) -> TempDir {
    let folder = tempdir().unwrap();
    let config = small_config("llama", false);
    let mut tensors = random_tensors(&parsed(&config), 5, Dtype::F32);
    change(&mut tensors);
    write_folder(folder.path(), &config, &tensors);
    folder
}

#[track_caller]
fn assert_refused(folder: &Path, says: &[&str]) {
    let message = load(folder).map(|_| ()).unwrap_err();
    assert!(!message.contains('\n'), "{message}");
    for part in says {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

const Q: &str = "model.layers.1.self_attn.q_proj.weight";

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

#[test]
fn rotary_tables_are_ignored_and_a_tied_head_must_be_the_embedding() {
    let folder = tempdir().unwrap();
    let config = small_config("llama", true);
    let mut tensors = random_tensors(&parsed(&config), 6, Dtype::F32);
    let table = RawTensor { dtype: Dtype::F32, shape: vec![3], bytes: vec![1; 12] };
    tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), table);
    tensors.insert("lm_head.weight".to_owned(), tensors["model.embed_tokens.weight"].clone());
    write_folder(folder.path(), &config, &tensors);
    let (checkpoint, weights) = load(folder.path()).unwrap();
    assert_same_bits(&checkpoint, &weights, &tensors);

    set_float(&mut tensors, "lm_head.weight", 33 * 24 - 1, 0.125);
    write_folder(folder.path(), &config, &tensors);
    assert_refused(folder.path(), &["`lm_head.weight` differs", "tie_word_embeddings"]);
}

/// As `transformers` 5.24 loads them: `model.` is added or left out, a tied model stores its one matrix under
/// either name, what is beside the language model is left out.
#[test]
fn other_names_of_the_same_tensors_load() {
    let config = small_config("llama", true);
    let tensors = random_tensors(&parsed(&config), 8, Dtype::F32);
    let renamed = |rename: &dyn Fn(&str) -> String| -> RawTensors {
        tensors.iter().map(|(name, tensor)| (rename(name), tensor.clone())).collect()
    };
    let bare = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_owned();
    let by_head = |name: &str| name.replace("model.embed_tokens.weight", "lm_head.weight");
    for stored in [renamed(&bare), renamed(&by_head), renamed(&|name| format!("model.{name}"))] {
        let folder = tempdir().unwrap();
        write_folder(folder.path(), &config, &stored);
        let (checkpoint, weights) = load(folder.path()).unwrap();
        assert_same_bits(&checkpoint, &weights, &tensors);
        checkpoint.check_weights().unwrap();
        assert!(checkpoint.notices().is_empty());
    }
    let folder = tempdir().unwrap();
    let mut extra = tensors.clone();
    extra.insert("v_head.summary.weight".to_owned(), tensors["model.norm.weight"].clone());
    write_folder(folder.path(), &config, &extra);
    let (checkpoint, weights) = load(folder.path()).unwrap();
    assert_same_bits(&checkpoint, &weights, &tensors);
    assert!(checkpoint.notices()[0].contains("left out: `v_head.summary.weight`"));

    let mut twice = tensors.clone();
    twice.insert("norm.weight".to_owned(), tensors["model.norm.weight"].clone());
    write_folder(folder.path(), &config, &twice);
    assert_refused(folder.path(), &["`model.norm.weight` is stored twice"]);
}

#[test]
fn an_index_may_list_a_tied_head_that_is_not_there() {
    let folder = tempdir().unwrap();
    let config = small_config("llama", true);
    let tensors = random_tensors(&parsed(&config), 9, Dtype::F32);
    write_sharded_folder(folder.path(), &config, &tensors, 2);
    let path = folder.path().join("model.safetensors.index.json");
    let mut index: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    index["weight_map"]["lm_head.weight"] = index["weight_map"]["model.embed_tokens.weight"].clone();
    fs::write(&path, index.to_string()).unwrap();
    let (checkpoint, weights) = load(folder.path()).unwrap();
    assert_same_bits(&checkpoint, &weights, &tensors);
}

/// A tune of a tied base that was saved with a head of its own.
#[test]
fn an_untied_model_is_a_tied_one_where_its_head_is_the_embedding() {
    let (tied, untied) = (small_config("llama", true), small_config("llama", false));
    let mut tensors = random_tensors(&parsed(&tied), 10, Dtype::F32);
    tensors.insert("lm_head.weight".to_owned(), tensors["model.embed_tokens.weight"].clone());
    let folder = tempdir().unwrap();
    write_folder(folder.path(), &untied, &tensors);
    let model = Checkpoint::open(folder.path()).unwrap().into_tied().unwrap();
    assert_eq!(model.config().mismatch(&parsed(&tied)), None);
    let mut weights = Buffer::zeros(&cpu(), model.layout().len()).unwrap();
    model.load_into(weights.view_mut()).unwrap();
    assert_same_bits(&model, &weights.to_vec().unwrap(), &tensors);

    set_float(&mut tensors, "lm_head.weight", 5, 0.125);
    write_folder(folder.path(), &untied, &tensors);
    let model = Checkpoint::open(folder.path()).unwrap().into_tied().unwrap();
    for error in [model.load_into(weights.view_mut()).unwrap_err(), model.check_weights().unwrap_err()] {
        assert!(error.to_string().contains("`lm_head.weight` differs"), "{error}");
        assert!(error.to_string().contains("trained apart"), "{error}");
    }
}

/// What is given instead of a model folder, and the line that says what it looks like.
#[test]
fn what_is_not_a_model_folder_is_recognised() {
    let folder = tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert_refused(&at("Qwen/Qwen3-0.6B"), &["`Qwen/Qwen3-0.6B`", "Hugging Face Hub", "download"]);
    fs::write(at("file"), "x").unwrap();
    assert_refused(&at("file"), &["is a file"]);
    fs::write(at("model-q4.gguf"), "GGUF").unwrap();
    assert_refused(folder.path(), &["GGUF", "model-q4.gguf"]);
    fs::write(at("config.json"), small_config("llama", false).to_string()).unwrap();
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

#[test]
fn written_folders_are_what_was_given() {
    let folder = tempdir().unwrap();
    let source = folder.path().join("source");
    let copied =
        ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "LICENSE", "merges.txt"];
    for (seed, model_type) in ["llama", "qwen2", "qwen3"].into_iter().enumerate() {
        let config = small_config(model_type, seed == 1);
        let tensors = random_tensors(&parsed(&config), 20 + seed as u64, Dtype::F32);
        write_folder(&source, &config, &tensors);
        for name in copied {
            fs::write(source.join(name), format!("{name} of {model_type}")).unwrap();
        }
        fs::write(source.join("optimizer.pt"), "not copied").unwrap();
        let (checkpoint, weights) = load(&source).unwrap();
        let weights = Buffer::from_slice(&cpu(), &weights).unwrap();
        for (dtype, stored) in
            [(WeightType::F32, Dtype::F32), (WeightType::BF16, Dtype::BF16), (WeightType::F16, Dtype::F16)]
        {
            let target = folder.path().join(format!("{model_type}-{stored:?}"));
            let files = ModelFiles { dtype, ..ModelFiles::new(checkpoint.config(), Some(&source)) };
            write_model(&target, &files, weights.view()).unwrap();
            let written = read_safetensors(&target.join("model.safetensors"));
            assert!(written.keys().eq(tensors.keys()));
            for (name, tensor) in &written {
                assert_eq!((tensor.dtype, &tensor.shape), (stored, &tensors[name].shape), "{name}");
                assert_rounded(name, tensor, &values(&tensors[name]));
            }
            for name in copied {
                assert_eq!(fs::read(target.join(name)).unwrap(), fs::read(source.join(name)).unwrap());
            }
            assert!(!target.join("optimizer.pt").exists());
            let mut expected = config.clone();
            expected["torch_dtype"] = json!(dtype.config_name());
            let text = fs::read_to_string(target.join("config.json")).unwrap();
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), expected);
            Manifest::verify(&target, Verify::Contents).unwrap();
            load(&target).unwrap();
        }
    }
}

#[track_caller]
fn assert_rounded(name: &str, tensor: &RawTensor, expected: &[f32]) {
    for (actual, &expected) in values(tensor).into_iter().zip(expected) {
        let fits = match tensor.dtype {
            Dtype::F32 => actual.to_bits() == expected.to_bits(),
            Dtype::BF16 => actual.to_bits() >> 16 == u32::from(to_bf16(expected)),
            // Half a unit in the last of 11 digits, or of the smallest subnormal.
            _ => (actual - expected).abs() <= (expected.abs() / 2048.0).max(0.5f32.powi(25)),
        };
        assert!(fits, "{name}: {expected} was written as {actual}");
    }
}

#[test]
fn large_models_are_written_in_shards() {
    let folder = tempdir().unwrap();
    let config = small_config("qwen2", false);
    let tensors = random_tensors(&parsed(&config), 30, Dtype::F32);
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    write_folder(&source, &config, &tensors);
    let (checkpoint, weights) = load(&source).unwrap();
    let weights = Buffer::from_slice(&cpu(), &weights).unwrap();
    let files = ModelFiles { shard_bytes: 12_000, ..ModelFiles::new(checkpoint.config(), None) };
    write_model(&target, &files, weights.view()).unwrap();
    assert!(!target.join("model.safetensors").exists());
    let (again, loaded) = load(&target).unwrap();
    assert_same_bits(&again, &loaded, &tensors);
    let index: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(target.join("model.safetensors.index.json")).unwrap())
            .unwrap();
    assert_eq!(index["weight_map"].as_object().unwrap().len(), tensors.len());
    assert_eq!(index["metadata"]["total_size"], json!(4 * checkpoint.config().parameters()));
}

#[test]
fn weights_that_cannot_be_stored_are_not_written() {
    let folder = tempdir().unwrap();
    let config = parsed(&small_config("llama", false));
    let layout = config.layout().unwrap();
    let segment = layout.segment(layout.find(Q).unwrap());
    for (value, dtype, says) in [
        (f32::NAN, WeightType::F32, "has NaN at element 5"),
        (f32::INFINITY, WeightType::BF16, "has inf at element 5"),
        (1e6, WeightType::F16, "has 1000000 at element 5, too large for float16"),
        (3.4e38, WeightType::BF16, "too large for bfloat16"),
    ] {
        let mut weights = random(40, layout.len());
        weights[segment.offset + 5] = value;
        let weights = Buffer::from_slice(&cpu(), &weights).unwrap();
        let files = ModelFiles { dtype, ..ModelFiles::new(&config, None) };
        let message =
            write_model(&folder.path().join("out"), &files, weights.view()).unwrap_err().to_string();
        assert!(message.contains("out/model.safetensors: ") && message.contains(Q), "{message}");
        assert!(message.contains(says), "{message}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing may be left behind");
}

#[test]
fn named_tensors_of_all_types_come_back() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("state.safetensors");
    let layout = parsed(&small_config("qwen3", true)).layout().unwrap();
    let moments = Buffer::from_slice(&cpu(), &random(50, layout.len())).unwrap();
    let words: Vec<u64> = random(51, 77).iter().map(|x| u64::from(x.to_bits()) << 21 | 1).collect();
    let named =
        |name: &str, shape: &[usize], data| NamedTensor { name: name.into(), shape: shape.into(), data };
    let mut tensors =
        vec![named("words", &[77], TensorData::U64(&words)), named("nothing", &[0], TensorData::U64(&[]))];
    tensors.extend(layout_tensors(&layout, "first.", moments.view(), WeightType::F32).unwrap());
    write_atomically(&path, |file| write_tensors(file, &tensors, Some("é\""))).unwrap();

    assert_eq!(read_safetensors(&path).len(), tensors.len());
    let (_, header) = safetensors::SafeTensors::read_metadata(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["format"], "é\"");
    let file = TensorFile::open(&path).unwrap();
    assert_eq!(file.read_u64("words").unwrap(), words);
    assert!(file.read_u64("nothing").unwrap().is_empty());
    let mut back = Buffer::from_slice(&cpu(), &random(53, layout.len())).unwrap();
    file.read_layout(&layout, "first.", back.view_mut()).unwrap();
    for segment in layout.segments() {
        assert_eq!(
            back.slice(segment.range()).to_vec().unwrap(),
            moments.slice(segment.range()).to_vec().unwrap()
        );
    }

    let message = |name: &str| file.read_u64(name).unwrap_err().to_string();
    let norm = "first.model.norm.weight";
    assert!(message(norm).contains(&format!("`{norm}` has the type F32; U64 is expected")));
    assert!(message("absent").contains("`absent` is missing"));
    let error = file.read_layout(&layout, "second.", back.view_mut()).unwrap_err().to_string();
    assert!(error.contains("`second.model.embed_tokens.weight` is missing"), "{error}");

    let twice = [named("a", &[0], TensorData::U64(&[])), named("a", &[0], TensorData::U64(&[]))];
    let wrong = [named("a", &[2], TensorData::U64(&[1]))];
    for (tensors, says) in
        [(twice.as_slice(), "`a` was to be written twice"), (wrong.as_slice(), "invalid shape")]
    {
        let error =
            write_atomically(&path, |file| write_tensors(file, tensors, None)).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(TensorFile::open(&path).unwrap().read_u64("words").unwrap(), words, "the file is untouched");
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
