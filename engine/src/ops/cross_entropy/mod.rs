//! Cross-entropy fused with the LM head: from hidden states to losses and gradients without ever
//! holding the logits of all tokens.
//!
//! For a row with hidden state x and target y: logits = W·x, loss = ln Σ_v e^logits\[v\] − logits\[y\] in
//! nats, and d_logits = scale · (softmax(logits) − onehot(y)), d_x = Wᵀ·d_logits, d_W += d_logits·xᵀ.
//! With a soft cap c (Gemma 2) the loss is that of the logits c·tanh(W·x / c), and d_logits has their derivative
//! 1 − tanh²(W·x / c) as a factor.
//!
//! Rows whose target is [`IGNORE`] cost nothing: the others are gathered and worked on in chunks, whose
//! logits live in a [`Workspace`] of bounded size. 2·C·V flops per supervised row forward, 6·C·V with
//! the gradients. N = rows, C = hidden, V = vocabulary.
//!
//! Logits are f32 in any precision. Their gradients are operands of products and have its type: they have a buffer of
//! their own, but for f32 on the CPU, where they take the logits' place.

mod cpu;
mod gpu;

pub use cpu::OnCpu;

use crate::buffer::{Buffer, View, ViewMut};
use crate::device::Device;
use crate::error::{Result, check, check_length};
use crate::indices::{IndexView, Indices};
use crate::number::Number;
use crate::ops::softcap::check_cap;
use crate::ops::work::Work;

/// Target of a row that has no loss.
pub const IGNORE: u32 = u32::MAX;

/// Most bytes that a chunk of logits and their gradients takes on the CPU (more only where a single row does).
const CPU_CHUNK: usize = 64 << 20;
/// The same on a GPU. Per chunk the head is read twice and its gradient is read and written, 12 bytes an
/// element in bf16, for 6 flops a row and element: from some 600 rows on, an H100 is limited by its arithmetic,
/// not by its memory. Qwen2.5's vocabulary has 512 rows here.
const GPU_CHUNK: usize = 512 << 20;
/// Chunks on a GPU are multiples of this, the height of its tiles, where they are larger.
const GPU_ROWS: usize = 128;

/// Bytes of a logit and, where it has a place of its own, its gradient.
fn logit_bytes(on_gpu: bool, element: usize) -> usize {
    size_of::<f32>() + if in_place(on_gpu, element) { 0 } else { element }
}

/// Whether the gradients of logits take their place.
fn in_place(on_gpu: bool, element: usize) -> bool {
    !on_gpu && element == size_of::<f32>()
}

fn on_gpu(device: &Device) -> bool {
    matches!(device, Device::Gpu(_))
}

/// Sizes of the LM head and its loss.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Rows of hidden states (N), tokens as a rule.
    pub rows: usize,
    /// Elements of a hidden state (C).
    pub hidden: usize,
    /// Rows of the head (V).
    pub vocabulary: usize,
    /// What bounds the logits, above 0: they become cap·tanh(logit / cap).
    pub softcap: Option<f32>,
}

impl Shape {
    /// Rows whose logits are held at once.
    fn chunk_rows(&self, on_gpu: bool, element: usize) -> usize {
        let chunk = if on_gpu { GPU_CHUNK } else { CPU_CHUNK };
        let fitting = chunk / logit_bytes(on_gpu, element) / self.vocabulary.max(1);
        let whole = if on_gpu && fitting > GPU_ROWS { fitting / GPU_ROWS * GPU_ROWS } else { fitting };
        whole.clamp(1, self.rows.max(1))
    }
}

/// Memory for chunks, made once for the largest batch and used for every one that is no larger.
#[derive(Debug)]
pub struct Workspace<T: Number> {
    shape: Shape,
    /// Rows whose logits are held at once.
    chunk_rows: usize,
    /// Indices of the rows with a target.
    rows: Indices,
    /// `[chunk_rows, V]`.
    logits: Buffer<f32>,
    /// Their gradients `[chunk_rows, V]`; empty where they take the logits' place.
    d_logits: Buffer<T>,
    /// Hidden states of the chunk's rows `[chunk_rows, C]`.
    hidden: Buffer<T>,
    /// Their gradients `[chunk_rows, C]`.
    d_hidden: Buffer<T>,
}

