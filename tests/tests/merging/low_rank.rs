//! Updates written as LoRA adapters: `cpift_model::export`, read again by what reads PEFT's adapters.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_engine::{Buffer, Device};
use cpift_model::checkpoint::WeightType;
use cpift_model::export::{LoraAdapter, LoraReport, LoraRequest, Others, Treatment};
use cpift_model::{Checkpoint, Error, Result};
use cpift_tests::folders::{
    RawTensors, parsed, random_tensors, read_safetensors, small_config, values, write_folder,
};
use cpift_tests::model_folders::{Stored, write};
use cpift_tests::numeric::random;
use safetensors::Dtype;
use serde_json::Value;
use tempfile::TempDir;

fn request(folder: &Path, rank: usize) -> LoraRequest {
    LoraRequest {
        base: folder.join("base"),
        model: folder.join("tune"),
        base_name: folder.join("base").display().to_string(),
        rank,
        others: Others::Save,
        dtype: WeightType::F32,
    }
}

fn export(request: &LoraRequest, out: &Path, threads: usize) -> Result<LoraReport> {
    let device = Device::cpu(NonZeroUsize::new(threads)).unwrap();
    LoraAdapter::new(request)?.write(&device, out, &AtomicBool::new(false), &mut |_| {})
}

/// A small Llama and a fine-tune of it, in which all tensors moved but those that `stays` names.
fn models(folder: &Path, tied: bool, stays: &str) -> [RawTensors; 2] {
    let config = small_config("llama", tied);
    let base = random_tensors(&parsed(&config), 5, Dtype::F32);
    let mut tune = base.clone();
    for (seed, (name, tensor)) in tune.iter_mut().enumerate().filter(|(_, (name, _))| !name.contains(stays)) {
        let own = values(tensor);
        let update = random(700 + seed as u64, own.len());
        let moved: Vec<f32> = own.iter().zip(&update).map(|(own, update)| own + 0.1 * update).collect();
        tensor.bytes = bytemuck::cast_slice(&moved).to_vec();
        assert!(!name.is_empty());
    }
    write_folder(&folder.join("base"), &config, &base);
    write_folder(&folder.join("tune"), &config, &tune);
    [base, tune]
}

/// What the adapter makes of its base, by tensor.
fn adapted(adapter: &Path) -> Vec<(String, Vec<f32>)> {
    let checkpoint = Checkpoint::open(adapter).unwrap();
    let device = Device::cpu(None).unwrap();
    let mut weights = Buffer::from_slice(&device, &vec![0.0; checkpoint.layout().len()]).unwrap();
    checkpoint.load_into(weights.view_mut()).unwrap();
    let weights = weights.to_vec().unwrap();
    let segments = checkpoint.layout().segments().iter();
    segments.map(|segment| (segment.name.clone(), weights[segment.range()].to_vec())).collect()
}

fn squares(one: &[f32], other: &[f32]) -> f64 {
    one.iter().zip(other).map(|(one, other)| f64::from(one - other).powi(2)).sum()
}

