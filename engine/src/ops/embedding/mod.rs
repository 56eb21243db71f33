//! Embedding: one row of a table for every token.
//!
//! Forward: `output[n] = table[tokens[n]]`; reads and writes N·C elements.
//! Backward: `d_table[tokens[n]] += d_output[n]`, in the order of n for every row of the table but that of padding.

mod cpu;
mod gpu;

pub use cpu::OnCpu;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check, check_length};
use crate::indices::IndexView;
use crate::ops::work::Work;

/// Sizes of an embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tokens (N).
    pub tokens: usize,
    /// Rows of the table (V).
    pub vocabulary: usize,
    /// Elements of a row (C).
    pub hidden: usize,
    /// A token whose row of the table gets no gradient (`padding_idx` of PyTorch).
    pub padding: Option<u32>,
}

/// Looks up `table` `[V, C]` at `tokens` `[N]` into `output` `[N, C]`.
///
/// # Errors
/// Lengths that do not fit the shape; a token id that is not below V.
pub fn forward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    table: View<'_, T>,
    tokens: IndexView<'_>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "embedding";
    check_length(OP, "table", table.len(), shape.vocabulary * shape.hidden)?;
    check_length(OP, "tokens", tokens.len(), shape.tokens)?;
    check_length(OP, "output", output.len(), shape.tokens * shape.hidden)?;
    check_tokens(OP, shape, tokens.host())?;
    match device {
        Device::Gpu(gpu) => gpu::forward(gpu, shape, table, tokens, output)?,
        Device::Cpu(cpu) => {
            T::forward(cpu, shape, table.host(), tokens.host(), output.host());
        }
    }
    Ok(())
}

/// Adds the gradient of the output, `d_output` `[N, C]`, to that of the table, `d_table` `[V, C]`, whose row of padding
/// is left as it is.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    tokens: IndexView<'_>,
    d_output: View<'_, T>,
    d_table: ViewMut<'_, f32>,
) -> Result<()> {
    const OP: &str = "embedding backward";
    check_length(OP, "tokens", tokens.len(), shape.tokens)?;
    check_length(OP, "d_output", d_output.len(), shape.tokens * shape.hidden)?;
    check_length(OP, "d_table", d_table.len(), shape.vocabulary * shape.hidden)?;
    check_tokens(OP, shape, tokens.host())?;
    match device {
        Device::Gpu(gpu) => gpu::backward(gpu, shape, tokens, d_output, d_table)?,
        Device::Cpu(cpu) => {
            T::backward(cpu, shape, tokens.host(), d_output.host(), d_table.host());
        }
    }
    Ok(())
}

fn check_tokens(op: &'static str, shape: &Shape, tokens: &[u32]) -> Result<()> {
    let outside = tokens.iter().position(|&token| token as usize >= shape.vocabulary);
    check(op, outside.is_none(), || {
        let index = outside.unwrap_or_default();
        format!(
            "token {} at position {index} is not below the vocabulary of {}",
            tokens[index], shape.vocabulary
        )
    })
}

impl Shape {
    /// Work of [`forward`]: a row read and written per token.
    pub fn forward_work(&self, element: usize) -> Work {
        Work::new(2 * self.tokens * self.hidden * element + 4 * self.tokens, 0)
    }

    /// Work of [`backward`] where `distinct` different tokens occur: their rows are read and written.
    pub fn backward_work(&self, distinct: usize, element: usize) -> Work {
        let (gradients, rows) = (self.tokens * self.hidden, distinct * self.hidden);
        Work::new(gradients * element + 8 * rows + 4 * self.tokens, gradients)
    }
}