impl<T: Number> Workspace<T> {
    /// Memory for batches of up to `shape.rows` rows.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn new(device: &Device, shape: &Shape) -> Result<Self> {
        Self::with_chunk_rows(device, shape, shape.chunk_rows(on_gpu(device), size_of::<T>()))
    }

    /// The same, for chunks of up to `chunk_rows` rows, at least one, instead of as many as fit a fixed size.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`](crate::Error::OutOfMemory).
    pub fn with_chunk_rows(device: &Device, shape: &Shape, chunk_rows: usize) -> Result<Self> {
        let chunk_rows = chunk_rows.max(1);
        let elements = chunk_rows * shape.vocabulary;
        let gradients = if in_place(on_gpu(device), size_of::<T>()) { 0 } else { elements };
        Ok(Self {
            shape: *shape,
            chunk_rows,
            rows: Indices::with_capacity(device, shape.rows)?,
            logits: Buffer::zeros(device, elements)?,
            d_logits: Buffer::zeros(device, gradients)?,
            hidden: Buffer::zeros(device, chunk_rows * shape.hidden)?,
            d_hidden: Buffer::zeros(device, chunk_rows * shape.hidden)?,
        })
    }

    /// What [`Workspace::new`] takes for this shape, in bytes.
    pub fn bytes(device: &Device, shape: &Shape) -> usize {
        let (on_gpu, element) = (on_gpu(device), size_of::<T>());
        let row = shape.vocabulary * logit_bytes(on_gpu, element) + 2 * shape.hidden * element;
        shape.chunk_rows(on_gpu, element) * row + shape.rows * size_of::<u32>()
    }
}

/// What the loss is computed from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T: Number> {
    /// Hidden states `[N, C]`, after the last norm.
    pub hidden: View<'a, T>,
    /// The LM head's weight `[V, C]`.
    pub head: View<'a, T>,
    /// The token each row should predict, or [`IGNORE`] `[N]`.
    pub targets: IndexView<'a>,
}

/// Gradients of the loss.
#[derive(Debug)]
pub struct Gradients<'a, T: Number> {
    /// Gradient of the hidden states `[N, C]`; overwritten, with zeros for ignored rows.
    pub d_hidden: ViewMut<'a, T>,
    /// Gradient of the head `[V, C]`; accumulates.
    pub d_head: ViewMut<'a, f32>,
}

/// The loss of every row in nats, 0 where ignored; `losses` `[N]` is overwritten.
///
/// # Errors
/// A length that does not fit the shape, a target outside the vocabulary, a workspace that is too small.
pub fn forward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    inputs: Inputs<T>,
    workspace: &mut Workspace<T>,
    losses: ViewMut<f32>,
) -> Result<()> {
    const OP: &str = "cross_entropy forward";
    check_inputs(OP, shape, &inputs, workspace, &losses)?;
    match device {
        Device::Gpu(gpu) => gpu::run(gpu, OP, shape, &inputs, workspace, losses, None)?,
        Device::Cpu(cpu) => {
            T::run(cpu, shape, cpu::HostInputs::new(&inputs), workspace, losses.host(), None);
        }
    }
    Ok(())
}

