//! Embedding on a GPU. The host groups positions by token, so that each row of the table is added to by
//! one thread per column, in the order of positions.

use cpift_kernels::embedding::{embedding, embedding_backward};

use super::Shape;
use crate::buffer::{View, ViewMut};
use crate::error::Result;
use crate::gpu::{GpuDevice, GpuMemory, narrow};
use crate::indices::IndexView;
use crate::number::Number;

pub fn forward<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    table: View<'_, T>,
    tokens: IndexView<'_>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    embedding(
        gpu.launcher(),
        table.on(gpu),
        tokens.device().on(gpu),
        output.on(gpu),
        shape.tokens as u64,
        narrow("embedding", "vocabulary", shape.vocabulary)?,
        narrow("embedding", "hidden", shape.hidden)?,
    )?;
    Ok(())
}

pub fn backward<T: Number>(
    gpu: &GpuDevice,
    shape: &Shape,
    tokens: IndexView<'_>,
    d_output: View<'_, T>,
    d_table: ViewMut<'_, f32>,
) -> Result<()> {
    const OP: &str = "embedding backward";
    if shape.tokens == 0 || shape.hidden == 0 {
        return Ok(());
    }
    let groups = Groups::new(tokens.host(), narrow(OP, "tokens", shape.tokens)?, shape.padding);
    if groups.tokens.is_empty() {
        return Ok(());
    }
    let [positions, starts, group_tokens] = [&groups.positions, &groups.starts, &groups.tokens];
    let positions = GpuMemory::from_slice(gpu, positions)?;
    let starts = GpuMemory::from_slice(gpu, starts)?;
    let tokens = GpuMemory::from_slice(gpu, group_tokens)?;
    embedding_backward(
        gpu.launcher(),
        d_output.on(gpu),
        positions.all().argument(),
        starts.all().argument(),
        tokens.all().argument(),
        d_table.on(gpu),
        shape.tokens as u64,
        groups.tokens.len() as u32,
        narrow(OP, "vocabulary", shape.vocabulary)?,
        narrow(OP, "hidden", shape.hidden)?,
    )?;
    Ok(())
}

/// The positions of every token that occurs and is not padding.
struct Groups {
    /// Ascending.
    tokens: Vec<u32>,
    /// Where each token's positions start, and where the last one's end.
    starts: Vec<u32>,
    /// By token, then ascending; those of padding, which no group has, at the end.
    positions: Vec<u32>,
}

impl Groups {
    fn new(tokens: &[u32], count: u32, padding: Option<u32>) -> Self {
        let token = |position: u32| tokens[position as usize];
        let mut positions: Vec<u32> = (0..count).collect();
        // Stable: positions of one token stay in order.
        positions.sort_by_key(|&position| token(position));
        let mut groups = Self { tokens: Vec::new(), starts: vec![0], positions: Vec::new() };
        let is_padding = |position: u32| padding == Some(token(position));
        let (padded, positions): (Vec<u32>, Vec<u32>) =
            positions.into_iter().partition(|&position| is_padding(position));
        for group in positions.chunk_by(|&left, &right| token(left) == token(right)) {
            groups.tokens.push(token(group[0]));
            groups.positions.extend(group);
            groups.starts.push(groups.positions.len() as u32);
        }
        groups.positions.extend(padded);
        groups
    }
}
