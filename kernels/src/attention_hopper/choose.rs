//! The launcher.

use super::*;
use crate::attention::Sizes;
use crate::launch::{Launch, LaunchError, Slice, SliceMut};

/// Of the kernels here.
pub const FAMILY: &str = attention_forward_128_hopper::KERNEL.family;
/// Elements of the heads that there are kernels for.
pub const HEAD_DIMS: [u32; 5] = [64, 80, 96, 128, 256];

/// Whether there is a kernel here for heads of `head_dim` elements on this device, which the launcher trusts.
pub fn exists(launcher: &dyn Launch, head_dim: u32) -> bool {
    launcher.compute_capability() == (9, 0) && HEAD_DIMS.contains(&head_dim) && launcher.trusts(FAMILY)
}

/// The forward pass, `tiles` being those [by wide queries](crate::attention::Tiles::by_wide_queries); see
/// [`attention_forward_128_hopper`].
///
/// # Errors
/// Heads of another size, a buffer too short, or what the launcher reports.
pub fn forward(
    launcher: &dyn Launch,
    sizes: Sizes,
    [q, k, v]: [Slice<'_, Bf16>; 3],
    tiles: Slice<'_, u32>,
    output: SliceMut<'_, Bf16>,
    log_sum_exp: SliceMut<'_, f32>,
) -> Result<(), LaunchError> {
    let Sizes { tokens, heads, kv_heads, head_dim, scale, window } = sizes;
    let kernel = match head_dim {
        64 => attention_forward_64_hopper,
        80 => attention_forward_80_hopper,
        96 => attention_forward_96_hopper,
        128 => attention_forward_128_hopper,
        // Refuses other sizes.
        _ => attention_forward_256_hopper,
    };
    let count = (tiles.len() / 4) as u64;
    kernel(
        launcher,
        q,
        k,
        v,
        tiles,
        output,
        log_sum_exp,
        tokens.into(),
        count,
        heads.into(),
        kv_heads.into(),
        head_dim.into(),
        window,
        scale,
        launcher.multiprocessors(),
    )
}
