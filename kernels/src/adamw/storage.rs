//! How weights, gradients, moments and importance lie in memory.

use super::in_whole;
use crate::dither::{dither_to_bf16, lower_half, undo};
use crate::simt::*;
use crate::stochastic::round_to_bf16;

/// A number type that gradients, moments and importance are stored in. Values are rounded by the lower 16 of the bits beside them.
pub trait State: Pack<4> {
    fn store_one(to: GlobalMut<Self>, index: usize, value: f32, bits: u32);
    fn store_four(to: GlobalMut<Self>, first: usize, values: [f32; 4], bits: [u32; 4]);
}

impl State for f32 {
    #[inline(always)]
    fn store_one(to: GlobalMut<Self>, index: usize, value: f32, _: u32) {
        to.store(index, value);
    }

    #[inline(always)]
    fn store_four(to: GlobalMut<Self>, first: usize, values: [f32; 4], _: [u32; 4]) {
        to.store_vector(first, F32x4(values));
    }
}

impl State for Bf16 {
    #[inline(always)]
    fn store_one(to: GlobalMut<Self>, index: usize, value: f32, bits: u32) {
        to.store(index, round_to_bf16(value, bits));
    }

    #[inline(always)]
    fn store_four(to: GlobalMut<Self>, first: usize, values: [f32; 4], bits: [u32; 4]) {
        let rounded = |lane: usize| round_to_bf16(values[lane], bits[lane]);
        to.store_vector(first, Bf16x4(core::array::from_fn(rounded)));
    }
}

/// Memory of weights.
pub trait Weights: Copy {
    fn load(self, index: usize) -> f32;
    fn store(self, index: usize, value: f32);
    fn load_four(self, first: usize) -> [f32; 4];
    fn store_four(self, first: usize, values: [f32; 4]);
}

impl Weights for GlobalMut<f32> {
    #[inline(always)]
    fn load(self, index: usize) -> f32 {
        GlobalMut::load(self, index)
    }

    #[inline(always)]
    fn store(self, index: usize, value: f32) {
        GlobalMut::store(self, index, value);
    }

    #[inline(always)]
    fn load_four(self, first: usize) -> [f32; 4] {
        self.load_vector::<F32x4>(first).0
    }

    #[inline(always)]
    fn store_four(self, first: usize, values: [f32; 4]) {
        self.store_vector(first, F32x4(values));
    }
}

/// The two planes of split weights.
#[derive(Clone, Copy)]
pub struct Planes {
    pub rounded: GlobalMut<Bf16>,
    pub lower: GlobalMut<u16>,
    /// Index of their first element in the whole.
    pub first: u32,
}

impl Weights for Planes {
    #[inline(always)]
    fn load(self, index: usize) -> f32 {
        undo(self.rounded.load(index), self.lower.load(index), in_whole(self.first, index))
    }

    #[inline(always)]
    fn store(self, index: usize, value: f32) {
        self.rounded.store(index, dither_to_bf16(value, in_whole(self.first, index)));
        self.lower.store(index, lower_half(value));
    }

    #[inline(always)]
    fn load_four(self, first: usize) -> [f32; 4] {
        let rounded = self.rounded.load_vector::<Bf16x4>(first).0;
        let lower = self.lower.load_vector::<U16x4>(first).0;
        core::array::from_fn(|lane| undo(rounded[lane], lower[lane], in_whole(self.first, first + lane)))
    }

    #[inline(always)]
    fn store_four(self, first: usize, values: [f32; 4]) {
        let rounded = |lane| dither_to_bf16(values[lane], in_whole(self.first, first + lane));
        self.rounded.store_vector(first, Bf16x4(core::array::from_fn(rounded)));
        self.lower.store_vector(first, U16x4(values.map(lower_half)));
    }
}
