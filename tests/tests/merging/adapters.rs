//! Folders of adapters among the models that are merged: as PEFT adds them to their base.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use cpift_model::merge::Method;
use cpift_tests::folders::{self, RawTensor, read_safetensors, to_bf16, values};
use cpift_tests::golden::Golden;
use cpift_tests::model_folders::{self, Stored};
use cpift_tests::numeric::random;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{merge_into, merged, refused, request};

/// Those of `tests/golden/adapters.py`, with their bases.
const ADAPTERS: [(&str, &str); 7] = [
    ("linear", "llama"),
    ("patterns", "qwen2"),
    ("fused", "phi3"),
    ("tied_embedding", "llama_tied"),
    ("tied_head", "llama_tied"),
    ("tied_saved", "llama_tied"),
    ("delta_net", "qwen3_5"),
];

/// A copy of an adapter as `adapter`, with its base as `base` beside it.
fn copied(name: &str, base: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let adapter = folder.path().join("adapter");
    folders::copy(&Golden::folder(base), &folder.path().join("base"));
    folders::copy(&folders::tests().join("golden/adapters").join(name), &adapter);
    set_base(&adapter, "../base");
    folder
}

fn set_base(adapter: &Path, base: &str) {
    let path = adapter.join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    config["base_model_name_or_path"] = json!(base);
    fs::write(path, config.to_string()).unwrap();
}

/// A name without what stands before those of the modules inside.
fn plain(name: &str) -> String {
    name.replace("language_model.", "").trim_start_matches("model.").to_owned()
}

/// `MODEL+ADAPTER`.
fn on(model: &str, adapter: &Path) -> String {
    format!("{model}+{}", adapter.display())
}

#[test]
fn adapters_are_merged_as_what_peft_makes_of_them() {
    for (name, base) in ADAPTERS {
        let folder = copied(name, base);
        let alone = merged(&request(folder.path(), Method::Average, None, &[("adapter", 1.0)]));
        let named = |file: &str| -> BTreeMap<String, RawTensor> {
            let tensors = read_safetensors(&folder.path().join(file)).into_iter();
            tensors.map(|(name, tensor)| (plain(&name), tensor)).collect()
        };
        let (mut expected, stored) = (named("adapter/expected.safetensors"), named("base/model.safetensors"));
        for (tensor, found) in &alone {
            let found = model_folders::values(found);
            let of_base = stored.get(&plain(tensor)).unwrap_or_else(|| &stored["embed_tokens.weight"]);
            let is_changed = expected.contains_key(&plain(tensor));
            let own = values(&expected.remove(&plain(tensor)).unwrap_or_else(|| of_base.clone()));
            for (found, own) in found.iter().zip(own) {
                let difference = (found - own).abs();
                assert!(
                    difference <= if is_changed { 1e-6 } else { 0.0 },
                    "{name}: {tensor}: {found} for {own}"
                );
            }
        }
        assert!(expected.is_empty(), "{name}: {:?} are not there", expected.keys());
        assert_eq!(alone.contains_key("lm_head.weight"), name != "patterns", "{name}: tied or not");
        // The adapter on another model, as mergekit writes it; here its own base.
        fs::rename(folder.path().join("base"), folder.path().join("moved")).unwrap();
        let both = on("moved", &folder.path().join("adapter"));
        merge_into(
            &request(folder.path(), Method::Average, None, &[(&both, 1.0)]),
            &folder.path().join("named"),
            2,
        )
        .unwrap();
        let named = model_folders::read(&folder.path().join("named"));
        assert!(alone.iter().all(|(tensor, one)| named[tensor].bytes == one.bytes), "{name}");
    }
}

#[test]
fn updates_of_adapters_are_those_of_the_merged_folder() {
    let folder = copied("linear", "llama");
    let path = folder.path();
    let whole = path.join("whole");
    let alone = merged(&request(path, Method::Average, None, &[("adapter", 1.0)]));
    folders::copy(&path.join("base"), &whole);
    let tensors: folders::RawTensors = alone
        .into_iter()
        .map(|(name, Stored { dtype, shape, bytes, .. })| (name, folders::RawTensor { dtype, shape, bytes }))
        .collect();
    folders::write_safetensors(&whole.join("model.safetensors"), &tensors);
    for method in [Method::Ties, Method::Cpift, Method::Della, Method::Slerp] {
        let of = |model: &str| merged(&request(path, method, Some("base"), &[(model, 1.0)]));
        let (adapter, whole) = (of("adapter"), of("whole"));
        assert!(whole.iter().all(|(name, own)| adapter[name].bytes == own.bytes), "{method:?}");
    }
}

