//! The gated delta rule over packed documents: linear attention with a state that decays (Gated DeltaNet).
//!
//! Every value head h has a state S `[DK, DV]`, zero before a document's first token. HK key heads are shared: value
//! head h uses query and key of key head h / (HV/HK). Queries and keys are scaled to unit length,
//! q̂ = q / √(Σq² + ε) / √DK and k̂ = k / √(Σk² + ε) with ε = 1e-6. Token for token
//!
//! g = −e^a_log · ln(1 + e^(a + dt_bias)), β = σ(b),
//! S ← e^g S, S ← S + k̂ (β (v − k̂ᵀS))ᵀ, output = q̂ᵀ S.
//!
//! # By chunks
//! Tokens are taken 64 at a time. With c the sum of g from the chunk's first token on, E\[i,j\] = e^(c_i − c_j) for
//! j ≤ i, and S the state before the chunk:
//!
//! | | |
//! |---|---|
//! | A\[i,j\] = β_i (k̂_i·k̂_j) E\[i,j\], j < i | what the writes of a chunk take from each other |
//! | (I + A) U = β (v − e^c k̂ S) | what each token writes, by forward substitution |
//! | output = e^c q̂ S + ((q̂ k̂ᵀ) E) U | |
//! | S' = e^c_n S + (e^(c_n − c) k̂)ᵀ U | the state after the chunk |
//!
//! Nothing is kept for the backward but the inputs. It computes the states at the chunks' starts again (T/64 states of
//! one key head's value heads at a time and thread), then goes through the chunks from the last to the first.
//! Memory grows with T, flops with T·(DK·DV + 64·(DK + DV)).
//!
//! Each result is summed in an order that depends on the documents alone: the bits are the same from run to run and for
//! every number of threads, which share documents and key heads.
//!
//! On a GPU the backward keeps the states between the chunks of all documents and their gradients until it is done, for
//! all heads: 8 bytes an element of at most T/64 states, from the device's pool.

mod cpu;
mod gpu;

pub use cpu::OnCpu;

use cpift_kernels::gated_delta_rule::KEY_DIM_LIMIT;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check, check_length};
use crate::indices::{IndexView, check_slots};
use crate::number::Number;
use crate::ops::attention::Documents;
use crate::ops::work::Work;

/// Added to the squared length of queries and keys.
const EPSILON: f32 = 1e-6;

/// Tokens of a chunk.
const CHUNK: usize = 64;

/// Sizes of the gated delta rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Heads of queries and keys (HK), a divisor of `value_heads`.
    pub key_heads: usize,
    /// Heads of values, gates and output (HV).
    pub value_heads: usize,
    /// Elements of a query or key (DK).
    pub key_dim: usize,
    /// Elements of a value (DV).
    pub value_dim: usize,
}

impl Shape {
    fn check(&self, op: &'static str) -> Result<()> {
        let whole_groups = self.key_heads != 0 && self.value_heads.is_multiple_of(self.key_heads);
        check(op, whole_groups && self.value_heads != 0, || {
            format!("{} value heads cannot share {} key heads", self.value_heads, self.key_heads)
        })?;
        check(op, self.key_dim != 0 && self.value_dim != 0, || "the heads have no elements".to_owned())
    }

    /// Elements of a token's queries, keys and values together.
    pub fn input_width(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.output_width()
    }

