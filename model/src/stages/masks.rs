//! The files that cores are in: a tensor of bit words for each of the model's.

/// What the file says of itself.
pub const MASK_FORMAT: &str = "bits: element j of a tensor is bit j % 64 of word j / 64";

/// A task's mask in the folder of the cores.
pub fn mask_file(task: &str) -> String {
    format!("{task}.mask.safetensors")
}
