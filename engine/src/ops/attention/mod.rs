//! Causal grouped-query attention over packed documents, never holding a T×T matrix.
//!
//! N tokens are documents one after the other; a token sees itself and the earlier tokens of its own
//! document, or of these the last `window` alone. H query heads share KV key/value heads: query head h uses
//! key/value head h / (H/KV).
//! For token t and head h, with s over the tokens seen,
//!
//! score\[s\] = scale · q\[t,h\]·k\[s,h'\], p = softmax(score), output\[t,h\] = Σ_s p\[s\]·v\[s,h'\].
//!
//! With a soft cap c (Gemma 2) the score is c·tanh(scale · q·k / c), and its gradient has 1 − (score / c)² as a factor.
//!
//! Forward walks tiles of queries over tiles of keys with a running maximum and sum, and saves the
//! log-sum-exp of every row. Backward computes the probabilities again from it, and from
//! delta = d_output·output the gradient of the scores, d_score = p·(d_output·v − delta).
//! Flops: 4·D per visible (query, key) pair and head forward, 10·D backward; memory traffic is that of
//! the operands times the number of tiles they meet. Tiles above the diagonal or before the window are not
//! met.
//!
//! Each result is summed in an order that depends on the documents alone: the bits are the same from
//! run to run and for every number of threads.

mod cpu;
mod gpu;

pub use cpu::OnCpu;

use std::num::NonZeroUsize;
use std::ops::Range;

use cpift_kernels::chunks::{self, Chunks};

use crate::buffer::{View, ViewMut};
use crate::device::Device;
use crate::error::{Error, Result, check, check_length};
use crate::gpu::{DeviceCopy, GpuDevice, GpuSlice};
use crate::indices::IndexView;
use crate::number::Number;
use crate::ops::softcap::check_cap;
use crate::ops::work::Work;

/// Sizes of attention.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Query heads (H).
    pub heads: usize,
    /// Key/value heads (KV), a divisor of `heads`.
    pub kv_heads: usize,
    /// Elements of one head (D).
    pub head_dim: usize,
    /// Factor of the scores, 1/√D as a rule; above 0.
    pub scale: f32,
    /// Most tokens that a token sees, itself included (a sliding window); none: all before it.
    pub window: Option<NonZeroUsize>,
    /// What bounds the scores, above 0: they become cap·tanh(score / cap) before the mask.
    pub softcap: Option<f32>,
}

impl Shape {
    fn check(&self, op: &'static str) -> Result<()> {
        let whole_groups = self.kv_heads != 0 && self.heads.is_multiple_of(self.kv_heads);
        check(op, whole_groups && self.heads != 0, || {
            format!("{} query heads cannot share {} key/value heads", self.heads, self.kv_heads)
        })?;
        check(op, self.scale > 0.0, || format!("the scale of scores is {}, not above 0", self.scale))?;
        check_cap(op, self.softcap)?;
        check(op, self.head_dim != 0, || "the heads have no elements".to_owned())
    }

    /// The first token that `token` sees of its document, or cache, from `start` on.
    #[inline]
    fn first_seen(&self, token: usize, start: usize) -> usize {
        self.window.map_or(start, |window| start.max((token + 1).saturating_sub(window.get())))
    }

    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Elements of one token in q, output and their gradients.
    fn query_width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of one token in k, v and their gradients.
    fn key_width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// Whether `device` can compute attention of this shape: what a model can be refused for before a job begins.
///
/// # Errors
/// Heads that cannot be grouped; on a GPU, heads that no kernel takes.
pub fn check_device(device: &Device, shape: &Shape) -> Result<()> {
    const OP: &str = "attention";
    shape.check(OP)?;
    let Device::Gpu(_) = device else { return Ok(()) };
    let limit = cpift_kernels::attention::HEAD_DIM_LIMIT as usize;
    check(OP, shape.head_dim.is_multiple_of(8) && shape.head_dim <= limit, || {
        format!("heads of {} elements: GPU kernels take multiples of 8 up to {limit}", shape.head_dim)
    })
}

/// Where the documents of a batch start and end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Documents {
    starts: Vec<usize>,
    /// Tiles of the documents on a GPU, see `gpu`.
    tiles: DeviceCopy<u32>,
    /// Their chunks on a GPU, see [`Documents::chunks`].
    chunks: DeviceCopy<u32>,
}

