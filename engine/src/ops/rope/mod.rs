//! Rotary position embedding, in the convention of Hugging Face (`rotate_half`): of the first `rotary_dim` elements
//! of a head, element `i` of the first half and element `i` of the second half are one pair. The rest of a head stays.
//!
//! With the angle of pair i at position p given by the tables,
//! `y1 = x1 cos − x2 sin`, `y2 = x2 cos + x1 sin`. A rotation's gradient is the inverse rotation, so
//! the backward is the same with −sin and needs nothing saved. In place: reads and writes N·H·R elements.

mod cpu;
mod gpu;

pub use cpu::OnCpu;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check, check_length};
use crate::indices::IndexView;
use crate::ops::work::Work;

/// Sizes of a rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tokens (N).
    pub tokens: usize,
    /// Heads of every token (H).
    pub heads: usize,
    /// Elements of a head (D).
    pub head_dim: usize,
    /// Elements of a head that are rotated (R), its first ones: even, at most D.
    pub rotary_dim: usize,
}

/// Cosines and sines of the angles, each `[positions, R/2]`.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// cos of the angle of every position and pair.
    pub cos: View<'a, f32>,
    /// sin of the angle of every position and pair.
    pub sin: View<'a, f32>,
}

/// Rotates `x` `[N, H, D]` in place by the angles of `positions` `[N]`.
///
/// # Errors
/// Lengths that do not fit the shape; a rotary dimension that is odd or over D; a position outside the tables.
pub fn forward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    tables: Tables<'_>,
    positions: IndexView<'_>,
    x: ViewMut<'_, T>,
) -> Result<()> {
    rotate::<T, false>("rope", device, shape, tables, positions, x)
}

/// Turns the gradient of the rotated `x` into that of the original, in place.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    tables: Tables<'_>,
    positions: IndexView<'_>,
    d_x: ViewMut<'_, T>,
) -> Result<()> {
    rotate::<T, true>("rope backward", device, shape, tables, positions, d_x)
}

fn rotate<T: OnCpu, const INVERSE: bool>(
    op: &'static str,
    device: &Device,
    shape: &Shape,
    tables: Tables<'_>,
    positions: IndexView<'_>,
    x: ViewMut<'_, T>,
) -> Result<()> {
    let Shape { head_dim, rotary_dim, .. } = *shape;
    check(op, rotary_dim > 0 && rotary_dim.is_multiple_of(2), || {
        format!("the rotary dimension {rotary_dim} is not a positive even number")
    })?;
    check(op, rotary_dim <= head_dim, || {
        format!("the rotary dimension {rotary_dim} is larger than a head of {head_dim} elements")
    })?;
    check_length(op, "x", x.len(), shape.tokens * shape.heads * head_dim)?;
    check_length(op, "positions", positions.len(), shape.tokens)?;
    check_length(op, "sin", tables.sin.len(), tables.cos.len())?;
    let known = tables.cos.len() / (rotary_dim / 2);
    check_length(op, "cos", tables.cos.len(), known * (rotary_dim / 2))?;
    let outside = positions.host().iter().find(|&&position| position as usize >= known);
    check(op, outside.is_none(), || {
        format!("position {} is outside the tables of {known}", outside.copied().unwrap_or_default())
    })?;
    match device {
        Device::Gpu(gpu) => gpu::rotate::<T, INVERSE>(gpu, shape, tables, positions, x)?,
        Device::Cpu(cpu) => {
            T::rotate(
                cpu,
                shape,
                (tables.cos.host(), tables.sin.host()),
                positions.host(),
                x.host(),
                INVERSE,
            );
        }
    }
    Ok(())
}

impl Shape {
    /// Work of [`forward`] or [`backward`] where `distinct` different positions occur.
    pub fn work(&self, distinct: usize, element: usize) -> Work {
        let elements = self.tokens * self.heads * self.rotary_dim;
        Work::new(2 * elements * element + 4 * (distinct * self.rotary_dim + self.tokens), 3 * elements)
    }
}
