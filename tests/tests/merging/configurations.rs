//! Configurations of mergekit: what comes out beside its own numbers, and what is refused.

use std::fs;
use std::path::Path;

use cpift_model::merge::MergeRequest;
use cpift_tests::folders;
use cpift_tests::model_folders::{Stored, read, values, write};
use serde_json::Value;
use tempfile::TempDir;

use super::merge_into;

/// What mergekit made of configurations, and the models that it made it of as folders.
struct Golden {
    folder: TempDir,
    content: Value,
}

impl Golden {
    fn read() -> Self {
        let path = folders::tests().join("golden/merge_configurations.json");
        let content: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let folder = TempDir::new().unwrap();
        let shapes = content["shapes"].as_object().unwrap();
        for (name, model) in content["models"].as_object().unwrap() {
            let tensor = |(name, shape): (&String, &Value)| {
                let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
                Stored::floats(name, &shape, &floats(&model[name]))
            };
            let folder = folder.path().join(name);
            write(&folder, "llama", &shapes.iter().map(tensor).collect::<Vec<_>>());
            fs::write(folder.join("config.json"), content["config"].to_string()).unwrap();
        }
        Self { folder, content }
    }

    /// A configuration whose models are these.
    fn request(&self, text: &str) -> cpift_model::Result<MergeRequest> {
        let file = self.folder.path().join("merge.yml");
        fs::write(&file, text.replace("MODELS", self.folder.path().to_str().unwrap())).unwrap();
        MergeRequest::from_configuration(&file)
    }

