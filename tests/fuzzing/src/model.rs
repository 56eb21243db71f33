//! A model folder: `config.json`, safetensors and their index.

use std::path::Path;
use std::sync::LazyLock;

use cpift_engine::{Buffer, Device};
use cpift_model::config::Context;
use cpift_model::merge::MergeRequest;
use cpift_model::{Checkpoint, Error, ModelConfig};
use cpift_tests::folders::small_config;

use crate::expect_one_line;
use crate::input::{Folder, files};

static CPU: LazyLock<Device> =
    LazyLock::new(|| Device::cpu(std::num::NonZeroUsize::new(1)).expect("a thread"));

/// A `config.json`. What is accepted has a layout, and reads the same when it is written again.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let path = Path::new("config.json");
    let checked = ModelConfig::parse(path, &text).and_then(|config| {
        config.layout()?;
        config.ropes.iter().for_each(|rope| drop(rope.frequencies(Context::Extended)));
        let again = ModelConfig::parse(path, &config.to_json("float32"))?;
        assert_eq!(config.mismatch(&again), None, "written and read again");
        Ok(())
    });
    if let Err(error) = checked {
        expect_one_line(&error);
    }
}

/// `model.safetensors`, or shards and an index after lines `=== NAME`.
pub fn safetensors(data: &[u8]) {
    let names = [
        "model.safetensors",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let folder = Folder::with(&files("model.safetensors", data), &names);
    let mut config = small_config("llama", true);
    // Four numbers for every matrix or so: an input stays small.
    for (key, size) in [("hidden_size", 2), ("intermediate_size", 2), ("num_hidden_layers", 1)] {
        config[key] = size.into();
    }
    for (key, size) in
        [("num_attention_heads", 1), ("num_key_value_heads", 1), ("head_dim", 2), ("vocab_size", 3)]
    {
        config[key] = size.into();
    }
    folder.write("config.json", config.to_string().as_bytes());
    if let Err(error) = load(&folder) {
        expect_one_line(&error);
    }
}

fn load(folder: &Folder) -> Result<(), Error> {
    let checkpoint = Checkpoint::open(folder.path())?;
    let mut weights = Buffer::<f32>::zeros(&CPU, checkpoint.layout().len())?;
    checkpoint.load_into(weights.view_mut())
}

/// A configuration of mergekit. Of what is accepted every slice has sources, and names models that there are.
pub fn merge_configuration(data: &[u8]) {
    let folder = Folder::with(&[("merge.yml", data)], &["merge.yml"]);
    match MergeRequest::from_configuration(&folder.path().join("merge.yml")) {
        Ok(request) => {
            let sources = request.slices.iter().map(|slice| &slice.sources);
            assert!(sources.clone().all(|sources| !sources.is_empty()) && !request.slices.is_empty());
            assert!(sources.flatten().all(|source| source.model < request.models.len()));
        }
        Err(error) => expect_one_line(&error),
    }
}