#[test]
fn the_base_with_the_adapter_is_the_model_but_for_the_truncation() {
    for tied in [false, true] {
        let folder = TempDir::new().unwrap();
        let [base, tune] = models(folder.path(), tied, "layers.1.mlp.down_proj");
        for rank in [2, 24] {
            let adapter = folder.path().join(format!("adapter-{rank}"));
            let report = export(&request(folder.path(), rank), &adapter, 2).unwrap();
            assert_eq!(report.unchanged, 1);
            // PEFT wants the embedding of a tied head twice.
            let stored = read_safetensors(&adapter.join("adapter_model.safetensors"));
            let [head, embedding] = ["lm_head", "model.embed_tokens"]
                .map(|module| stored.get(&format!("base_model.model.{module}.weight")));
            assert_eq!(head.is_some(), tied);
            assert!(head.is_none_or(|head| Some(&head.bytes) == embedding.map(|embedding| &embedding.bytes)));
            let (mut lost, mut all) = (0.0, 0.0);
            for (name, found) in adapted(&adapter) {
                let (base, tune) = (values(&base[&name]), values(&tune[&name]));
                let (of_tensor, energy) = (squares(&found, &tune), squares(&base, &tune));
                let Some(said) = report.tensors.iter().find(|tensor| tensor.name == name) else {
                    assert_eq!(found, base, "{name}");
                    continue;
                };
                let is_linear = name.contains("proj") || name.contains("lm_head");
                let expected = if is_linear { Treatment::LowRank } else { Treatment::Saved };
                assert_eq!(said.treatment, expected, "{name}");
                let error = (of_tensor / energy).sqrt();
                assert!((said.relative_error - error).abs() < 1e-5, "{name}: {error}, said {said:?}");
                assert!((said.energy_kept - (1.0 - of_tensor / energy)).abs() < 1e-5, "{name}");
                assert!(rank < 24 || error < 1e-5, "{name}: {error} of full rank");
                assert!(rank > 2 || !is_linear || error > 0.3, "{name}: random updates are of full rank");
                (lost, all) = (lost + of_tensor, all + energy);
            }
            assert!((report.relative_error - (lost / all).sqrt()).abs() < 1e-5);
            let saved: LoraReport =
                serde_json::from_slice(&fs::read(adapter.join("report.json")).unwrap()).unwrap();
            assert_eq!(saved.tensors.len(), report.tensors.len());
            assert!(fs::read_to_string(adapter.join("report.md")).unwrap().contains("| model.norm.weight |"));
        }
        let again = folder.path().join("again");
        export(&request(folder.path(), 2), &again, 1).unwrap();
        for file in ["adapter_model.safetensors", "adapter_config.json", "report.json"] {
            let [one, other] = [&folder.path().join("adapter-2"), &again]
                .map(|adapter| fs::read(adapter.join(file)).unwrap());
            assert!(one == other, "threads show in {file}");
        }
    }
}

#[test]
fn factors_may_be_rounded_and_other_tensors_left() {
    let folder = TempDir::new().unwrap();
    let [_, tune] = models(folder.path(), false, "none");
    let adapter = folder.path().join("adapter");
    let asked = LoraRequest { others: Others::Leave, dtype: WeightType::BF16, ..request(folder.path(), 24) };
    let report = export(&asked, &adapter, 2).unwrap();
    let stored = read_safetensors(&adapter.join("adapter_model.safetensors"));
    assert!(stored.values().all(|tensor| tensor.dtype == Dtype::BF16) && !stored.is_empty());
    for (name, found) in adapted(&adapter) {
        let said = report.tensors.iter().find(|tensor| tensor.name == name).unwrap();
        assert_eq!(said.treatment == Treatment::Left, said.reason.is_some(), "{said:?}");
        let error = (squares(&found, &values(&tune[&name])) / said.energy).sqrt();
        assert!((said.relative_error - error).abs() < 1e-5, "{name}: {error}, said {said:?}");
        // Rounded to eight bits.
        assert!(said.treatment == Treatment::Left || (1e-4..1e-2).contains(&error), "{name}: {error}");
    }
}

#[test]
fn weights_that_are_stored_by_inputs_and_names_without_their_beginning() {
    let folder = TempDir::new().unwrap();
    let (inputs, outputs) = (6, 15);
    let weights = |seed: u64| {
        [
            Stored::floats("wte.weight", &[9, inputs], &random(1, 9 * inputs)),
            Stored::floats("h.0.attn.c_attn.weight", &[inputs, outputs], &random(seed, inputs * outputs)),
            Stored::floats("h.0.attn.c_attn.bias", &[outputs], &random(seed + 1, outputs)),
        ]
    };
    for (name, seed) in [("base", 10), ("tune", 20)] {
        let model = folder.path().join(name);
        write(&model, "gpt2", &weights(seed));
        let config = fs::read_to_string(model.join("config.json")).unwrap();
        fs::write(model.join("config.json"), config.replace("\"Any\"", "\"GPT2LMHeadModel\"")).unwrap();
    }
    let adapter = folder.path().join("adapter");
    let report = export(&request(folder.path(), 6), &adapter, 2).unwrap();
    let config: Value =
        serde_json::from_slice(&fs::read(adapter.join("adapter_config.json")).unwrap()).unwrap();
    assert_eq!(config["fan_in_fan_out"], true);
    assert_eq!(config["target_modules"], serde_json::json!(["transformer.h.0.attn.c_attn"]));
    let stored = read_safetensors(&adapter.join("adapter_model.safetensors"));
    let factor = |name: &str| {
        let tensor = &stored[&format!("base_model.model.transformer.h.0.attn.c_attn.{name}.weight")];
        (tensor.shape.clone(), values(tensor))
    };
    let ((a_shape, a), (b_shape, b)) = (factor("lora_A"), factor("lora_B"));
    assert_eq!((a_shape, b_shape), (vec![6, inputs], vec![outputs, 6]));
    let (base, tune) = (random(10, inputs * outputs), random(20, inputs * outputs));
    for input in 0..inputs {
        for output in 0..outputs {
            let product: f32 = (0..6).map(|index| b[output * 6 + index] * a[index * inputs + input]).sum();
            let update = tune[input * outputs + output] - base[input * outputs + output];
            assert!((product - update).abs() < 1e-5, "{product} for {update}");
        }
    }
    let bias = report.tensors.iter().find(|tensor| tensor.name.ends_with("bias")).unwrap();
    assert_eq!((bias.treatment, bias.relative_error), (Treatment::Left, 1.0));
    assert!(bias.reason.as_ref().unwrap().contains("bias"), "{bias:?}");
}

