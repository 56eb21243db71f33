//! An adapter's folder, as PEFT saves it.

use serde_json::{Value, json};

use super::lora::{LoraReport, Treatment};
use crate::adapter::NAME_PREFIX;
use crate::table::Table;

/// Names of the two matrices of a module: `[rank, inputs]` and `[outputs, rank]`.
pub(super) fn factor_names(module: &str) -> [String; 2] {
    ["lora_A", "lora_B"].map(|factor| format!("{NAME_PREFIX}{module}.{factor}.weight"))
}

/// Name of a tensor of a module that is stored as a whole.
pub(super) fn saved_name(module: &str, tensor: &str) -> String {
    let part = tensor.rsplit('.').next().unwrap_or(tensor);
    format!("{NAME_PREFIX}{module}.{part}")
}

/// What `adapter_config.json` says.
pub(super) struct AdapterSettings<'a> {
    /// The base: a folder, or a name on the hub, perhaps with its revision behind an `@`.
    pub base: &'a str,
    /// What the model is for, in PEFT's words.
    pub task_type: Option<&'static str>,
    pub rank: usize,
    /// Modules that are changed by a product.
    pub targets: Vec<String>,
    /// Modules that are stored as a whole.
    pub saved: Vec<String>,
    /// Whether layers store their weights by inputs.
    pub by_inputs: bool,
    /// Whether what is stored of the embedding is the head's, too.
    pub keeps_tied: bool,
}

impl AdapterSettings<'_> {
    /// The file's content. α is the rank, so that the product is added as it is.
    pub fn to_json(&self) -> Value {
        let is_folder = std::path::Path::new(self.base).is_absolute();
        let (base, revision) = match self.base.rsplit_once('@').filter(|_| !is_folder) {
            Some((base, revision)) => (base, Some(revision)),
            None => (self.base, None),
        };
        json!({
            "peft_type": "LORA",
            "task_type": self.task_type,
            "base_model_name_or_path": base,
            "revision": revision,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": self.by_inputs,
            "init_lora_weights": true,
            "inference_mode": true,
            "use_rslora": false,
            "use_dora": false,
            "ensure_weight_tying": self.keeps_tied,
            "target_modules": self.targets,
            "modules_to_save": (!self.saved.is_empty()).then_some(&self.saved),
        })
    }
}

/// The report as Markdown.
pub(super) fn report_text(report: &LoraReport) -> String {
    let mut table = Table::new(["tensor", "shape", "stored", "relative error", "energy kept"]);
    for tensor in &report.tensors {
        table.row([
            tensor.name.clone(),
            format!("{:?}", tensor.shape),
            match tensor.treatment {
                Treatment::LowRank => format!("rank {}", report.rank),
                Treatment::Saved => "whole".to_owned(),
                Treatment::Left => "not at all".to_owned(),
            },
            format!("{:.4}", tensor.relative_error),
            format!("{:.4}", tensor.energy_kept),
        ]);
    }
    format!(
        "# An update as an adapter of rank {}\n\nOf the update's energy, the sum of its squares, {:.2} % is kept; the relative \
         error is {:.4}. {} tensors are the base's as they are.\n\n{}",
        report.rank,
        100.0 * report.energy_kept,
        report.relative_error,
        report.unchanged,
        table.markdown()
    )
}
