//! Launching the kernels: which of them a head is for.

use super::*;
use crate::attention_hopper;
use crate::launch::{Launch, LaunchError, Slice, SliceMut};

/// Sizes of attention over packed documents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// N.
    pub tokens: u32,
    /// H.
    pub heads: u32,
    /// KV, a divisor of `heads`.
    pub kv_heads: u32,
    /// D, a multiple of 8, at most [`HEAD_DIM_LIMIT`].
    pub head_dim: u32,
    /// Factor of the scores, above 0.
    pub scale: f32,
    /// Most tokens that a token sees, itself included; [`u32::MAX`] for all.
    pub window: u32,
}

/// What the backward pass reads: q, k, v, d_output, log_sum_exp and delta.
#[derive(Debug, Clone, Copy)]
pub struct BackwardInputs<'a, E: AttentionElement> {
    /// `[N, H, D]`.
    pub q: Slice<'a, E>,
    /// `[N, KV, D]`.
    pub k: Slice<'a, E>,
    /// `[N, KV, D]`.
    pub v: Slice<'a, E>,
    /// `[N, H, D]`.
    pub d_output: Slice<'a, E>,
    /// Of the forward pass, `[N, H]`.
    pub log_sum_exp: Slice<'a, f32>,
    /// d_output·output, `[N, H]`.
    pub delta: Slice<'a, f32>,
}

/// Tiles of queries on the device. Which of them a forward pass takes is the matter of its kernel.
#[derive(Debug, Clone, Copy)]
pub struct QueryTiles<'a> {
    /// [`Tiles::by_queries`].
    pub narrow: Slice<'a, u32>,
    /// [`Tiles::by_wide_queries`].
    pub wide: Slice<'a, u32>,
}

/// Element types that there are kernels over tiles for.
pub trait AttentionElement: Element {
    /// The forward pass.
    ///
    /// # Errors
    /// What the kernel's contract refuses, or the launcher reports.
    fn forward(
        launcher: &dyn Launch,
        sizes: Sizes,
        inputs: [Slice<'_, Self>; 3],
        tiles: QueryTiles<'_>,
        output: SliceMut<'_, Self>,
        log_sum_exp: SliceMut<'_, f32>,
    ) -> Result<(), LaunchError>;

    /// d_q, `tiles` being [`Tiles::by_queries`].
    ///
    /// # Errors
    /// As [`AttentionElement::forward`].
    fn backward_queries(
        launcher: &dyn Launch,
        sizes: Sizes,
        inputs: BackwardInputs<'_, Self>,
        tiles: Slice<'_, u32>,
        d_q: SliceMut<'_, Self>,
    ) -> Result<(), LaunchError>;

    /// d_k and d_v, `tiles` being [`Tiles::by_keys`].
    ///
    /// # Errors
    /// As [`AttentionElement::forward`].
    fn backward_keys(
        launcher: &dyn Launch,
        sizes: Sizes,
        inputs: BackwardInputs<'_, Self>,
        tiles: Slice<'_, u32>,
        d_k: SliceMut<'_, Self>,
        d_v: SliceMut<'_, Self>,
    ) -> Result<(), LaunchError>;
}

macro_rules! attention_element {
    ($E:ident, $forward:tt $(or $own:ident)?, $backward_queries:tt, $backward_keys:tt) => {
        impl AttentionElement for $E {
            fn forward(
                launcher: &dyn Launch,
                sizes: Sizes,
                inputs: [Slice<'_, Self>; 3],
                tiles: QueryTiles<'_>,
                output: SliceMut<'_, Self>,
                log_sum_exp: SliceMut<'_, f32>,
            ) -> Result<(), LaunchError> {
                let Sizes { tokens, heads, kv_heads, head_dim, scale, window } = sizes;
                $(if $own::exists(launcher, head_dim) {
                    return $own::forward(launcher, sizes, inputs, tiles.wide, output, log_sum_exp);
                })?
                let [q, k, v] = inputs;
                let count = count(tiles.narrow);
                let kernel = by_head_dim!(head_dim, $forward);
                kernel(
                    launcher,
                    q,
                    k,
                    v,
                    tiles.narrow,
                    output,
                    log_sum_exp,
                    tokens,
                    count,
                    heads,
                    kv_heads,
                    head_dim,
                    window,
                    scale,
                )
            }

            fn backward_queries(
                launcher: &dyn Launch,
                sizes: Sizes,
                inputs: BackwardInputs<'_, Self>,
                tiles: Slice<'_, u32>,
                d_q: SliceMut<'_, Self>,
            ) -> Result<(), LaunchError> {
                let Sizes { tokens, heads, kv_heads, head_dim, scale, window } = sizes;
                let BackwardInputs { q, k, v, d_output, log_sum_exp, delta } = inputs;
                let count = count(tiles);
                let kernel = by_head_dim!(head_dim, $backward_queries);
                kernel(
                    launcher,
                    q,
                    k,
                    v,
                    d_output,
                    log_sum_exp,
                    delta,
                    tiles,
                    d_q,
                    tokens,
                    count,
                    heads,
                    kv_heads,
                    head_dim,
                    window,
                    scale,
                )
            }

            fn backward_keys(
                launcher: &dyn Launch,
                sizes: Sizes,
                inputs: BackwardInputs<'_, Self>,
                tiles: Slice<'_, u32>,
                d_k: SliceMut<'_, Self>,
                d_v: SliceMut<'_, Self>,
            ) -> Result<(), LaunchError> {
                let Sizes { tokens, heads, kv_heads, head_dim, scale, window } = sizes;
                let BackwardInputs { q, k, v, d_output, log_sum_exp, delta } = inputs;
                let count = count(tiles);
                let kernel = by_head_dim!(head_dim, $backward_keys);
                kernel(
                    launcher,
                    q,
                    k,
                    v,
                    d_output,
                    log_sum_exp,
                    delta,
                    tiles,
                    d_k,
                    d_v,
                    tokens,
                    count,
                    heads,
                    kv_heads,
                    head_dim,
                    window,
                    scale,
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
    Bf16,
    (..=64 => attention_forward_64_bf16, ..=80 => attention_forward_80_bf16, ..=96 => attention_forward_96_bf16, ..=128 => attention_forward_128_bf16, _ => attention_forward_256_bf16) or attention_hopper,
    (..=64 => attention_backward_queries_64_bf16, ..=80 => attention_backward_queries_80_bf16, ..=96 => attention_backward_queries_96_bf16, ..=128 => attention_backward_queries_128_bf16, _ => attention_backward_queries_256_bf16),
    (..=64 => attention_backward_keys_64_bf16, ..=80 => attention_backward_keys_80_bf16, ..=96 => attention_backward_keys_96_bf16, ..=128 => attention_backward_keys_128_bf16, _ => attention_backward_keys_256_bf16)
);

fn count(tiles: Slice<'_, u32>) -> u32 {
    (tiles.len() / 4) as u32
}
