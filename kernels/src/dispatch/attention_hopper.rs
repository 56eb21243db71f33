//! Attention on Hopper: which kernel a head is for, and whether there is one.

use crate::attention::{BackwardInputs, Gradients, Sizes, TileLists};
use crate::attention_hopper::*;
use crate::launch::{Launch, LaunchError, Slice, SliceMut};
use crate::simt::Bf16;

/// Heads that there are forward passes for, by their elements, and the name of the self-test of each.
pub const FORWARD: [(u32, &str); 5] = [
    (64, "attention_forward_64_hopper"),
    (80, "attention_forward_80_hopper"),
    (96, "attention_forward_96_hopper"),
    (128, "attention_forward_128_hopper"),
    (256, "attention_forward_256_hopper"),
];
/// The same of backward passes: with 256 elements, the sums would not fit the registers.
pub const BACKWARD: [(u32, &str); 4] = [
    (64, "attention_backward_64_hopper"),
    (80, "attention_backward_80_hopper"),
    (96, "attention_backward_96_hopper"),
    (128, "attention_backward_128_hopper"),
];

/// Whether there is a forward pass here for such heads on this device, and it passes its self-test there. There is none
/// with a soft cap.
pub fn has_forward(launcher: &dyn Launch, sizes: Sizes) -> bool {
    exists(launcher, sizes, &FORWARD)
}

/// As [`has_forward`] of the backward pass.
pub fn has_backward(launcher: &dyn Launch, sizes: Sizes) -> bool {
    exists(launcher, sizes, &BACKWARD)
}

fn exists(launcher: &dyn Launch, sizes: Sizes, passes: &[(u32, &'static str)]) -> bool {
    let pass = passes.iter().find(|&&(elements, _)| elements == sizes.head_dim && sizes.softcap == 0.0);
    launcher.compute_capability() == (9, 0) && pass.is_some_and(|&(_, name)| launcher.passes_self_test(name))
}

/// The forward pass, `tiles` being those [by wide queries](crate::attention::Tiles::by_hopper_queries); see
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
    let Sizes { tokens, heads, kv_heads, head_dim, scale, window, .. } = sizes;
    let kernel = match head_dim {
        64 => attention_forward_64_hopper,
        80 => attention_forward_80_hopper,
        96 => attention_forward_96_hopper,
        128 => attention_forward_128_hopper,
        // Refuses other sizes.
        _ => attention_forward_256_hopper,
    };
    kernel(
        launcher,
        q,
        k,
        v,
        tiles,
        output,
        log_sum_exp,
        tokens.into(),
        count(tiles),
        heads.into(),
        kv_heads.into(),
        head_dim.into(),
        window,
        scale,
        launcher.multiprocessors(),
    )
}

/// Tokens of a row of what is saved, whose bytes TMA wants to be a multiple of 16.
fn pitch(sizes: Sizes) -> u64 {
    u64::from(sizes.tokens).next_multiple_of(4)
}

/// Numbers of scratch that [`backward`] needs.
pub fn backward_scratch(sizes: Sizes) -> usize {
    2 * sizes.heads as usize * pitch(sizes) as usize
}

/// The backward pass; see [`attention_backward_preprocess_hopper`], [`attention_backward_keys_128_hopper`] and
/// [`attention_backward_queries_128_hopper`].
///
/// # Errors
/// As for [`forward`].
pub fn backward(
    launcher: &dyn Launch,
    sizes: Sizes,
    inputs: BackwardInputs<'_, Bf16>,
    tiles: TileLists<'_>,
    mut scratch: SliceMut<'_, f32>,
    gradients: Gradients<'_, Bf16>,
) -> Result<(), LaunchError> {
    let Sizes { tokens, heads, kv_heads, head_dim, scale, window, .. } = sizes;
    let BackwardInputs { q, k, v, output, log_sum_exp, d_output } = inputs;
    let Gradients { d_q, d_k, d_v } = gradients;
    let (pitch, blocks) = (pitch(sizes), launcher.multiprocessors());
    let saved = scratch.reborrow();
    attention_backward_preprocess_hopper(
        launcher,
        d_output,
        output,
        log_sum_exp,
        saved,
        tokens.into(),
        pitch,
        heads,
        head_dim,
    )?;
    let saved = scratch.as_read();
    let over_keys = match head_dim {
        64 => attention_backward_keys_64_hopper,
        80 => attention_backward_keys_80_hopper,
        96 => attention_backward_keys_96_hopper,
        // Refuses other sizes.
        _ => attention_backward_keys_128_hopper,
    };
    over_keys(
        launcher,
        q,
        k,
        v,
        d_output,
        saved,
        tiles.hopper_keys,
        d_k,
        d_v,
        tokens.into(),
        pitch,
        count(tiles.hopper_keys),
        heads.into(),
        kv_heads.into(),
        head_dim.into(),
        window,
        scale,
        blocks,
    )?;
    let over_queries = match head_dim {
        64 => attention_backward_queries_64_hopper,
        80 => attention_backward_queries_80_hopper,
        96 => attention_backward_queries_96_hopper,
        _ => attention_backward_queries_128_hopper,
    };
    over_queries(
        launcher,
        q,
        k,
        v,
        d_output,
        saved,
        tiles.hopper_queries,
        d_q,
        tokens.into(),
        pitch,
        count(tiles.hopper_queries),
        heads.into(),
        kv_heads.into(),
        head_dim.into(),
        window,
        scale,
        blocks,
    )
}

fn count(tiles: Slice<'_, u32>) -> u64 {
    (tiles.len() / 4) as u64
}
