//! The gate of attention's output: `gated = attention · σ(gate)`, element by element, where one projection makes each
//! head's query and gate, one behind the other: `joined` `[N, H, 2 D]`.
//!
//! [`take_queries`] gives attention its queries, [`forward`] gates what it made. Backward, [`backward`] gives the
//! gradient of attention's output and writes that of the gates into d_joined, and [`put_queries`] that of the
//! queries beside it. With σ = σ(gate), d_attention = d_gated · σ and d_gate = d_gated · attention · σ (1 − σ).

mod cpu;

pub use cpu::OnCpu;

use cpift_kernels::output_gate as kernels;

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check, check_length};
use crate::gpu::narrow;
use crate::ops::work::Work;

/// Sizes of the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Tokens (N).
    pub tokens: usize,
    /// Query heads (H).
    pub heads: usize,
    /// Elements of a head (D).
    pub head_dim: usize,
}

impl Shape {
    /// Checks `joined` `[N, H, 2 D]`, and others `[N, H, D]` by name.
    fn check(&self, op: &'static str, joined: usize, others: &[(&'static str, usize)]) -> Result<()> {
        check(op, self.heads > 0 && self.head_dim > 0, || "the heads have no elements".to_owned())?;
        check_length(op, "joined", joined, 2 * self.elements())?;
        others.iter().try_for_each(|&(name, length)| check_length(op, name, length, self.elements()))
    }

    fn elements(&self) -> usize {
        self.tokens * self.heads * self.head_dim
    }

    /// Elements, and those of a head, as kernels take them.
    fn numbers(&self, op: &'static str) -> Result<(u64, u32)> {
        Ok((u64::from(narrow(op, "elements", self.elements())?), narrow(op, "head_dim", self.head_dim)?))
    }
}

/// Copies the queries out of `joined` to `queries` `[N, H, D]`.
///
/// # Errors
/// Lengths that do not fit the shape.
pub fn take_queries<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    joined: View<'_, T>,
    queries: ViewMut<'_, T>,
) -> Result<()> {
    shape.check("output_gate queries", joined.len(), &[("queries", queries.len())])?;
    match device {
        Device::Gpu(gpu) => {
            let (count, head_dim) = shape.numbers("output_gate queries")?;
            let (joined, queries) = (joined.on(gpu), queries.on(gpu));
            kernels::output_gate_take_queries(gpu.launcher(), joined, queries, count, head_dim)?;
        }
        Device::Cpu(cpu) => T::take_queries(cpu, shape, joined.host(), queries.host()),
    }
    Ok(())
}

/// Copies `queries` `[N, H, D]` to their places in `joined`, whose gates stay.
///
/// # Errors
/// As [`take_queries`].
pub fn put_queries<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    queries: View<'_, T>,
    joined: ViewMut<'_, T>,
) -> Result<()> {
    shape.check("output_gate queries", joined.len(), &[("queries", queries.len())])?;
    match device {
        Device::Gpu(gpu) => {
            let (count, head_dim) = shape.numbers("output_gate queries")?;
            let (queries, joined) = (queries.on(gpu), joined.on(gpu));
            kernels::output_gate_put_queries(gpu.launcher(), queries, joined, count, head_dim)?;
        }
        Device::Cpu(cpu) => T::put_queries(cpu, shape, queries.host(), joined.host()),
    }
    Ok(())
}

/// Writes `attention` `[N, H, D]` times σ of the gates in `joined` to `gated` `[N, H, D]`.
///
/// # Errors
/// As [`take_queries`].
pub fn forward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    joined: View<'_, T>,
    attention: View<'_, T>,
    gated: ViewMut<'_, T>,
) -> Result<()> {
    let others = [("attention", attention.len()), ("gated", gated.len())];
    shape.check("output_gate", joined.len(), &others)?;
    match device {
        Device::Gpu(gpu) => {
            let (count, head_dim) = shape.numbers("output_gate")?;
            let (joined, attention, gated) = (joined.on(gpu), attention.on(gpu), gated.on(gpu));
            kernels::output_gate(gpu.launcher(), joined, attention, gated, count, head_dim)?;
        }
        Device::Cpu(cpu) => T::forward(cpu, shape, joined.host(), attention.host(), gated.host()),
    }
    Ok(())
}

/// Turns `gradient` `[N, H, D]` from d_gated into d_attention, and writes the gradient of the gates to their places in
/// `d_joined`, whose queries stay. `joined` and `attention` are those of [`forward`].
///
/// # Errors
/// As [`take_queries`].
pub fn backward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    (joined, attention): (View<'_, T>, View<'_, T>),
    gradient: ViewMut<'_, T>,
    d_joined: ViewMut<'_, T>,
) -> Result<()> {
    const OP: &str = "output_gate backward";
    let others = [("attention", attention.len()), ("gradient", gradient.len())];
    shape.check(OP, joined.len(), &others)?;
    check_length(OP, "d_joined", d_joined.len(), joined.len())?;
    match device {
        Device::Gpu(gpu) => {
            let (count, head_dim) = shape.numbers(OP)?;
            kernels::output_gate_backward(
                gpu.launcher(),
                joined.on(gpu),
                attention.on(gpu),
                gradient.on(gpu),
                d_joined.on(gpu),
                count,
                head_dim,
            )?;
        }
        Device::Cpu(cpu) => {
            let inputs = (joined.host(), attention.host());
            T::backward(cpu, shape, inputs, gradient.host(), d_joined.host());
        }
    }
    Ok(())
}

impl Shape {
    /// Work of [`forward`].
    pub fn forward_work(&self, element: usize) -> Work {
        Work::new(3 * self.elements() * element, 4 * self.elements())
    }

    /// Work of [`backward`].
    pub fn backward_work(&self, element: usize) -> Work {
        Work::new(5 * self.elements() * element, 8 * self.elements())
    }
}
