//! `delta.json`: what a delta is of.

use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::adapter::is_adapter;
use crate::checkpoint::DELTA_FILE;
use crate::error::{Error, Result};
use crate::files::read_input_text;

/// Name of the description.
pub(super) const DESCRIPTION_FILE: &str = DELTA_FILE;

/// Name of the file with the values.
pub(super) const VALUES_FILE: &str = "delta.safetensors";

/// Version of the form that is written and read.
const VERSION: u64 = 1;

/// What the file of values says of itself.
pub(super) const FORMAT: &str = "cpift-delta";

/// The description.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Description {
    /// Version of this form.
    pub version: u64,
    /// The base, by the name of its folder or on the hub: for people.
    pub base: String,
    /// The share of the parameters that was taken, those that moved furthest; none where it was another choice or all.
    pub fraction: Option<f64>,
    /// Whether all that changed is in it, and not only a core.
    pub is_whole: bool,
    /// Elements of the model, and those in the delta.
    pub parameters: u64,
    pub changed: u64,
    /// BLAKE3 hash of the file of values, in hexadecimal.
    pub values_blake3: String,
    /// BLAKE3 hash of the configuration, in hexadecimal.
    pub config_blake3: String,
    /// The files that the model has beside weights and configuration: those in the delta, and those of the base.
    pub files: Vec<DescribedFile>,
    /// The model's tensors, in the order in which it stores them.
    pub tensors: Vec<DescribedTensor>,
}

/// A file beside weights and configuration.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DescribedFile {
    /// Its name.
    pub name: String,
    /// BLAKE3 hash of its bytes, in hexadecimal.
    pub blake3: String,
}

/// A tensor of the model.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct DescribedTensor {
    /// Name in the model.
    pub name: String,
    /// Name in the base, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_name: Option<String>,
    pub shape: Vec<usize>,
    /// Type in the model, which the values have.
    pub dtype: Dtype,
    /// Type in the base.
    pub base_dtype: Dtype,
    /// Elements that are not the base's.
    pub changed: u64,
    /// How they are stored.
    pub form: Form,
    /// BLAKE3 hash of the base's bytes, in hexadecimal.
    pub base_blake3: String,
    /// The same of what the base becomes.
    pub blake3: String,
}

/// How the changed elements of a tensor are stored: in the least bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Form {
    /// None changed.
    Unchanged,
    /// `NAME.indices`, ascending, as U32 (U64 in tensors of more than 2^32 elements), and `NAME.values`.
    Indices,
    /// `NAME.mask`, words of U64: bit j % 64 of word j / 64 is element j; and `NAME.values`.
    Mask,
    /// `NAME.values` alone, all elements.
    Whole,
}

impl Form {
    /// The one that takes the least bytes, of a tensor with so many elements of so many bytes. Elements that are not in a
    /// core are the base's, so that a tensor of which a core has a part is never stored whole.
    pub fn least(changed: u64, elements: u64, width: u64, is_core: bool) -> Self {
        if changed == 0 {
            return Self::Unchanged;
        }
        let indices = changed * (index_type(elements).bitsize() as u64 / 8 + width);
        let mask = elements.div_ceil(64) * 8 + changed * width;
        let whole = if is_core && changed < elements { u64::MAX } else { elements * width };
        match whole.min(mask).min(indices) {
            least if least == whole => Self::Whole,
            least if least == indices => Self::Indices,
            _ => Self::Mask,
        }
    }
}

/// The type of the indices of a tensor with so many elements.
pub(super) fn index_type(elements: u64) -> Dtype {
    if elements > 1 << 32 { Dtype::U64 } else { Dtype::U32 }
}

/// Names of a tensor's entries in the file of values.
pub(super) fn indices_name(tensor: &str) -> String {
    format!("{tensor}.indices")
}

pub(super) fn mask_name(tensor: &str) -> String {
    format!("{tensor}.mask")
}

pub(super) fn values_name(tensor: &str) -> String {
    format!("{tensor}.values")
}

impl Description {
    /// That of a model with these tensors; the hash of the values is still to come.
    pub fn new(base: String, tensors: Vec<DescribedTensor>) -> Self {
        let parameters = tensors.iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
        Self {
            version: VERSION,
            base,
            fraction: None,
            is_whole: true,
            parameters,
            changed: tensors.iter().map(|tensor| tensor.changed).sum(),
            values_blake3: String::new(),
            config_blake3: String::new(),
            files: Vec::new(),
            tensors,
        }
    }

    /// Reads that of a folder.
    ///
    /// # Errors
    /// There is none; it is of another version, or damaged.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(DESCRIPTION_FILE);
        if is_adapter(folder) {
            let reason = "is the folder of an adapter, not of a delta: load it with PEFT, or make a model of it with `cpift-engine \
                          merge --method average BASE+ADAPTER`";
            return Err(Error::format(folder, reason));
        }
        if folder.is_dir() && !path.exists() {
            let reason = format!("is not the folder of a delta: there is no {DESCRIPTION_FILE} in it");
            return Err(Error::format(folder, reason));
        }
        let invalid = |error: serde_json::Error| {
            Error::format(&path, format!("not the description of a delta: {error}"))
        };
        let value: Value = serde_json::from_str(&read_input_text(&path)?).map_err(invalid)?;
        match value.get("version").and_then(Value::as_u64) {
            Some(VERSION) | None => serde_json::from_value(value).map_err(invalid),
            Some(other) => {
                let reason =
                    format!("version {other} of the form is not known to this version of the program");
                Err(Error::format(&path, reason))
            }
        }
    }
}

impl DescribedTensor {
    /// Name in the base.
    pub fn base_name(&self) -> &str {
        self.base_name.as_deref().unwrap_or(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_takes_the_least_bytes() {
        assert_eq!(Form::least(0, 6400, 2, false), Form::Unchanged);
        assert_eq!(Form::least(64, 6400, 2, false), Form::Indices);
        assert_eq!(Form::least(640, 6400, 2, false), Form::Mask);
        assert_eq!(Form::least(6300, 6400, 2, false), Form::Whole);
        assert_eq!(Form::least(6300, 6400, 2, true), Form::Mask);
        assert_eq!(Form::least(6400, 6400, 2, true), Form::Whole);
        assert_eq!(Form::least(1, 1, 4, false), Form::Whole);
        // Where an index takes eight bytes a mask is sooner smaller.
        let large = (1 << 32) + 64;
        assert_eq!((index_type(1 << 32), index_type(large)), (Dtype::U32, Dtype::U64));
        assert_eq!(Form::least(large / 65, large, 2, false), Form::Indices);
        assert_eq!(Form::least(large / 50, large, 2, false), Form::Mask);
    }
}