/// The loss of every row in nats, 0 where ignored, and the gradients of Σ losses · `scale`.
///
/// For the mean over the supervised tokens of a step, `scale` is one over their number, over all of the
/// step's batches. `losses` `[N]` is overwritten and not scaled.
///
/// # Errors
/// A length that does not fit the shape, a target outside the vocabulary, a workspace that is too small.
pub fn forward_backward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    inputs: Inputs<T>,
    scale: f32,
    workspace: &mut Workspace<T>,
    losses: ViewMut<f32>,
    gradients: Gradients<T>,
) -> Result<()> {
    const OP: &str = "cross_entropy forward_backward";
    check_inputs(OP, shape, &inputs, workspace, &losses)?;
    check_length(OP, "d_hidden", gradients.d_hidden.len(), shape.rows * shape.hidden)?;
    check_length(OP, "d_head", gradients.d_head.len(), shape.vocabulary * shape.hidden)?;
    match device {
        Device::Gpu(gpu) => {
            gpu::run(gpu, OP, shape, &inputs, workspace, losses, Some((scale, gradients)))?;
        }
        Device::Cpu(cpu) => {
            let gradients = cpu::HostGradients {
                scale,
                d_hidden: gradients.d_hidden.host(),
                d_head: gradients.d_head.host(),
            };
            let inputs = cpu::HostInputs::new(&inputs);
            T::run(cpu, shape, inputs, workspace, losses.host(), Some(gradients));
        }
    }
    Ok(())
}

/// Checks everything, and leaves in the workspace which rows there is something to do for.
fn check_inputs<T: Number>(
    op: &'static str,
    shape: &Shape,
    inputs: &Inputs<T>,
    workspace: &mut Workspace<T>,
    losses: &ViewMut<f32>,
) -> Result<()> {
    check(op, shape.hidden != 0 && shape.vocabulary != 0, || format!("nothing to compute for {shape:?}"))?;
    check_cap(op, shape.softcap)?;
    check_length(op, "hidden", inputs.hidden.len(), shape.rows * shape.hidden)?;
    check_length(op, "head", inputs.head.len(), shape.vocabulary * shape.hidden)?;
    check_length(op, "targets", inputs.targets.len(), shape.rows)?;
    check_length(op, "losses", losses.len(), shape.rows)?;
    let room = &workspace.shape;
    let fits = shape.rows <= room.rows && shape.hidden == room.hidden && shape.vocabulary == room.vocabulary;
    check(op, fits, || format!("a workspace for {room:?} is too small for {shape:?}"))?;
    workspace.rows.set(&supervised_rows(op, shape, inputs.targets.host())?)
}

/// The rows with a target.
fn supervised_rows(op: &'static str, shape: &Shape, targets: &[u32]) -> Result<Vec<u32>> {
    let mut rows = Vec::new();
    for (row, &target) in (0u32..).zip(targets).filter(|&(_, &target)| target != IGNORE) {
        check(op, (target as usize) < shape.vocabulary, || {
            format!("row {row}: target {target} is outside the vocabulary of {}", shape.vocabulary)
        })?;
        rows.push(row);
    }
    Ok(rows)
}

impl Shape {
    /// Work of [`forward`] where every row is supervised: hidden states are gathered, the head is read once per
    /// chunk, logits are written and read. A GPU's chunks are larger.
    pub fn forward_work(&self, on_gpu: bool, element: usize) -> Work {
        let (states, head, logits) = self.elements();
        let chunks = self.chunks(on_gpu, element);
        let bytes = (3 * states + chunks * head) * element + 8 * logits + 12 * self.rows;
        Work::new(bytes, 2 * self.hidden * logits + 3 * logits)
    }

    /// Work of [`forward_backward`] where every row is supervised: logits are written, read and give their
    /// gradients, which two products read; the head's gradient is read and written once per chunk.
    pub fn backward_work(&self, on_gpu: bool, element: usize) -> Work {
        let (states, head, logits) = self.elements();
        let chunks = self.chunks(on_gpu, element);
        let elements = 8 * states + 2 * chunks * head + 3 * logits;
        let bytes = elements * element + 8 * (logits + chunks * head) + 12 * self.rows;
        Work::new(bytes, 6 * self.hidden * logits + 5 * logits)
    }

    /// Elements of hidden states, head and logits.
    fn elements(&self) -> (usize, usize, usize) {
        (self.rows * self.hidden, self.vocabulary * self.hidden, self.rows * self.vocabulary)
    }

    fn chunks(&self, on_gpu: bool, element: usize) -> usize {
        self.rows.div_ceil(self.chunk_rows(on_gpu, element))
    }
}
