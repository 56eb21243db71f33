//! Folders that are as they should be, in every form in which they are found.

use std::fs;

use cpift_engine::Buffer;
use cpift_model::Checkpoint;
use cpift_model::checkpoint::{ModelFiles, write_model};
use cpift_tests::folders::{
    RawTensor, RawTensors, parsed, random_tensors, read_safetensors, small_config, write_folder,
    write_sharded_folder,
};
use cpift_tests::golden::{self, Golden};
use safetensors::Dtype;
use serde_json::json;
use tempfile::tempdir;

use super::{assert_refused, assert_same_bits, cpu, load, set_float};

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

#[test]
fn rotary_tables_are_ignored_and_a_head_that_is_not_the_embedding_is_not_tied() {
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
    let (checkpoint, weights) = load(folder.path()).unwrap();
    assert!(
        !checkpoint.config().tied
            && checkpoint.config().to_json("float32").contains("\"tie_word_embeddings\": false")
    );
    assert!(checkpoint.notices()[0].contains("`lm_head.weight` differs"), "{:?}", checkpoint.notices());
    assert_same_bits(&checkpoint, &weights, &tensors);
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

/// Any part of the flat parameters, beginning and ending inside tensors and between them.
#[test]
fn ranges_are_parts_of_the_whole() {
    let config = small_config("llama", false);
    let tensors = random_tensors(&parsed(&config), 12, Dtype::BF16);
    let folder = tempdir().unwrap();
    write_sharded_folder(folder.path(), &config, &tensors, 3);
    let (model, whole) = load(folder.path()).unwrap();
    let length = whole.len();
    for range in [0..length, 0..0, 5..6, 64..length / 2 + 1, length / 3..length, length..length] {
        let mut part = Buffer::from_slice(&cpu(), &vec![f32::NAN; range.len()]).unwrap();
        model.load_range(range.clone(), part.view_mut()).unwrap();
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&part.to_vec().unwrap()), bits(&whole[range.clone()]), "{range:?}");
        assert!(model.load_range(range.start..range.end + 1, part.view_mut()).is_err());
    }
    let mut part = Buffer::from_slice(&cpu(), &[0.0]).unwrap();
    assert!(model.load_range(length..length + 1, part.view_mut()).is_err());
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
