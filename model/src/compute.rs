//! What a model computes in.

use cpift_engine::{Float, bf16};
use serde::{Deserialize, Serialize};

/// The number type that a model computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ComputeType {
    /// 32-bit floats.
    F32,
    /// 16-bit brain floats, with f32 sums.
    Bf16,
}

impl ComputeType {
    /// As in recipes and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => <f32 as Float>::NAME,
            Self::Bf16 => <bf16 as Float>::NAME,
        }
    }
}
