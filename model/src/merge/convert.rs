//! Floats as they are stored to f32 and back.

use cpift_engine::cpu::convert;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::checkpoint::{TensorFile, WeightType};
use crate::error::{Error, Result};

/// Converts stored floats; false when one is NaN or infinite.
pub(crate) fn widen(bytes: &[u8], dtype: WeightType, target: &mut [f32]) -> bool {
    match dtype {
        WeightType::F32 => {
            target.copy_from_slice(bytemuck::cast_slice(bytes));
            convert::all_finite(target)
        }
        WeightType::BF16 => convert::widen_bf16(bytemuck::cast_slice(bytes), target),
        WeightType::F16 => {
            bytemuck::cast_slice::<u8, f16>(bytes).convert_to_f32_slice(target);
            convert::all_finite(target)
        }
    }
}

/// Converts stored floats of a tensor, of which element `start` is the first.
///
/// # Errors
/// One is NaN or infinite: which of which file.
pub(crate) fn widen_finite(
    (file, name): (&TensorFile, &str),
    start: usize,
    bytes: &[u8],
    dtype: WeightType,
    target: &mut [f32],
) -> Result<()> {
    if widen(bytes, dtype, target) {
        return Ok(());
    }
    let index = target.iter().position(|value| !value.is_finite()).unwrap_or(0);
    Err(Error::format(file.path(), format!("`{name}` has {} at element {}", target[index], start + index)))
}

/// Converts floats to what is stored, rounded to nearest; false when one is not finite, or too large for the type.
pub(crate) fn narrow(values: &[f32], dtype: WeightType, bytes: &mut [u8]) -> bool {
    match dtype {
        WeightType::F32 => {
            bytes.copy_from_slice(bytemuck::cast_slice(values));
            convert::all_finite(values)
        }
        WeightType::BF16 => convert::narrow_bf16(values, bytemuck::cast_slice_mut(bytes)),
        WeightType::F16 => {
            let target: &mut [f16] = bytemuck::cast_slice_mut(bytes);
            target.convert_from_f32_slice(values);
            target.iter().all(|value| value.is_finite())
        }
    }
}