impl Documents {
    /// From S+1 offsets for S documents: the first is 0, each next one larger, the last one the number
    /// of tokens.
    ///
    /// # Errors
    /// When the offsets are not of this form.
    pub fn new(starts: &[usize]) -> Result<Self> {
        let ascending = starts.windows(2).all(|pair| pair[0] < pair[1]);
        if starts.first() != Some(&0) || !ascending {
            let reason = format!("document starts have to begin with 0 and ascend, not {starts:?}");
            return Err(Error::Argument { op: "attention documents", reason });
        }
        Ok(Self { starts: starts.to_vec(), tiles: DeviceCopy::default(), chunks: DeviceCopy::default() })
    }

    /// Number of documents.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// True when there are no documents.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens of all documents.
    pub fn tokens(&self) -> usize {
        self.starts.last().copied().unwrap_or(0)
    }

    /// Number of chunks that kernels take the documents in.
    pub(super) fn chunk_count(&self) -> usize {
        Chunks::count(self.ranges().map(|range| range.len()))
    }

    /// The lists of chunks and of documents on a GPU, as kernels take them.
    pub(super) fn chunks(&self, gpu: &GpuDevice) -> Result<[GpuSlice<'_, u32>; 2]> {
        let lists = || {
            let ranges = self.ranges().map(|range| range.start as u32..range.end as u32);
            let Chunks { chunks, documents } = Chunks::new(ranges);
            [chunks, documents].concat()
        };
        let all = self.chunks.get(gpu, lists)?;
        let behind_chunks = chunks::ENTRY as usize * self.chunk_count();
        Ok([all.slice(0..behind_chunks), all.slice(behind_chunks..all.len())])
    }

    /// The token ranges of the documents, in order.
    pub fn ranges(&self) -> impl ExactSizeIterator<Item = Range<usize>> + Clone + '_ {
        self.starts.windows(2).map(|pair| pair[0]..pair[1])
    }
}

/// What attention reads, after rotation: q `[N, H, D]`, k and v `[N, KV, D]`.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a, T: Number> {
    /// Queries.
    pub q: View<'a, T>,
    /// Keys.
    pub k: View<'a, T>,
    /// Values.
    pub v: View<'a, T>,
}

/// Gradients with respect to [`Inputs`], of the same shapes; overwritten.
#[derive(Debug)]
pub struct Gradients<'a, T: Number> {
    /// Gradient of the queries.
    pub d_q: ViewMut<'a, T>,
    /// Gradient of the keys.
    pub d_k: ViewMut<'a, T>,
    /// Gradient of the values.
    pub d_v: ViewMut<'a, T>,
}

/// What the forward pass left, and the gradient that reaches it.
#[derive(Debug, Clone, Copy)]
pub struct BackwardInputs<'a, T: Number> {
    /// The forward pass's output `[N, H, D]`.
    pub output: View<'a, T>,
    /// The forward pass's log-sum-exp `[N, H]`.
    pub log_sum_exp: View<'a, f32>,
    /// Gradient with respect to the output `[N, H, D]`.
    pub d_output: View<'a, T>,
}

