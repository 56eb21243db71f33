//! The gate of an MLP: activation = f(gate)·up with f(x) = x·σ(z), z = x·(linear + cubic·x²).
//!
//! With [`SILU`] that is silu(x) = x·σ(x) to the bit, with [`GELU_TANH`] the tanh form of GELU, 0.5 x (1 + tanh(z / 2)).
//!
//! Elementwise: blocks of 256 threads, 16 bytes of each buffer per thread; buffers that do not start at a
//! multiple of 16 bytes are walked one element at a time. No shared memory, no barriers, one thread per
//! element. Arithmetic is in f32; E is f32 or bf16.
//!
//! A kernel of its own: made by the products of gate and up as they write, which the backward pass needs both, the
//! activation would save reading them, 4 bytes of 6 an element forward. By the predicted times of an H100 that is 3 % of
//! a layer's step for a model of 0.5B parameters and 1 % for one of 7B.

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;

/// Linear and cubic coefficient of silu.
pub const SILU: [f32; 2] = [1.0, 0.0];
/// Linear and cubic coefficient of `gelu_pytorch_tanh`: 2 √(2/π), and times 0.044715.
pub const GELU_TANH: [f32; 2] = [1.595_769, 0.071_354_814];

/// σ(z) and z' = linear + 3·cubic·x².
#[inline(always)]
fn gate_of(x: f32, (linear, cubic): (f32, f32)) -> (f32, f32) {
    // Finite, so that without a cubic term nothing is added.
    let square = min(x * x, f32::MAX);
    (sigmoid(x * fma(cubic, square, linear)), fma(3.0 * cubic, square, linear))
}

#[inline(always)]
fn forward<E: Pack<N>, const N: usize>(
    gate: Global<E>,
    up: Global<E>,
    activation: GlobalMut<E>,
    coefficients: (f32, f32),
    index: usize,
) {
    let (gate, up) = (E::load(gate, index), E::load(up, index));
    let mut product = [0.0; N];
    for lane in 0..N {
        product[lane] = gate[lane] * gate_of(gate[lane], coefficients).0 * up[lane];
    }
    E::store(activation, index, product);
}

#[inline(always)]
fn backward<E: Pack<N>, const N: usize>(
    gate: GlobalMut<E>,
    up: GlobalMut<E>,
    activation: GlobalMut<E>,
    coefficients: (f32, f32),
    index: usize,
) {
    let (mut gates, mut ups) = (E::load(gate.as_read(), index), E::load(up.as_read(), index));
    let mut activations = E::load(activation.as_read(), index);
    for lane in 0..N {
        let (x, up, gradient) = (gates[lane], ups[lane], activations[lane]);
        let (sigma, slope) = gate_of(x, coefficients);
        let value = x * sigma;
        activations[lane] = value * up;
        // f' = σ + x σ (1 − σ) z'
        gates[lane] = gradient * up * fma(value, (1.0 - sigma) * slope, sigma);
        ups[lane] = gradient * value;
    }
    E::store(gate, index, gates);
    E::store(up, index, ups);
    E::store(activation, index, activations);
}

kernel! {
    /// activation[i] = f(gate[i])·up[i]. Reads 2 and writes 1 element each, about 13 flops.
    pub fn gated_mlp<E> = gated_mlp_f32, gated_mlp_bf16; {
        block: BLOCK,
        grid: count.div_ceil(vector_length::<E>() as u64 * u64::from(BLOCK)),
        shared: 0,
    } (
        gate: read E [count],
        up: read E [count],
        activation: write E [count],
        count: scalar u64,
        linear: scalar f32,
        cubic: scalar f32,
    ) {
        cover::<{ vector_length::<E>() }, BLOCK>(
            count,
            gate.is_aligned() && up.is_aligned() && activation.is_aligned(),
            |index| forward::<E, { vector_length::<E>() }>(gate, up, activation, (linear, cubic), index),
            |index| forward::<E, 1>(gate, up, activation, (linear, cubic), index),
        );
    }
}

kernel! {
    /// In place, what the forward had into gradients; with σ = σ(z):
    ///
    /// - gate becomes d_gate = d_activation·up·σ (1 + gate (1 − σ) z'),
    /// - up becomes d_up = d_activation·f(gate),
    /// - activation, which is d_activation before, becomes f(gate)·up again.
    ///
    /// Reads 3 and writes 3 elements each, about 22 flops.
    pub fn gated_mlp_backward<E> = gated_mlp_backward_f32, gated_mlp_backward_bf16; {
        block: BLOCK,
        grid: count.div_ceil(vector_length::<E>() as u64 * u64::from(BLOCK)),
        shared: 0,
    } (
        gate: update E [count],
        up: update E [count],
        activation: update E [count],
        count: scalar u64,
        linear: scalar f32,
        cubic: scalar f32,
    ) {
        cover::<{ vector_length::<E>() }, BLOCK>(
            count,
            gate.is_aligned() && up.is_aligned() && activation.is_aligned(),
            |index| backward::<E, { vector_length::<E>() }>(gate, up, activation, (linear, cubic), index),
            |index| backward::<E, 1>(gate, up, activation, (linear, cubic), index),
        );
    }
}
