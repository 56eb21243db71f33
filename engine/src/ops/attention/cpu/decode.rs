//! One new token per row against its cache: each key and value is read once per key/value head, for
//! all query heads that share it.

use std::ops::Range;

use crate::cpu::math::{dot, exp, max};
use crate::cpu::parallel::{SharedMut, for_each, with_scratch};
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::error::Result;
use crate::ops::attention::Shape;
use crate::real::Real;

/// The cache as slices.
#[derive(Clone, Copy)]
pub struct Cache<'a> {
    k: &'a [f32],
    v: &'a [f32],
    capacity: usize,
    slots: &'a [u32],
    lengths: &'a [u32],
}

impl<'a> Cache<'a> {
    pub fn new<T: Real>(cache: &crate::ops::attention::Cache<'a, T>) -> Result<Self> {
        Ok(Self {
            k: cache.k.floats()?,
            v: cache.v.floats()?,
            capacity: cache.capacity,
            slots: cache.slots.host(),
            lengths: cache.lengths.host(),
        })
    }
}

pub fn decode(cpu: &CpuDevice, shape: &Shape, q: &[f32], cache: Cache, output: &mut [f32]) {
    let rows = cache.slots.len();
    let output = SharedMut::new(output);
    cpu.run(|| {
        for_each(rows * shape.kv_heads, |index| {
            let (row, kv_head) = (index / shape.kv_heads, index % shape.kv_heads);
            let length = shape.seen(&cache, row).len();
            with_scratch(shape.group() * length, |scores| {
                let scores = &mut scores[..shape.group() * length];
                vectorize!(|| decode_head(shape, q, &cache, row, kv_head, scores, &output));
            });
        });
    });
}

impl Shape {
    /// Tokens of its slot that a row sees.
    fn seen(&self, cache: &Cache, row: usize) -> Range<usize> {
        let length = cache.lengths[row] as usize;
        self.first_seen(length - 1, 0)..length
    }
}

#[inline(always)]
fn decode_head(
    shape: &Shape,
    q: &[f32],
    cache: &Cache,
    row: usize,
    kv_head: usize,
    scores: &mut [f32],
    output: &SharedMut<f32>,
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
    for (scores, head) in scores.chunks_exact_mut(length).zip(shape.heads_of(kv_head)) {
        shape.make_scores(scores);
        let maximum = max(scores);
        scores.iter_mut().for_each(|score| *score = exp(*score - maximum));
        let factor = 1.0 / scores.iter().sum::<f32>();
        scores.iter_mut().for_each(|score| *score *= factor);
        // SAFETY: this row and head belong to this call alone.
        unsafe { output.range(shape.query(row, head)) }.fill(0.0);
    }
    for s in 0..length {
        let value = &v[shape.key(first_token + s, kv_head)];
        for (scores, head) in scores.chunks_exact(length).zip(shape.heads_of(kv_head)) {
            // SAFETY: as above.
            let output = unsafe { output.range(shape.query(row, head)) };
            for (output, value) in output.iter_mut().zip(value) {
                *output = scores[s].mul_add(*value, *output);
            }
        }
    }
}
