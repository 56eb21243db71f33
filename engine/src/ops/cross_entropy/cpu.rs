use rayon::prelude::*;

use super::{Shape, Workspace};
use crate::cpu::gemm::{Matrix, Update, multiply};
use crate::cpu::math::{exp, max, softcap, sum_lanes};
use crate::cpu::parallel::SharedMut;
use crate::cpu::simd::vectorize;
use crate::device::CpuDevice;
use crate::number::{Number, on_cpu};

on_cpu! {
    /// Types that head and loss compute in.
    fn run = run(
        cpu: &CpuDevice,
        shape: &Shape,
        inputs: HostInputs<'_, Self>,
        workspace: &mut Workspace<Self>,
        losses: &mut [f32],
        gradients: Option<HostGradients<'_, Self>>,
    );
}

/// Terms summed in f32 before they go into an f64.
const SUM_BLOCK: usize = 1024;

/// The inputs as slices.
#[derive(Clone, Copy)]
pub struct HostInputs<'a, T> {
    hidden: &'a [T],
    head: &'a [T],
    targets: &'a [u32],
}

impl<'a, T: Number> HostInputs<'a, T> {
    pub fn new(inputs: &super::Inputs<'a, T>) -> Self {
        Self { hidden: inputs.hidden.host(), head: inputs.head.host(), targets: inputs.targets.host() }
    }
}

/// The gradients as slices, and the factor of every loss.
pub struct HostGradients<'a, T> {
    pub scale: f32,
    pub d_hidden: &'a mut [T],
    pub d_head: &'a mut [f32],
}

/// Losses and, where asked for, gradients.
pub fn run<T: Number>(
    cpu: &CpuDevice,
    shape: &Shape,
    inputs: HostInputs<'_, T>,
    workspace: &mut Workspace<T>,
    losses: &mut [f32],
    mut gradients: Option<HostGradients<'_, T>>,
) {
    let &Shape { hidden: width, vocabulary, softcap, .. } = shape;
    let chunk_rows = workspace.chunk_rows;
    let logits = workspace.logits.view_mut().host();
    let d_logits = workspace.d_logits.view_mut().host();
    let gathered = workspace.hidden.view_mut().host();
    losses.fill(0.0);
    let losses = SharedMut::new(losses);
    if let Some(gradients) = &mut gradients {
        gradients.d_hidden.fill(T::default());
    }
    for rows in workspace.rows.view().host().chunks(chunk_rows) {
        let logits = &mut logits[..rows.len() * vocabulary];
        let gathered = &mut gathered[..rows.len() * width];
        for (target, &row) in gathered.chunks_exact_mut(width).zip(rows) {
            target.copy_from_slice(&inputs.hidden[row as usize * width..][..width]);
        }
        let hidden = Matrix::new(gathered, rows.len(), width);
        let head = Matrix::new(inputs.head, vocabulary, width);
        multiply(cpu, hidden, head.transposed(), Update::Overwrite, logits);

        let scale = gradients.as_ref().map(|gradients| gradients.scale);
        let all_d_logits = SharedMut::new(&mut *d_logits);
        cpu.run(|| {
            logits.par_chunks_exact_mut(vocabulary).zip(rows).enumerate().for_each(
                |(place, (logits, &row))| {
                    let (row, target) = (row as usize, inputs.targets[row as usize] as usize);
                    // SAFETY: every row has its own loss, and its own gradients where they have a place.
                    let (loss, d_logits) = unsafe {
                        let start = if all_d_logits.length() == 0 { 0 } else { place * vocabulary };
                        let end = all_d_logits.length().min(start + vocabulary);
                        (losses.range(row..row + 1), all_d_logits.range(start..end))
                    };
                    let gradient = scale.map(|scale| Gradient { scale, d_logits });
                    loss[0] = vectorize!(|| match softcap {
                        None => row_loss(logits, target, gradient),
                        Some(cap) => capped_row_loss(logits, cap, target, gradient),
                    });
                },
            );
        });

        if let Some(gradients) = &mut gradients {
            let d_gathered = &mut workspace.d_hidden.view_mut().host()[..rows.len() * width];
            let d_logits = if d_logits.is_empty() {
                bytemuck::cast_slice(logits)
            } else {
                &d_logits[..rows.len() * vocabulary]
            };
            let d_logits = Matrix::new(d_logits, rows.len(), vocabulary);
            multiply(cpu, d_logits, head, Update::Overwrite, d_gathered);
            multiply(cpu, d_logits.transposed(), hidden, Update::Accumulate, gradients.d_head);
            for (source, &row) in d_gathered.chunks_exact(width).zip(rows) {
                gradients.d_hidden[row as usize * width..][..width].copy_from_slice(source);
            }
        }
    }
}

/// What the gradient of a row's logits needs.
struct Gradient<'a, T> {
    scale: f32,
    /// Where it goes; empty where it takes the logits' place.
    d_logits: &'a mut [T],
}

impl<T: Number> Gradient<'_, T> {
    /// Stores `softmax` of every logit, which has the scale as a factor, less `at_target` at the target.
    #[inline(always)]
    fn store(self, logits: &mut [f32], target: usize, softmax: impl Fn(f32) -> f32, at_target: f32) {
        let of_target = softmax(logits[target]) - at_target;
        if self.d_logits.is_empty() {
            logits.iter_mut().for_each(|logit| *logit = softmax(*logit));
            logits[target] = of_target;
        } else {
            for (d_logit, &logit) in self.d_logits.iter_mut().zip(logits.iter()) {
                *d_logit = T::from_f32(softmax(logit));
            }
            self.d_logits[target] = T::from_f32(of_target);
        }
    }
}

/// The loss of one row; with a gradient, the logits are lost.
#[inline(always)]
fn row_loss<T: Number>(logits: &mut [f32], target: usize, gradient: Option<Gradient<'_, T>>) -> f32 {
    let maximum = max(logits);
    let target_logit = logits[target];
    let sum = match gradient {
        None => sum_of_exp(logits, |logit| exp(*logit - maximum)),
        Some(gradient) => {
            let sum = sum_of_exp(logits, |logit| {
                *logit = exp(*logit - maximum);
                *logit
            });
            let (scale, factor) = (gradient.scale, (f64::from(gradient.scale) / sum) as f32);
            gradient.store(logits, target, |power| power * factor, scale);
            sum
        }
    };
    (sum.ln() + f64::from(maximum) - f64::from(target_logit)) as f32
}

/// The same of the logits cap·tanh(logit / cap). The gradient needs their tanh beside the exponential, which is
/// therefore computed twice.
#[inline(always)]
fn capped_row_loss<T: Number>(
    logits: &mut [f32],
    cap: f32,
    target: usize,
    gradient: Option<Gradient<'_, T>>,
) -> f32 {
    logits.iter_mut().for_each(|logit| *logit = softcap(*logit, cap));
    let maximum = max(logits);
    let target_logit = logits[target];
    let sum = sum_of_exp(logits, |logit| exp(*logit - maximum));
    if let Some(gradient) = gradient {
        let factor = (f64::from(gradient.scale) / sum) as f32;
        let derivative = |capped: f32| {
            let tanh = capped / cap;
            1.0 - tanh * tanh
        };
        let at_target = gradient.scale * derivative(target_logit);
        let softmax = |logit: f32| factor * exp(logit - maximum) * derivative(logit);
        gradient.store(logits, target, softmax, at_target);
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
