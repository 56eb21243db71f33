//! The number types that a transformer computes in.

use std::fmt::{Debug, Display};

use bytemuck::Pod;
use cpift_kernels::dispatch::attention::AttentionElement;
use cpift_kernels::dispatch::gemm::GemmElement;
use half::bf16;

use crate::error::{Error, Result};
use crate::gpu::OnGpu;

/// A type of activations, of their gradients and of the weights that products read: f32 everywhere, bf16 on
/// GPUs and their emulator.
///
/// Master weights, moments, gradients of weights and every sum are f32 whatever the type.
pub trait Real:
    Pod + OnGpu<Kernel: AttentionElement + GemmElement> + Debug + Display + Default + Send + Sync
{
    /// As in recipes and messages.
    const NAME: &'static str;

    /// The value, exactly.
    fn to_f32(self) -> f32;

    /// The nearest value, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Real for f32 {
    const NAME: &'static str = "f32";

    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Real for bf16 {
    const NAME: &'static str = "bf16";

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

/// What an operation on the CPU says of elements it has no code for.
pub(crate) fn not_on_the_cpu<T: Real>() -> Error {
    Error::Precision { device: "cpu".to_owned(), precision: T::NAME }
}

/// `values`, where they are f32.
pub(crate) fn floats<T: Real>(values: &[T]) -> Result<&[f32]> {
    // Of the two types, one alone has this size.
    if size_of::<T>() == size_of::<f32>() {
        Ok(bytemuck::cast_slice(values))
    } else {
        Err(not_on_the_cpu::<T>())
    }
}

/// `values`, where they are f32.
pub(crate) fn floats_mut<T: Real>(values: &mut [T]) -> Result<&mut [f32]> {
    if size_of::<T>() == size_of::<f32>() {
        Ok(bytemuck::cast_slice_mut(values))
    } else {
        Err(not_on_the_cpu::<T>())
    }
}
