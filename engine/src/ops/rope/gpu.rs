//! Rotary position embedding on a GPU.

use cpift_kernels::rope::rope_f32;

use super::{Shape, Tables};
use crate::buffer::ViewMut;
use crate::error::Result;
use crate::gpu::{GpuDevice, size};
use crate::indices::IndexView;

pub(super) fn rotate<const INVERSE: bool>(
    gpu: &GpuDevice,
    shape: &Shape,
    tables: Tables<'_>,
    positions: IndexView<'_>,
    x: ViewMut<'_, f32>,
) -> Result<()> {
    const OP: &str = "rope on a GPU";
    let half = shape.head_dim / 2;
    rope_f32(
        gpu.launcher(),
        tables.cos.on(gpu),
        tables.sin.on(gpu),
        positions.device().on(gpu),
        x.on(gpu),
        size(OP, "positions", tables.cos.len() / half)?,
        size(OP, "tokens", shape.tokens)?,
        size(OP, "heads", shape.heads)?,
        size(OP, "half", half)?,
        u32::from(INVERSE),
    )?;
    Ok(())
}
