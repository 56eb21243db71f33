//! Rotary position embedding in the convention of Hugging Face: of the first 2·half elements of a head, element i of
//! the first half and element i of the second half are one pair. The rest of a head stays.
//!
//! y1 = x1·cos − x2·sin, y2 = x2·cos + x1·sin, with the angle of the token's position and the pair. The
//! inverse, which turns the gradient of the rotated x into that of x, has −sin.

use crate::simt::*;

/// Threads of a block.
const BLOCK: u32 = 256;
/// Heads of a thread: it loads their angles once.
const HEADS: u32 = 4;
/// [`HEADS`], to count them in registers.
const PARTS: usize = HEADS as usize;
/// Pairs of a thread where `half` and heads are multiples of it; a thread has one pair elsewhere.
const PACK: u64 = 8;

/// Threads for the pairs of a head.
const fn packs(half: u64, head_dim: u64) -> u64 {
    if half.is_multiple_of(PACK) && head_dim.is_multiple_of(PACK) { half / PACK } else { half }
}

/// Threads for all tokens.
#[cfg(not(target_arch = "nvptx64"))]
const fn threads(tokens: u64, heads: u64, half: u64, head_dim: u64) -> u64 {
    tokens * heads.div_ceil(HEADS as u64) * packs(half, head_dim)
}

kernel! {
    /// Rotates the first 2·half elements of the heads of x `[tokens, heads, head_dim]` in place by the angles of
    /// `positions` `[tokens]`, in the tables `[table_rows, half]`; backwards where `inverse` is not 0.
    ///
    /// A thread has eight pairs (16-byte accesses) of up to four heads of a token, or one pair where
    /// `half` or `head_dim` is not a multiple of eight. No barriers; no two threads touch one element. Positions
    /// are checked by the launching code. Moves 2 elements per element that is rotated and 4/heads B of tables;
    /// 3 flops.
    pub fn rope<E> = rope_f32, rope_bf16; {
        block: BLOCK,
        grid: threads(tokens, heads, half, head_dim).div_ceil(BLOCK.into()),
        shared: 0,
    } (
        cos: read f32 [table_rows * half] align 16,
        sin: read f32 [table_rows * half] align 16,
        positions: read u32 [tokens],
        x: update E [tokens * heads * head_dim] align 16,
        table_rows: scalar u32,
        tokens: scalar u32,
        heads: scalar u32,
        half: scalar u32,
        head_dim: scalar u32,
        inverse: scalar u32,
    ) requires { threads(tokens, heads, half, head_dim) < 1 << 32, 2 * half <= head_dim } {
        let sign = if inverse == 0 { 1.0 } else { -1.0 };
        if half.is_multiple_of(PACK as u32) && head_dim.is_multiple_of(PACK as u32) {
            rotate::<E, 8>((cos, sin, sign), positions, x, (tokens, heads, half, head_dim));
        } else {
            rotate::<E, 1>((cos, sin, sign), positions, x, (tokens, heads, half, head_dim));
        }
    }
}

/// This thread's part, in packs of `N` pairs.
#[inline(always)]
fn rotate<E: Pack<N>, const N: usize>(
    (cos, sin, sign): (Global<f32>, Global<f32>, f32),
    positions: Global<u32>,
    x: GlobalMut<E>,
    (tokens, heads, half, head_dim): (u32, u32, u32, u32),
) where
    f32: Pack<N>,
{
    let (packs, groups) = (half / N as u32, heads.div_ceil(HEADS));
    let index = block_idx() * BLOCK + thread_idx();
    let (pair, rest) = (index % packs * N as u32, index / packs);
    let (group, token) = (rest % groups, rest / groups);
    if token >= tokens {
        return;
    }
    let angle = positions.load(token as usize) as usize * half as usize + pair as usize;
    let cos: [f32; N] = Pack::load(cos, angle);
    let sin: [f32; N] = Pack::load(sin, angle);
    let first = group * HEADS;
    // Where the last group has fewer heads, its last one is loaded again, and not stored.
    let place = |i: u32| {
        let head = (first + i).min(heads - 1);
        (token as usize * heads as usize + head as usize) * head_dim as usize + pair as usize
    };
    let load = |i: u32| {
        let x1: [f32; N] = E::load(x.as_read(), place(i));
        let x2: [f32; N] = E::load(x.as_read(), place(i) + half as usize);
        (x1, x2)
    };
    let pairs = [load(0), load(1), load(2), load(3)];
    unroll!(i in PARTS {
        let (x1, x2) = pairs[i];
        let (mut y1, mut y2) = ([0.0; N], [0.0; N]);
        for element in 0..N {
            let (cos, sin) = (cos[element], sign * sin[element]);
            y1[element] = fma(x1[element], cos, -(x2[element] * sin));
            y2[element] = fma(x2[element], cos, x1[element] * sin);
        }
        if first + (i as u32) < heads {
            E::store(x, place(i as u32), y1);
            E::store(x, place(i as u32) + half as usize, y2);
        }
    });
}
