//! One new token per row against its cache: each key and value is read once per key/value head, for
//! all query heads that share it.

use std::ops::Range;

use crate::cpu::math::{dot, exp, max};
use crate::cpu::parallel::{SharedMut, for_each, with_scratch};
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::float::round_slice;
use crate::number::Number;
use crate::ops::attention::Shape;

/// The cache as slices.
#[derive(Clone, Copy)]
pub struct Cache<'a, T> {
    k: &'a [T],
    v: &'a [T],
    capacity: usize,
    slots: &'a [u32],
    lengths: &'a [u32],
}

impl<'a, T: Number> Cache<'a, T> {
    pub fn new(cache: &crate::ops::attention::Cache<'a, T>) -> Self {
        Self {
            k: cache.k.host(),
            v: cache.v.host(),
            capacity: cache.capacity,
            slots: cache.slots.host(),
            lengths: cache.lengths.host(),
        }
    }
}

pub fn decode<T: Number>(cpu: &CpuDevice, shape: &Shape, q: &[T], cache: Cache<T>, output: &mut [T]) {
    let rows = cache.slots.len();
    let output = SharedMut::new(output);
    cpu.run(|| {
        for_each(rows * shape.kv_heads, |index| {
            let (row, kv_head) = (index / shape.kv_heads, index % shape.kv_heads);
            let length = shape.seen(&cache, row).len();
            let (scores, sums) = (shape.group() * length, shape.group() * shape.head_dim);
            with_scratch(scores + sums, |memory| {
                let (scores, memory) = memory.split_at_mut(scores);
                let sums = &mut memory[..sums];
                vectorize!(|| {
                    decode_head(shape, q, &cache, row, kv_head, scores, sums);
                    for (sums, head) in sums.chunks_exact(shape.head_dim).zip(shape.heads_of(kv_head)) {
                        // SAFETY: this row and head belong to this call alone.
                        round_slice(sums, unsafe { output.range(shape.query(row, head)) });
                    }
                });
            });
        });
    });
}

impl Shape {
    /// Tokens of its slot that a row sees.
    fn seen<T>(&self, cache: &Cache<T>, row: usize) -> Range<usize> {
        let length = cache.lengths[row] as usize;
        self.first_seen(length - 1, 0)..length
    }
}

/// Attention of one row for one key/value head: `sums` `[heads of the group, D]` are overwritten with the output.
#[inline(always)]
fn decode_head<T: Number>(
    shape: &Shape,
    q: &[T],
    cache: &Cache<T>,
    row: usize,
    kv_head: usize,
    scores: &mut [f32],
    sums: &mut [f32],
) {
    let seen = shape.seen(cache, row);
    let length = seen.len();
    let first_token = cache.slots[row] as usize * cache.capacity + seen.start;
    let Cache { k, v, .. } = *cache;
    for s in 0..length {
        let key = &k[shape.key(first_token + s, kv_head)];
        for (scores, head) in scores.chunks_exact_mut(length).zip(shape.heads_of(kv_head)) {
            scores[s] = dot(&q[shape.query(row, head)], key);
        }
    }
    for scores in scores.chunks_exact_mut(length) {
        shape.make_scores(scores);
        let maximum = max(scores);
        for score in &mut *scores {
            *score = exp(*score - maximum);
        }
        let factor = 1.0 / scores.iter().sum::<f32>();
        for score in scores {
            *score *= factor;
        }
    }
    sums.fill(0.0);
    for s in 0..length {
        let value = &v[shape.key(first_token + s, kv_head)];
        for (scores, sums) in scores.chunks_exact(length).zip(sums.chunks_exact_mut(shape.head_dim)) {
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum = scores[s].mul_add(value.to_f32(), *sum);
            }
        }
    }
}
