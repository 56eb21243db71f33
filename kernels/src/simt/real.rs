//! Numbers that are stored in one type and computed with in f32.

use super::round_to_bf16;
use crate::values::{Bf16, Bf16x8, Element, F32x4, Vector};

/// A storage type of real numbers; arithmetic is in f32.
pub trait Real: Element {
    /// The 16-byte vector of it.
    type Vector: Vector<Element = Self>;

    /// The value, exactly.
    fn to_f32(self) -> f32;

    /// The nearest value, ties to even.
    fn from_f32(value: f32) -> Self;

    /// Of what there is for f32 and for bf16, that for this type.
    #[cfg(not(target_arch = "nvptx64"))]
    fn choose<C>(f32: C, bf16: C) -> C;
}

/// Elements of a 16-byte vector.
pub const fn vector_length<E: Real>() -> usize {
    <E::Vector as Vector>::LENGTH
}

impl Real for f32 {
    type Vector = F32x4;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[cfg(not(target_arch = "nvptx64"))]
    fn choose<C>(f32: C, _: C) -> C {
        f32
    }
}

impl Real for Bf16 {
    type Vector = Bf16x8;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        Self::to_f32(self)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        round_to_bf16(value)
    }

    #[cfg(not(target_arch = "nvptx64"))]
    fn choose<C>(_: C, bf16: C) -> C {
        bf16
    }
}