    /// Elements of a token's output.
    pub fn output_width(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Elements of the states of one sequence, `[HV, DK, DV]`.
    pub fn state_length(&self) -> usize {
        self.value_heads * self.key_dim * self.value_dim
    }

    /// Value heads that share a key head.
    fn group(&self) -> usize {
        self.value_heads / self.key_heads
    }
}

/// Bytes of the host's memory that [`forward`] takes for a moment on a CPU of so many threads, or with `trains`
/// [`backward`], for documents of up to `longest` tokens.
pub fn temporary_bytes(shape: &Shape, longest: usize, trains: bool, threads: usize) -> usize {
    let length = match trains {
        true => cpu::backward::length(shape, longest.div_ceil(CHUNK)),
        false => cpu::forward_length(shape),
    };
    threads.saturating_mul(length).saturating_mul(size_of::<f32>())
}

/// Whether `device` can compute the rule with this shape: what a model can be refused for before a job begins.
///
/// # Errors
/// Heads that cannot be grouped; on a GPU, keys longer than the kernels take.
pub fn check_device(device: &Device, shape: &Shape) -> Result<()> {
    const OP: &str = "gated_delta_rule";
    shape.check(OP)?;
    let Device::Gpu(_) = device else { return Ok(()) };
    check(OP, shape.key_dim as u64 <= KEY_DIM_LIMIT, || {
        format!("keys of {} elements: GPU kernels take up to {KEY_DIM_LIMIT}", shape.key_dim)
    })
}

/// What the rule reads.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T: Number> {
    /// Queries `[HK, DK]`, keys `[HK, DK]` and values `[HV, DV]` of each token, one behind the other.
    pub qkv: View<'a, T>,
    /// Of the decay `[N, HV]`.
    pub a: View<'a, T>,
    /// Of β `[N, HV]`.
    pub b: View<'a, T>,
    /// ln of the decay's rate A `[HV]`: ln of the decay is −A · ln(1 + e^(a + dt_bias)).
    pub a_log: View<'a, T>,
    /// Added to `a` `[HV]`.
    pub dt_bias: View<'a, T>,
}

/// Gradients with respect to [`Inputs`], of the same shapes.
#[derive(Debug)]
pub struct Gradients<'a, T: Number> {
    /// Of queries, keys and values; overwritten.
    pub d_qkv: ViewMut<'a, T>,
    /// Of `a`; overwritten.
    pub d_a: ViewMut<'a, T>,
    /// Of `b`; overwritten.
    pub d_b: ViewMut<'a, T>,
    /// Of `a_log`; added to.
    pub d_a_log: ViewMut<'a, f32>,
    /// Of `dt_bias`; added to.
    pub d_dt_bias: ViewMut<'a, f32>,
}

fn check_inputs<T: Number>(
    op: &'static str,
    shape: &Shape,
    tokens: usize,
    inputs: &Inputs<'_, T>,
) -> Result<()> {
    shape.check(op)?;
    check_length(op, "qkv", inputs.qkv.len(), tokens * shape.input_width())?;
    check_length(op, "a", inputs.a.len(), tokens * shape.value_heads)?;
    check_length(op, "b", inputs.b.len(), tokens * shape.value_heads)?;
    check_length(op, "a_log", inputs.a_log.len(), shape.value_heads)?;
    check_length(op, "dt_bias", inputs.dt_bias.len(), shape.value_heads)
}

/// Writes the output `[N, HV, DV]`, and where `last_states` `[documents, HV, DK, DV]` are given, every document's state
/// behind its last token.
///
/// # Errors
/// Heads that cannot be grouped, a length that does not fit the shape and the documents; keys longer than a GPU's
/// kernels take.
pub fn forward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    documents: &Documents,
    inputs: Inputs<'_, T>,
    output: ViewMut<'_, T>,
    last_states: Option<ViewMut<'_, f32>>,
) -> Result<()> {
    const OP: &str = "gated_delta_rule";
    check_inputs(OP, shape, documents.tokens(), &inputs)?;
    check_length(OP, "output", output.len(), documents.tokens() * shape.output_width())?;
    if let Some(states) = &last_states {
        check_length(OP, "last_states", states.len(), documents.len() * shape.state_length())?;
    }
    match device {
        Device::Gpu(gpu) => gpu::forward(gpu, shape, documents, &inputs, output, last_states)?,
        Device::Cpu(cpu) => {
            let (inputs, last_states) = (cpu::HostInputs::new(&inputs), last_states.map(ViewMut::host));
            T::forward(cpu, shape, documents, inputs, output.host(), last_states);
        }
    }
    Ok(())
}