/// A base of another family, in halves, whose layers store their weights by inputs.
#[test]
fn products_are_rounded_to_the_bases_type() {
    let folder = TempDir::new().unwrap();
    let path = folder.path();
    let (inputs, outputs, rank) = (70, 300, 3);
    let rounded = |seed: u64, length: usize| -> Vec<f32> {
        random(seed, length).iter().map(|value| f32::from_bits(u32::from(to_bf16(*value)) << 16)).collect()
    };
    let base = rounded(1, inputs * outputs);
    let name = "h.0.mlp.c_fc";
    model_folders::write(
        &path.join("base"),
        "gpt2",
        &[Stored::bf16(&format!("{name}.weight"), &[inputs, outputs], &base)],
    );
    let (a, b) = (random(2, rank * inputs), random(3, outputs * rank));
    let adapter = path.join("adapter");
    model_folders::write(&adapter, "gpt2", &[]);
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        fs::remove_file(adapter.join(file)).unwrap();
    }
    let config = json!({
        "peft_type": "LORA", "base_model_name_or_path": "../base", "r": rank, "lora_alpha": 6, "fan_in_fan_out": true,
        "target_modules": ["c_fc"]
    });
    fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    // PEFT's names are those inside of the class with the head.
    let tensors = [("lora_A", vec![rank, inputs], &a), ("lora_B", vec![outputs, rank], &b)].map(
        |(factor, shape, values)| {
            let tensor =
                folders::RawTensor { dtype: Dtype::F32, shape, bytes: bytemuck::cast_slice(values).to_vec() };
            (format!("base_model.model.transformer.{name}.{factor}.weight"), tensor)
        },
    );
    folders::write_safetensors(&adapter.join("adapter_model.safetensors"), &tensors.into());
    let found = merged(&request(path, Method::Average, None, &[("adapter", 1.0)]));
    let found = &found[&format!("{name}.weight")];
    assert_eq!(found.dtype, Dtype::BF16);
    let mut unlike = 0;
    for (index, found) in model_folders::values(found).into_iter().enumerate() {
        let (input, output) = (index / outputs, index % outputs);
        let product: f32 = (0..rank).map(|i| b[output * rank + i] * a[i * inputs + input]).sum();
        let exact = base[index] + 2.0 * product;
        // Another order of the sum may round otherwise where it is near the middle.
        assert!((found - exact).abs() <= exact.abs() / 250.0 + 1e-6, "{found} for {exact}");
        unlike += usize::from(found.to_bits() >> 16 != u32::from(to_bf16(exact)));
    }
    assert!(unlike * 1000 < inputs * outputs, "{unlike} are rounded otherwise");
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let folder = copied("linear", "llama");
    let path = folder.path();
    folders::copy(&Golden::folder("qwen2"), &path.join("other"));
    let refuse = |model: &str| refused(&request(path, Method::Average, None, &[(model, 1.0)]));
    let asked = request(path, Method::Average, None, &[(&on("base", &path.join("other")), 1.0)]);
    let message = merge_into(&asked, &path.join("out"), 2).unwrap_err().to_string();
    assert!(message.contains("is not the folder of an adapter"), "{message}");
    set_base(&path.join("adapter"), "../nowhere");
    assert!(refuse("adapter").contains("is no folder"));
    set_base(&path.join("adapter"), "../base");
    let file = path.join("adapter/adapter_model.safetensors");
    let mut tensors = read_safetensors(&file);
    let (name, tensor) = tensors.pop_first().unwrap();
    tensors.insert(name.replace("layers.0", "layers.9"), tensor);
    folders::write_safetensors(&file, &tensors);
    assert!(refuse("adapter").contains("belongs to nothing that the base has"));
}