    /// What refuses a configuration, without the folders' names.
    fn refused(&self, text: &str) -> String {
        let out = self.folder.path().join("out");
        let error = self.request(text).and_then(|request| merge_into(&request, &out, 1)).expect_err(text);
        assert!(error.is_input() && !out.exists(), "{error}");
        let message = error.to_string();
        assert_eq!(message.lines().count(), 1, "{message}");
        message.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn floats(values: &Value) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn config(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
}

#[test]
fn configurations_give_what_mergekit_makes_of_them() {
    let golden = Golden::read();
    let out = golden.folder.path().join("out");
    for (name, case) in golden.content["merges"].as_object().unwrap() {
        let request = golden.request(case["configuration"].as_str().unwrap()).unwrap();
        merge_into(&request, &out, 2).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (merged, expected) = (read(&out), case["tensors"].as_object().unwrap());
        let mut names: Vec<&String> = merged.keys().collect();
        names.sort();
        assert_eq!(names, expected.keys().collect::<Vec<_>>(), "{name}");
        for (tensor, expected) in expected {
            let actual = values(&merged[tensor]);
            let expected = floats(expected);
            assert_eq!(actual.len(), expected.len(), "{name}: {tensor}");
            for (index, (actual, expected)) in actual.iter().zip(expected).enumerate() {
                let error = (actual - expected).abs() / expected.abs().max(1.0);
                assert!(error <= 1e-6, "{name}: {tensor}[{index}] is {actual}, mergekit has {expected}");
            }
        }
        assert_eq!(config(&out)["num_hidden_layers"], case["layers"], "{name}");
        fs::remove_dir_all(&out).unwrap();
    }
}

const TWO: &str = "models: [{model: MODELS/a}, {model: MODELS/b}]\n";

#[test]
fn what_a_configuration_cannot_ask_for_is_refused_by_line_and_key() {
    let golden = Golden::read();
    for (text, says) in [
        ("merge_method: linear\n", "1: has neither `models` nor `slices`"),
        (TWO, "1: has no `merge_method`"),
        ("- a\n", "1: is to be a mapping of keys, not a list"),
        ("merge_method: linear\nmodules: {}\n", "2: `modules` is not read"),
        ("merge_method: nearswap\n", "1: `merge_method` is to be one of linear, passthrough, "),
        (
            "merge_method: linear\nmodels:\n  - model: MODELS/a\n    paramters: {}\n",
            "4: `models[0].paramters` is not known here; did you mean `parameters`?",
        ),
        (
            "merge_method: linear\nmodels:\n- model: MODELS/a\n  parameters:\n    wieght: 1\n",
            "5: `models[0].parameters.wieght` is not known here; did you mean `weight`?",
        ),
        (
            "merge_method: linear\nparameters:\n  weight: [1, [2]]\nmodels: []\n",
            "3: `parameters.weight[0]` is to be a mapping of keys, not `1`",
        ),
        (
            "merge_method: linear\nparameters: {weight: heavy}\n",
            "2: `parameters.weight` is to be a number, not `heavy`",
        ),
        ("merge_method: linear\nparameters: {weight: .nan}\n", "2: `parameters.weight` is to be a number"),
        (
            "merge_method: ties\nmodels:\n- model: MODELS/a\n",
            "`models` cannot be merged by ties without a `base_model`",
        ),
        (
            "merge_method: linear\nmodels: [{model: [x]}]\n",
            "`models[0].model` is to be a folder, or a name on the hub",
        ),
        ("merge_method: linear\nmodels: []\n", "`models` has 0 models, and linear takes at least 1"),
        (
            "merge_method: slerp\nbase_model: MODELS/base\nmodels: [{model: MODELS/a}, {model: MODELS/b}]\n",
            "`models` has 3 models, and slerp takes 2",
        ),
        (
            "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: MODELS/a}, {model: MODELS/a}]\n",
            "`models` has MODELS/a twice",
        ),
        (
            "merge_method: slerp\nbase_model: MODELS/base\nmodels: [{model: MODELS/a}]\n",
            "`t` of `lm_head.weight`: no value is given",
        ),
        (
            "merge_method: linear\nmodels: [{model: MODELS/a}]\n",
            "`weight` of `lm_head.weight`: no value is given for MODELS/a",
        ),
        (
            "merge_method: passthrough\nslices:\n  - sources:\n    - {model: MODELS/a, layer_range: [1, 4]}\n",
            "`slices[0].sources[0].layer_range`: MODELS/a has layers from 0 up to, not including, 3",
        ),
        (
            "merge_method: passthrough\nslices:\n  - sources:\n    - {model: MODELS/a, layer_range: [2, 2]}\n",
            "4: `slices[0].sources[0].layer_range` is to be the first layer",
        ),
        (
            "merge_method: karcher\nslices:\n  - sources:\n    - {model: MODELS/a, layer_range: [0, 2]}\n    \
             - {model: MODELS/b, layer_range: [0, 3]}\n",
            "4: `slices[0].sources` have different numbers of layers",
        ),
        (
            "merge_method: ties\nbase_model: MODELS/base\nslices:\n  - sources:\n    - {model: MODELS/a, layer_range: [0, 2]}\n",
            "`slices[0].sources` does not have the base, MODELS/base",
        ),
        (
            "merge_method: della\nbase_model: MODELS/base\nparameters: {weight: 1, density: 0.1}\nmodels: [{model: MODELS/a}]\n",
            "`epsilon` of `lm_head.weight`: 0.1 ± 0.15 is to be between 0 and 1",
        ),
        (
            "merge_method: nuslerp\nparameters: {nuslerp_flatten: false}\n",
            "`parameters.nuslerp_flatten` is not computed",
        ),
        (
            "merge_method: model_stock\nparameters: {filter_wise: true}\n",
            "`parameters.filter_wise` is not computed",
        ),
        ("merge_method: karcher\nparameters: {tol: 1e-3}\n", "`parameters.tol` is to be 0.00001"),
        (
            &format!("merge_method: karcher\n{TWO}dtype: float64\n"),
            "3: `dtype` is to be float32, float16 or bfloat16",
        ),
        (
            &format!("merge_method: karcher\n{TWO}chat_template: chatml\n"),
            "3: `chat_template` is to be the template itself",
        ),
        (&format!("merge_method: karcher\n{TWO}name: x\n"), "3: `name` is not known here"),
        (
            "slices:\n- sources: []\n  residual_weight: 0.1\nmerge_method: karcher\n",
            "3: `slices[0].residual_weight` is not known here",
        ),
        (
            "merge_method: karcher\nmodels:\n- {model: MODELS/a}\n- model: MODELS/nothing\n",
            "merge.yml:4: `models[1].model`: MODELS/nothing/config.json: cannot read",
        ),
        (
            "merge_method: karcher\nparameters: {max_iter: 3.5}\n",
            "2: `parameters.max_iter` is to be a whole number",
        ),
        (
            &format!("merge_method: karcher\n{TWO}tokenizer: {{source: null}}\n"),
            "3: `tokenizer.source` is empty",
        ),
        (
            "merge_method: passthrough\nslices:\n- sources:\n  - {model: MODELS/a, layer_range: [01, 3]}\n",
            "4: `slices[0].sources[0].layer_range[0]` is to be a whole number, and `01` is an octal one",
        ),
    ] {
        let says = says.replace("MODELS/", "");
        let message = golden.refused(text);
        assert!(message.contains(&says), "{text}\n{message}\n{says}");
    }
}

/// Of a model whose head is its embedding, filters know the head by its own name.
#[test]
fn filters_know_a_head_that_is_an_embedding() {
    let golden = Golden::read();
    let folder = golden.folder.path();
    let b: Vec<Stored> =
        read(&folder.join("b")).into_values().filter(|t| t.name != "lm_head.weight").collect();
    let mut tied = config(&folder.join("b"));
    tied["tie_word_embeddings"] = true.into();
    write(&folder.join("b"), "llama", &b);
    fs::write(folder.join("b/config.json"), tied.to_string()).unwrap();
    let text = "merge_method: linear\nparameters: {weight: 1, normalize: false}\nmodels:\n- model: MODELS/a\n- model: MODELS/b\n  \
                parameters:\n    weight: [{filter: lm_head, value: 3}, {value: 0.5}]\n";
    let out = folder.join("out");
    merge_into(&golden.request(text).unwrap(), &out, 1).unwrap();
    let (merged, a, b) = (read(&out), read(&folder.join("a")), read(&folder.join("b")));
    for (name, weight) in [("lm_head.weight", 3.0), ("model.embed_tokens.weight", 0.5)] {
        let (ours, theirs) = (values(&a[name]), values(&b["model.embed_tokens.weight"]));
        for ((merged, ours), theirs) in values(&merged[name]).into_iter().zip(ours).zip(theirs) {
            assert!((merged - (ours + weight * theirs)).abs() < 1e-5, "{name}");
        }
    }
}

/// Layers behind the last that config.json knows are no part of gradients, and are left out of slices.
#[test]
fn the_last_layer_is_that_of_the_configuration() {
    let golden = Golden::read();
    let folder = golden.folder.path();
    for name in ["a", "b"] {
        let mut shorter = config(&folder.join(name));
        shorter["num_hidden_layers"] = 2.into();
        fs::write(folder.join(name).join("config.json"), shorter.to_string()).unwrap();
    }
    let text = "merge_method: linear\nmodels:\n- {model: MODELS/a, parameters: {weight: [1, 0]}}\n\
                - {model: MODELS/b, parameters: {weight: [0, 1]}}\n";
    let out = folder.join("out");
    merge_into(&golden.request(text).unwrap(), &out, 1).unwrap();
    let merged = read(&out);
    for (layer, model) in [(0, "a"), (1, "b"), (2, "b")] {
        let name = format!("model.layers.{layer}.mlp.up_proj.weight");
        assert_eq!(values(&merged[&name]), values(&read(&folder.join(model))[&name]), "{name}");
    }
    fs::remove_dir_all(&out).unwrap();
    let slices = |end: usize| {
        format!(
            "merge_method: passthrough\nslices:\n- sources:\n  - {{model: MODELS/a, layer_range: [0, {end}]}}\n"
        )
    };
    let message = golden.refused(&slices(3));
    assert!(message.contains("a has layers from 0 up to, not including, 2"), "{message}");
    merge_into(&golden.request(&slices(2)).unwrap(), &out, 1).unwrap();
    assert!(!read(&out).keys().any(|name| name.starts_with("model.layers.2.")));
}

#[test]
fn a_layer_that_is_not_there_is_named() {
    let golden = Golden::read();
    let folder = golden.folder.path().join("a");
    let kept: Vec<Stored> =
        read(&folder).into_values().filter(|tensor| !tensor.name.contains("layers.1.")).collect();
    let config = config(&folder);
    write(&folder, "llama", &kept);
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let text = "merge_method: passthrough\nslices:\n- sources:\n  - {model: MODELS/a, layer_range: [0, 3]}\n";
    let message = golden.refused(text);
    assert!(message.starts_with("a/") && message.contains("has no tensors of layer 1"), "{message}");
}

/// Parameters that the method does not use are said, those that change no number are not.
#[test]
fn what_is_not_used_is_said() {
    let golden = Golden::read();
    let text = "merge_method: karcher\nparameters:\n  weight: 1\n  int8_mask: true\n";
    let request = golden.request(&format!("{text}{TWO}")).unwrap();
    let said = request.notices;
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].ends_with("merge.yml:3: `weight` is nothing that karcher uses"), "{said:?}");
}

