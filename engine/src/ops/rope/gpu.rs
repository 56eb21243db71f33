//! Rotary position embedding on a GPU.

use cpift_kernels::rope::rope;

use super::{Shape, Tables};
use crate::buffer::ViewMut;
use crate::error::Result;
use crate::gpu::{GpuDevice, narrow};
use crate::indices::IndexView;
use crate::number::Number;

pub(super) fn rotate<T: Number, const INVERSE: bool>(
    gpu: &GpuDevice,
    shape: &Shape,
    tables: Tables<'_>,
    positions: IndexView<'_>,
    x: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "rope on a GPU";
    let half = shape.rotary_dim / 2;
    rope(
        gpu.launcher(),
        tables.cos.on(gpu),
        tables.sin.on(gpu),
        positions.device().on(gpu),
        x.on(gpu),
        narrow(OP, "positions", tables.cos.len() / half)?,
        narrow(OP, "tokens", shape.tokens)?,
        narrow(OP, "heads", shape.heads)?,
        narrow(OP, "half", half)?,
        narrow(OP, "head_dim", shape.head_dim)?,
        u32::from(INVERSE),
    )?;
    Ok(())
}
