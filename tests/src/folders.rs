//! Small model folders, written without the code under test.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cpift_model::ModelConfig;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::numeric::random;

/// The folder of this package's files, `golden` among them. Where the tests run away from their sources,
/// `CPIFT_TESTS` says where it is.
pub fn tests() -> PathBuf {
    std::env::var_os("CPIFT_TESTS").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// Copies a file, or a folder with what is in it.
pub fn copy(from: &Path, to: &Path) {
    copy_without(from, to, &[]);
}

/// As [`copy`], but for the names in `without` at the top of the folder.
pub fn copy_without(from: &Path, to: &Path, without: &[&str]) {
    if !from.is_dir() {
        fs::copy(from, to).expect("a readable file and a writable folder");
        return;
    }
    fs::create_dir_all(to).expect("a writable folder");
    for entry in fs::read_dir(from).expect("a readable folder") {
        let name = entry.expect("a readable folder").file_name();
        if !without.iter().any(|left_out| name == *left_out) {
            copy(&from.join(&name), &to.join(&name));
        }
    }
}

/// The folder of the seesaw example.
pub fn seesaw() -> PathBuf {
    tests().join("../examples/seesaw")
}

/// Bytes of one tensor with its type and shape.
#[derive(Debug, Clone)]
pub struct RawTensor {
    /// Element type.
    pub dtype: Dtype,
    /// Shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Little-endian elements.
    pub bytes: Vec<u8>,
}

/// Tensors by name.
pub type RawTensors = BTreeMap<String, RawTensor>;

/// `config.json` of a model small enough to write in a blink. Head width and group size are odd on purpose.
pub fn small_config(model_type: &str, tied: bool) -> Value {
    json!({
        "architectures": [format!("{}ForCausalLM", if model_type == "llama" { "Llama" } else { "Qwen" })],
        "model_type": model_type, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 6, "vocab_size": 33, "hidden_act": "silu",
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": tied,
        "eos_token_id": 2, "torch_dtype": "float32"
    })
}

/// The configuration as the library reads it.
pub fn parsed(config: &Value) -> ModelConfig {
    ModelConfig::parse(Path::new("config.json"), &config.to_string()).expect("a supported configuration")
}

/// The 16 upper bits of a float, rounded to nearest, ties to even.
pub fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// The value of a 16-bit float's bits.
pub fn from_f16(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10) & 31, f64::from(bits & 1023));
    match exponent {
        0 => sign * fraction * 2f64.powi(-24),
        31 => sign * f64::INFINITY,
        _ => sign * (1024.0 + fraction) * 2f64.powi(exponent - 25),
    }
}

/// Random weights for a configuration, as stored in `dtype` (F32, F16 or BF16).
pub fn random_tensors(config: &ModelConfig, seed: u64, dtype: Dtype) -> RawTensors {
    let tensor = |(index, (name, shape)): (usize, (String, Vec<usize>))| {
        let values = random(seed * 1000 + index as u64, shape.iter().product());
        let bytes = match dtype {
            Dtype::F32 => bytemuck::cast_slice(&values).to_vec(),
            Dtype::BF16 => values.iter().flat_map(|&value| to_bf16(value).to_le_bytes()).collect(),
            // Random bits with a finite exponent: every kind of f16, subnormals included.
            _ => values.iter().flat_map(|value| (value.to_bits() as u16 & 0xbbff).to_le_bytes()).collect(),
        };
        (name, RawTensor { dtype, shape, bytes })
    };
    config.tensors().into_iter().enumerate().map(tensor).collect()
}

/// The values of a tensor.
pub fn values(tensor: &RawTensor) -> Vec<f32> {
    let halves = || tensor.bytes.chunks_exact(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]));
    match tensor.dtype {
        Dtype::BF16 => halves().map(|bits| f32::from_bits(u32::from(bits) << 16)).collect(),
        Dtype::F16 => halves().map(|bits| from_f16(bits) as f32).collect(),
        _ => tensor.bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned).collect(),
    }
}

/// Writes a safetensors file by the format's own library.
pub fn write_safetensors(path: &Path, tensors: &RawTensors) {
    let views = tensors.iter().map(|(name, tensor)| {
        let view =
            TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).expect("a valid tensor");
        (name.as_str(), view)
    });
    let bytes = safetensors::serialize(views, None).expect("serializable tensors");
    fs::write(path, bytes).expect("a writable folder");
}

/// Reads a safetensors file by the format's own library.
pub fn read_safetensors(path: &Path) -> RawTensors {
    let bytes = fs::read(path).expect("a readable file");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("a valid file");
    let tensor = |(name, view): (&str, TensorView<'_>)| {
        let tensor =
            RawTensor { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
        (name.to_owned(), tensor)
    };
    file.iter().map(tensor).collect()
}

/// Writes `config.json` and `model.safetensors`.
pub fn write_folder(folder: &Path, config: &Value, tensors: &RawTensors) {
    fs::create_dir_all(folder).expect("a writable folder");
    fs::write(folder.join("config.json"), config.to_string()).expect("a writable folder");
    write_safetensors(&folder.join("model.safetensors"), tensors);
}

/// Writes `config.json`, `shards` weight files dealt round robin, and their index.
pub fn write_sharded_folder(folder: &Path, config: &Value, tensors: &RawTensors, shards: usize) {
    fs::create_dir_all(folder).expect("a writable folder");
    fs::write(folder.join("config.json"), config.to_string()).expect("a writable folder");
    let mut parts = vec![RawTensors::new(); shards];
    let mut weight_map = serde_json::Map::new();
    for (index, (name, tensor)) in tensors.iter().enumerate() {
        parts[index % shards].insert(name.clone(), tensor.clone());
        weight_map.insert(name.clone(), json!(shard_name(index % shards, shards)));
    }
    for (index, part) in parts.iter().enumerate() {
        write_safetensors(&folder.join(shard_name(index, shards)), part);
    }
    let index = json!({"metadata": {"total_size": 0}, "weight_map": weight_map});
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).expect("a writable folder");
}

/// Name of a shard, counted from 0.
pub fn shard_name(index: usize, shards: usize) -> String {
    format!("model-{:05}-of-{shards:05}.safetensors", index + 1)
}