/// Two models with a configuration of this class, all values of which differ.
fn models_of(folder: &Path, model_type: &str, class: &str, shapes: &[(&str, &[usize])]) {
    for (model, seed) in [("base", 0), ("tune", 100)] {
        let stored = |(index, (name, shape)): (usize, &(&str, &[usize]))| {
            Stored::floats(name, shape, &random(seed + index as u64, shape.iter().product()))
        };
        let tensors: Vec<Stored> = shapes.iter().enumerate().map(stored).collect();
        write(&folder.join(model), model_type, &tensors);
        let path = folder.join(model).join("config.json");
        let config = fs::read_to_string(&path).unwrap();
        fs::write(path, config.replace("\"Any\"", &format!("\"{class}\""))).unwrap();
    }
}

#[test]
fn modules_that_peft_would_take_along_are_stored_or_left_with_theirs() {
    let folder = TempDir::new().unwrap();
    let shapes: [(&str, &[usize]); 7] = [
        ("layers.0.q_proj.weight", &[4, 3]),
        ("norm.weight", &[3]),
        ("layers.0.LayerNorm.weight", &[3]),
        ("layers.0.LayerNorm.bias", &[3]),
        ("layers.0.input_norm.weight", &[3]),
        // PEFT takes what holds the linear layer with the embedding.
        ("embed.weight", &[5, 3]),
        ("layers.0.not_embed.linear.weight", &[3, 3]),
    ];
    models_of(folder.path(), "any", "AnyModel", &shapes);
    // The norm inside is the base's, and the one whose name ends its name is not.
    let mut tensors = read_safetensors(&folder.path().join("tune/model.safetensors"));
    let of_base = read_safetensors(&folder.path().join("base/model.safetensors"));
    let inner = "layers.0.input_norm.weight";
    tensors.insert(inner.to_owned(), of_base[inner].clone());
    cpift_tests::folders::write_safetensors(&folder.path().join("tune/model.safetensors"), &tensors);
    let adapter = folder.path().join("adapter");
    let report = export(&request(folder.path(), 2), &adapter, 2).unwrap();
    let config: Value =
        serde_json::from_slice(&fs::read(adapter.join("adapter_config.json")).unwrap()).unwrap();
    let saved = serde_json::json!(["layers.0.LayerNorm", "layers.0.input_norm", "norm"]);
    assert_eq!((&config["modules_to_save"], &config["task_type"]), (&saved, &Value::Null));
    let stored = read_safetensors(&adapter.join("adapter_model.safetensors"));
    for name in ["norm.weight", "layers.0.LayerNorm.weight", "layers.0.LayerNorm.bias", inner] {
        assert_eq!(stored[&format!("base_model.model.{name}")].bytes, tensors[name].bytes, "{name}");
    }
    let left = report.tensors.iter().find(|tensor| tensor.name == "embed.weight").unwrap();
    assert!(left.reason.as_ref().unwrap().contains("end with its"), "{left:?}");
}

