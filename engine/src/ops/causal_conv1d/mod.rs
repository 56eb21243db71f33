//! Causal convolution of every channel by itself, and silu, over packed documents.
//!
//! Document for document, with K taps w of each channel and x = 0 before the document's first token,
//!
//! z\[t,c\] = Σ_j w\[c,j\] · x\[t − (K−1) + j, c\], output\[t,c\] = silu(z\[t,c\]) = z σ(z):
//!
//! the last tap is that of the token itself. The backward computes z again, so nothing but the input is kept. With
//! d_z = d_output · silu'(z), d_x\[s,c\] = Σ_j w\[c,j\] · d_z\[s + (K−1) − j, c\] within the document, and
//! d_w\[c,j\] += Σ_t d_z\[t,c\] · x\[t − (K−1) + j, c\].
//!
//! Results are the same bits for every number of threads, and on GPUs from run to run.

mod cpu;
mod gpu;

pub use cpu::OnCpu;

use cpift_kernels::causal_conv1d::TAPS_LIMIT;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check, check_length};
use crate::indices::{IndexView, check_slots};
use crate::ops::attention::Documents;
use crate::ops::work::Work;

/// Sizes of the convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Taps of a channel (K): tokens that an output depends on, the newest included.
    pub taps: usize,
}

impl Shape {
    fn check(&self, op: &'static str, weight: usize) -> Result<()> {
        check(op, self.channels > 0 && self.taps > 0, || {
            format!("{} channels of {} taps are nothing to compute", self.channels, self.taps)
        })?;
        check_length(op, "weight", weight, self.channels * self.taps)
    }

    /// Elements of the inputs that one sequence keeps between its tokens, `[K − 1, channels]`.
    pub fn state_length(&self) -> usize {
        self.taps.saturating_sub(1) * self.channels
    }
}

/// Whether `device` can compute a convolution of this shape: what a model can be refused for before a job begins.
///
/// # Errors
/// More taps than the kernels of GPUs take.
pub fn check_device(device: &Device, shape: &Shape) -> Result<()> {
    let Device::Gpu(_) = device else { return Ok(()) };
    check("causal_conv1d", shape.taps as u64 <= TAPS_LIMIT, || {
        format!("{} taps of a channel: GPU kernels take up to {TAPS_LIMIT}", shape.taps)
    })
}

/// Convolves `input` `[N, channels]` with `weight` `[channels, K]` and writes silu of it to `output` `[N, channels]`.
/// One read and one write of the rows.
///
/// # Errors
/// Lengths that do not fit the shape and the documents; more taps than a GPU's kernels take.
pub fn forward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    documents: &Documents,
    input: View<'_, T>,
    weight: View<'_, T>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "causal_conv1d";
    shape.check(OP, weight.len())?;
    let elements = documents.tokens() * shape.channels;
    check_length(OP, "input", input.len(), elements)?;
    check_length(OP, "output", output.len(), elements)?;
    match device {
        Device::Gpu(gpu) => gpu::forward(gpu, shape, documents, input, weight, output)?,
        Device::Cpu(cpu) => {
            T::forward(cpu, shape, documents, input.host(), weight.host(), output.host());
        }
    }
    Ok(())
}

/// Writes the gradient of the input to `d_input` `[N, channels]` and adds that of the weight to `d_weight`
/// `[channels, K]`; `input` and `weight` are those of [`forward`].
///
/// # Errors
/// As [`forward`].
pub fn backward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    documents: &Documents,
    (input, weight): (View<'_, T>, View<'_, T>),
    d_output: View<'_, T>,
    d_input: ViewMut<'_, T>,
    d_weight: ViewMut<'_, f32>,
) -> Result<()> {
    const OP: &str = "causal_conv1d backward";
    shape.check(OP, weight.len())?;
    let elements = documents.tokens() * shape.channels;
    check_length(OP, "input", input.len(), elements)?;
    check_length(OP, "d_output", d_output.len(), elements)?;
    check_length(OP, "d_input", d_input.len(), elements)?;
    check_length(OP, "d_weight", d_weight.len(), weight.len())?;
    match device {
        Device::Gpu(gpu) => {
            gpu::backward(gpu, shape, documents, (input, weight), d_output, (d_input, d_weight))?;
        }
        Device::Cpu(cpu) => {
            let (input, weight, d_output) = (input.host(), weight.host(), d_output.host());
            let inputs = cpu::HostBackwardInputs { input, weight, d_output };
            T::backward(cpu, shape, documents, inputs, d_input.host(), d_weight.host());
        }
    }
    Ok(())
}

/// [`forward`] of one new token per row, for generation; no gradient flows through it.
///
/// `states` `[slots, K − 1, channels]` has the latest inputs of every sequence, the oldest first and zeros before the
/// first token; it takes in `input` `[rows, channels]`. `slots` are the sequences of the rows; rows of one sequence
/// are its tokens in their order.
///
/// # Errors
/// As [`forward`]; a slot outside of the states.
pub fn decode<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    input: View<'_, T>,
    weight: View<'_, T>,
    slots: IndexView<'_>,
    states: ViewMut<'_, T>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "causal_conv1d decode";
    shape.check(OP, weight.len())?;
    check_length(OP, "input", input.len(), slots.len() * shape.channels)?;
    check_length(OP, "output", output.len(), slots.len() * shape.channels)?;
    check_slots(OP, slots, shape.state_length(), states.len())?;
    match device {
        Device::Gpu(gpu) => gpu::decode(gpu, shape, (input, weight), slots, states, output)?,
        Device::Cpu(cpu) => {
            let (input, weight) = (input.host(), weight.host());
            T::decode(cpu, shape, input, weight, slots.host(), states.host(), output.host());
        }
    }
    Ok(())
}

impl Shape {
    /// Work of [`forward`] on so many tokens.
    pub fn forward_work(&self, tokens: usize, element: usize) -> Work {
        let elements = tokens * self.channels;
        Work::new((2 * elements + self.channels * self.taps) * element, (2 * self.taps + 4) * elements)
    }

    /// Work of [`backward`] on so many tokens.
    pub fn backward_work(&self, tokens: usize, element: usize) -> Work {
        let (elements, weights) = (tokens * self.channels, self.channels * self.taps);
        Work::new((3 * elements + weights) * element + 8 * weights, (4 * self.taps + 10) * elements)
    }
}
