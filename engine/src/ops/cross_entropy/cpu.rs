use rayon::prelude::*;

use super::Shape;
use crate::cpu::gemm::{Matrix, Update, multiply};
use crate::cpu::math::{exp, max, softcap, sum_lanes};
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::error::Result;
use crate::real::Real;

/// Terms summed in f32 before they go into an f64.
const SUM_BLOCK: usize = 1024;

/// The inputs as slices.
#[derive(Clone, Copy)]
pub struct HostInputs<'a> {
    hidden: &'a [f32],
    head: &'a [f32],
    targets: &'a [u32],
}

impl<'a> HostInputs<'a> {
    pub fn new<T: Real>(inputs: &super::Inputs<'a, T>) -> Result<Self> {
        let (hidden, head) = (inputs.hidden.floats()?, inputs.head.floats()?);
        Ok(Self { hidden, head, targets: inputs.targets.host() })
    }
}

/// The workspace as slices.
pub struct Workspace<'a> {
    chunk_rows: usize,
    rows: &'a [u32],
    logits: &'a mut [f32],
    hidden: &'a mut [f32],
    d_hidden: &'a mut [f32],
}

impl<'a> Workspace<'a> {
    pub fn new<T: Real>(workspace: &'a mut super::Workspace<T>) -> Result<Self> {
        Ok(Self {
            chunk_rows: workspace.chunk_rows,
            rows: workspace.rows.view().host(),
            logits: workspace.logits.view_mut().host(),
            hidden: workspace.hidden.view_mut().floats()?,
            d_hidden: workspace.d_hidden.view_mut().floats()?,
        })
    }
}

/// The gradients as slices, and the factor of every loss.
pub struct HostGradients<'a> {
    pub scale: f32,
    pub d_hidden: &'a mut [f32],
    pub d_head: &'a mut [f32],
}

/// Losses and, where asked for, gradients.
pub fn run(
    cpu: &CpuDevice,
    shape: &Shape,
    inputs: HostInputs,
    workspace: Workspace,
    losses: &mut [f32],
    mut gradients: Option<HostGradients>,
) {
    let &Shape { hidden: width, vocabulary, softcap, .. } = shape;
    let Workspace { chunk_rows, rows, logits, hidden: gathered, d_hidden: d_gathered } = workspace;
    losses.fill(0.0);
    if let Some(gradients) = &mut gradients {
        gradients.d_hidden.fill(0.0);
    }
    for rows in rows.chunks(chunk_rows) {
        let logits = &mut logits[..rows.len() * vocabulary];
        let gathered = &mut gathered[..rows.len() * width];
        for (target, &row) in gathered.chunks_exact_mut(width).zip(rows) {
            target.copy_from_slice(&inputs.hidden[row as usize * width..][..width]);
        }
        let hidden = Matrix::new(gathered, rows.len(), width);
        let head = Matrix::new(inputs.head, vocabulary, width);
        multiply(cpu, hidden, head.transposed(), Update::Overwrite, logits);

        let scale = gradients.as_ref().map(|gradients| gradients.scale);
        // Losses of the chunk go where its gathered gradients will be: one float per row.
        let chunk_losses = &mut d_gathered[..rows.len()];
        cpu.run(|| {
            let logits = logits.par_chunks_exact_mut(vocabulary);
            logits.zip(chunk_losses.par_iter_mut()).zip(rows).for_each(|((logits, loss), &row)| {
                let target = inputs.targets[row as usize] as usize;
                *loss = vectorize!(|| match softcap {
                    None => row_loss(logits, target, scale),
                    Some(cap) => capped_row_loss(logits, cap, target, scale),
                });
            });
        });
        for (&loss, &row) in chunk_losses.iter().zip(rows) {
            losses[row as usize] = loss;
        }

        if let Some(gradients) = &mut gradients {
            let d_gathered = &mut d_gathered[..rows.len() * width];
            let d_logits = Matrix::new(logits, rows.len(), vocabulary);
            multiply(cpu, d_logits, head, Update::Overwrite, d_gathered);
            multiply(cpu, d_logits.transposed(), hidden, Update::Accumulate, gradients.d_head);
            for (source, &row) in d_gathered.chunks_exact(width).zip(rows) {
                gradients.d_hidden[row as usize * width..][..width].copy_from_slice(source);
            }
        }
    }
}

/// The loss of one row; with a scale, the logits are replaced by their gradient.
#[inline(always)]
fn row_loss(logits: &mut [f32], target: usize, scale: Option<f32>) -> f32 {
    let maximum = max(logits);
    let target_logit = logits[target];
    let sum = match scale {
        None => sum_of_exp(logits, |logit| exp(*logit - maximum)),
        Some(scale) => {
            let sum = sum_of_exp(logits, |logit| {
                *logit = exp(*logit - maximum);
                *logit
            });
            let factor = (f64::from(scale) / sum) as f32;
            logits.iter_mut().for_each(|logit| *logit *= factor);
            logits[target] -= scale;
            sum
        }
    };
    (sum.ln() + f64::from(maximum) - f64::from(target_logit)) as f32
}

/// The same of the logits cap·tanh(logit / cap). The gradient needs their tanh beside the exponential, which is
/// therefore computed twice.
#[inline(always)]
fn capped_row_loss(logits: &mut [f32], cap: f32, target: usize, scale: Option<f32>) -> f32 {
    logits.iter_mut().for_each(|logit| *logit = softcap(*logit, cap));
    let maximum = max(logits);
    let target_logit = logits[target];
    let sum = sum_of_exp(logits, |logit| exp(*logit - maximum));
    if let Some(scale) = scale {
        let factor = (f64::from(scale) / sum) as f32;
        let derivative = |capped: f32| {
            let tanh = capped / cap;
            1.0 - tanh * tanh
        };
        for logit in logits.iter_mut() {
            *logit = factor * exp(*logit - maximum) * derivative(*logit);
        }
        logits[target] -= scale * derivative(target_logit);
    }
    (sum.ln() + f64::from(maximum) - f64::from(target_logit)) as f32
}

/// Σ of `term` over the logits: f32 lanes within a block, f64 over blocks.
#[inline(always)]
fn sum_of_exp(logits: &mut [f32], term: impl Fn(&mut f32) -> f32) -> f64 {
    let mut total = 0.0f64;
    for block in logits.chunks_mut(SUM_BLOCK) {
        let mut sums = [0.0f32; 16];
        let (chunks, rest) = block.as_chunks_mut::<16>();
        for chunk in chunks {
            for (logit, sum) in chunk.iter_mut().zip(&mut sums) {
                *sum += term(logit);
            }
        }
        let rest: f32 = rest.iter_mut().map(&term).sum();
        total += f64::from(sum_lanes(sums)) + f64::from(rest);
    }
    total
}
