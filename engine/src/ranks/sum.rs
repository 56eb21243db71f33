//! The sum of what ranks have, in an order that is always the same.

use rayon::prelude::*;

/// Elements that a thread adds at a time.
const CHUNK: usize = 1 << 16;

/// Overwrites `own`, which is that of `rank`, with the sum over all ranks: ((0 + 1) + 2) + …. `others` are those of the other
/// ranks in their order, of the same length; panics where they are shorter.
pub fn add_in_order(own: &mut [f32], rank: usize, others: &[&[f32]]) {
    own.par_chunks_mut(CHUNK).enumerate().for_each(|(index, own)| {
        let start = index * CHUNK;
        let part = |other: usize| &others[other][start..start + own.len()];
        let parts: Vec<&[f32]> = (0..others.len()).map(part).collect();
        add_chunk(own, rank, &parts);
    });
}

fn add_chunk(own: &mut [f32], rank: usize, others: &[&[f32]]) {
    let (before, behind) = others.split_at(rank);
    if let Some((first, rest)) = before.split_first() {
        // Everything before this rank's own, and then that.
        let mut sum = first.to_vec();
        rest.iter().for_each(|values| add(&mut sum, values));
        add(&mut sum, own);
        own.copy_from_slice(&sum);
    }
    behind.iter().for_each(|values| add(own, values));
}

fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}
