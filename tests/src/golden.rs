//! Golden files made by `tests/golden/make_golden.py`: a tiny model, and what PyTorch computes with it.

use std::path::PathBuf;

use cpift_engine::{Buffer, Device, Layout};
use cpift_model::{Batch, ModelConfig};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;

use crate::folders;

/// All golden models.
pub const NAMES: [&str; 24] = [
    "llama",
    "llama_tied",
    "llama_llama3",
    "llama_linear",
    "llama_yarn",
    "llama_mlp_bias",
    "llama_padding",
    "qwen2",
    "qwen2_window",
    "qwen3",
    "qwen3_5",
    "qwen3_5_tied",
    "mistral",
    "ministral3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3_window",
    "phi3_long",
    "olmo2",
    "olmo3",
    "smollm3",
    "granite",
];

/// One golden model.
pub struct Golden {
    /// The model's configuration.
    pub config: ModelConfig,
    /// Its flat layout.
    pub layout: Layout,
    model: Vec<u8>,
    golden: Vec<u8>,
}

impl Golden {
    /// The golden model of this name.
    pub fn open(name: &str) -> Self {
        let folder = Self::folder(name);
        let read = |file: &str| std::fs::read(folder.join(file)).unwrap();
        let config = ModelConfig::read(&folder).unwrap();
        let layout = config.layout().unwrap();
        Self { config, layout, model: read("model.safetensors"), golden: read("golden.safetensors") }
    }

    /// Its folder.
    pub fn folder(name: &str) -> PathBuf {
        folders::tests().join("golden").join(name)
    }

    /// The weights, flat.
    pub fn weights(&self, device: &Device) -> Buffer<f32> {
        let mut flat = Buffer::zeros(device, self.layout.len()).unwrap();
        for segment in self.layout.segments() {
            let values = floats(&self.model, &segment.name);
            flat.slice_mut(segment.range()).copy_from_host(&values).unwrap();
        }
        flat
    }

    /// A tensor of floats of the golden file.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        floats(&self.golden, name)
    }

    /// A tensor of ids of the golden file.
    pub fn ids(&self, name: &str) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.golden).unwrap();
        let tensor = file.tensor(name).unwrap();
        assert_eq!(tensor.dtype(), Dtype::I32, "{name}");
        tensor.data().chunks_exact(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }

    /// Lists of ids stored as one tensor and its starts.
    pub fn lists(&self, name: &str, starts: &str) -> Vec<Vec<u32>> {
        let ids = self.ids(name);
        let starts = self.ids(starts);
        starts.windows(2).map(|ends| ids[ends[0] as usize..ends[1] as usize].to_vec()).collect()
    }

    /// Every document as a batch of its own.
    pub fn documents(&self) -> Vec<Batch> {
        let tokens = self.lists("tokens", "document_starts");
        let supervised = self.lists("supervised", "document_starts");
        let batch = |(tokens, supervised): (&Vec<u32>, &Vec<u32>)| {
            let mut batch = Batch::new();
            let flags: Vec<bool> = supervised.iter().map(|&flag| flag != 0).collect();
            batch.push(tokens, &flags).unwrap();
            batch
        };
        tokens.iter().zip(&supervised).map(batch).collect()
    }

    /// All documents packed into one batch.
    pub fn packed(&self) -> Batch {
        let mut packed = Batch::new();
        for document in self.documents() {
            let start = packed.tokens.len();
            packed.tokens.extend(document.tokens);
            packed.targets.extend(document.targets);
            packed.document_starts.push(start + document.document_starts[1]);
        }
        packed
    }
}

fn floats(file: &[u8], name: &str) -> Vec<f32> {
    let file = SafeTensors::deserialize(file).unwrap();
    let tensor = file.tensor(name).unwrap();
    assert_eq!(tensor.dtype(), Dtype::F32, "{name}");
    tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}
