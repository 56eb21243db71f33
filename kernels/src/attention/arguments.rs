//! What launchers of attention take.

use crate::launch::{Slice, SliceMut};
use crate::values::Element;

/// Sizes of attention over packed documents.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sizes {
    /// N.
    pub tokens: u32,
    /// H.
    pub heads: u32,
    /// KV, a divisor of `heads`.
    pub kv_heads: u32,
    /// D, a multiple of 8, at most [`HEAD_DIM_LIMIT`](super::HEAD_DIM_LIMIT).
    pub head_dim: u32,
    /// Factor of the scores, above 0.
    pub scale: f32,
    /// Most tokens that a token sees, itself included; [`u32::MAX`] for all.
    pub window: u32,
    /// What bounds the products of queries and keys, before the scale: they become softcap·tanh(product / softcap). 0 for
    /// nothing.
    pub softcap: f32,
}

/// What the backward pass reads.
#[derive(Debug, Clone, Copy)]
pub struct BackwardInputs<'a, E: Element> {
    /// `[N, H, D]`.
    pub q: Slice<'a, E>,
    /// `[N, KV, D]`.
    pub k: Slice<'a, E>,
    /// `[N, KV, D]`.
    pub v: Slice<'a, E>,
    /// Of the forward pass, `[N, H, D]`.
    pub output: Slice<'a, E>,
    /// Of the forward pass, `[N, H]`.
    pub log_sum_exp: Slice<'a, f32>,
    /// `[N, H, D]`.
    pub d_output: Slice<'a, E>,
}

/// What the backward pass writes.
#[derive(Debug)]
pub struct Gradients<'a, E: Element> {
    /// `[N, H, D]`.
    pub d_q: SliceMut<'a, E>,
    /// `[N, KV, D]`.
    pub d_k: SliceMut<'a, E>,
    /// `[N, KV, D]`.
    pub d_v: SliceMut<'a, E>,
}

/// The lists of [`Tiles`](super::Tiles) on the device. Which of them are used is the kernels' matter.
#[derive(Debug, Clone, Copy)]
pub struct TileLists<'a> {
    /// [`Tiles::by_queries`](super::Tiles::by_queries).
    pub queries: Slice<'a, u32>,
    /// [`Tiles::by_keys`](super::Tiles::by_keys).
    pub keys: Slice<'a, u32>,
    /// [`Tiles::by_hopper_queries`](super::Tiles::by_hopper_queries).
    pub hopper_queries: Slice<'a, u32>,
    /// [`Tiles::by_hopper_keys`](super::Tiles::by_hopper_keys).
    pub hopper_keys: Slice<'a, u32>,
}

impl<'a> From<[Slice<'a, u32>; 4]> for TileLists<'a> {
    /// In the order of [`Tiles::ranges`](super::Tiles::ranges).
    fn from([queries, keys, hopper_queries, hopper_keys]: [Slice<'a, u32>; 4]) -> Self {
        Self { queries, keys, hopper_queries, hopper_keys }
    }
}