#[test]
fn a_tied_head_is_stored_under_its_own_name() {
    let folder = TempDir::new().unwrap();
    let shapes: [(&str, &[usize]); 2] =
        [("gpt_neox.embed_in.weight", &[9, 3]), ("gpt_neox.layers.0.attention.dense.weight", &[3, 3])];
    models_of(folder.path(), "gpt_neox", "GPTNeoXForCausalLM", &shapes);
    let adapter = folder.path().join("adapter");
    export(&request(folder.path(), 2), &adapter, 2).unwrap();
    let stored = read_safetensors(&adapter.join("adapter_model.safetensors"));
    let [head, embedding] = ["embed_out", "gpt_neox.embed_in"]
        .map(|module| &stored[&format!("base_model.model.{module}.weight")]);
    assert_eq!(head.bytes, embedding.bytes);
    // A head that only the base has would be the adapted model's.
    let head: (&str, &[usize]) = ("embed_out.weight", &[9, 3]);
    models_of(&folder.path().join("with"), "gpt_neox", "GPTNeoXForCausalLM", &[shapes[0], shapes[1], head]);
    let asked = LoraRequest { base: folder.path().join("with/base"), ..request(folder.path(), 2) };
    let error = LoraAdapter::new(&asked).expect_err("it is refused").to_string();
    assert!(error.contains("has no head") && error.contains("--as delta"), "{error}");
}

/// A trainer saves the class with the head, the hub has the one inside; old folders store masks.
#[test]
fn names_with_and_without_their_beginning_are_the_same_tensors() {
    let folder = TempDir::new().unwrap();
    let shapes: [(&str, &[usize]); 2] = [("wte.weight", &[9, 6]), ("h.0.attn.c_attn.weight", &[6, 15])];
    models_of(folder.path(), "gpt2", "GPT2LMHeadModel", &shapes);
    let renamed = folder.path().join("tune/model.safetensors");
    let tensors = read_safetensors(&renamed).into_iter();
    let tensors: RawTensors = tensors.map(|(name, tensor)| (format!("transformer.{name}"), tensor)).collect();
    cpift_tests::folders::write_safetensors(&renamed, &tensors);
    let of_base = folder.path().join("base/model.safetensors");
    let mut tensors = read_safetensors(&of_base);
    let mask = cpift_tests::folders::RawTensor {
        dtype: Dtype::F32,
        shape: vec![1, 1, 4, 4],
        bytes: bytemuck::cast_slice(&random(1, 16)).to_vec(),
    };
    tensors.insert("h.0.attn.bias".to_owned(), mask);
    cpift_tests::folders::write_safetensors(&of_base, &tensors);
    let report = export(&request(folder.path(), 2), &folder.path().join("adapter"), 2).unwrap();
    assert_eq!((report.tensors.len(), report.unchanged), (2, 0));
}

#[test]
fn what_cannot_be_an_adapter_is_said_and_nothing_is_left() {
    let folder = TempDir::new().unwrap();
    models(folder.path(), false, "none");
    let out = folder.path().join("refused");
    let nothing_is_left = || {
        for entry in fs::read_dir(folder.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(name != "refused" && !name.starts_with('.'), "{name} is left");
        }
    };
    let refused = |request: &LoraRequest| {
        let error = export(request, &out, 2).expect_err("it is refused");
        assert!(error.is_input(), "{error}");
        nothing_is_left();
        error.to_string()
    };
    assert!(refused(&request(folder.path(), 0)).contains("--rank"));
    // The layers have 24 inputs or outputs.
    assert!(refused(&request(folder.path(), 25)).contains("above 24"));
    let same = LoraRequest { model: folder.path().join("base"), ..request(folder.path(), 2) };
    assert!(refused(&same).contains("has no linear layer that is not its base's"));
    let mut tensors = read_safetensors(&folder.path().join("tune/model.safetensors"));
    let q = tensors.get_mut("model.layers.1.self_attn.q_proj.weight").unwrap();
    q.bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    write_folder(&folder.path().join("not-finite"), &small_config("llama", false), &tensors);
    let with_nan = LoraRequest { model: folder.path().join("not-finite"), ..request(folder.path(), 2) };
    assert!(refused(&with_nan).contains("NaN at element 2"), "{}", refused(&with_nan));
    let stop = AtomicBool::new(false);
    let mut looks = 0;
    let stopped = LoraAdapter::new(&request(folder.path(), 2)).unwrap().write(
        &Device::cpu(None).unwrap(),
        &out,
        &stop,
        &mut |_| {
            looks += 1;
            // In the middle of the products.
            stop.store(looks > 25, Ordering::Relaxed);
        },
    );
    assert!(matches!(stopped, Err(Error::Stopped { .. })), "{stopped:?}");
    nothing_is_left();
}
