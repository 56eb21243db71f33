//! The gate of attention's output: gated = attention·σ(gate), where query and gate of each head lie one behind the
//! other in `joined` `[N, H, 2 D]`; all else is `[N, H, D]`.
//!
//! Elementwise: blocks of 256 threads, 16 bytes of each buffer per thread; heads or buffers that no whole vectors fit
//! are walked one element at a time. No shared memory, no barriers, one thread per element. Arithmetic is in f32; E
//! is f32 or bf16.

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;

/// Where the query of element `index` of `[N, H, D]` is in `joined`; its gate is `head_dim` further on.
#[inline(always)]
fn place(index: usize, head_dim: u32) -> usize {
    index + (index as u32 / head_dim) as usize * head_dim as usize
}

#[inline(always)]
fn copy<E: Pack<N>, const N: usize>(from: (Global<E>, usize), to: (GlobalMut<E>, usize)) {
    E::store(to.0, to.1, E::load(from.0, from.1));
}

#[inline(always)]
fn forward<E: Pack<N>, const N: usize>(
    joined: Global<E>,
    attention: Global<E>,
    gated: GlobalMut<E>,
    head_dim: u32,
    index: usize,
) {
    let gate = E::load(joined, place(index, head_dim) + head_dim as usize);
    let mut values = E::load(attention, index);
    for lane in 0..N {
        values[lane] *= sigmoid(gate[lane]);
    }
    E::store(gated, index, values);
}

#[inline(always)]
fn backward<E: Pack<N>, const N: usize>(
    (joined, attention): (Global<E>, Global<E>),
    gradient: GlobalMut<E>,
    d_joined: GlobalMut<E>,
    head_dim: u32,
    index: usize,
) {
    let gate_place = place(index, head_dim) + head_dim as usize;
    let mut gates = E::load(joined, gate_place);
    let attention = E::load(attention, index);
    let mut gradients = E::load(gradient.as_read(), index);
    for lane in 0..N {
        let sigma = sigmoid(gates[lane]);
        gates[lane] = gradients[lane] * attention[lane] * sigma * (1.0 - sigma);
        gradients[lane] *= sigma;
    }
    E::store(d_joined, gate_place, gates);
    E::store(gradient, index, gradients);
}

kernel! {
    /// queries\[i\] = the query of element i in joined. Reads 1 and writes 1 element each.
    pub fn output_gate_take_queries<E> = output_gate_take_queries_f32, output_gate_take_queries_bf16; {
        block: BLOCK,
        grid: count.div_ceil(vector_length::<E>() as u64 * u64::from(BLOCK)),
        shared: 0,
    } (
        joined: read E [2 * count],
        queries: write E [count],
        count: scalar u64,
        head_dim: scalar u32,
    ) requires { count < 1 << 32, head_dim > 0, count.is_multiple_of(head_dim) } {
        cover::<{ vector_length::<E>() }, BLOCK>(
            count,
            joined.is_aligned() && queries.is_aligned() && head_dim.is_multiple_of(vector_length::<E>() as u32),
            |index| copy::<E, { vector_length::<E>() }>((joined, place(index, head_dim)), (queries, index)),
            |index| copy::<E, 1>((joined, place(index, head_dim)), (queries, index)),
        );
    }
}

kernel! {
    /// The query of element i in joined = queries\[i\]; the gates stay. Reads 1 and writes 1 element each.
    pub fn output_gate_put_queries<E> = output_gate_put_queries_f32, output_gate_put_queries_bf16; {
        block: BLOCK,
        grid: count.div_ceil(vector_length::<E>() as u64 * u64::from(BLOCK)),
        shared: 0,
    } (
        queries: read E [count],
        joined: update E [2 * count],
        count: scalar u64,
        head_dim: scalar u32,
    ) requires { count < 1 << 32, head_dim > 0, count.is_multiple_of(head_dim) } {
        cover::<{ vector_length::<E>() }, BLOCK>(
            count,
            joined.is_aligned() && queries.is_aligned() && head_dim.is_multiple_of(vector_length::<E>() as u32),
            |index| copy::<E, { vector_length::<E>() }>((queries, index), (joined, place(index, head_dim))),
            |index| copy::<E, 1>((queries, index), (joined, place(index, head_dim))),
        );
    }
}

kernel! {
    /// gated\[i\] = attention\[i\]·σ(gate of element i). Reads 2 and writes 1 element each, about 6 flops.
    pub fn output_gate<E> = output_gate_f32, output_gate_bf16; {
        block: BLOCK,
        grid: count.div_ceil(vector_length::<E>() as u64 * u64::from(BLOCK)),
        shared: 0,
    } (
        joined: read E [2 * count],
        attention: read E [count],
        gated: write E [count],
        count: scalar u64,
        head_dim: scalar u32,
    ) requires { count < 1 << 32, head_dim > 0, count.is_multiple_of(head_dim) } {
        cover::<{ vector_length::<E>() }, BLOCK>(
            count,
            joined.is_aligned()
                && attention.is_aligned()
                && gated.is_aligned()
                && head_dim.is_multiple_of(vector_length::<E>() as u32),
            |index| forward::<E, { vector_length::<E>() }>(joined, attention, gated, head_dim, index),
            |index| forward::<E, 1>(joined, attention, gated, head_dim, index),
        );
    }
}

kernel! {
    /// With σ = σ(gate): gradient goes from d_gated to d_attention = d_gated·σ, in place, and the gates' places of
    /// d_joined become d_gated·attention·σ (1 − σ); its queries stay. Reads 3 and writes 2 elements each, about 10
    /// flops.
    pub fn output_gate_backward<E> = output_gate_backward_f32, output_gate_backward_bf16; {
        block: BLOCK,
        grid: count.div_ceil(vector_length::<E>() as u64 * u64::from(BLOCK)),
        shared: 0,
    } (
        joined: read E [2 * count],
        attention: read E [count],
        gradient: update E [count],
        d_joined: update E [2 * count],
        count: scalar u64,
        head_dim: scalar u32,
    ) requires { count < 1 << 32, head_dim > 0, count.is_multiple_of(head_dim) } {
        let inputs = (joined, attention);
        cover::<{ vector_length::<E>() }, BLOCK>(
            count,
            joined.is_aligned()
                && attention.is_aligned()
                && gradient.is_aligned()
                && d_joined.is_aligned()
                && head_dim.is_multiple_of(vector_length::<E>() as u32),
            |index| backward::<E, { vector_length::<E>() }>(inputs, gradient, d_joined, head_dim, index),
            |index| backward::<E, 1>(inputs, gradient, d_joined, head_dim, index),
        );
    }
}
