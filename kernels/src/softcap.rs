//! The soft cap of scores and logits, c·tanh(x / c): what kernels apply on the way, and a kernel for logits that are read
//! out.

use crate::simt::*;

/// The bound c of a kernel's argument; 0: there is none.
#[derive(Clone, Copy)]
pub(crate) struct Softcap(f32);

impl Softcap {
    /// From the argument.
    #[inline(always)]
    pub(crate) fn new(bound: f32) -> Self {
        Self(bound)
    }

    /// Whether there is a bound: the same in all threads.
    #[inline(always)]
    pub(crate) fn is_on(self) -> bool {
        self.0 > 0.0
    }

    /// c·tanh(x / c), where there is a bound.
    #[inline(always)]
    pub(crate) fn apply(self, x: f32) -> f32 {
        self.0 * tanh(x * reciprocal_approx(self.0))
    }

    /// The derivative 1 − tanh²(x / c) by the result `capped`, where there is a bound; 0 where that was masked by −∞.
    #[inline(always)]
    pub(crate) fn slope(self, capped: f32) -> f32 {
        let tanh = max(capped * reciprocal_approx(self.0), -1.0);
        fma(-tanh, tanh, 1.0)
    }

    /// [`Softcap::slope`] by the probability 2^(capped·scale·log2 e − log_sum_exp), for where no register holds what that
    /// was made of; 0 where it is 0.
    #[inline(always)]
    pub(crate) fn slope_by_probability(self, probability: f32, log_sum_exp: f32, scale: f32) -> f32 {
        let score = log2_approx(probability) + log_sum_exp;
        self.slope(score * reciprocal_approx(scale * core::f32::consts::LOG2_E))
    }
}

/// Threads of a block.
const BLOCK: u32 = 256;

#[inline(always)]
fn bound<const N: usize>(logits: GlobalMut<f32>, cap: Softcap, index: usize)
where
    f32: Pack<N>,
{
    let values = <f32 as Pack<N>>::load(logits.as_read(), index);
    <f32 as Pack<N>>::store(logits, index, values.map(|logit| cap.apply(logit)));
}

kernel! {
    /// logits[i] becomes cap·tanh(logits[i] / cap). Reads and writes 4 B each.
    ///
    /// 16 bytes per thread where the buffer is aligned to them, else an element. No shared memory, no barriers.
    pub fn softcap_in_place { block: BLOCK, grid: count.div_ceil(4 * u64::from(BLOCK)), shared: 0 } (
        logits: update f32 [count],
        count: scalar u64,
        cap: scalar f32,
    ) requires { cap > 0.0 } {
        let cap = Softcap::new(cap);
        cover::<4, BLOCK>(
            count,
            logits.is_aligned(),
            |index| bound::<4>(logits, cap, index),
            |index| bound::<1>(logits, cap, index),
        );
    }
}
