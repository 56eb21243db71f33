//! What a model computes in, as recipes and command lines say it.

use cpift_engine::Device;
use serde::{Deserialize, Serialize};

use crate::compute::ComputeType;
use crate::error::{Error, Result};

/// Number type that a model computes in, as one asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on a GPU, f32 elsewhere.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit brain floats: products' inputs and activations, with f32 sums. On GPUs.
    Bf16,
}

impl Precision {
    /// All.
    pub const ALL: [Self; 3] = [Self::Auto, Self::F32, Self::Bf16];

    /// Lower-case name, as in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// What is computed in on this device. The emulator, which is for tests, computes in bf16 when asked to.
    /// For bf16 the device's own kernels are tested, so that what it says of itself is how it computes.
    ///
    /// # Errors
    /// [`Error::Setting`] naming `key` where the device cannot; a device that the tests break.
    pub fn on(self, key: &str, device: &Device) -> Result<ComputeType> {
        match (self, device) {
            (Self::F32, _) | (Self::Auto, Device::Cpu(_)) => Ok(ComputeType::F32),
            (Self::Auto, Device::Gpu(gpu)) if gpu.is_emulated() => Ok(ComputeType::F32),
            (Self::Auto | Self::Bf16, Device::Gpu(_)) => {
                device.run_self_tests()?;
                Ok(ComputeType::Bf16)
            }
            (Self::Bf16, Device::Cpu(_)) => {
                Err(Error::setting(key, "is `bf16`, which GPUs compute in: use `auto` or `f32` on the CPU"))
            }
        }
    }
}
