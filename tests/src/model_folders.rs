//! Model folders of any tensors, for what goes by names alone.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::{Value, json};

/// A tensor to be stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Name.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Type.
    pub dtype: Dtype,
    /// The elements as they are stored.
    pub bytes: Vec<u8>,
}

impl Stored {
    /// Floats of 32 bits.
    pub fn floats(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let bytes = bytemuck::cast_slice(values).to_vec();
        Self { name: name.to_owned(), shape: shape.to_vec(), dtype: Dtype::F32, bytes }
    }

    /// The upper halves of 32-bit floats.
    pub fn bf16(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let upper = |value: &f32| ((value.to_bits() >> 16) as u16).to_le_bytes();
        let bytes = values.iter().flat_map(upper).collect();
        Self { name: name.to_owned(), shape: shape.to_vec(), dtype: Dtype::BF16, bytes }
    }
}

/// Writes a model folder: a configuration that names a type of model, and one file.
pub fn write(folder: &Path, model_type: &str, tensors: &[Stored]) {
    fs::create_dir_all(folder).unwrap();
    let config = json!({ "model_type": model_type, "architectures": ["Any"], "torch_dtype": "float32" });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join("tokenizer.json"), json!({ "model": { "vocab": { "a": 0 } } }).to_string())
        .unwrap();
    fs::write(folder.join("LICENSE"), "as you like").unwrap();
    fs::write(folder.join("model.safetensors"), bytes_of(tensors)).unwrap();
}

/// The same, every tensor in a file of its own, with an index.
pub fn write_sharded(folder: &Path, model_type: &str, tensors: &[Stored]) {
    write(folder, model_type, &[]);
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    let mut weight_map = BTreeMap::new();
    for (number, tensor) in tensors.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", number + 1, tensors.len());
        fs::write(folder.join(&name), bytes_of(std::slice::from_ref(tensor))).unwrap();
        weight_map.insert(tensor.name.clone(), name);
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    fs::write(folder.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

fn bytes_of(tensors: &[Stored]) -> Vec<u8> {
    let view = |tensor: &Stored| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes).unwrap();
        (tensor.name.clone(), view.data().to_vec())
    };
    let owned: Vec<(String, Vec<u8>)> = tensors.iter().map(view).collect();
    let views = tensors.iter().zip(&owned).map(|(tensor, (name, bytes))| {
        (name.clone(), TensorView::new(tensor.dtype, tensor.shape.clone(), bytes).unwrap())
    });
    serialize(views, None).unwrap()
}

/// All tensors of a folder by name, from its one file or from those of its index.
pub fn read(folder: &Path) -> HashMap<String, Stored> {
    let mut files = vec!["model.safetensors".to_owned()];
    if let Ok(index) = fs::read(folder.join("model.safetensors.index.json")) {
        let index: Value = serde_json::from_slice(&index).unwrap();
        let names = index["weight_map"].as_object().unwrap().values();
        files = names.map(|name| name.as_str().unwrap().to_owned()).collect();
        files.sort();
        files.dedup();
    }
    let mut tensors = HashMap::new();
    for file in files {
        let bytes = fs::read(folder.join(file)).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let (shape, dtype, bytes) = (view.shape().to_vec(), view.dtype(), view.data().to_vec());
            let stored = Stored { name: name.to_owned(), shape, dtype, bytes };
            assert!(tensors.insert(name.to_owned(), stored).is_none(), "{name} is in two files");
        }
    }
    tensors
}

/// The values of a stored tensor of 32-bit floats or brain floats.
pub fn values(tensor: &Stored) -> Vec<f32> {
    match tensor.dtype {
        Dtype::F32 => {
            tensor.bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
        }
        Dtype::BF16 => {
            let wide = |bytes: &[u8]| u32::from(u16::from_le_bytes(bytes.try_into().unwrap())) << 16;
            tensor.bytes.chunks_exact(2).map(|bytes| f32::from_bits(wide(bytes))).collect()
        }
        other => panic!("{other:?}"),
    }
}