/// Gradients of the rule, from that of its output, `d_output` `[N, HV, DV]`.
///
/// # Errors
/// As [`forward`].
pub fn backward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    documents: &Documents,
    inputs: Inputs<'_, T>,
    d_output: View<'_, T>,
    gradients: Gradients<'_, T>,
) -> Result<()> {
    const OP: &str = "gated_delta_rule backward";
    check_inputs(OP, shape, documents.tokens(), &inputs)?;
    check_length(OP, "d_output", d_output.len(), documents.tokens() * shape.output_width())?;
    check_length(OP, "d_qkv", gradients.d_qkv.len(), inputs.qkv.len())?;
    check_length(OP, "d_a", gradients.d_a.len(), inputs.a.len())?;
    check_length(OP, "d_b", gradients.d_b.len(), inputs.b.len())?;
    check_length(OP, "d_a_log", gradients.d_a_log.len(), shape.value_heads)?;
    check_length(OP, "d_dt_bias", gradients.d_dt_bias.len(), shape.value_heads)?;
    match device {
        Device::Gpu(gpu) => gpu::backward(gpu, shape, documents, &inputs, d_output, gradients)?,
        Device::Cpu(cpu) => {
            let gradients = cpu::backward::HostGradients {
                d_qkv: gradients.d_qkv.host(),
                d_a: gradients.d_a.host(),
                d_b: gradients.d_b.host(),
                d_a_log: gradients.d_a_log.host(),
                d_dt_bias: gradients.d_dt_bias.host(),
            };
            let inputs = cpu::HostInputs::new(&inputs);
            T::backward(cpu, shape, documents, inputs, d_output.host(), gradients);
        }
    }
    Ok(())
}

/// [`forward`] of one new token per row, for generation; no gradient flows through it.
///
/// `states` `[slots, HV, DK, DV]` are those behind the latest token of every sequence, zeros before its first; they
/// take in the new tokens. `slots` are the sequences of the rows; rows of one sequence are its tokens in their order.
///
/// # Errors
/// As [`forward`]; a slot outside of the states.
pub fn decode<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    inputs: Inputs<'_, T>,
    slots: IndexView<'_>,
    states: ViewMut<'_, f32>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "gated_delta_rule decode";
    check_inputs(OP, shape, slots.len(), &inputs)?;
    check_length(OP, "output", output.len(), slots.len() * shape.output_width())?;
    check_slots(OP, slots, shape.state_length(), states.len())?;
    match device {
        Device::Gpu(gpu) => gpu::decode(gpu, shape, &inputs, slots, states, output)?,
        Device::Cpu(cpu) => {
            let inputs = cpu::HostInputs::new(&inputs);
            T::decode(cpu, shape, inputs, slots.host(), states.host(), output.host());
        }
    }
    Ok(())
}

impl Shape {
    /// Work of [`forward`] on documents, without the states.
    pub fn forward_work(&self, documents: &Documents, element: usize) -> Work {
        let tokens = documents.tokens();
        let elements = tokens * (self.input_width() + 2 * self.value_heads + self.output_width());
        let pairs = self.pairs_flops(documents, 4, 4);
        Work::new(elements * element, 6 * tokens * self.state_length() + pairs)
    }

    /// Work of [`backward`] on documents; what it computes again does not count.
    pub fn backward_work(&self, documents: &Documents, element: usize) -> Work {
        let tokens = documents.tokens();
        let elements = tokens * (2 * self.input_width() + 4 * self.value_heads + self.output_width());
        let pairs = self.pairs_flops(documents, 8, 8);
        Work::new(elements * element, 12 * tokens * self.state_length() + pairs)
    }

    /// Flops of so many per pair of tokens of a chunk and element of a key or value.
    fn pairs_flops(&self, documents: &Documents, per_key: usize, per_value: usize) -> usize {
        let of_chunks = |tokens: usize| {
            let triangle = |tokens: usize| tokens * (tokens + 1) / 2;
            tokens / CHUNK * triangle(CHUNK) + triangle(tokens % CHUNK)
        };
        let pairs: usize = documents.ranges().map(|range| of_chunks(range.len())).sum();
        let (keys, values) = (self.key_heads * self.key_dim, self.value_heads * self.value_dim);
        pairs * (per_key * keys + per_value * values)
    }
}
