//! What a model computes in, as recipes and command lines say it.

use cpift_engine::Device;
use cpift_engine::cpu::gemm::{Bf16Path, amx_refusal, bf16_path};
use serde::{Deserialize, Serialize};

use crate::compute::ComputeType;
use crate::error::{Error, Result};

/// Number type that a model computes in, as one asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// bf16 on a GPU and on a CPU with AMX, f32 elsewhere.
    #[default]
    Auto,
    /// 32-bit floats.
    F32,
    /// 16-bit brain floats: products' inputs and activations, with f32 sums. On GPUs, and on CPUs with instructions for
    /// them.
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
    /// [`Error::Setting`] naming `key` where the device cannot, or not faster than in f32; a device that the tests break.
    pub fn on(self, key: &str, device: &Device) -> Result<ComputeType> {
        match (self, device) {
            (Self::F32, _) => Ok(ComputeType::F32),
            (_, Device::Cpu(_)) => self.on_cpu(key, bf16_path(), amx_refusal()),
            (Self::Auto, Device::Gpu(gpu)) if gpu.is_emulated() => Ok(ComputeType::F32),
            (Self::Auto | Self::Bf16, Device::Gpu(_)) => {
                device.run_self_tests()?;
                Ok(ComputeType::Bf16)
            }
        }
    }

    /// The same on a CPU that multiplies bf16 this way, and that AMX is kept from for a reason.
    fn on_cpu(self, key: &str, path: Bf16Path, amx_refusal: Option<&str>) -> Result<ComputeType> {
        match (self, path) {
            (Self::Auto | Self::Bf16, Bf16Path::Amx) | (Self::Bf16, Bf16Path::Avx512Bf16) => {
                Ok(ComputeType::Bf16)
            }
            (Self::F32 | Self::Auto, _) => Ok(ComputeType::F32),
            (Self::Bf16, Bf16Path::Widened) => {
                let why = amx_refusal.map_or_else(
                    || "this processor has no fast instructions for (AMX, or AVX-512 BF16 of AMD)".to_owned(),
                    |reason| format!("this processor has AMX for, but {reason}"),
                );
                let reason = format!("is `bf16`, which {why}: use `f32`, which `auto` takes here");
                Err(Error::setting(key, reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_cpus_auto_is_bf16_with_amx_alone_and_bf16_needs_instructions() {
        let chosen = |precision: Precision| {
            [Bf16Path::Amx, Bf16Path::Avx512Bf16, Bf16Path::Widened]
                .map(|path| precision.on_cpu("model.precision", path, None).map(ComputeType::name).ok())
        };
        assert_eq!(chosen(Precision::Auto), [Some("bf16"), Some("f32"), Some("f32")]);
        assert_eq!(chosen(Precision::F32), [Some("f32"); 3]);
        assert_eq!(chosen(Precision::Bf16), [Some("bf16"), Some("bf16"), None]);
    }

    #[test]
    fn refused_bf16_says_why_and_what_auto_takes() {
        let refused = |amx_refusal| {
            Precision::Bf16.on_cpu("--precision", Bf16Path::Widened, amx_refusal).unwrap_err().to_string()
        };
        assert_eq!(
            refused(None),
            "`--precision`: is `bf16`, which this processor has no fast instructions for (AMX, or AVX-512 BF16 of AMD): \
             use `f32`, which `auto` takes here"
        );
        assert_eq!(
            refused(Some("Linux keeps it")),
            "`--precision`: is `bf16`, which this processor has AMX for, but Linux keeps it: use `f32`, which `auto` \
             takes here"
        );
    }
}
