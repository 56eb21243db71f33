//! What a fine-tune changed, as files that can be shared, and the way back.
//!
//! Two forms. A [`Delta`] has the values themselves of what changed, or of a core alone, and gives the model back bit for bit
//! where it is [applied](Application) to the same base. A [`LoraAdapter`] has of every linear layer's update the product of
//! two thin matrices that is nearest to it. Both are of any architecture: tensors are matched by name as for
//! [a merge](crate::merge) and read one after the other, so that memory depends on the largest tensor alone.

mod adapter_files;
mod apply;
mod changes;
mod core_masks;
mod delta;
mod description;
mod layers;
mod lora;
mod pair;
mod svd;
mod watch;

pub use apply::{Application, ApplyReport};
pub use delta::{Delta, DeltaReport, Extent};
pub use lora::{LoraAdapter, LoraReport, LoraRequest, LoraTensor, Others, Treatment};
pub use watch::ExportProgress;

/// Name of the report in the folder of an adapter.
pub const REPORT: &str = "report.json";
