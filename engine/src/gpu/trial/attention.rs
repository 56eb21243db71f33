//! The first test of attention.

use std::ops::Range;

use cpift_kernels::attention::{Sizes, Tiles};
use cpift_kernels::attention_hopper::{HEAD_DIMS, forward};
use half::bf16;

use super::read;
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory};

/// Documents with edges of all tiles, the first one longer than the keys that are held at once.
fn documents(head_dim: u32) -> [Range<u32>; 2] {
    let first = if head_dim == 64 { 530 } else { 270 };
    [0..first, first..first + 73]
}

/// Query heads, which share one key/value head.
const HEADS: u32 = 2;
/// What a result may be off by: weights are rounded to bf16, by up to 2^-9 of themselves, as is the result.
const TOLERANCE: f32 = 1e-2;

/// Attention of numbers between −1 and 1, against the definition.
pub fn test(device: &GpuDevice) -> Result<Option<String>> {
    for head_dim in HEAD_DIMS {
        let documents = documents(head_dim);
        let tokens = documents[1].end;
        let (query, key) = ((tokens * HEADS * head_dim) as usize, (tokens * head_dim) as usize);
        let [q, k, v] = [numbers(query, 31), numbers(key, 53), numbers(key, 71)];
        let scale = 2.0 / (head_dim as f32).sqrt();
        let sizes = Sizes { tokens, heads: HEADS, kv_heads: 1, head_dim, scale, window: u32::MAX };
        let tiles = GpuMemory::from_slice(device, &Tiles::new(documents.into_iter()).by_wide_queries)?;
        let inputs = [&q, &k, &v].map(|values| GpuMemory::from_slice(device, values));
        let [on_q, on_k, on_v] = inputs;
        let (on_q, on_k, on_v) = (on_q?, on_k?, on_v?);
        let inputs = [on_q.all().argument(), on_k.all().argument(), on_v.all().argument()];
        let mut output = GpuMemory::<bf16>::zeros(device, query)?;
        let mut log_sum_exp = GpuMemory::<f32>::zeros(device, (tokens * HEADS) as usize)?;
        let (out, sums) = (output.all_mut().argument(), log_sum_exp.all_mut().argument());
        forward(device.launcher(), sizes, inputs, tiles.all().argument(), out, sums)?;
        let [q, k, v] = [q, k, v].map(|values| values.into_iter().map(bf16::to_f32).collect::<Vec<f32>>());
        if !is_right(sizes, [&q, &k, &v], &read(&output)?, &read(&log_sum_exp)?) {
            return Ok(Some(format!("attention_forward_{head_dim}_hopper")));
        }
    }
    Ok(None)
}

fn numbers(length: usize, factor: usize) -> Vec<bf16> {
    (0..length).map(|index| bf16::from_f32((index * factor % 1009 % 129) as f32 / 64.0 - 1.0)).collect()
}

/// Whether results are the definition's: of the documents' last tokens, which see all tiles, and their neighbours.
fn is_right(sizes: Sizes, [q, k, v]: [&[f32]; 3], output: &[bf16], log_sum_exp: &[f32]) -> bool {
    let width = sizes.head_dim as usize;
    let rows = documents(sizes.head_dim).into_iter().flat_map(|document| {
        let tokens = document.start.max(document.end - 150)..document.end;
        tokens.flat_map(move |token| (0..HEADS).map(move |head| (document.start, token, head)))
    });
    rows.into_iter().all(|(first, token, head)| {
        let row = (token * HEADS + head) as usize;
        let query = &q[row * width..(row + 1) * width];
        let key = |token: u32| token as usize * width..(token as usize + 1) * width;
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let scores: Vec<f32> = (first..=token).map(|s| sizes.scale * dot(query, &k[key(s)])).collect();
        let largest = scores.iter().copied().fold(f32::MIN, f32::max);
        let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f32 = weights.iter().sum();
        let mut expected = vec![0.0; width];
        for (s, weight) in (first..=token).zip(weights) {
            for (sum, value) in expected.iter_mut().zip(&v[key(s)]) {
                *sum += weight / total * value;
            }
        }
        let found = &output[row * width..(row + 1) * width];
        // Not the other way round: what is not a number is wrong.
        let close = |found: f32, expected: f32| (found - expected).abs() <= TOLERANCE;
        close(log_sum_exp[row], largest + total.ln())
            && found.iter().zip(&expected).all(|(found, &expected)| close(found.to_f32(), expected))
    })
}