/// Attention of every token to its document so far.
///
/// `output` `[N, H, D]` and `log_sum_exp` `[N, H]`, ln Σ_s e^score\[s\] in nats, are overwritten.
///
/// # Errors
/// Heads that cannot be grouped, or a length that does not fit the shape and the documents.
pub fn forward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    documents: &Documents,
    inputs: Inputs<T>,
    output: ViewMut<T>,
    log_sum_exp: ViewMut<f32>,
) -> Result<()> {
    const OP: &str = "attention forward";
    check_inputs(OP, shape, documents, &inputs)?;
    check_length(OP, "output", output.len(), documents.tokens() * shape.query_width())?;
    check_length(OP, "log_sum_exp", log_sum_exp.len(), documents.tokens() * shape.heads)?;
    match device {
        Device::Gpu(gpu) => gpu::forward(gpu, shape, documents, &inputs, output, log_sum_exp)?,
        Device::Cpu(cpu) => {
            let inputs = cpu::HostInputs::new(&inputs);
            T::forward(cpu, shape, documents, inputs, output.host(), log_sum_exp.host());
        }
    }
    Ok(())
}

/// Gradients of attention with respect to q, k and v.
///
/// # Errors
/// Heads that cannot be grouped, or a length that does not fit the shape and the documents.
pub fn backward<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    documents: &Documents,
    inputs: Inputs<T>,
    outputs: BackwardInputs<T>,
    gradients: Gradients<T>,
) -> Result<()> {
    const OP: &str = "attention backward";
    check_inputs(OP, shape, documents, &inputs)?;
    let tokens = documents.tokens();
    check_length(OP, "output", outputs.output.len(), tokens * shape.query_width())?;
    check_length(OP, "log_sum_exp", outputs.log_sum_exp.len(), tokens * shape.heads)?;
    check_length(OP, "d_output", outputs.d_output.len(), tokens * shape.query_width())?;
    check_length(OP, "d_q", gradients.d_q.len(), tokens * shape.query_width())?;
    check_length(OP, "d_k", gradients.d_k.len(), tokens * shape.key_width())?;
    check_length(OP, "d_v", gradients.d_v.len(), tokens * shape.key_width())?;
    match device {
        Device::Gpu(gpu) => gpu::backward(gpu, shape, documents, &inputs, &outputs, gradients)?,
        Device::Cpu(cpu) => T::backward(
            cpu,
            shape,
            documents,
            cpu::HostInputs::new(&inputs),
            cpu::backward::HostBackwardInputs {
                output: outputs.output.host(),
                log_sum_exp: outputs.log_sum_exp.host(),
                d_output: outputs.d_output.host(),
            },
            cpu::backward::HostGradients::new(
                gradients.d_q.host(),
                gradients.d_k.host(),
                gradients.d_v.host(),
            ),
        ),
    }
    Ok(())
}

fn check_inputs<T: Number>(
    op: &'static str,
    shape: &Shape,
    documents: &Documents,
    inputs: &Inputs<T>,
) -> Result<()> {
    shape.check(op)?;
    check_length(op, "q", inputs.q.len(), documents.tokens() * shape.query_width())?;
    check_length(op, "k", inputs.k.len(), documents.tokens() * shape.key_width())?;
    check_length(op, "v", inputs.v.len(), documents.tokens() * shape.key_width())
}

/// Keys and values of sequences being generated.
#[derive(Debug, Clone, Copy)]
pub struct Cache<'a, T: Number> {
    /// Keys `[slots, capacity, KV, D]`, after rotation.
    pub k: View<'a, T>,
    /// Values `[slots, capacity, KV, D]`.
    pub v: View<'a, T>,
    /// Tokens a slot has room for.
    pub capacity: usize,
    /// The slot of each row.
    pub slots: IndexView<'a>,
    /// Tokens that each row sees, its own included: at least 1, at most the capacity.
    pub lengths: IndexView<'a>,
}

