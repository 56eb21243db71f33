//! Model folders and tensor files: read against the format's own library, written for it, and every
//! fault answered with one line that names it.

mod adapters;
mod reading;
mod refused;
mod writing;

use std::path::Path;

use cpift_engine::{Buffer, Device};
use cpift_model::Checkpoint;
use cpift_tests::folders::{RawTensors, parsed, random_tensors, small_config, values, write_folder};
use safetensors::Dtype;
use tempfile::{TempDir, tempdir};

fn cpu() -> Device {
    Device::cpu(None).unwrap()
}

/// All weights of a folder, read into memory that holds NaN where nothing is written.
fn load(folder: &Path) -> Result<(Checkpoint, Vec<f32>), String> {
    let checkpoint = Checkpoint::open(folder).map_err(|error| error.to_string())?;
    let mut weights = Buffer::from_slice(&cpu(), &vec![f32::NAN; checkpoint.layout().len()]).unwrap();
    checkpoint.load_into(weights.view_mut()).map_err(|error| error.to_string())?;
    let weights = weights.to_vec().unwrap();
    Ok((checkpoint, weights))
}

fn assert_same_bits(checkpoint: &Checkpoint, weights: &[f32], tensors: &RawTensors) {
    for segment in checkpoint.layout().segments() {
        let expected = values(&tensors[&segment.name]);
        let same = weights[segment.range()].iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same, "{} differs", segment.name);
    }
}

fn set_float(tensors: &mut RawTensors, name: &str, index: usize, value: f32) {
    let tensor = tensors.get_mut(name).unwrap();
    assert_eq!(tensor.dtype, Dtype::F32);
    tensor.bytes[4 * index..4 * index + 4].copy_from_slice(&value.to_le_bytes());
}

/// A folder with a small untied Llama whose tensors `change` has damaged, or whose files.
fn damaged(change: impl FnOnce(&mut RawTensors)) -> TempDir {
    let folder = tempdir().unwrap();
    let config = small_config("llama", false);
    let mut tensors = random_tensors(&parsed(&config), 5, Dtype::F32);
    change(&mut tensors);
    write_folder(folder.path(), &config, &tensors);
    folder
}

#[track_caller]
fn assert_refused(folder: &Path, says: &[&str]) {
    let message = load(folder).map(|_| ()).unwrap_err();
    assert!(!message.contains('\n'), "{message}");
    for part in says {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

const Q: &str = "model.layers.1.self_attn.q_proj.weight";
