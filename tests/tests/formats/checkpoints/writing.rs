//! What is written, read back.

use std::fs;

use cpift_engine::Buffer;
use cpift_model::checkpoint::{
    ModelFiles, NamedTensor, TensorData, TensorFile, WeightType, layout_tensors, write_model, write_tensors,
};
use cpift_model::files::{Manifest, Verify, write_atomically};
use cpift_tests::folders::{
    RawTensor, parsed, random_tensors, read_safetensors, small_config, to_bf16, values, write_folder,
};
use cpift_tests::numeric::random;
use safetensors::Dtype;
use serde_json::json;
use tempfile::tempdir;

use super::{Q, assert_same_bits, cpu, load};

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
