//! Attention over tiles: which kernels a head is for.

use super::attention_hopper;
use crate::attention::*;
use crate::launch::{Launch, LaunchError, Slice, SliceMut};
use crate::simt::{Bf16, Real};

/// Element types that there are kernels over tiles for.
pub trait AttentionElement: Real {
    /// The forward pass.
    ///
    /// # Errors
    /// What the kernel's contract refuses, or the launcher reports.
    fn forward(
        launcher: &dyn Launch,
        sizes: Sizes,
        inputs: [Slice<'_, Self>; 3],
        tiles: TileLists<'_>,
        output: SliceMut<'_, Self>,
        log_sum_exp: SliceMut<'_, f32>,
    ) -> Result<(), LaunchError>;

    /// Numbers of scratch that [`AttentionElement::backward`] needs.
    fn backward_scratch(launcher: &dyn Launch, sizes: Sizes) -> usize;

    /// The backward pass.
    ///
    /// # Errors
    /// As [`AttentionElement::forward`].
    fn backward(
        launcher: &dyn Launch,
        sizes: Sizes,
        inputs: BackwardInputs<'_, Self>,
        tiles: TileLists<'_>,
        scratch: SliceMut<'_, f32>,
        gradients: Gradients<'_, Self>,
    ) -> Result<(), LaunchError>;
}

macro_rules! attention_element {
    ($E:ident $(or $hopper:ident)?, $forward:tt, $backward_queries:tt, $backward_keys:tt) => {
        impl AttentionElement for $E {
            fn forward(
                launcher: &dyn Launch,
                sizes: Sizes,
                inputs: [Slice<'_, Self>; 3],
                tiles: TileLists<'_>,
                output: SliceMut<'_, Self>,
                log_sum_exp: SliceMut<'_, f32>,
            ) -> Result<(), LaunchError> {
                let Sizes { tokens, heads, kv_heads, head_dim, scale, window, softcap } = sizes;
                $(if $hopper::has_forward(launcher, sizes) {
                    return $hopper::forward(launcher, sizes, inputs, tiles.hopper_queries, output, log_sum_exp);
                })?
                let [q, k, v] = inputs;
                let count = count(tiles.queries);
                let kernel = by_head_dim!(head_dim, $forward);
                kernel(
                    launcher,
                    q,
                    k,
                    v,
                    tiles.queries,
                    output,
                    log_sum_exp,
                    tokens,
                    count,
                    heads,
                    kv_heads,
                    head_dim,
                    window,
                    scale,
                    softcap,
                )
            }

            fn backward_scratch(launcher: &dyn Launch, sizes: Sizes) -> usize {
                $(if $hopper::has_backward(launcher, sizes) {
                    return $hopper::backward_scratch(sizes);
                })?
                let _ = launcher;
                sizes.tokens as usize * sizes.heads as usize
            }

            fn backward(
                launcher: &dyn Launch,
                sizes: Sizes,
                inputs: BackwardInputs<'_, Self>,
                tiles: TileLists<'_>,
                mut scratch: SliceMut<'_, f32>,
                gradients: Gradients<'_, Self>,
            ) -> Result<(), LaunchError> {
                let Sizes { tokens, heads, kv_heads, head_dim, scale, window, softcap } = sizes;
                $(if $hopper::has_backward(launcher, sizes) {
                    return $hopper::backward(launcher, sizes, inputs, tiles, scratch, gradients);
                })?
                let BackwardInputs { q, k, v, output, log_sum_exp, d_output } = inputs;
                let Gradients { d_q, d_k, d_v } = gradients;
                attention_backward_delta(launcher, d_output, output, scratch.reborrow(), tokens * heads, head_dim)?;
                let delta = scratch.as_read();
                let over_keys = by_head_dim!(head_dim, $backward_keys);
                over_keys(
                    launcher,
                    q,
                    k,
                    v,
                    d_output,
                    log_sum_exp,
                    delta,
                    tiles.keys,
                    d_k,
                    d_v,
                    tokens,
                    count(tiles.keys),
                    heads,
                    kv_heads,
                    head_dim,
                    window,
                    scale,
                    softcap,
                )?;
                let over_queries = by_head_dim!(head_dim, $backward_queries);
                over_queries(
                    launcher,
                    q,
                    k,
                    v,
                    d_output,
                    log_sum_exp,
                    delta,
                    tiles.queries,
                    d_q,
                    tokens,
                    count(tiles.queries),
                    heads,
                    kv_heads,
                    head_dim,
                    window,
                    scale,
                    softcap,
                )
            }
        }
    };
}

/// The kernel with room for the head; the largest refuses heads that fit none.
macro_rules! by_head_dim {
    ($head_dim:ident, ($(..=$limit:literal => $kernel:ident,)* _ => $largest:ident)) => {
        match $head_dim {
            $(..=$limit => $kernel,)*
            _ => $largest,
        }
    };
}

attention_element!(
    f32,
    (..=64 => attention_forward_64_f32, ..=128 => attention_forward_128_f32, _ => attention_forward_256_f32),
    (..=64 => attention_backward_queries_64_f32, ..=128 => attention_backward_queries_128_f32, _ => attention_backward_queries_256_f32),
    (..=64 => attention_backward_keys_64_f32, ..=128 => attention_backward_keys_128_f32, _ => attention_backward_keys_256_f32)
);
attention_element!(
    Bf16 or attention_hopper,
    (..=64 => attention_forward_64_bf16, ..=80 => attention_forward_80_bf16, ..=96 => attention_forward_96_bf16, ..=128 => attention_forward_128_bf16, _ => attention_forward_256_bf16),
    (..=64 => attention_backward_queries_64_bf16, ..=80 => attention_backward_queries_80_bf16, ..=96 => attention_backward_queries_96_bf16, ..=128 => attention_backward_queries_128_bf16, _ => attention_backward_queries_256_bf16),
    (..=64 => attention_backward_keys_64_bf16, ..=80 => attention_backward_keys_80_bf16, ..=96 => attention_backward_keys_96_bf16, ..=128 => attention_backward_keys_128_bf16, _ => attention_backward_keys_256_bf16)
);

fn count(tiles: Slice<'_, u32>) -> u32 {
    (tiles.len() / 4) as u32
}
