//! Jobs that start from an adapter.

use std::fs;

use cpift_model::progress::Silent;
use cpift_tests::folders::{self, RawTensor, write_safetensors};
use cpift_tests::jobs::SmallJob;
use safetensors::Dtype;
use serde_json::json;

/// The base's tokenizer and licence are found beside its weights, the result is a whole model, and an adapter that has
/// changed is noticed when the run is continued.
#[test]
fn a_job_starts_from_an_adapter() {
    let job = SmallJob::new();
    folders::copy(&folders::seesaw().join("base"), &job.path("base"));
    fs::write(job.path("base/LICENSE"), "terms").unwrap();
    let config = fs::read_to_string(job.path("base/config.json")).unwrap();
    let hidden = serde_json::from_str::<serde_json::Value>(&config).unwrap()["hidden_size"].as_u64().unwrap();
    let write = |value: f32| {
        fs::create_dir_all(job.path("adapter")).unwrap();
        let config = json!({
            "peft_type": "LORA", "base_model_name_or_path": "../base", "r": 1, "lora_alpha": 1,
            "target_modules": ["q_proj"],
        });
        fs::write(job.path("adapter/adapter_config.json"), config.to_string()).unwrap();
        let tensor = |shape: [usize; 2]| RawTensor {
            dtype: Dtype::F32,
            shape: shape.to_vec(),
            bytes: value.to_le_bytes().repeat(shape[0] * shape[1]),
        };
        let name = |part: &str| format!("base_model.model.model.layers.0.self_attn.q_proj.{part}.weight");
        let tensors =
            [(name("lora_A"), tensor([1, hidden as usize])), (name("lora_B"), tensor([hidden as usize, 1]))];
        write_safetensors(&job.path("adapter/adapter_model.safetensors"), &tensors.into());
    };
    write(0.125);
    let mut recipe = job.recipe(&[("method", json!("joint"))]);
    recipe.model.config = None;
    recipe.model.base = Some(job.path("adapter"));
    job.run(&recipe, "run", false, &mut Silent).unwrap();
    for (name, is_there) in [
        ("tokenizer.json", true),
        ("generation_config.json", true),
        ("LICENSE", true),
        ("config.json", true),
        ("adapter_config.json", false),
        ("adapter_model.safetensors", false),
    ] {
        assert_eq!(job.path(&format!("run/final/{name}")).exists(), is_there, "{name}");
    }
    let inputs = fs::read_to_string(job.path("run/inputs.json")).unwrap();
    for role in ["base/adapter_config.json", "base/adapter_model.safetensors", "base/model.safetensors"] {
        assert!(inputs.contains(&format!("\"{role}\"")), "{inputs}");
    }
    job.run(&recipe, "run", true, &mut Silent).unwrap();
    write(0.25);
    let error = job.run(&recipe, "run", true, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors") && error.contains("changed"), "{error}");
}