/// Attention of one new token per row over its sequence's cache, for generation. Has no backward: no
/// gradient flows through generated tokens.
///
/// `q` `[rows, H, D]`; `output` `[rows, H, D]` is overwritten.
///
/// # Errors
/// Heads that cannot be grouped, a length that does not fit, or a slot or length outside the cache.
pub fn decode<T: OnCpu>(
    device: &Device,
    shape: &Shape,
    q: View<T>,
    cache: Cache<T>,
    output: ViewMut<T>,
) -> Result<()> {
    const OP: &str = "attention decode";
    shape.check(OP)?;
    let rows = cache.slots.len();
    check_length(OP, "lengths", cache.lengths.len(), rows)?;
    check_length(OP, "q", q.len(), rows * shape.query_width())?;
    check_length(OP, "output", output.len(), rows * shape.query_width())?;
    check_length(OP, "v", cache.v.len(), cache.k.len())?;
    let slot_width = cache.capacity * shape.key_width();
    let whole_slots = slot_width != 0 && cache.k.len().is_multiple_of(slot_width);
    check(OP, whole_slots, || {
        format!("a cache of {} elements has no whole slots of {slot_width}", cache.k.len())
    })?;
    let slots = cache.k.len() / slot_width;
    for (row, (&slot, &length)) in cache.slots.host().iter().zip(cache.lengths.host()).enumerate() {
        check(OP, (slot as usize) < slots, || format!("row {row}: slot {slot} of {slots}"))?;
        check(OP, length >= 1 && length as usize <= cache.capacity, || {
            format!("row {row}: length {length} is not in 1..={}", cache.capacity)
        })?;
    }
    match device {
        Device::Gpu(gpu) => gpu::decode(gpu, shape, q, &cache, slots, output)?,
        Device::Cpu(cpu) => {
            let cache = cpu::decode::Cache::new(&cache);
            T::decode(cpu, shape, q.host(), cache, output.host());
        }
    }
    Ok(())
}

impl Shape {
    /// Work of [`forward`]: only what a token sees counts.
    pub fn forward_work(&self, documents: &Documents, element: usize) -> Work {
        let tokens = documents.tokens();
        let elements = 2 * tokens * (self.query_width() + self.key_width());
        let flops = 4 * self.head_dim * self.heads * self.visible_pairs(documents);
        Work::new(elements * element + 4 * tokens * self.heads, flops)
    }

    /// Work of [`backward`]: delta is written once and read once. On a GPU the gradients of keys and values and
    /// those of queries are passes of their own, which both read all inputs.
    pub fn backward_work(&self, documents: &Documents, on_gpu: bool, element: usize) -> Work {
        let tokens = documents.tokens();
        let (queries, keys, statistics) = if on_gpu { (7, 6, 5) } else { (4, 4, 3) };
        let elements = tokens * (queries * self.query_width() + keys * self.key_width());
        let flops = 10 * self.head_dim * self.heads * self.visible_pairs(documents);
        Work::new(elements * element + 4 * statistics * tokens * self.heads, flops)
    }

    /// Work of [`decode`] for rows that see these numbers of tokens. On a GPU every part of a row's tokens leaves
    /// sums, which another kernel reads.
    pub fn decode_work(&self, lengths: &[u32], on_gpu: bool, element: usize) -> Work {
        let seen: usize = lengths.iter().map(|&length| length as usize).sum();
        let elements = 2 * lengths.len() * self.query_width() + 2 * seen * self.key_width();
        let parts: usize = lengths.iter().map(|&length| gpu::decode_parts(self, length) as usize).sum();
        let sums = if on_gpu { parts * self.heads * (self.head_dim + 2) } else { 0 };
        let bytes = elements * element + 8 * lengths.len() + 8 * sums;
        Work::new(bytes, 4 * self.head_dim * self.heads * seen)
    }

    /// Pairs of a token and one that it sees.
    fn visible_pairs(&self, documents: &Documents) -> usize {
        let seen = |start: usize, token| token + 1 - self.first_seen(token, start);
        let document =
            |range: Range<usize>| range.clone().map(|token| seen(range.start, token)).sum::<usize>();
        documents.ranges().map(document).sum()
    }
}