/// What sort each layer is of follows the layers; so do names, where models have other prefixes.
#[test]
fn slices_take_what_the_configuration_says_of_layers_along() {
    let golden = Golden::read();
    let folder = golden.folder.path();
    for (name, kinds) in [("a", ["x", "y", "z"]), ("b", ["u", "v", "w"])] {
        let mut config = config(&folder.join(name));
        config["layer_types"] = kinds.as_slice().into();
        fs::write(folder.join(name).join("config.json"), config.to_string()).unwrap();
    }
    let text = "merge_method: passthrough\nout_dtype: bfloat16\nchat_template: '{{ x }}'\nslices:\n\
                - sources: [{model: MODELS/a, layer_range: [1, 3]}]\n- sources: [{model: MODELS/b, layer_range: [0, 3]}]\n";
    fs::write(folder.join("a/tokenizer_config.json"), r#"{"chat_template": "old", "eos_token": "a"}"#)
        .unwrap();
    let out = folder.join("out");
    merge_into(&golden.request(text).unwrap(), &out, 1).unwrap();
    let merged = config(&out);
    assert_eq!(merged["layer_types"], serde_json::json!(["y", "z", "u", "v", "w"]));
    assert_eq!((&merged["num_hidden_layers"], &merged["torch_dtype"]), (&5.into(), &"bfloat16".into()));
    assert_eq!(fs::read_to_string(out.join("chat_template.jinja")).unwrap(), "{{ x }}");
    let settings: Value =
        serde_json::from_slice(&fs::read(out.join("tokenizer_config.json")).unwrap()).unwrap();
    assert_eq!(settings, serde_json::json!({ "eos_token": "a" }));
}
